"""How often each item will be shown in the days to come, from what was logged strictly before the decision.

    age curve     impressions per live item and day, by the item's age: new items are shown more, or less
    factor        an item's smoothed impressions over what its age made likely, drawn to that of its category
    forecast      age curve x factor, summed over the days of the horizon on which the item is there

The factor is the mean of a gamma-Poisson model: an item with few impressions keeps its category's, one with many its
own; old days count less (exponential smoothing). An item that is announced but not there yet has its category's
factor from the day on which it comes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value

__all__ = ["DAY", "Exposure", "forecast_exposure"]

DAY = 86_400_000_000
"""Microseconds."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_UNKNOWN = np.iinfo(np.int64).min
"""NaT as an integer: an item whose coming is not known."""
_CURVE_PRIOR = 20.0
"""Item-days by which a point of the age curve is drawn to the one before it."""


class Exposure(NamedTuple):
    """Impressions by item [I]; past ones are counts, future ones expectations."""

    past: Floats
    """Counted before the cut-off."""
    recent: Floats
    """The same, a day's impressions halved with every half-life: what popularity is now."""
    future: Floats
    """Expected in the horizon."""
    cold: npt.NDArray[np.bool_]
    """Never shown before the cut-off."""

    @property
    def shares(self) -> Floats:
        """Of all future impressions, the share of each item; even where nothing is expected at all."""
        total = float(self.future.sum())
        size = len(self.future)
        return self.future / total if total > 0 else np.full(size, 1 / max(size, 1))


def forecast_exposure(
    item: Ints,
    timestamp: Ints,
    created: Ints,
    *,
    cutoff: int,
    horizon_days: float = 7.0,
    half_life_days: float = 4.0,
    prior: float = 8.0,
    category: Ints | None = None,
) -> Exposure:
    """Expected impressions of every item in the days after the cut-off.

    Args:
        item: row of the item of each logged impression, 0 to I - 1, [N].
        timestamp: microseconds of each, [N]; those at the cut-off or later are not looked at.
        created: microseconds at which each item came in, [I]; NaT's integer where not known: then its first
            impression, and without one the cut-off.
        cutoff: the moment of the decision, microseconds.
        horizon_days: how far ahead, > 0.
        half_life_days: of the smoothing, > 0.
        prior: expected impressions that an item must have had before its own figures outweigh its category's, > 0.
        category: a small integer for each item, [I]; None: all of one.

    Raises:
        CaptionaryError: a setting out of range, or an item that is none.
    """
    for name, value in (("horizon_days", horizon_days), ("half_life_days", half_life_days), ("prior", prior)):
        if not value > 0:
            raise bad_value(name, value, "> 0")
    items = len(created)
    if len(item) and (item.min() < 0 or item.max() >= items):
        raise bad_value("item", int(item.max()), f"from 0 to {items - 1}", where="impressions")
    seen = timestamp < cutoff
    item, timestamp = item[seen], timestamp[seen]
    past = np.bincount(item, minlength=items).astype(np.float64)
    came = _came(item, timestamp, created, cutoff, items)
    if not len(item):
        nothing = np.zeros(items)
        future = np.clip((cutoff + horizon_days * DAY - np.maximum(came, cutoff)) / DAY, 0, None)
        return Exposure(past, nothing, future, past == 0)
    # What is older than eight half-lives weighs next to nothing, and would only cost memory.
    days = min(int((cutoff - 1 - timestamp.min()) // DAY) + 1, int(np.ceil(8 * half_life_days)))
    item, timestamp = item[timestamp >= cutoff - days * DAY], timestamp[timestamp >= cutoff - days * DAY]
    ago = ((cutoff - 1 - timestamp) // DAY).astype(np.int64)  # whole days before the cut-off, 0 the last
    age = _age(came, cutoff - (np.arange(days)[:, None] + 0.5) * DAY)  # [days, I]; below 0: not there yet
    shown = np.zeros((days, items))
    np.add.at(shown, (ago, item), 1.0)
    weight = 0.5 ** (np.arange(days) / half_life_days)
    curve = _curve(shown, age)
    expected = np.where(age >= 0, curve[np.maximum(age, 0)], 0.0)
    own, likely = weight @ shown, weight @ expected  # [I]
    code = np.zeros(items, np.int64) if category is None else category
    total, base = np.bincount(code, own), np.bincount(code, likely)
    typical = ((total + prior) / (base + prior))[code]
    factor = (own + prior * typical) / (likely + prior)
    future = np.zeros(items)
    for day in range(int(np.ceil(horizon_days))):
        part = min(1.0, horizon_days - day)
        ahead = _age(came, cutoff + (day + part / 2) * DAY)
        rate = np.where(ahead >= 0, curve[np.clip(ahead, 0, len(curve) - 1)], 0.0)
        future += part * rate * factor
    return Exposure(past, own, future, past == 0)


def _came(item: Ints, timestamp: Ints, created: Ints, cutoff: int, items: int) -> Ints:
    """When each item came in: as it says, else at its first impression, else at the cut-off."""
    first = np.full(items, cutoff, np.int64)
    np.minimum.at(first, item, timestamp)
    # What was shown was there, whatever the table says.
    return np.where(created == _UNKNOWN, first, np.minimum(created, np.where(first < cutoff, first, created)))


def _age(came: Ints, moment: npt.NDArray[Any] | float) -> Ints:
    """Whole days that each item has been there; negative before it came."""
    return np.asarray(np.floor((moment - came) / DAY), np.int64)


def _curve(shown: Floats, age: Ints) -> Floats:
    """Impressions per live item and day by age in days, [longest age + 1]; thin ends are drawn to what is before."""
    there = age >= 0
    longest = int(age.max(initial=0))
    total = np.bincount(age[there], shown[there], minlength=longest + 1)
    count = np.bincount(age[there], minlength=longest + 1)
    level = shown[there].sum() / max(1, there.sum())
    curve = np.empty(longest + 1)
    for day in range(longest + 1):
        level = (total[day] + _CURVE_PRIOR * level) / (count[day] + _CURVE_PRIOR)
        curve[day] = level
    return curve
