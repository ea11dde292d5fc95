from __future__ import annotations

import doctest
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionary.represent import concepts as module
from captionary.represent.concepts import ConceptTokenizer, concepts_of
from captionary.represent.tokenizers import TokenizerConfig, load_tokenizer
from captionary.world.grammar import facts, reference_captions
from captionary.world.scenes import draw_scenes


def tokenizer(**settings: object) -> ConceptTokenizer:
    return ConceptTokenizer(TokenizerConfig(**{"min_df": 1, "max_df": 1.0, **settings}))  # type: ignore[arg-type]


def phrases_of(caption: str) -> list[str]:
    return [concept for concept in concepts_of(caption) if " " in concept]


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(module) == (0, 2)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog on a sofa in the kitchen at night", "dog, sofa, dog on sofa, kitchen, night"),
        (
            "two red balloons under a tree on a beach",
            "red, balloon, red balloon, tree, balloon under tree, beach",
        ),
        (
            "a woman holding a guitar next to a cat",
            "woman, hold, guitar, woman hold guitar, cat, woman next to cat",
        ),
        ("a woman in the snow", "woman, snow"),
        ("snow", "snow"),
        ("a sleeping dog", "sleep, dog, sleep dog"),
        ("a dog is sleeping", "dog, sleep, dog sleep"),
        ("犬がソファにいる", "犬がソファにいる"),
        ("", ""),
        ("the of and , . !", ""),
    ],
)
def test_concepts(caption: str, expected: str) -> None:
    assert concepts_of(caption) == [concept for concept in expected.split(", ") if concept]


@pytest.mark.parametrize(
    "wording",
    [
        "on",
        "sitting on",
        "on top of",
        "lying on",
        "resting upon",
        "atop",
        "which is lying on",
        "perched on top of",
    ],
)
def test_wordings_of_on_are_one_relation(wording: str) -> None:
    assert phrases_of(f"two small dogs {wording} a big sofa") == ["dog on sofa"]


@pytest.mark.parametrize(
    ("wording", "relation"),
    [
        ("beneath", "under"), ("below", "under"), ("sleeping underneath", "under"),
        ("beside", "next to"), ("by", "next to"), ("near", "next to"), ("sitting next to", "next to"),
        ("standing in front of", "in front of"), ("behind", "behind"), ("over", "above"), ("inside", "in"),
    ],
)  # fmt: skip
def test_prepositions_are_canonical(wording: str, relation: str) -> None:
    assert f"cat {relation} tree" in phrases_of(f"a cat {wording} a tall tree")


@pytest.mark.parametrize(
    "caption",
    [
        "a woman holding a guitar",
        "a woman holds a guitar",
        "the women are carrying a red guitar",
        "a woman holding up a guitar",
        "a woman with a guitar in her hands",
        "a guitar held by a woman",
        "a woman sitting on a chair holding a guitar",
    ],
)
def test_wordings_of_hold_are_one_relation(caption: str) -> None:
    assert "woman hold guitar" in phrases_of(caption)


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("a sofa with a dog on it", ["dog on sofa"]),
        ("a man and a woman sit on a bench", ["man on bench", "woman on bench"]),
        ("a man wearing a hat and gloves", ["man wear hat", "man wear glove"]),
        ("a man wearing a hat on a bench", ["man wear hat", "man on bench"]),  # not the hat
        ("a dog on a sofa under a lamp", ["dog on sofa", "sofa under lamp"]),
        ("a dog on a sofa sleeping under a lamp", ["dog on sofa", "dog sleep", "dog under lamp"]),
        ("a dog on a sofa. a cat under a table", ["dog on sofa", "cat under table"]),
        ("at night in the kitchen, a dog on a sofa", ["dog on sofa"]),
        ("a dog on a sofa with a cat in the background in a park", ["dog on sofa"]),
        ("a black and white dog", ["black dog", "white dog", "black white dog"]),
        ("a young brown dog", ["young dog", "brown dog", "young brown dog"]),
        ("a man riding a horse down a street", ["man ride horse"]),
        ("two men ride horses", ["man ride horse"]),
        ("a high jump", ["high jump"]),
        ("a dog jumps over a fence", ["dog jump", "dog above fence"]),
        ("a parked car", ["parked car"]),
        ("a group of people near a lake", ["people next to lake"]),
    ],
)
def test_phrases(caption: str, phrases: list[str]) -> None:
    assert phrases_of(caption) == phrases


def test_the_world_s_captions_say_what_the_scene_is() -> None:
    """Subject and place of every scene are told, and its relation as one phrase."""
    scenes = draw_scenes(np.random.default_rng(5), 300)
    canonical = {"on": "on", "under": "under", "next to": "next to", "holding": "hold"}
    for row in range(scenes.rows):
        truth = facts(scenes, row)
        for caption in reference_captions(scenes, row, 3):
            concepts = concepts_of(caption, {"palm tree"})
            place = str(truth["place"]).removesuffix("s")
            assert {str(truth["subject"]), place} <= set(concepts), caption
            related = [
                concept
                for concept in concepts
                for relation in canonical.values()
                if f" {relation} " in concept
            ]
            if truth["relation"] is None:
                assert related == [], caption
            else:
                assert related == [
                    f"{truth['subject']} {canonical[str(truth['relation'])]} {truth['object']}"
                ], caption


