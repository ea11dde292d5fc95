import numpy as np

from captionary.world.settings import WorldConfig
from captionary.world.traffic import draw_visits, impressions_by_day
from captionary.world.users import DEVICES, draw_users


def test_days_add_up_and_weekends_are_busier() -> None:
    days = impressions_by_day(WorldConfig(days=14, impressions=100_003))
    assert days.sum() == 100_003
    assert abs(days[5] / days[4] - 1.2) < 0.01
    assert abs(days[7] / days[4] - 1.0) < 0.01


def test_visits_come_in_order_within_the_day_and_in_sessions() -> None:
    users = draw_users(WorldConfig(users=5_000))
    visits = draw_visits(np.random.default_rng(1), users, 20_000)
    assert (np.diff(visits.millisecond) >= 0).all()
    assert visits.millisecond.min() >= 0
    assert visits.millisecond.max() < 24 * 3_600_000
    assert (visits.hour == visits.millisecond // 3_600_000).all()
    order = np.lexsort((visits.millisecond, visits.user))
    same = np.diff(visits.user[order]) == 0
    gaps = np.diff(visits.millisecond[order])[same]
    # Between two impressions of a session 1 s + 40 s on average; most of a user's gaps are within a session.
    assert (gaps < 5 * 60_000).mean() > 0.6
    assert gaps.min() > 0
    busy, quiet = (visits.hour == 20).sum(), (visits.hour == 3).sum()
    assert 5 < busy / quiet < 16  # 9 sessions to 1


def test_a_single_impression_is_a_day_too() -> None:
    assert len(draw_visits(np.random.default_rng(0), draw_users(WorldConfig.tiny()), 1).user) == 1


def test_active_users_come_more_often() -> None:
    users = draw_users(WorldConfig(users=40))
    visits = draw_visits(np.random.default_rng(2), users, 100_000)
    shares = np.bincount(visits.user, minlength=40) / 100_000
    np.testing.assert_allclose(shares, users.activity, atol=0.006)


def test_more_users_leave_the_first_ones_as_they_were() -> None:
    few, many = draw_users(WorldConfig(users=50)), draw_users(WorldConfig(users=500))
    assert (few.bias == many.bias[:50]).all()
    assert (few.device == many.device[:50]).all()
    np.testing.assert_allclose(few.activity / few.activity[0], many.activity[:50] / many.activity[0])


def test_devices_have_their_shares() -> None:
    device = draw_users(WorldConfig(users=20_000)).device
    np.testing.assert_allclose(
        np.bincount(device, minlength=len(DEVICES)) / 20_000, (0.7, 0.1, 0.2), atol=0.015
    )
