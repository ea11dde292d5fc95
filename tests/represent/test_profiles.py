from __future__ import annotations

import datetime
import itertools
import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.represent.profile_logs import (
    CAPS,
    CONFIG,
    DAY,
    EVENTS,
    GUARDS,
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
    plain,
    reads_table,
    reference,
)

from captionary.config import from_mapping
from captionary.errors import CaptionaryError
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import Event, ProfileConfig, build_profiles, snapshot
from captionary.represent.stream import ProfileState


def test_one_user_by_hand() -> None:
    rows = [
        Row("u0", "i3", "like", 0, None),  # tokens 1 2 3
        Row("u0", "i0", "like", 5 * DAY, 2.0),  # tokens 5 5 1
        Row("u0", "i1", "share", 5 * DAY, 1.0),
        Row("u1", "i1", "like", 0, 1.0),
    ]
    config = ProfileConfig(half_life_days=5.0, top_k=4)
    likes = build(rows, [("u0", 10 * DAY), ("u0", 5 * DAY), ("u0", 0), ("nobody", DAY)], config)["like"]
    old, new = 1 * 2**-2, 2 * 2**-1  # value x 2^(-days / half-life)
    weight = {1: old + new, 2: old, 3: old, 5: 2 * new}  # x idf: 1.25, 0.5, 0.25, 2
    total = sum(weight.values())
    tokens, weights, mass = listed(likes, 0)
    assert tokens == [5, 1, 2, 3]
    assert weights == pytest.approx([weight[token] / total for token in tokens])
    assert mass == pytest.approx(old + new)
    assert listed(likes, 1) == (
        [2, 1, 3],
        pytest.approx([1 / 3] * 3),
        0.5,
    )  # the event at 5 days is the future
    assert listed(likes, 2) == ([], [], 0.0)
    assert listed(likes, 3) == ([], [], 0.0)


@compiled
@given(EVENTS, READS, st.booleans(), st.just({}) | CAPS)
def test_build_follows_the_definition(
    rows: list[Row], reads: list[tuple[str, int]], by_idf: bool, caps: dict[str, Any]
) -> None:
    config = capped(caps, weigh_by_idf=by_idf)
    for event, profiles in build(rows, reads, config).items():
        for index, (user, time) in enumerate(reads):
            weights, mass = reference(rows, user, time, event, config)
            tokens, shares, built_mass = listed(profiles, index)
            assert built_mass == pytest.approx(mass, rel=1e-6, abs=1e-30)
            score = {token: weight * float(IDF[token]) for token, weight in weights.items()}
            expected = score if by_idf else weights
            assert len(tokens) == min(3, len(weights))
            if tokens:
                assert sum(shares) == pytest.approx(1)
                total = sum(expected[token] for token in tokens)
                assert shares == pytest.approx([expected[token] / total for token in tokens], rel=1e-5)
                left_out = [score[token] for token in weights if token not in tokens]
                assert min(score[token] for token in tokens) >= max(left_out, default=0) * (1 - 1e-9)
                assert all(score[a] >= score[b] * (1 - 1e-9) for a, b in itertools.pairwise(tokens))


@compiled
@given(EVENTS, READS, st.integers(0, 2**32 - 1), st.just({}) | CAPS)
def test_the_order_of_rows_changes_nothing(
    rows: list[Row], reads: list[tuple[str, int]], seed: int, caps: dict[str, Any]
) -> None:
    config = capped(caps)
    built = build(rows, reads, config)
    rng = random.Random(seed)
    order = rng.sample(range(len(reads)), len(reads))
    items = rng.sample(range(len(ITEMS)), len(ITEMS))
    again = build_profiles(
        events_table(rng.sample([*rows, *GUARDS], len(rows) + 2)),
        reads_table([reads[index] for index in order]),
        [ITEMS[index] for index in items],
        TOKENS.take(np.array(items)),
        config,
        IDF,
    )
    for event in built:
        for place, index in enumerate(order):
            assert listed(again[event], place) == listed(built[event], index)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
@pytest.mark.parametrize("same_item", [False, True])
def test_events_of_one_moment_are_summed_in_one_order(order: tuple[int, ...], same_item: bool) -> None:
    """(0.1 + 0.2) + 0.3 > 0.6 == (0.3 + 0.2) + 0.1 in doubles: one of them, always."""
    values, tokens = [0.1, 0.2, 0.3, 0.6], [2, 2, 2, 1]
    names = ["a", "a", "a", "d"] if same_item else ["a", "b", "c", "d"]
    rows = [Row("u0", names[index], "like", 0, values[index]) for index in order]
    config = ProfileConfig(event_types=("like",), half_life_days=math.inf)
    items = {names[index]: tokens[index] for index in order}  # a table of items in that order, too
    lists = Jagged.from_lists([[token] for token in items.values()])
    built = build_profiles(events_table(rows), reads_table([("u0", 1)]), list(items), lists, config)["like"]
    assert built.lists.row(0).tolist() == [2, 1]
    state = ProfileState(list(items), lists, config)
    for row in rows:
        state.apply(Event(*row))
    assert plain(state.read("u0", "like", 1)) == listed(built, 0)


