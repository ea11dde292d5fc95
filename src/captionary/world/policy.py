"""What the marketplace showed while its log was written: popular, recent, and what it thought people like.

    live items ──drawn by reach × recency × popularity──▶ 6 candidates ──by taste, with noise──▶ 1 item

The policy sees a part of taste only (objects and places, no compositions), so exposure is confounded with
taste: the log is no random sample of what could have been shown.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from captionary.world.catalogue import Catalogue
from captionary.world.settings import WorldConfig
from captionary.world.tastes import Tastes
from captionary.world.traffic import SURFACES

__all__ = ["Policy"]

_CANDIDATES = 6
_HALF_LIFE_DAYS, _EVERGREEN = 4.0, 0.15  # an old item keeps that share of a new one's chance
_POPULARITY = 1.0
_PRIOR_IMPRESSIONS = 20.0
_MEMORY = 0.9  # of popularity, per day
_FOLLOWS_TASTE = {"feed": 1.0, "explore": 0.4, "friends": 0.0}
_ROUNDS = 3


class Policy:
    """Chooses what to show; learns popularity from what it showed."""

    def __init__(self, config: WorldConfig, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        # At strength 0 exposure must not follow tastes either.
        weight = config.policy_affinity * config.semantic_strength
        self._weights = np.array([weight * _FOLLOWS_TASTE[name] for name in SURFACES], np.float32)
        self._shown = np.zeros(catalogue.size)
        self._pleased = np.zeros(catalogue.size)

    def choose(
        self,
        rng: np.random.Generator,
        tastes: Tastes,
        day: int,
        user: npt.NDArray[np.int64],
        surface: npt.NDArray[np.int8],
    ) -> npt.NDArray[np.int64]:
        """One live item for each of N visits [N]; hardly any user is shown an item twice in a call."""
        live = self._catalogue.live(day)
        shares = self._shares(live, day)
        items = self._pick(rng, tastes, day, user, surface, live, shares)
        for _ in range(_ROUNDS):
            again = _repeated(user * self._catalogue.size + items)
            items[again] = self._pick(rng, tastes, day, user[again], surface[again], live, shares)
        return items

    def observe(self, item: npt.NDArray[np.int64], pleased: npt.NDArray[np.bool_]) -> None:
        """Learn from responses to what was shown: for each impression, whether there was a positive one."""
        self._shown += np.bincount(item, minlength=len(self._shown))
        self._pleased += np.bincount(item[pleased], minlength=len(self._shown))

    def end_day(self) -> None:
        """Forget a little."""
        self._shown *= _MEMORY
        self._pleased *= _MEMORY

    def _shares(self, live: npt.NDArray[np.int64], day: int) -> npt.NDArray[np.float64]:
        """The chance of each live item to be drawn as a candidate."""
        age = day - self._catalogue.created[live]
        recency = _EVERGREEN + (1 - _EVERGREEN) * 0.5 ** (age / _HALF_LIFE_DAYS)
        overall = max(self._pleased.sum(), 1.0) / max(self._shown.sum(), 1.0)
        rate = (self._pleased[live] + _PRIOR_IMPRESSIONS * overall) / (self._shown[live] + _PRIOR_IMPRESSIONS)
        weights = np.exp(self._catalogue.reach[live]) * recency * (rate / overall) ** _POPULARITY
        return np.asarray(weights / weights.sum())

    def _pick(
        self,
        rng: np.random.Generator,
        tastes: Tastes,
        day: int,
        user: npt.NDArray[np.int64],
        surface: npt.NDArray[np.int8],
        live: npt.NDArray[np.int64],
        shares: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.int64]:
        n = len(user)
        # A shuffled deck is an exact multinomial sample, several times faster than N · 6 searches.
        deck = np.repeat(live, rng.multinomial(n * _CANDIDATES, shares))
        candidates = rng.permutation(deck).reshape(n, _CANDIDATES)
        noise = rng.gumbel(size=(n, _CANDIDATES)).astype(np.float32)
        known = tastes.affinity(np.repeat(user, _CANDIDATES), candidates.ravel(), day)[:, :2].sum(axis=1)
        score = self._weights[surface][:, None] * known.reshape(n, _CANDIDATES) + noise
        return np.asarray(candidates[np.arange(n), np.argmax(score, axis=1)])


def _repeated(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions of all but the first of equal keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return np.asarray(order[1:][ordered[1:] == ordered[:-1]])
