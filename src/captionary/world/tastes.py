"""What users like: few objects, places and whole compositions each, and never quite the same from day to day.

Who likes "a dog on a sofa" need not like dogs: compositions are liked for themselves. People who like one
thing tend to like certain others: each user belongs to a community, which has its own favourites. Colours,
numbers and times of day leave everybody cold, so that not all that a caption says matters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.world.catalogue import FIRST_COMPOSITION, FIRST_PLACE, ROLES, Catalogue
from captionary.world.randomness import Stream, generator
from captionary.world.settings import WorldConfig

__all__ = ["Tastes"]

Float = npt.NDArray[np.float32]


class _Kind(NamedTuple):
    """How many concepts of one kind a user likes and dislikes (at most: drawn twice is had once)."""

    first: int
    likes: int
    dislikes: int


_KINDS = (
    _Kind(first=0, likes=3, dislikes=1),
    _Kind(first=FIRST_PLACE, likes=2, dislikes=1),
    _Kind(first=FIRST_COMPOSITION, likes=4, dislikes=1),
)
_DISLIKE = -0.7
_COMMUNITIES, _COMMUNITY_SPREAD = 16, 1.5
# Of an object: in full where it is the subject, less as what the subject stands on or holds, least behind it.
_ATTENTION = {"subject": 1.0, "object": 0.7, "extra": 0.3}


class Tastes:
    """The tastes of all users on one day, [U, concepts + 1] float32; the last column, "no such thing", is 0.

    A weight wanders about its mean m by an AR(1) process: w = m · (1 + drift · x), and the next day
    x' = ρ · x + √(1 − ρ²) · ε, so that one day's tastes are distributed as any other's.
    """

    def __init__(self, config: WorldConfig, catalogue: Catalogue) -> None:
        self._config = config
        self._concepts = catalogue.concepts
        self._support = _supports(config, catalogue)  # [U, K] concepts that each user cares about
        self._mean = _weights(config)  # [U, K]
        rows = np.arange(config.users, dtype=np.int64)[:, None] * (catalogue.concept_count + 1)
        self._cells = rows + self._support  # of the table, flat
        self._table = np.zeros((config.users, catalogue.concept_count + 1), np.float32)
        appeal = np.zeros(catalogue.concept_count + 1, np.float32)  # what all users like alike
        appeal[:-1] = generator(config.seed, Stream.APPEAL).normal(0, config.shared_taste, len(appeal) - 1)
        self._appeal = _parts(appeal[catalogue.concepts])  # [I, 3]
        self._start()

    def affinity(self, user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], day: int) -> Float:
        """How each user likes each item: its objects, its place, its composition, [N, 3].

        Days are cheapest in order; an earlier day than the last one asked for is worked out from the first.

        Raises:
            CaptionaryError: `day` is negative.
        """
        self._go_to(day)
        table, width = self._table.reshape(-1), self._table.shape[1]
        cells = user.astype(np.int64)[:, None] * width + self._concepts[item]  # [N, 5]
        return np.asarray(_parts(table[cells]) + self._appeal[item])

    def _start(self) -> None:
        self._day = 0
        self._wander = self._noise(0)
        self._fill()

    def _go_to(self, day: int) -> None:
        if day < 0:
            raise bad_value("day", day, ">= 0")
        if day == self._day:
            return
        if day < self._day:
            self._start()
        memory = np.float32(self._config.taste_memory)
        while self._day < day:
            self._day += 1
            self._wander *= memory
            self._wander += np.sqrt(1 - memory**2) * self._noise(self._day)
        self._fill()

    def _noise(self, day: int) -> Float:
        return generator(self._config.seed, Stream.DRIFT, day).standard_normal(self._mean.shape, np.float32)

    def _fill(self) -> None:
        weights = self._mean * (1 + np.float32(self._config.taste_drift) * self._wander)
        # Of a concept drawn twice the last weight counts, every day.
        np.put(self._table, self._cells, weights)


def _parts(weights: Float) -> Float:
    """Weights of an item's concepts [N, 5], by ROLES, summed to objects, place and composition [N, 3]."""
    attention = np.array([_ATTENTION[role] for role in ROLES[:3]], np.float32)
    return np.stack([weights[:, :3] @ attention, weights[:, 3], weights[:, 4]], axis=1)


def _supports(config: WorldConfig, catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """The concepts that each user likes, then dislikes, kind by kind, [U, K]."""
    draw = generator(config.seed, Stream.COMMUNITIES)
    spread = draw.normal(0, _COMMUNITY_SPREAD, (_COMMUNITIES, catalogue.concept_count))
    # What is shown often is liked often, or most tastes would never meet an item; what is never shown, never.
    favour = np.sqrt(catalogue.prevalence) * np.exp(spread)
    columns = 1 + sum(kind.likes + kind.dislikes for kind in _KINDS)
    pick = generator(config.seed, Stream.SUPPORT).random((config.users, columns))
    community = (pick[:, :1] * _COMMUNITIES).astype(np.int64)
    supports, column = [], 1
    for kind, end in zip(_KINDS, (FIRST_PLACE, FIRST_COMPOSITION, catalogue.concept_count), strict=True):
        shares = np.cumsum(favour[:, kind.first : end], axis=1)
        shares /= shares[:, -1:]
        # One search for all communities: that of number g has its shares between g and g + 1.
        until = column + kind.likes + kind.dislikes
        steps = (shares + np.arange(_COMMUNITIES)[:, None]).ravel()
        found = np.searchsorted(steps, pick[:, column:until] + community, "right")
        supports.append(kind.first + np.minimum(found - community * (end - kind.first), end - kind.first - 1))
        column = until
    return np.concatenate(supports, axis=1)


def _weights(config: WorldConfig) -> Float:
    """The mean weight of each taste, about 1 for a like, [U, K]."""
    signs = np.concatenate([[1.0] * kind.likes + [_DISLIKE] * kind.dislikes for kind in _KINDS])
    draw = generator(config.seed, Stream.WEIGHTS).standard_gamma(4.0, (config.users, len(signs)), np.float32)
    return np.asarray(draw / 4 * signs, np.float32)
