"""Small logs for the tests of profiles: strategies, tables, and the definition in plain Python."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st

from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileConfig, ProfileList, Profiles, build_profiles

DAY = 86_400_000_000
ITEMS = ["i3", "i1", "i2", "i0"]
TOKENS = Jagged.from_lists([[1, 2, 3], [3, 4], [], [5, 5, 1]])
IDF = np.array([1, 1, 2, 1, 1.5, 1], np.float32)


class Row(NamedTuple):
    """One event."""

    user: str
    item: str
    event: str
    time: int
    value: float | None


def events_table(rows: list[Row]) -> pa.Table:
    """The log as a table."""
    columns: dict[str, Any] = {
        "user_id": pa.array([row.user for row in rows], pa.string()),
        "item_id": pa.array([row.item for row in rows], pa.string()),
        "event": pa.array([row.event for row in rows], pa.string()),
        "timestamp": pa.array([row.time for row in rows], pa.timestamp("us", "UTC")),
        "value": pa.array([row.value for row in rows], pa.float64()),
    }
    return pa.table(columns)


def reads_table(reads: list[tuple[str, int]]) -> pa.Table:
    """The impressions of it."""
    users = pa.array([user for user, _ in reads], pa.string())
    return pa.table(
        {"user_id": users, "timestamp": pa.array([time for _, time in reads], pa.timestamp("us", "UTC"))}
    )


# Few moments and users, so that ties happen; odd steps and values, so that sums depend on their order.
TIMES = st.integers(-6, 12).map(lambda step: step * (DAY // 3 + 1))
USERS = st.sampled_from(["u0", "u1"])
EVENTS = st.lists(
    st.builds(
        Row,
        USERS,
        st.sampled_from([*ITEMS, "gone"]),
        st.sampled_from(["like", "share"]),
        TIMES,
        st.sampled_from([None, 0.0, 0.1, 0.3, 1.0, 7.7, math.nan]),
    ),
    max_size=14,
)
READS = st.lists(st.tuples(USERS, TIMES), min_size=1, max_size=8)

# Two guards, so that no log lacks a type of the config: a type that never occurs is an error.
GUARDS = [Row("guard", "gone", "like", 0, None), Row("guard", "gone", "share", 0, None)]
CONFIG = ProfileConfig(half_life_days=2.5, half_life_days_of={"share": 0.5}, top_k=3)
STREAMED = ProfileConfig(
    event_types=("like", "share"), half_life_days=2.5, half_life_days_of={"share": 0.5}, top_k=3
)
compiled = settings(deadline=None, max_examples=60)  # the first example compiles the kernel


CAPS = st.builds(
    dict,
    last_events=st.sampled_from([None, 1, 2, 3, 5]),
    last_days=st.sampled_from([math.inf, 0.5, 2.0, 4.0]),
    per_item=st.sampled_from([None, 1, 2]),
    repeat_weight=st.sampled_from([1.0, 0.5, 0.0]),
    value_max=st.sampled_from([math.inf, 0.25]),
    value_missing=st.sampled_from([1.0, 0.0]),
    weigh_by_value=st.sampled_from([True, True, False]),
)


def capped(caps: dict[str, Any], **more: Any) -> ProfileConfig:
    """The config of most tests, with caps."""
    return ProfileConfig(
        event_types=("like", "share"),
        half_life_days=2.5,
        half_life_days_of={"share": 0.5},
        top_k=3,
        **caps,
        **more,
    )


def build(
    rows: list[Row], reads: list[tuple[str, int]], config: ProfileConfig = CONFIG, tokens: Jagged = TOKENS
) -> dict[str, Profiles]:
    """The profiles of some reads."""
    return build_profiles(events_table([*rows, *GUARDS]), reads_table(reads), ITEMS, tokens, config, IDF)


def listed(profiles: Profiles, row: int) -> tuple[Any, ...]:
    """(tokens, weights, mass) of one row."""
    first, last = profiles.lists.offsets[row], profiles.lists.offsets[row + 1]
    assert profiles.lists.weights is not None
    return (
        profiles.lists.row(row).tolist(),
        profiles.lists.weights[first:last].tolist(),
        float(profiles.mass[row]),
    )


def plain(one: ProfileList) -> tuple[list[int], list[float], float]:
    """The same of one list."""
    return one.token_ids.tolist(), one.weights.tolist(), one.mass


def reference(
    rows: list[Row], user: str, time: int, event: str, config: ProfileConfig
) -> tuple[dict[int, float], float]:
    """Decayed weights straight from the definition: from the latest event back, as the docs say it."""
    weights: dict[int, float] = {}
    mass = 0.0
    taken: dict[str, int] = {}
    count = 0
    days = config.half_life_days_of.get(event, config.half_life_days)
    for row in sorted(
        rows, key=lambda row: (row.time, order_of(row.item), counted(row, config)), reverse=True
    ):
        value = counted(row, config)
        if (row.user, row.event) != (user, event) or row.time >= time or value == 0:
            continue
        if (time - row.time) / DAY > config.last_days or count == config.last_events:
            break
        known = row.item in ITEMS
        if known and taken.get(row.item, 0) == config.per_item:
            continue
        repeats = taken.get(row.item, 0) if known else 0
        taken[row.item] = repeats + 1
        count += 1
        amount = value * config.repeat_weight**repeats * 2 ** (-(time - row.time) / DAY / days)
        mass += amount
        for token in TOKENS.row(ITEMS.index(row.item)).tolist() if known else []:
            weights[token] = weights.get(token, 0.0) + amount
    return {token: weight for token, weight in weights.items() if weight}, mass


def order_of(item: str) -> int:
    """Items in the order of their ids; those without tokens come before."""
    return sorted(ITEMS).index(item) if item in ITEMS else -1


def counted(row: Row, config: ProfileConfig) -> float:
    """What one event counts, caps aside."""
    if not config.weigh_by_value:
        return 1.0
    missing = row.value is None or math.isnan(row.value)
    return min(config.value_missing if missing else float(row.value or 0), config.value_max)