@compiled
@given(EVENTS, READS, EVENTS, TIMES, st.just({}) | CAPS)
def test_the_future_changes_nothing(
    rows: list[Row], reads: list[tuple[str, int]], more: list[Row], now: int, caps: dict[str, Any]
) -> None:
    """Events at or after a moment never change a list as of that moment."""
    reads = [(user, min(time, now)) for user, time in reads]
    future = [row._replace(time=max(row.time, now)) for row in more]
    before, after = (build(log, reads, capped(caps)) for log in (rows, rows + future))
    for event in before:
        for index in range(len(reads)):
            assert listed(after[event], index) == listed(before[event], index)


@compiled
@given(EVENTS, TIMES)
def test_snapshot_is_build_at_one_moment(rows: list[Row], as_of: int) -> None:
    taken = snapshot(events_table([*rows, *GUARDS]), as_of, ITEMS, TOKENS, CONFIG, IDF)
    users = taken.user_ids.to_pylist()
    assert users == sorted({row.user for row in [*rows, *GUARDS]})
    built = build(rows, [(user, as_of) for user in users])
    for event in built:
        for index in range(len(users)):
            assert listed(taken.profiles[event], index) == listed(built[event], index)


def test_snapshot_takes_a_datetime_with_a_zone() -> None:
    rows = [Row("u0", "i3", "like", DAY, None)]
    zone = datetime.timezone(datetime.timedelta(hours=-1))
    for moment, seen in (
        (datetime.datetime(1970, 1, 1, 23, tzinfo=zone), 0),
        (datetime.datetime(1970, 1, 2, tzinfo=zone), 3),
    ):
        taken = snapshot(events_table(rows), moment, ITEMS, TOKENS, ProfileConfig())
        assert taken.profiles["like"].lists.lengths.tolist() == [seen]
    with pytest.raises(CaptionaryError, match="must be a datetime with a time zone"):
        snapshot(events_table(rows), datetime.datetime(1970, 1, 2), ITEMS, TOKENS, ProfileConfig())


@compiled
@given(EVENTS.filter(bool), TIMES, st.integers(0, 5), st.integers(0, 5))
def test_decay_composes(rows: list[Row], start: int, first: int, second: int) -> None:
    """Letting a and then b half-lives pass is letting a + b pass, and the list stays the same meanwhile."""
    start = max(start, max(row.time for row in rows) + 1)
    half_life = round(2.5 * DAY)
    times = [start, start + first * half_life, start + (first + second) * half_life]
    likes = build(rows, [("u0", time) for time in times])["like"]
    lists = [listed(likes, index) for index in range(3)]
    assert lists[0][:2] == lists[1][:2] == lists[2][:2]
    assert lists[1][2] == pytest.approx(lists[0][2] * 2**-first)
    assert lists[2][2] == pytest.approx(lists[1][2] * 2**-second)


def test_equal_scores_go_by_token_id_whatever_came_first() -> None:
    tokens = Jagged.from_lists([[5, 4], [3, 2], [], [1, 0]])
    for order in ([0, 1, 3], [3, 1, 0]):
        rows = [Row("u0", ITEMS[index], "like", 0, None) for index in order]
        built = build_profiles(
            events_table(rows), reads_table([("u0", 1)]), ITEMS, tokens, ProfileConfig(top_k=4)
        )
        assert built["like"].lists.row(0).tolist() == [0, 1, 2, 3]


def test_items_without_tokens_count_for_the_mass() -> None:
    rows = [Row("u0", "i2", "like", 0, 2.0), Row("u0", "gone", "like", 0, None)]
    config = ProfileConfig(half_life_days=math.inf)
    assert listed(build(rows, [("u0", DAY)], config)["like"], 0) == ([], [], 3.0)


def test_no_decay_with_an_infinite_half_life() -> None:
    rows = [Row("u0", "i3", "like", 0, None), Row("u0", "i1", "like", 900 * DAY, None)]
    config = from_mapping(ProfileConfig, {"half_life_days": math.inf}, where="here")
    tokens, weights, mass = listed(build(rows, [("u0", 901 * DAY)], config)["like"], 0)
    assert sorted(tokens) == [1, 2, 3, 4]
    assert weights[tokens.index(3)] == pytest.approx(2 / 5)
    assert mass == 2.0


