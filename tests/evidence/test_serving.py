"""Serving is timed in turns, request by request, and what is read is counted."""

from __future__ import annotations

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.serving import bytes_read, time_requests
from captionary.rank.data import RankingData
from captionary.rank.features import FeatureSet
from captionary.represent.jagged import Jagged


@pytest.fixture
def data() -> RankingData:
    """Ten impressions of two items, each with one token; one event type with lists of one token."""
    return RankingData.from_arrays(
        tasks=("like",),
        users=np.arange(10),
        item=np.arange(10) % 2,
        items=2,
        labels=np.zeros((10, 1), np.float32),
        train=np.arange(5),
        eval=np.arange(5, 10),
        context_categorical={"tab": ["a"] * 10},
        context_numeric={"hour": np.arange(10.0)},
        item_categorical={"genre": np.array([0, 1])},
        events=("like",),
        activity=np.ones((10, 1), np.float32),
        visual=np.ones((2, 3), np.float32),
        item_tokens={"A": Jagged.from_lists([[1], [2]])},
        profiles={"A": {"like": Jagged.from_lists([[3]] * 10)}},
    )


class Clock:
    """Time that passes only when an arm works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, list[int]]] = []

    def __call__(self) -> float:
        return self.now

    def arm(self, name: str, seconds: float):
        def answer(rows: np.ndarray) -> None:
            self.asked.append((name, rows.tolist()))
            self.now += seconds

        return answer


def test_every_arm_answers_every_request_in_turns() -> None:
    clock = Clock()
    arms = {"ids": clock.arm("ids", 0.002), "joint": clock.arm("joint", 0.003)}
    found = time_requests(arms, np.arange(5), request=2, requests=3, rounds=2, clock=clock)
    assert found["ids"]["p50_ms"] == pytest.approx([2.0, 2.0])
    assert found["joint"]["p99_ms"] == pytest.approx([3.0, 3.0])
    assert clock.asked[:2] == [("ids", [0, 1]), ("joint", [0, 1])]  # not measured
    assert clock.asked[2:8] == [
        *(("ids", [0, 1]), ("joint", [0, 1])),
        *(("joint", [2, 3]), ("ids", [2, 3])),
        *(("ids", [4, 0]), ("joint", [4, 0])),
    ]
    assert clock.asked[8] == ("ids", [1, 2])


def test_the_slow_request_is_in_p99_alone() -> None:
    clock = Clock()
    waits = iter([0.0] + [0.001] * 99 + [1.0])

    def answer(_: np.ndarray) -> None:
        clock.now += next(waits)

    found = time_requests({"a": answer}, np.arange(3), request=1, requests=100, rounds=1, clock=clock)["a"]
    assert found["p50_ms"] == pytest.approx([1.0])
    # numpy interpolates: the 99th percentile lies 0.01 of the way from the 99th to the 100th of 100 times.
    assert found["p99_ms"] == pytest.approx([1.0 + 0.01 * 999.0])


def test_bytes_are_counted_by_feature(data) -> None:
    rows = data.eval
    plain = bytes_read(data, FeatureSet(), rows)
    # user, item, tab and genre; hour and the activity of one event
    assert plain == 4 * 8 + 2 * 4
    assert bytes_read(data, FeatureSet(visual=True), rows) == plain + 3 * 4
    assert bytes_read(data, FeatureSet(tokens="A"), rows) == plain + 4
    assert bytes_read(data, FeatureSet(profiles="A"), rows) == plain + 4


@pytest.mark.parametrize(
    ("rows", "change", "words"),
    [(3, {"request": 0}, "request == 0"), (3, {"rounds": 0}, "rounds == 0"), (0, {}, "rows to serve == 0")],
)
def test_mistakes_are_named(rows, change, words) -> None:
    with pytest.raises(CaptionaryError, match=words):
        time_requests({"a": lambda _: None}, np.arange(rows), **change)
