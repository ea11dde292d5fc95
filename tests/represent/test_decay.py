from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from captionary.represent import decay, grouping

compiled = settings(deadline=None)  # the first example compiles the kernel

SMALL = st.integers(0, 3)


@compiled
@given(st.lists(st.tuples(st.integers(-1, 2), SMALL, SMALL, SMALL), max_size=40))
def test_rows_are_sorted_by_user_time_item_and_value(rows: list[tuple[int, int, int, int]]) -> None:
    users, times, items, values = (
        (np.array(column, np.int64) for column in zip(*rows, strict=True))
        if rows
        else [np.empty(0, np.int64)] * 4
    )
    found, starts = grouping.sort_rows(users, times, items, values.astype(float), 3)
    assert [rows[row] for row in found] == sorted(row for row in rows if row[0] >= 0)
    assert sorted(found) == [index for index, row in enumerate(rows) if row[0] >= 0]
    assert np.diff(starts).tolist() == [sum(row[0] == user for row in rows) for user in range(3)]


def test_long_segments_are_sorted() -> None:
    rng = np.random.default_rng(0)
    times = rng.integers(0, 300, 1000)
    none = np.empty(0, np.int64), np.empty(0)
    found, _ = grouping.sort_rows(np.zeros(1000, np.int64), times, *none, 1)
    assert times[found].tolist() == sorted(times)
    assert sorted(found) == list(range(1000))


@compiled
@given(
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0.5, 1.0, 2.0])), max_size=60), st.integers(1, 9)
)
def test_the_running_best_are_those_of_sorting_everything(
    events: list[tuple[int, float]], top_k: int
) -> None:
    trace = decay.new_trace(8, top_k)
    idf = np.array([1, 2, 1, 2, 1, 2, 1, 0.25])
    for step, (token, value) in enumerate(events):
        decay.update(
            trace, idf, np.array([token], np.int32), np.empty(0, np.float32), value, step * 700, True
        )
    weights, active, best, scores, place, head, _ = trace
    expected = sorted(
        active[: head[decay.COUNT]].tolist(), key=lambda token: (-weights[token] * idf[token], token)
    )
    listed = best[: head[decay.LISTED]].tolist()
    assert listed == expected[:top_k]
    assert scores[: len(listed)].tolist() == [weights[token] * idf[token] for token in listed]
    assert [place[token] for token in listed] == list(range(len(listed)))
    assert all(place[token] == -1 for token in range(8) if token not in listed)
    decay.relist(trace, idf)
    assert best[: head[decay.LISTED]].tolist() == listed
    decay.clear(trace)
    assert not weights.any()
    assert (place == -1).all()
    assert not head.any()


def test_shares_too_small_to_feel_are_left_out() -> None:
    trace = decay.new_trace(3, 3)
    idf, none = np.ones(3), np.empty(0, np.float32)
    for token, time in ((0, 0), (1, 23), (2, 46)):  # one half-life is one microsecond
        decay.update(trace, idf, np.array([token], np.int32), none, 1.0, time, True)
    ids, shares = np.empty(3, np.int32), np.empty(3, np.float32)
    assert decay.shares_of(trace, idf, False, ids, shares) == 2
    assert ids[:2].tolist() == [2, 1]


def test_without_a_place_for_a_cache_the_kernel_still_compiles() -> None:
    scope: dict[str, object] = {}
    exec(compile("def double(x): return 2 * x", "<nowhere>", "exec"), scope)
    assert decay.compiled(scope["double"])(21) == 42  # type: ignore[arg-type]