def test_years_of_short_half_lives_neither_overflow_nor_linger() -> None:
    rows = [Row("u0", "i3" if step % 2 else "i1", "like", step * 20 * DAY, None) for step in range(100)]
    config = ProfileConfig(half_life_days=1 / 24, top_k=6)
    likes = build(rows, [("u0", rows[-1].time + 1), ("u0", rows[-1].time + 4000 * DAY)], config)["like"]
    assert listed(likes, 0) == ([2, 1, 3], pytest.approx([1 / 3] * 3), pytest.approx(1.0))
    assert listed(likes, 1)[2] == 0.0


def test_weights_of_item_tokens_scale_the_event() -> None:
    tokens = TOKENS._replace(weights=np.array([0.5, 0, 1, 1, 1, 1, 1, 1], np.float32))
    likes = build([Row("u0", "i3", "like", 0, None)], [("u0", 1)], tokens=tokens)["like"]
    assert listed(likes, 0)[:2] == ([3, 1], pytest.approx([1 / 1.5, 0.5 / 1.5]))


@pytest.mark.parametrize(
    "dtype", [pa.int64(), pa.int32(), pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_ids_and_times_of_other_arrow_types(dtype: pa.DataType) -> None:
    plain_type = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    events = pa.table(
        {
            "user_id": pa.array(["7", "8"]).cast(plain_type).cast(dtype),
            "item_id": pa.array(["30", "20"]).cast(plain_type).cast(dtype),
            "event": pa.array(["like", "like"]).dictionary_encode(),
            "timestamp": pa.array([1, 2], pa.int64()),
        }
    )
    impressions = pa.table(
        {
            "user_id": pa.array(["8"]).cast(plain_type).cast(dtype),
            "timestamp": pa.array([3000], pa.timestamp("ns")),
        }
    )
    items = pa.array(["20", "30"]).cast(plain_type).cast(dtype)
    tokens = Jagged.from_lists([[1], [2]])
    assert build_profiles(events, impressions, items, tokens, ProfileConfig())[
        "like"
    ].lists.values.tolist() == [1]


def test_nobody_and_nothing() -> None:
    nothing = Jagged(np.empty(0, np.int32), np.zeros(5, np.int64))
    rows = [Row("u0", "i3", "like", 0, None)]
    built = build_profiles(events_table(rows), reads_table([("u0", 1)]), ITEMS, nothing, ProfileConfig())[
        "like"
    ]
    assert (built.lists.rows, built.mass.tolist()) == (1, [pytest.approx(1.0)])
    built = build_profiles(events_table(rows), reads_table([]), ITEMS, TOKENS, ProfileConfig())["like"]
    assert (built.lists.rows, len(built.mass)) == (0, 0)
    assert build_profiles(events_table([]), reads_table([("u0", 1)]), ITEMS, TOKENS, ProfileConfig()) == {}


ONE = [Row("u0", "i3", "like", 0, None)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            ProfileConfig(event_types=("likes",)),
            r"event type in event_types == likes, must be like \(did you mean",
        ),
        (
            ProfileConfig(half_life_days_of={"lik": 1.0}),
            "event type in half_life_days_of == lik, must be like",
        ),
    ],
)
def test_event_types_that_do_not_occur_are_refused(config: ProfileConfig, message: str) -> None:
    with pytest.raises(CaptionaryError, match=message):
        build_profiles(events_table(ONE), reads_table([("u0", 1)]), ITEMS, TOKENS, config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"half_life_days": 0}, "half_life_days == 0.0, must be > 0"),
        ({"half_life_days": math.nan}, "half_life_days == nan, must be > 0"),
        ({"half_life_days_of": {"like": -1}}, "half_life_days_of like == -1.0, must be > 0"),
        ({"top_k": 0}, "top_k == 0, must be >= 1"),
        ({"last_events": 0}, "last_events == 0, must be >= 1, or null"),
        ({"per_item": -1}, "per_item == -1, must be >= 1, or null"),
        ({"last_days": 0}, "last_days == 0.0, must be > 0"),
        ({"repeat_weight": 1.5}, "repeat_weight == 1.5, must be 0 to 1"),
        ({"repeat_weight": math.nan}, "repeat_weight == nan, must be 0 to 1"),
        ({"value_max": 0}, "value_max == 0.0, must be > 0"),
        ({"value_missing": math.inf}, "value_missing == inf, must be >= 0"),
        ({"event_types": ["a"], "half_life_days_of": {"b": 1}}, "half_life_days_of == b, must be one of a"),
        ({"halflife": 1}, "key == halflife"),
    ],
)  # fmt: skip
def test_wrong_configs_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CaptionaryError, match=message):
        from_mapping(ProfileConfig, settings, where="demo.yaml: profiles")


