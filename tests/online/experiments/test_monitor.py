"""Decisions: each rule alone, in order, with a reason; and a record that stops what it says is stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from captionary.errors import CaptionaryError
from captionary.online.experiments.decisions import DecisionLog
from captionary.online.experiments.looks import Look, RailLook
from captionary.online.experiments.monitor import Monitor
from captionary.online.experiments.sequential import Mixture
from captionary.online.experiments.settings import Arm, Experiment, Metric, Monitoring
from captionary.online.experiments.spending import boundaries

RAIL = Metric(name="slow", of="slow_requests", per="requests", role="guardrail", better="less", margin=0.05)
EXPERIMENT = Experiment(
    name="captions",
    arms=(Arm(name="ids", share=0.5), Arm(name="joint", share=0.5)),
    metrics=(Metric(name="likes", of="like", role="primary"), RAIL),
    monitoring=Monitoring(days=14, smallest_effect=0.02),
)


def looks(z: list[float], *, harm: float = 0.0, ids: int = 1000, joint: int = 1000) -> list[Look]:
    """A look a day; errors shrink as users come, guardrail's as well."""
    made = []
    for day, value in enumerate(z, 1):
        error = 0.05 / math.sqrt(day)
        rail = RailLook("slow", harm, 0.08 / math.sqrt(day))
        made.append(Look(day, ids * day, joint * day, value * error, error, (rail,)))
    return made


def decide(made: list[Look], **rules: object):
    return Monitor(replace(EXPERIMENT, monitoring=replace(EXPERIMENT.monitoring, **rules))).decide(
        "joint", made
    )


def test_within_the_bounds_it_goes_on() -> None:
    found = decide(looks([1.0, 1.5, 1.9]))
    assert (found.action, found.stops, found.day) == ("go on", False, 3)
    assert "z = 1.90" in found.reason
    assert [look.bound for look in found.looks] == pytest.approx(boundaries([1 / 14, 2 / 14, 3 / 14]))


def test_success_at_the_first_look_beyond_the_bound() -> None:
    bound = boundaries([day / 14 for day in range(1, 11)])[-1]
    found = decide(looks([0.5] * 9 + [bound - 0.01] + [0.0]))
    assert found.action == "go on"
    found = decide(looks([0.5] * 9 + [bound + 0.01] + [0.0]))
    assert (found.action, found.day) == ("stop: success", 10)
    assert f"is beyond ±{bound:.2f} (group-sequential, alpha 0.05)" in found.reason


def test_the_planned_end() -> None:
    found = decide(looks([0.5] * 20))
    assert (found.action, found.day) == ("stop: no finding", 14)
    # The last test is nearly the only one, as O'Brien and Fleming have it.
    assert stats.norm.ppf(0.975) < found.looks[-1].bound < 2.15


def test_the_planned_end_may_be_a_moment_early() -> None:
    """Days are counted from the first exposure, which is not at the stroke of midnight."""
    made = looks([0.5] * 14)
    found = decide([*made[:-1], made[-1]._replace(day=13.9999)])
    assert found.action == "stop: no finding"
    assert found.looks[-1].bound == pytest.approx(decide(made).looks[-1].bound)


def test_a_late_last_look_spends_what_is_left() -> None:
    made = looks([0.5] * 5)
    late = made[-1]._replace(day=16.5, error=0.01, effect=0.021)
    found = decide([*made, late])
    assert (found.action, found.day) == ("stop: success", 16.5)


def test_harm_is_stopped_early_by_its_own_test() -> None:
    found = decide(looks([-5.5, -5.5]))
    assert (found.action, found.day) == ("stop: harm", 1)
    assert "one-sided, always valid, below 0.01" in found.reason
    # On the first day the test of the primary metric would not have stopped for that, on either side.
    assert decide(looks([5.5])).action == "go on"


def test_harm_is_judged_by_its_own_alpha() -> None:
    edge = Mixture.for_effect(0.05, 0.01, two_sided=False).bound(0.05**-2)
    assert decide(looks([-edge * 1.001])).action == "stop: harm"
    assert decide(looks([-edge * 0.999])).action == "go on"


