"""Plans: the paper's arithmetic, traffic that comes back, and what watching costs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.online.experiments.plan import (
    PAPER_TRANSFER,
    Traffic,
    detectable,
    make_plan,
    sequential_costs,
    users_needed,
)

Z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
TRAFFIC = Traffic(users_per_day=50_000, users_per_month=200_000)


class TestSize:
    def test_the_papers_effect_needs_392_million_an_arm(self) -> None:
        """§4.3: +0.02 %. 2 · (1.960 + 0.842)² · 1² ÷ 0.0002²."""
        users = 2 * Z**2 * 1.0**2 / 0.0002**2
        assert users == pytest.approx(392.4e6, rel=1e-3)
        assert users_needed(0.0002, 1.0) == pytest.approx(2 * Z**2 * 1.0**2 / 0.0002**2)
        assert users_needed(0.0002, 2.0) == pytest.approx(4 * 392.4e6, rel=1e-3)
        assert users_needed(0.0002, 1.0, rho=0.7) == pytest.approx((1 - 0.7**2) * 392.4e6, rel=1e-3)

    def test_size_and_detectable_effect_are_each_others_inverse(self) -> None:
        users = users_needed(0.013, 1.4, rho=0.5, alpha=0.01, power=0.9)
        assert detectable(users, users, 1.4, rho=0.5, alpha=0.01, power=0.9) == pytest.approx(0.013)

    def test_it_is_found_as_often_as_planned(self) -> None:
        users = users_needed(0.1, 1.0)
        rng = np.random.default_rng(0)
        means = rng.normal([1.0, 1.1], 1.0 / math.sqrt(users), (20_000, 2))
        z = (means[:, 1] - means[:, 0]) / math.sqrt(2 / users)
        assert (z > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.01)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"effect": 0.0}, "effect == 0.0"),
            ({"cv": 0.0}, "cv == 0.0, must be > 0"),
            ({"rho": 1.0}, "rho == 1.0"),
            ({"power": 0.01}, "power == 0.01, must be > alpha"),
            ({"alpha": 0.0}, "alpha == 0.0"),
        ],
    )
    def test_mistakes(self, change: dict[str, float], message: str) -> None:
        with pytest.raises(CaptionaryError, match=message):
            users_needed(**({"effect": 0.02, "cv": 1.0} | change))


class TestTraffic:
    def test_distinct_users_go_through_both_figures(self) -> None:
        assert [round(TRAFFIC.distinct(days)) for days in (1, 28)] == [50_000, 200_000]
        assert Traffic(100, 100).distinct(300) == 100
        assert Traffic(100, 2800).distinct(300) == pytest.approx(100 * 300)

    def test_a_ramp_adds_users(self) -> None:
        ramped = TRAFFIC._replace(ramp=((0.0, 0.1), (3.0, 1.0)), share=0.5)
        first, rest = 0.1 * TRAFFIC.distinct(7), 0.9 * TRAFFIC.distinct(7 - 3)
        assert ramped.exposed(7) == pytest.approx(0.5 * (first + rest))
        assert ramped.exposed(2) == pytest.approx(0.5 * 0.1 * TRAFFIC.distinct(2))

    @pytest.mark.parametrize(
        "change",
        [
            {"users_per_day": 0.0},
            {"users_per_month": 49_000.0},
            {"users_per_month": 2e6},
            {"share": 0.0},
            {"ramp": ((0.0, 0.5), (1.0, 0.4))},
            {"ramp": ((1.0, 0.5), (1.0, 0.6))},
            {"ramp": ((0.0, 1.5),)},
        ],
    )
    def test_mistakes(self, change: dict[str, object]) -> None:
        with pytest.raises(CaptionaryError):
            TRAFFIC._replace(**change).check()


class TestPlan:
    def test_what_cannot_be_seen_is_said(self) -> None:
        plan = make_plan(0.0002, TRAFFIC, cv=1.0)
        assert plan.days is None
        assert plan.verdict.startswith(
            "This effect cannot be seen with this traffic: +0.020 % needs about 827,000,000"
        )
        assert "2 · (1.960 + 0.842)² · 1² · (1 − 0²) ÷ 0.0002² = 392,443,987 users an arm" in plan.to_string()

    def test_what_can_be_seen_is_planned(self) -> None:
        plan = make_plan(0.02, TRAFFIC, cv=1.0, rho=0.6)
        assert plan.users == pytest.approx(2 * users_needed(0.02, 1.0, rho=0.6) * plan.inflation)
        assert plan.days is not None
        assert TRAFFIC.exposed(plan.days) >= plan.users > TRAFFIC.exposed(plan.days - 1)
        assert [horizon.weeks for horizon in plan.horizons] == [1, 2, 4]
        two = plan.horizons[1]
        half = TRAFFIC.exposed(14) / 2
        assert two.smallest_effect == pytest.approx(detectable(half, half, 1.0, rho=0.6))
        cost = sequential_costs("group-sequential", TRAFFIC.looks(14))
        assert two.smallest_effect_watched == pytest.approx(two.smallest_effect * math.sqrt(cost))

    @pytest.mark.parametrize("method", ["group-sequential", "always-valid"])
    def test_watching_costs_what_the_planned_days_cost(self, method: str) -> None:
        found = {}
        for effect in (0.03, 0.0135):
            plan = make_plan(effect, TRAFFIC, cv=1.0, method=method)
            assert plan.days is not None
            assert plan.inflation == sequential_costs(method, TRAFFIC.looks(plan.days))
            assert TRAFFIC.exposed(plan.days) >= plan.users
            found[plan.days] = plan.inflation
        short, long = sorted(found)
        assert short < 7 < long
        assert found[short] != found[long]

    def test_looks_are_where_the_users_are(self) -> None:
        assert TRAFFIC.looks(1) == [1.0]
        assert TRAFFIC.looks(2) == [TRAFFIC.distinct(1) / TRAFFIC.distinct(2), 1.0]
        late = TRAFFIC._replace(ramp=((3.0, 1.0),))
        assert len(late.looks(5)) == 2  # nobody is there on the first three days
        assert len(TRAFFIC.looks(400)) == 28

    def test_an_offline_gain_is_carried_over_and_back(self) -> None:
        plan = make_plan(None, TRAFFIC, cv=1.0, offline_gain=0.0035)
        assert plan.effect == pytest.approx(0.0002)
        assert pytest.approx(0.02 / 0.35) == PAPER_TRANSFER
        last = plan.horizons[-1]
        assert last.smallest_gain * PAPER_TRANSFER == pytest.approx(last.smallest_effect_watched)
        assert "an assumption, not a law" in plan.to_markdown()
        other = make_plan(None, TRAFFIC, cv=1.0, offline_gain=0.0035, transfer=1.0)
        assert other.effect == 0.0035

    def test_unequal_arms_cost_users(self) -> None:
        equal, tenth = (
            make_plan(0.02, TRAFFIC, cv=1.0, treatment_share=share, method="fixed").users
            for share in (0.5, 0.1)
        )
        assert tenth / equal == pytest.approx((1 / 0.9 + 1 / 0.1) / 4)

    def test_before_anybody_takes_part_nothing_is_seen(self) -> None:
        late = TRAFFIC._replace(ramp=((10.0, 1.0),))
        plan = make_plan(0.02, late, cv=1.0)
        assert plan.horizons[0].smallest_effect is None
        assert json.loads(plan.to_json())["horizons"][0]["smallest_effect"] is None
        assert "–" in plan.to_string()

    def test_long_and_short_plans_warn(self) -> None:
        assert "Longer than four weeks" in make_plan(0.008, TRAFFIC, cv=1.0).verdict
        assert "a whole week all the same" in make_plan(0.05, TRAFFIC, cv=1.0).verdict

    def test_mistakes(self) -> None:
        with pytest.raises(CaptionaryError, match="or an offline gain"):
            make_plan(None, TRAFFIC, cv=1.0)
        with pytest.raises(CaptionaryError, match="transfer == 0"):
            make_plan(None, TRAFFIC, cv=1.0, offline_gain=0.01, transfer=0)
        with pytest.raises(CaptionaryError, match="treatment share"):
            make_plan(0.01, TRAFFIC, cv=1.0, treatment_share=1.0)


EVENLY = [(look + 1) / 14 for look in range(14)]


class TestWatching:
    def test_methods_in_order(self) -> None:
        fixed, planned, always = (
            sequential_costs(method, EVENLY) for method in ("fixed", "group-sequential", "always-valid")
        )
        assert fixed == 1
        assert 1.02 < planned < 1.06
        assert 1.5 < always < 2.0

    def test_unknown_methods(self) -> None:
        with pytest.raises(CaptionaryError, match="fixed, group-sequential or always-valid"):
            sequential_costs("bayes", EVENLY)
