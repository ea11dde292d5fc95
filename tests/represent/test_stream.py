from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.represent.profile_logs import (
    CAPS,
    DAY,
    EVENTS,
    IDF,
    ITEMS,
    READS,
    STREAMED,
    TIMES,
    TOKENS,
    Row,
    build,
    capped,
    compiled,
    listed,
    plain,
)

from captionary.errors import CaptionaryError
from captionary.represent.profiles import Event, ProfileConfig
from captionary.represent.stream import ProfileState


@compiled
@given(EVENTS, READS, st.integers(0, 2**32 - 1), st.just({}) | CAPS)
def test_replaying_the_stream_gives_what_build_gives(
    rows: list[Row], reads: list[tuple[str, int]], seed: int, caps: dict[str, Any]
) -> None:
    config = capped(caps)
    built = build(rows, reads, config)
    random.Random(seed).shuffle(rows)  # events of one moment come in any order
    state = ProfileState(ITEMS, TOKENS, config, IDF)
    left = sorted(rows, key=lambda row: -row.time)
    for index in sorted(range(len(reads)), key=lambda index: reads[index][1]):
        user, time = reads[index]
        while left and left[-1].time <= time:  # those of the very moment have come, and must not show
            row = left.pop()
            state.apply(Event(row.user, row.item, row.event, row.time, row.value))
        for event in ("like", "share"):
            assert plain(state.read(user, event, time)) == listed(built[event], index)


@compiled
@given(EVENTS, READS, st.just({}) | CAPS)
def test_events_that_come_late_count_as_if_in_time(
    rows: list[Row], reads: list[tuple[str, int]], caps: dict[str, Any]
) -> None:
    """Whatever order they come in, and whatever moment is asked about."""
    config = capped(caps)
    state = ProfileState(ITEMS, TOKENS, config, IDF)
    for row in rows:
        assert state.apply(Event(*row)) is not None
    built = build(rows, reads, config)
    for index, (user, time) in enumerate(reads):
        for event in ("like", "share"):
            assert plain(state.read(user, event, time)) == listed(built[event], index)


@compiled
@given(EVENTS, st.just({}) | CAPS)
def test_the_stream_returns_the_list_right_after_the_event(rows: list[Row], caps: dict[str, Any]) -> None:
    config = capped(caps)
    state = ProfileState(ITEMS, TOKENS, config, IDF)
    rows.sort(key=lambda row: row.time)
    for count, row in enumerate(rows, 1):
        changed = state.apply(Event(*row))
        assert changed is not None
        assert plain(changed) == listed(build(rows[:count], [(row.user, row.time + 1)], config)[row.event], 0)


@compiled
@given(EVENTS, READS, st.sampled_from([*ITEMS, "gone", "never"]), st.just({}) | CAPS, st.booleans())
def test_a_forgotten_item_was_never_there(
    rows: list[Row], reads: list[tuple[str, int]], item: str, caps: dict[str, Any], other_idf: bool
) -> None:
    config, kept = capped(caps), [row for row in rows if row.item != item]
    idf = IDF[::-1].copy() if other_idf else IDF
    state = ProfileState(ITEMS, TOKENS, config, IDF)
    for row in rows:
        state.apply(Event(*row))
    state.forget_item(item, idf if other_idf else None)
    fresh = ProfileState(ITEMS, TOKENS, config, idf)
    for row in kept:
        fresh.apply(Event(*row))
    assert set(state.user_ids) == set(fresh.user_ids)
    # An event that comes after has no tokens, as that of any item that is not there.
    if item in ITEMS:
        state.apply(Event("u0", item, "like", 20 * DAY))
        fresh.apply(Event("u0", "unheard of", "like", 20 * DAY))
    for user, time in [*reads, ("u0", 21 * DAY)]:
        for event in ("like", "share"):
            assert plain(state.read(user, event, time)) == plain(fresh.read(user, event, time))


