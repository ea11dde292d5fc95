"""When users come, by what page, and how often they look: sessions spread over a day."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.world.settings import WorldConfig
from captionary.world.users import Users

__all__ = ["SURFACES", "Visits", "draw_visits", "impressions_by_day"]

SURFACES: tuple[str, ...] = ("feed", "explore", "friends")
_SURFACE_SHARES = (0.6, 0.25, 0.15)
# Share of the sessions that begin in each hour: few at night, most in the evening.
_HOURS = np.array([2, 1, 1, 1, 1, 2, 3, 5, 6, 5, 4, 4, 5, 5, 4, 4, 5, 6, 7, 8, 9, 9, 7, 4], np.float64)
_SESSION, _GAP = 4, 40.0  # impressions in a session and seconds between them, on average
_DAY_MS = 86_400_000


class Visits(NamedTuple):
    """N impressions of one day in order of time, before anything is chosen to be shown."""

    user: npt.NDArray[np.int64]
    surface: npt.NDArray[np.int8]
    """Index into SURFACES."""
    millisecond: npt.NDArray[np.int64]
    """Of the day."""

    @property
    def hour(self) -> npt.NDArray[np.int8]:
        """0 to 23."""
        return (self.millisecond // 3_600_000).astype(np.int8)


def draw_visits(rng: np.random.Generator, users: Users, n: int) -> Visits:
    """Draw `n` impressions of a day."""
    sessions = max(1, n // _SESSION)
    session = np.sort(rng.integers(0, sessions, n))
    who = rng.choice(users.size, sessions, p=users.activity)
    where = rng.choice(len(SURFACES), sessions, p=_SURFACE_SHARES).astype(np.int8)
    hour = rng.choice(24, sessions, p=_HOURS / _HOURS.sum())
    begin = hour * 3_600_000 + rng.integers(0, 3_600_000, sessions)
    # A second at least between impressions: an event may follow the one before the next comes.
    since = np.cumsum(1_000 + rng.exponential(_GAP * 1_000, n).astype(np.int64))
    first = np.searchsorted(session, np.arange(sessions))
    last = np.searchsorted(session, np.arange(sessions), "right") - 1
    shown = last >= first
    # Who would stay past midnight came earlier, so that a day's impressions are of that day.
    length = since[np.maximum(last, 0)] - since[np.minimum(first, n - 1)]
    begin = np.where(shown, np.clip(begin, 0, np.maximum(_DAY_MS - 1 - length, 0)), begin)
    time = np.minimum(begin[session] + since - since[first[session]], _DAY_MS - 1)
    order = np.argsort(time, kind="stable")
    return Visits(who[session][order], where[session][order], time[order])


def impressions_by_day(config: WorldConfig) -> npt.NDArray[np.int64]:
    """How many impressions each day has, [days]; a fifth more on Saturdays and Sundays, the total exact."""
    weekend = np.isin(np.arange(config.days) % 7, (5, 6))  # the log begins on a Monday
    until = np.cumsum(np.where(weekend, 1.2, 1.0))
    ends = np.rint(until / until[-1] * config.impressions).astype(np.int64)
    return np.asarray(np.diff(ends, prepend=0))
