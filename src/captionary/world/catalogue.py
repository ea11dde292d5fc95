"""The items of a marketplace: what each shows, when it came in, how good it is, how far its maker reaches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.world.randomness import Stream, generator
from captionary.world.scenes import OBJECTS, PLACES, SceneMix, SceneTable, draw_scenes
from captionary.world.settings import WorldConfig
from captionary.world.tasks import TASKS

__all__ = ["FIRST_COMPOSITION", "FIRST_PLACE", "ROLES", "Catalogue", "draw_catalogue"]

FIRST_PLACE = len(OBJECTS)
FIRST_COMPOSITION = FIRST_PLACE + len(PLACES)
ROLES: tuple[str, ...] = ("subject", "object", "extra", "place", "composition")
"""The columns of `Catalogue.concepts`."""

_STOCK_DAYS = 30.0
# Standard deviation, logits, and the share of its variance that all tasks have in common.
_QUALITY, _QUALITY_IN_COMMON = 0.35, 0.6
_REACH = 0.5


class Catalogue(NamedTuple):
    """I items; an item's index is its id."""

    scenes: SceneTable
    mix: SceneMix
    concepts: npt.NDArray[np.int32]
    """[I, 5] What tastes are about, by ROLES; `concept_count` stands for "no such thing"."""
    concept_count: int
    """Concepts are numbered: objects, then places, then compositions."""
    created: npt.NDArray[np.float64]
    """[I] Days since the log began, negative for the stock."""
    quality: npt.NDArray[np.float32]
    """[I, T] Logits that no picture shows."""
    reach: npt.NDArray[np.float32]
    """[I] Log of the exposure that an item gets for its maker's sake."""

    @property
    def size(self) -> int:
        """The number of items."""
        return len(self.created)

    @property
    def prevalence(self) -> npt.NDArray[np.float64]:
        """The chance that an item shows a concept, [concepts]; in a composition, for an object."""
        shares = self.mix.composition_shares
        objects = np.zeros(len(OBJECTS) + 1)
        for column in (0, 2):
            np.add.at(objects, self.mix.compositions[:, column], shares)  # -1, no object, falls to the last
        return np.concatenate([objects[:-1], self.mix.place_shares, shares])

    def live(self, day: int) -> npt.NDArray[np.int64]:
        """Indices of the items that can be shown on a day: those that came in before it began."""
        return np.flatnonzero(self.created < day)


def draw_catalogue(config: WorldConfig) -> Catalogue:
    """Draw the items of a world; nothing about them depends on how many users or impressions it has."""
    size, seed = config.catalogue_size, config.seed
    mix = SceneMix.catalogue(generator(seed, Stream.MIX), config.compositions)
    scenes = draw_scenes(generator(seed, Stream.SCENES), size, mix)
    places = np.int32(FIRST_PLACE) + scenes.place
    nothing = FIRST_COMPOSITION + len(mix.compositions)
    things = [np.where(part >= 0, part, nothing) for part in (scenes.subject, scenes.object, scenes.extra)]
    compositions = FIRST_COMPOSITION + _composition_index(scenes, mix)
    concepts = np.stack([*things, places, compositions], axis=1).astype(np.int32)
    return Catalogue(
        scenes,
        mix,
        concepts,
        nothing,
        _arrivals(config),
        _quality(config),
        generator(seed, Stream.REACH).normal(0, _REACH, size).astype(np.float32),
    )


def _composition_index(scenes: SceneTable, mix: SceneMix) -> npt.NDArray[np.int64]:
    """Which row of `mix.compositions` each scene shows, [I]."""

    def key(columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.asarray(np.ravel_multi_index(tuple(columns + 1), (len(OBJECTS) + 1,) * 3))

    known = key(mix.compositions.T.astype(np.int64))
    order = np.argsort(known)
    shown = key(np.stack([scenes.subject, scenes.relation, scenes.object]).astype(np.int64))
    return np.asarray(order[np.searchsorted(known[order], shown)])


def _arrivals(config: WorldConfig) -> npt.NDArray[np.float64]:
    draw = generator(config.seed, Stream.ARRIVALS).random((config.catalogue_size, 2))
    # What comes in on a day is shown from the next one on; hence none comes in on the last.
    fresh = draw[:, 1] * (config.days - 1)
    created = np.where(draw[:, 0] < config.stock, -_STOCK_DAYS * draw[:, 1] - 1e-3, fresh)
    if not (created < 0).any():
        created[0] = -1.0
    return created


def _quality(config: WorldConfig) -> npt.NDArray[np.float32]:
    draw = generator(config.seed, Stream.QUALITY).normal(size=(config.catalogue_size, 1 + len(TASKS)))
    common, own = np.sqrt(_QUALITY_IN_COMMON), np.sqrt(1 - _QUALITY_IN_COMMON)
    return np.asarray(_QUALITY * (common * draw[:, :1] + own * draw[:, 1:]), np.float32)