@compiled
@given(EVENTS, READS, st.just({}) | CAPS)
def test_a_forgotten_user_was_never_there(
    rows: list[Row], reads: list[tuple[str, int]], caps: dict[str, Any]
) -> None:
    config = capped(caps)
    state = ProfileState(ITEMS, TOKENS, config, IDF)
    for row in rows:
        state.apply(Event(*row))
    state.forget_user("u1")
    built = build([row for row in rows if row.user != "u1"], reads, config)
    assert "u1" not in state.user_ids
    for index, (user, time) in enumerate(reads):
        for event in ("like", "share"):
            assert plain(state.read(user, event, time)) == listed(built[event], index)


@compiled
@given(EVENTS, READS, TIMES, EVENTS)
def test_pruning_changes_no_later_list(
    rows: list[Row], reads: list[tuple[str, int]], before: int, late: list[Row]
) -> None:
    config = capped({"last_days": 1.5, "per_item": 2})
    state = ProfileState(ITEMS, TOKENS, config, IDF)
    for row in rows:
        state.apply(Event(*row))
    state.prune(before)
    for row in late:
        state.apply(Event(*row))
    reads = [(user, max(time, before)) for user, time in reads]
    built = build([*rows, *late], reads, config)
    for index, (user, time) in enumerate(reads):
        for event in ("like", "share"):
            assert plain(state.read(user, event, time)) == listed(built[event], index)
    with pytest.raises(CaptionaryError, match="the moment of the last prune"):
        state.read("u0", "like", before - 1)


def test_pruning_frees_what_cannot_count() -> None:
    state = ProfileState(ITEMS, TOKENS, capped({"last_days": 1.0}), IDF)
    for day in range(5):
        state.apply(Event("u0", "i3", "like", day * DAY))
        state.apply(Event(f"once {day}", "i3", "like", day * DAY))
    state.prune(4 * DAY)
    assert set(state.user_ids) == {"u0", "once 3", "once 4"}
    assert state.apply(Event("u9", "i3", "like", 2 * DAY)) is not None
    assert "u9" not in state.user_ids
    unlimited = ProfileState(ITEMS, TOKENS, STREAMED, IDF)
    unlimited.apply(Event("u0", "i3", "like", 0))
    unlimited.prune(100 * DAY)
    assert unlimited.user_ids == ["u0"]


@pytest.mark.parametrize("value", [-1.0, math.inf])
def test_values_that_are_no_weights_are_refused(value: float) -> None:
    state = ProfileState(ITEMS, TOKENS, STREAMED, IDF)
    with pytest.raises(CaptionaryError, match=r"value == .*; stream"):
        state.apply(Event("u0", "i3", "like", 0, value))
    assert state.user_ids == []


def test_what_a_stream_cannot_do() -> None:
    with pytest.raises(CaptionaryError, match=r"event_types == \(\), must be given"):
        ProfileState(ITEMS, TOKENS, ProfileConfig(), IDF)
    state = ProfileState(ITEMS, TOKENS, STREAMED, IDF)
    assert state.apply(Event("u0", "i3", "comment", 0)) is None
    with pytest.raises(CaptionaryError, match="event type == comment, must be one of like, share"):
        state.read("u0", "comment", 1)
    with pytest.raises(CaptionaryError, match="idf == 5 values, must be a value for each of 6"):
        state.forget_item("i3", IDF[:5])
    with pytest.raises(CaptionaryError, match="idf == 7 values, must be 6, as before"):
        state.forget_item("i3", np.ones(7, np.float32))


def test_a_stream_can_be_asked_about_its_past() -> None:
    state = ProfileState(ITEMS, TOKENS, STREAMED, IDF)
    assert plain(state.read("u0", "like", 1)) == ([], [], 0.0)
    for time, item in ((10, "i3"), (20, "i1"), (30, "i0")):
        state.apply(Event("u0", item, "like", time))
    assert plain(state.read("u0", "like", 10)) == ([], [], 0.0)
    assert state.read("u0", "like", 11).token_ids.tolist() == [2, 1, 3]
    assert 5 in state.read("u0", "like", 31).token_ids
