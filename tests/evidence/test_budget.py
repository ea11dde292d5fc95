import json

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.budget import BudgetCurve, Measurement, budget_curve


def one(policy: str, share: float, seed: int, *auc: float, lent: bool = True, items: int = 10) -> Measurement:
    return Measurement(policy, share, lent, seed, items, share / 2, auc)


@pytest.fixture
def curve() -> BudgetCurve:
    baseline = [one("", 0, 0, 0.60, 0.70), one("", 0, 1, 0.62, 0.70)]
    full = [one("always", 1, 0, 0.70, 0.80), one("always", 1, 1, 0.70, 0.80)]
    measured = [
        one("random", 0.2, 1, 0.62, 0.70), one("random", 0.2, 0, 0.60, 0.70),
        one("budget", 0.5, 0, 0.70, 0.79), one("budget", 0.5, 1, 0.70, 0.79),
        one("budget", 0.2, 0, 0.68, 0.78), one("budget", 0.2, 1, 0.66, 0.78),
        one("budget", 0.2, 0, 0.62, 0.70, lent=False), one("budget", 0.2, 1, 0.62, 0.70, lent=False),
    ]  # fmt: skip
    return budget_curve(baseline, full, measured)


def test_gains_are_those_of_the_comparison(curve: BudgetCurve) -> None:
    """Mean over tasks of (A − B) / (1 − mean B), seed against seed; 1 − mean B is .39 and .30."""
    point = curve.at("budget", 0.2)
    first = (0.08 / 0.39 + 0.08 / 0.30) / 2
    second = (0.04 / 0.39 + 0.08 / 0.30) / 2
    assert point.seed_gains == pytest.approx((first, second))
    assert point.gain == pytest.approx((first + second) / 2)
    assert point.sd == pytest.approx(abs(first - second) / 2**0.5)
    whole = ((0.10 / 0.39 + 0.10 / 0.30) / 2 + (0.08 / 0.39 + 0.10 / 0.30) / 2) / 2
    assert curve.full.gain == pytest.approx(whole)
    assert point.kept == pytest.approx(point.gain / whole)
    assert curve.at("random", 0.2).kept == pytest.approx(0)


def test_points_are_in_order_and_unlent_ones_apart(curve: BudgetCurve) -> None:
    assert [(point.policy, point.lent, point.share) for point in curve.points] == [
        ("random", True, 0.2), ("budget", True, 0.2), ("budget", True, 0.5), ("budget", False, 0.2),
    ]  # fmt: skip
    assert curve.at("budget", 0.2, lent=False).gain < curve.at("budget", 0.2).gain
    assert curve.policies == ("random", "budget")
    with pytest.raises(CaptionaryError, match="one that was measured"):
        curve.at("budget", 0.3)


def test_a_curve_survives_json(curve: BudgetCurve) -> None:
    assert BudgetCurve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve


def test_words_and_plot_tell_the_same(curve: BudgetCurve) -> None:
    text = curve.to_markdown()
    assert "| 20 % |" in text
    assert "no tokens" in text
    plot = str(curve.plot())
    assert plot.startswith("<svg")
    assert plot.count("<polyline") == 2
    assert plot.count('class="seed"') == 3 * 2
    assert "budget: 20 %" in plot
    assert '"nan"' not in plot
    assert str(curve._replace(points=()).plot()) == ""


def test_a_policy_is_data_not_markup(curve: BudgetCurve) -> None:
    odd = curve._replace(points=tuple(point._replace(policy="<b>") for point in curve.points))
    assert "<b>" not in str(odd.plot())


def test_a_task_of_one_class_is_left_out() -> None:
    found = budget_curve(
        [one("", 0, 0, 0.6, np.nan)],
        [one("always", 1, 0, 0.7, np.nan)],
        [one("budget", 0.2, 0, 0.68, np.nan)],
    )
    assert found.at("budget", 0.2).gain == pytest.approx(0.08 / 0.4)
    assert found.at("budget", 0.2).sd is None
    assert found.full.kept == 1


def test_where_everything_gains_nothing_no_share_is_kept() -> None:
    found = budget_curve([one("", 0, 0, 0.6)], [one("always", 1, 0, 0.6)], [one("budget", 0.2, 0, 0.7)])
    assert found.at("budget", 0.2).kept is None
    assert found.full.kept is None


def test_seeds_must_be_those_of_the_baseline() -> None:
    with pytest.raises(CaptionaryError, match="seeds of budget"):
        budget_curve([one("", 0, 0, 0.6)], [one("always", 1, 0, 0.7)], [one("budget", 0.2, 1, 0.7)])
    with pytest.raises(CaptionaryError, match="baseline"):
        budget_curve([], [], [])


def test_measurements_of_predictions() -> None:
    labels = np.array([[0, 1], [1, 1], [1, 1]], np.float32)
    made = Measurement.of(
        labels, np.array([[0.1, 0.5], [0.2, 0.5], [0.9, 0.5]]), policy="budget", share=0.2, lent=True, seed=0,
        items=2, described=0.5,
    )  # fmt: skip
    assert made.auc[0] == 1
    assert np.isnan(made.auc[1])
