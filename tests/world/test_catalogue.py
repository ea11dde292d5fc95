import numpy as np

from captionary.world.catalogue import FIRST_COMPOSITION, FIRST_PLACE, draw_catalogue
from captionary.world.scenes import OBJECTS
from captionary.world.settings import WorldConfig


def test_concepts_are_what_the_scene_shows() -> None:
    catalogue = draw_catalogue(WorldConfig(items=500, compositions=40))
    scenes = catalogue.scenes
    for column, part in ((0, scenes.subject), (1, scenes.object), (2, scenes.extra)):
        shown = part >= 0
        assert (catalogue.concepts[shown, column] == part[shown]).all()
        assert (catalogue.concepts[~shown, column] == catalogue.concept_count).all()
    assert (catalogue.concepts[:, 3] == FIRST_PLACE + scenes.place).all()
    composition = catalogue.mix.compositions[catalogue.concepts[:, 4] - FIRST_COMPOSITION]
    assert (composition == np.stack([scenes.subject, scenes.relation, scenes.object], axis=1)).all()


def test_prevalence_is_the_share_of_items_that_show_a_concept() -> None:
    catalogue = draw_catalogue(WorldConfig(items=20_000, compositions=15))
    scenes = catalogue.scenes
    for kind in range(len(OBJECTS)):
        shown = ((scenes.subject == kind) | (scenes.object == kind)).mean()
        assert abs(catalogue.prevalence[kind] - shown) < 0.015
    composition = (catalogue.concepts[:, 4] == FIRST_COMPOSITION).mean()
    assert abs(catalogue.prevalence[FIRST_COMPOSITION] - composition) < 0.015


def test_items_come_in_day_after_day_and_are_live_from_the_next_day_on() -> None:
    catalogue = draw_catalogue(WorldConfig(items=4_000, days=16, stock=0.4))
    assert abs(len(catalogue.live(0)) / catalogue.size - 0.4) < 0.03
    arrivals = [len(catalogue.live(day + 1)) - len(catalogue.live(day)) for day in range(15)]
    assert min(arrivals) > 0.6 * 4_000 / 15 * 0.6
    assert len(catalogue.live(15)) == catalogue.size
    assert (catalogue.created[catalogue.live(3)] < 3).all()


def test_items_do_not_depend_on_users_nor_on_the_length_of_the_log() -> None:
    one = draw_catalogue(WorldConfig.tiny())
    other = draw_catalogue(WorldConfig.tiny(users=500, impressions=50_000, semantic_strength=3))
    assert (one.concepts == other.concepts).all()
    assert (one.created == other.created).all()
    assert (one.quality == other.quality).all()
    assert (one.reach == other.reach).all()


def test_quality_cannot_be_told_from_the_picture() -> None:
    catalogue = draw_catalogue(WorldConfig(items=6_000, compositions=10))
    means = [
        catalogue.quality[catalogue.concepts[:, 4] == FIRST_COMPOSITION + row].mean() for row in range(10)
    ]
    assert np.abs(means).max() < 4 * 0.35 / np.sqrt(6_000 / 20)


def test_a_catalogue_without_luck_still_has_something_to_show_on_the_first_day() -> None:
    assert len(draw_catalogue(WorldConfig.tiny(items=20, stock=1e-9)).live(0)) == 1