def test_what_was_shown_once_stays_shown() -> None:
    """An always-valid p value is the smallest so far."""
    found = decide(looks([-3.0, -1.0]), harm_alpha=1e-6)
    assert found.looks[1].harm_p == found.looks[0].harm_p < 1


def test_guardrails_stop_beyond_their_margin_only() -> None:
    assert decide(looks([0.5] * 10, harm=math.log(1.05))).action == "go on"
    found = decide(looks([0.5] * 10, harm=math.log(1.6)))
    assert found.action == "stop: harm"
    assert "guardrail slow is worse in joint by more than the 5.00 % that is put up with" in found.reason


def test_a_broken_split_stops_before_anything_is_believed() -> None:
    found = decide(looks([5.0] * 3, ids=5000, joint=4600))
    assert found.action == "stop: broken"
    assert "10,000 : 9,200" in found.reason
    assert decide(looks([0.5] * 3, ids=5000, joint=4950)).action == "go on"


def test_always_valid_has_no_end() -> None:
    found = decide(looks([0.5] * 40), method="always-valid")
    assert (found.action, found.day) == ("go on", 40)
    test = Mixture.for_effect(0.02, 0.05)
    assert [look.bound for look in found.looks] == pytest.approx(
        [test.bound(d / 0.05**2) for d in range(1, 41)]
    )
    last = found.looks[-1]
    low, high = test.interval(0.5 * 0.05 / math.sqrt(40), 0.05 / math.sqrt(40))
    assert last.interval == pytest.approx((math.expm1(low), math.expm1(high)))


def test_arms_share_alpha() -> None:
    arms = tuple(
        Arm(name=name, share=share) for name, share in (("ids", 0.5), ("joint", 0.25), ("more", 0.25))
    )
    monitor = Monitor(replace(EXPERIMENT, arms=arms))
    found = monitor.decide("joint", looks([0.5] * 14, ids=2000))
    assert [look.bound for look in found.looks] == pytest.approx(
        boundaries([day / 14 for day in range(1, 15)], alpha=0.025)
    )


def test_no_look_no_decision() -> None:
    found = decide([])
    assert (found.action, found.looks) == ("go on", ())
    assert "200 users" in found.reason


def test_information_that_does_not_grow_is_no_error() -> None:
    made = looks([0.5, 0.5, 0.5])
    made[2] = made[2]._replace(error=made[0].error)
    assert decide(made).action == "go on"


def test_it_can_be_read() -> None:
    found = decide(looks([0.5] * 3))
    assert json.loads(json.dumps(found.to_dict()))["looks"][2]["day"] == 3
    assert found.to_string().startswith("captions, joint: GO ON. Day 3.0")
    assert found.to_markdown().count("| 3.0 |") == 1


class TestDecisionLog:
    def test_what_it_says_is_stopped_is_stopped(self, tmp_path: Path) -> None:
        record = DecisionLog(tmp_path / "new" / "decisions.jsonl")
        assert record.read() == []
        record.write(decide(looks([0.5] * 3)))
        assert record.stopped() == frozenset()
        written = record.write(decide(looks([-6.0] * 3)))
        record.write(decide(looks([0.5] * 3)))
        assert record.stopped() == {"captions"}
        assert record.read()[1] == written
        assert (written.look["day"], written.action) == (1, "stop: harm")
        assert written.look["z"] == pytest.approx(-6.0)

    def test_success_is_for_people_to_act_on(self, tmp_path: Path) -> None:
        record = DecisionLog(tmp_path / "decisions.jsonl")
        record.write(decide(looks([5.0] * 14)))
        assert record.read()[0].action == "stop: success"
        assert record.stopped() == frozenset()

    def test_a_torn_line_is_no_decision_and_a_foreign_one_an_error(self, tmp_path: Path) -> None:
        record = DecisionLog(tmp_path / "decisions.jsonl")
        record.write(decide(looks([0.5])))
        with record.path.open("a") as file:
            file.write('{"at"')
        assert len(record.read()) == 1
        record.path.write_text('{"a": 1}\n')
        with pytest.raises(CaptionaryError, match=r"decisions\.jsonl, line 1"):
            record.read()