@pytest.mark.parametrize("value", [-1.0, -math.inf, math.inf])
def test_values_that_are_no_weights_are_refused(value: float) -> None:
    with pytest.raises(CaptionaryError, match=r"value == .*, must be from 0 .*events, row 1"):
        build([*ONE, Row("u0", "i3", "like", 0, value)], [("u0", 1)])


def test_values_are_clipped_and_nan_is_missing() -> None:
    values = [None, math.nan, 0.25, 7.0, math.inf]
    rows = [Row("u0", "i3", "like", 0, value) for value in values]
    config = ProfileConfig(half_life_days=math.inf, value_max=2.0, value_missing=0.5)
    assert listed(build(rows, [("u0", 1)], config)["like"], 0)[2] == 0.5 + 0.5 + 0.25 + 2 + 2
    config = ProfileConfig(half_life_days=math.inf, weigh_by_value=False)
    assert listed(build(rows, [("u0", 1)], config)["like"], 0)[2] == 5


def test_caps_by_hand() -> None:
    """i3 has tokens 1 2 3, i1 3 4, i0 5 5 1."""
    rows = [
        Row("u0", item, "like", day * DAY, None) for day, item in enumerate(["i3", "i1", "i3", "i0", "i3"])
    ]

    def check(expected: dict[int, float], mass: float, **caps: Any) -> None:
        config = ProfileConfig(half_life_days=math.inf, top_k=9, **caps)
        tokens, shares, found = listed(build(rows, [("u0", 5 * DAY)], config)["like"], 0)
        total = sum(expected.values())
        weights = {token: share * total for token, share in zip(tokens, shares, strict=True)}
        assert weights == pytest.approx(expected)
        assert found == pytest.approx(mass)

    check({1: 3 + 1, 2: 3, 3: 3 + 1, 4: 1, 5: 2}, 5)
    check({1: 1 + 1, 2: 1, 3: 1, 5: 2}, 2, last_events=2)  # days 3 and 4
    check({1: 1 + 1, 2: 1, 3: 1, 5: 2}, 2, last_days=2)  # day 3 is two days old, and counts
    check({1: 1 + 1, 2: 1, 3: 1 + 1, 4: 1, 5: 2}, 3, per_item=1)  # days 1, 3 and 4
    check({1: 2 + 1, 2: 2, 3: 2, 5: 2}, 3, per_item=2, last_events=3)  # days 2, 3 and 4
    check({1: 1 + 1, 2: 1, 3: 1 + 1, 4: 1, 5: 2}, 3, per_item=1, last_events=3)  # reaches back to day 1
    repeated = 1 + 1 / 2 + 1 / 4
    check({1: repeated + 1, 2: repeated, 3: repeated + 1, 4: 1, 5: 2}, repeated + 2, repeat_weight=0.5)


def test_unknown_items_count_for_the_last_events_but_not_as_one_item() -> None:
    rows = [Row("u0", item, "like", day, None) for day, item in enumerate(["i3", "gone", "gone", "lost"])]
    for caps, expected in (({"per_item": 1}, 4.0), ({"last_events": 3}, 3.0)):
        config = ProfileConfig(half_life_days=math.inf, **caps)
        assert listed(build(rows, [("u0", DAY)], config)["like"], 0)[2] == expected


def test_inputs_that_do_not_fit_are_refused() -> None:
    events, reads = events_table(ONE), reads_table([("u0", 1)])
    numbered = reads.set_column(0, "user_id", pa.array([1]))
    untimed = reads.set_column(1, "timestamp", pa.array([None], pa.timestamp("us")))
    config = ProfileConfig()
    for message, arguments in {
        "4 lists, must be one for each of 3 items": (events, reads, ITEMS[:3], TOKENS, config),
        "item_ids == repeated ids, must be unique": (events, reads, ["i3"] * 4, TOKENS, config),
        "user_id of events == string, must be int64": (events, numbered, ITEMS, TOKENS, config),
        "item_id of items == double, must be int64 or string": (events, reads, [0.5] * 4, TOKENS, config),
        "timestamp of impressions == null": (events, untimed, ITEMS, TOKENS, config),
        "idf == 5 values, must be a value for each of 6": (events, reads, ITEMS, TOKENS, config, IDF[:5]),
        "idf == values of 0": (events, reads, ITEMS, TOKENS, config, IDF * 0),
        "token id == -1": (events, reads, ITEMS, TOKENS._replace(values=TOKENS.values - 2), config),
    }.items():
        with pytest.raises(CaptionaryError, match=message):
            build_profiles(*arguments)  # type: ignore[arg-type]
