import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.understand.gate_forecast import DAY, forecast_exposure

UNKNOWN = np.iinfo(np.int64).min
CUT = 100 * DAY


def log(counts: dict[int, dict[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """(item, timestamp) of `counts`: item -> days before the cut-off (1 the last) -> impressions, at noon."""
    rows = [
        (item, CUT - days * DAY + DAY // 2)
        for item, by_day in counts.items()
        for days, n in by_day.items()
        for _ in range(n)
    ]
    return np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.int64)


def test_nothing_at_the_cut_off_or_later_is_seen() -> None:
    item, times = log({0: {1: 5, 2: 5}, 1: {1: 2}})
    created = np.array([CUT - 10 * DAY, CUT - 10 * DAY, CUT - 10 * DAY])
    before = forecast_exposure(item, times, created, cutoff=CUT)
    later = np.append(item, np.full(50, 2)), np.append(times, np.full(50, CUT))
    after = forecast_exposure(*later, created, cutoff=CUT)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert before.past.tolist() == [10, 2, 0]
    assert before.cold.tolist() == [False, False, True]


def test_what_is_shown_more_is_expected_more_and_recent_days_count_more() -> None:
    item, times = log({0: {1: 40}, 1: {12: 40}, 2: {1: 80}})
    created = np.full(3, CUT - 30 * DAY)
    found = forecast_exposure(item, times, created, cutoff=CUT, half_life_days=3)
    assert found.future[2] > found.future[0] > found.future[1]
    # Days 1 and 12 before the cut-off are 0 and 11 whole days ago.
    np.testing.assert_allclose(found.recent, [40, 40 * 0.5 ** (11 / 3), 80])


def test_an_announced_item_is_expected_from_the_day_on_which_it_comes() -> None:
    counts = {i: dict.fromkeys(range(1, 6), 6) for i in range(40)}
    item, times = log(counts)
    created = np.append(np.full(40, CUT - 5 * DAY), [CUT + 2 * DAY, CUT + 20 * DAY])
    found = forecast_exposure(item, times, created, cutoff=CUT, horizon_days=7)
    assert found.cold[40:].all()
    assert found.future[41] == 0
    assert 0 < found.future[40] < found.future[0]
    np.testing.assert_allclose(found.future[40], found.future[0] * 5 / 7, rtol=0.05)  # five of seven days


def test_new_items_get_what_new_items_got() -> None:
    """Each item is shown 10 times on its first day and once a day after that."""
    counts, created = {}, []
    for i in range(120):
        age = i % 12 + 1
        counts[i] = {days: 10 if days == age else 1 for days in range(1, age + 1)}
        created.append(CUT - age * DAY)
    item, times = log(counts)
    found = forecast_exposure(item, times, np.array([*created, CUT]), cutoff=CUT, horizon_days=1)
    assert found.future[-1] == pytest.approx(10, rel=0.2)
    assert found.future[:120].max() < 3


def test_a_cold_item_has_the_factor_of_its_category() -> None:
    counts = {i: {1: 30 if i < 10 else 2} for i in range(20)}
    item, times = log(counts)
    created = np.full(22, CUT - DAY)
    category = np.array([0] * 10 + [1] * 10 + [0, 1])
    found = forecast_exposure(item, times, created, cutoff=CUT, category=category)
    assert found.future[20] > 3 * found.future[21]


def test_an_unknown_coming_is_the_first_impression_and_no_log_expects_all_alike() -> None:
    item, times = log({0: {3: 5}})
    known = forecast_exposure(item, times, np.array([CUT - 3 * DAY + DAY // 2]), cutoff=CUT)
    unknown = forecast_exposure(item, times, np.array([UNKNOWN]), cutoff=CUT)
    np.testing.assert_array_equal(known.future, unknown.future)
    empty = forecast_exposure(np.empty(0, np.int64), np.empty(0, np.int64), np.full(4, UNKNOWN), cutoff=CUT)
    np.testing.assert_allclose(empty.shares, 0.25)


@pytest.mark.parametrize("setting", ["horizon_days", "half_life_days", "prior"])
def test_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(CaptionaryError, match=f"{setting} == 0, must be > 0"):
        forecast_exposure(
            np.empty(0, np.int64), np.empty(0, np.int64), np.zeros(1, np.int64), cutoff=1, **{setting: 0}
        )
