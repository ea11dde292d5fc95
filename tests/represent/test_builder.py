from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st
from tests.represent.profile_logs import (
    CAPS,
    DAY,
    EVENTS,
    IDF,
    ITEMS,
    READS,
    TIMES,
    TOKENS,
    Row,
    build,
    capped,
    compiled,
    events_table,
    listed,
)

from captionary.represent import builder as module
from captionary.represent.builder import ProfileBuilder
from captionary.represent.profile_log import EventRows, IdCodes, Items

ALL = Items.of(ITEMS, TOKENS, IDF)


def read_of(reads: list[tuple[str, int]]) -> tuple[pa.Array, Any]:
    return pa.array([user for user, _ in reads], pa.string()), np.array([time for _, time in reads], np.int64)


@compiled
@given(EVENTS, READS, st.lists(TIMES, max_size=3), st.integers(1, 3), st.just({}) | CAPS, st.booleans())
@example([Row("u0", "i3", "like", 0, 1.0)], [("u0", 4 * DAY)], [2 * DAY], 1, {"last_events": 2}, False)
def test_steps_of_time_and_shards_change_nothing(
    rows: list[Row],
    reads: list[tuple[str, int]],
    cuts: list[int],
    threads: int,
    caps: dict[str, Any],
    prune: bool,
) -> None:
    config = capped(caps)
    built = build(rows, reads, config)
    found: dict[str, dict[int, Any]] = {"like": {}, "share": {}}
    one = ProfileBuilder(ALL, ("like", "share"), config, threads=threads)
    bounds = [-100 * DAY, *sorted(cuts), 100 * DAY]
    for first, last in itertools.pairwise(bounds):
        log = EventRows.of(
            events_table([row for row in rows if first <= row.time < last]),
            ("like", "share"),
            IdCodes(ALL.ids),
            config,
        )
        places = [index for index, (_, time) in enumerate(reads) if first <= time < last]
        step = one.advance(log, *read_of([reads[index] for index in places]), last=last == bounds[-1])
        if prune:
            one.prune(last)
        for event, shared in step.items():
            profiles = shared.whole()
            assert shared.lists.row(0).tolist() == []
            for row, index in enumerate(places):
                found[event][index] = listed(profiles, row)
    for event in found:
        assert found[event] == {index: listed(built[event], index) for index in range(len(reads))}


def test_many_users_in_a_small_store(monkeypatch: Any) -> None:
    """The store grows and is swept while users come back with more tokens each time."""
    monkeypatch.setattr(module, "_SMALL", 0)
    rng = np.random.default_rng(0)
    rows = [
        Row(f"u{rng.integers(300)}", str(rng.choice(ITEMS)), "like", int(time) * 1000, float(rng.random()))
        for time in np.sort(rng.integers(0, 4000, 3000))
    ]
    reads = [(f"u{rng.integers(320)}", int(time) * 1000) for time in rng.integers(0, 4100, 500)]
    config = capped({})
    expected = build(rows, reads, config)["like"]
    grown = []
    grow = module._Store.grow
    monkeypatch.setattr(module._Store, "grow", lambda self, least: (grown.append(1), grow(self, least)))
    one = ProfileBuilder(ALL, ("like",), config, threads=2)
    for first in range(0, 5_000_000, 400_000):
        chosen = [row for row in rows if first <= row.time < first + 400_000]
        log = EventRows.of(events_table(chosen), ("like",), IdCodes(ALL.ids), config)
        places = [index for index, (_, time) in enumerate(reads) if first <= time < first + 400_000]
        step = one.advance(log, *read_of([reads[index] for index in places]))["like"].whole()
        for row, index in enumerate(places):
            assert listed(step, row) == listed(expected, index)
    assert len(grown) >= 2


@compiled
@given(st.lists(st.integers(-3, 70), max_size=30), st.booleans())
def test_ids_have_numbers_in_the_order_of_coming(numbers: list[int], words: bool) -> None:
    ids = [str(number) for number in numbers] if words else [number * 40_000 for number in numbers]
    codes = IdCodes()
    half = len(ids) // 2
    kind = pa.string() if words else pa.int64()
    found = [*codes.add(pa.array(ids[:half], kind), "id"), *codes.add(pa.array(ids[half:], kind), "id")]
    order = list(dict.fromkeys(ids))
    assert [order[code] for code in found] == ids
    assert codes.codes(pa.array(ids, kind), "id").tolist() == list(found)
    assert codes.codes(pa.array(["99"] if words else [99], kind), "id").tolist() == [-1]


def test_what_counts_is_carried_from_step_to_step() -> None:
    rows = [Row("u0", item, "like", time, None) for time, item in enumerate(["i3", "i1", "i0"])]
    for caps in ({}, {"last_events": 2}, {"per_item": 1}, {"last_days": 9.0}):
        config = capped(caps)
        one = ProfileBuilder(ALL, ("like",), config)
        first, nothing = (
            EventRows.of(events_table(log), ("like",), IdCodes(ALL.ids), config) for log in (rows, [])
        )
        one.advance(first, *read_of([]))
        later = one.advance(nothing, *read_of([("u0", DAY)]), last=True)["like"].whole()
        assert listed(later, 0) == listed(build(rows, [("u0", DAY)], config)["like"], 0)
        assert later.mass[0] > 0
