import numpy as np

from captionary.world.grammar import RELATION_WORDINGS, facts, reference_captions
from captionary.world.render import SIZE, _artwork, render
from captionary.world.scenes import COLOURS, OBJECTS, PLACES, RELATIONS, SceneMix, draw_scenes


def test_the_same_seed_draws_the_same_scenes() -> None:
    first, again = (draw_scenes(np.random.default_rng(7), 50) for _ in range(2))
    other = draw_scenes(np.random.default_rng(8), 50)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.subject != other.subject).any()


def test_relations_join_what_they_can_join() -> None:
    scenes = draw_scenes(np.random.default_rng(0), 2000)
    roles = np.array([kind.role for kind in OBJECTS])
    for relation, joined in (("on", {"seat"}), ("under", {"cover"}), ("holding", {"thing"})):
        rows = scenes.relation == RELATIONS.index(relation)
        assert rows.sum() > 100
        assert set(roles[scenes.object[rows]]) == joined
    alone = scenes.relation < 0
    assert (scenes.object[alone] == -1).all()
    assert (scenes.object[~alone] >= 0).all()


def test_a_catalogue_prefers_its_own_compositions() -> None:
    mix = SceneMix.catalogue(np.random.default_rng(3), 20)
    scenes = draw_scenes(np.random.default_rng(4), 500, mix)
    drawn = set(zip(scenes.subject.tolist(), scenes.relation.tolist(), scenes.object.tolist(), strict=True))
    assert drawn <= {tuple(row) for row in mix.compositions.tolist()}
    assert mix.composition_shares[0] > 2 * mix.composition_shares[-1]


def test_a_scene_has_one_picture_and_another_scene_another() -> None:
    scenes = draw_scenes(np.random.default_rng(1), 2)
    first = render(scenes, 0)
    assert first.size == (SIZE, SIZE)
    assert first.mode == "RGB"
    assert first.tobytes() == render(scenes, 0).tobytes()
    assert first.tobytes() != render(scenes, 1).tobytes()


def test_every_kind_has_artwork_of_its_own_and_tints_differ() -> None:
    drawn = {_artwork(kind, 60, None).tobytes() for kind in range(len(OBJECTS))}
    assert len(drawn) == len(OBJECTS)
    for kind, thing in enumerate(OBJECTS):
        tints = {_artwork(kind, 60, colour).tobytes() for colour in COLOURS}
        assert len(tints) == (len(COLOURS) if thing.tintable else 1), thing.name


def test_every_place_and_time_can_be_painted() -> None:
    scenes = draw_scenes(np.random.default_rng(2), 150)
    assert len(set(scenes.place)) == len(PLACES)
    assert len({render(scenes, row).tobytes() for row in range(150)}) == 150


def test_captions_say_the_facts_in_varied_words() -> None:
    scenes = draw_scenes(np.random.default_rng(5), 200)
    wordings = set()
    for row in range(scenes.rows):
        told = facts(scenes, row)
        captions = reference_captions(scenes, row, 3)
        wordings |= {caption.split()[0] for caption in captions}
        for caption in captions:
            assert str(told["place"]) in caption
            if told["relation"] is not None:
                assert any(f" {words} " in caption for words in RELATION_WORDINGS[str(told["relation"])])
            if told["extra"] is not None:
                assert caption.count("in the background") == 1
            if told["count"] == 1:
                assert str(told["subject"]) in caption
    assert {"a", "there", "two"} <= wordings
    assert reference_captions(scenes, 0, 3) == reference_captions(scenes, 0, 3)