@given(st.text(max_size=60))
def test_any_text_gives_concepts_without_stray_space(caption: str) -> None:
    for concept in concepts_of(caption):
        assert concept
        assert concept == " ".join(concept.split())


CORPUS = ["a dog on a sofa", "a dog on a bed", "a cat", "a cat on a sofa", "a red car"]


def test_vocabulary_is_by_document_frequency_then_by_alphabet() -> None:
    fitted = tokenizer(min_df=2, phrases=False).fit(CORPUS)
    assert fitted.vocabulary == ["[UNK]", "cat", "dog", "sofa"]
    assert fitted.document_frequency.tolist() == [2, 2, 2, 2]  # the bed's and the car's caption hold others


def test_vocabulary_bounds() -> None:
    assert "dog" not in tokenizer(max_df=0.3).fit(CORPUS).vocabulary  # 2 of 5 captions
    assert "red car" in tokenizer(max_df=0.3).fit(CORPUS).vocabulary  # 1 of 5
    assert tokenizer(vocabulary_size=3).fit(CORPUS).vocabulary == ["[UNK]", "cat", "dog"]


def test_idf_is_of_documents_not_of_occurrences() -> None:
    fitted = tokenizer(phrases=False).fit(["a dog, a black dog", "a cat"])
    assert fitted.idf()[fitted.vocabulary.index("dog")] == np.float32(math.log((1 + 2) / (1 + 1)) + 1)
    assert fitted.idf().dtype == np.float32
    assert len(fitted.idf()) == len(fitted.vocabulary)


def test_idf_is_scikit_learn_s() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    fitted = tokenizer().fit(CORPUS)
    reference = TfidfVectorizer(analyzer=concepts_of).fit(CORPUS)
    for token, idf in zip(fitted.vocabulary[1:], fitted.idf()[1:], strict=True):
        assert idf == pytest.approx(reference.idf_[reference.vocabulary_[token]], rel=1e-6)


def test_encode_keeps_order_and_repetitions_and_drops_what_it_does_not_know() -> None:
    fitted = tokenizer(phrases=False).fit(CORPUS)
    lists = fitted.encode(["a cat, a zebra, a dog, a cat", "", "a zebra"])
    assert lists.lengths.tolist() == [3, 0, 0]
    assert fitted.decode(lists.values) == ["cat", "dog", "cat"]
    assert lists.values.dtype == np.int32


def test_oov_can_become_the_unknown_token() -> None:
    fitted = tokenizer(phrases=False, oov="unk", min_df=2).fit(CORPUS)
    assert fitted.decode(fitted.encode(["a cat and a zebra"]).values) == ["cat", "[UNK]"]
    assert fitted.document_frequency[0] == 2


def test_fit_does_not_depend_on_the_order_of_captions() -> None:
    shuffled = CORPUS.copy()
    random.Random(3).shuffle(shuffled)
    assert tokenizer().fit(shuffled).fingerprint() == tokenizer().fit(CORPUS).fingerprint()


def test_a_pair_that_is_one_thing_relates_as_one() -> None:
    corpus = [f"a {animal} under a palm tree" for animal in ("dog", "cat", "cow", "pig", "fox")] + [
        "a red tree"
    ] * 5
    fitted = tokenizer().fit(corpus)
    assert "dog under palm tree" in fitted.vocabulary
    assert "dog under tree" not in fitted.vocabulary
    assert "dog under tree" in tokenizer().fit(corpus[:4]).vocabulary  # too few to tell


def test_an_empty_corpus_gives_an_empty_vocabulary() -> None:
    fitted = tokenizer().fit([])
    assert fitted.vocabulary == ["[UNK]"]
    assert fitted.encode(["a dog"]).values.tolist() == []
    assert fitted.idf().tolist() == [1.0]


def test_saved_and_loaded_it_encodes_alike(tmp_path: Path) -> None:
    corpus = [f"a {animal} under a palm tree" for animal in ("dog", "cat", "cow", "pig", "fox")] + CORPUS
    fitted = tokenizer(oov="unk", name="A").fit(corpus)
    fitted.save(tmp_path / "A")
    loaded = load_tokenizer(tmp_path / "A")
    probe = [*corpus, "a zebra under a palm tree", ""]
    assert loaded.encode(probe).values.tolist() == fitted.encode(probe).values.tolist()
    assert loaded.fingerprint() == fitted.fingerprint()
    assert loaded.idf().tolist() == fitted.idf().tolist()
    assert (loaded.name, loaded.kind, loaded.config) == ("A", "concepts", fitted.config)
