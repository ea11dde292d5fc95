"""Calibration: worked by hand, checked against scikit-learn, and words where there is no figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from captionary.errors import CaptionaryError
from captionary.evidence.metrics import auc, normalized_entropy
from captionary.evidence.recalibration import (
    describe_task,
    expected_calibration_error,
    recalibrate,
    recalibrated_ne,
)

RNG = np.random.default_rng(0)
TRUE = RNG.beta(1, 6, 4000)
LABELS = (RNG.random(4000) < TRUE).astype(np.float32)
OFF = 1 / (1 + np.exp(-(2 * np.log(TRUE / (1 - TRUE)) + 1)))  # logits doubled and raised


def test_ece_is_the_mean_gap_of_bins() -> None:
    labels, probabilities = np.array([0, 1, 1, 1.0]), np.array([0.1, 0.3, 0.6, 0.8])
    assert expected_calibration_error(labels, probabilities, bins=2) == pytest.approx(
        0.5 * abs((0.1 + 0.3) / 2 - 1 / 2) + 0.5 * abs((0.6 + 0.8) / 2 - 1)
    )


def test_ece_equals_that_of_scikit_learns_quantile_bins() -> None:
    observed, predicted = calibration_curve(LABELS, OFF, n_bins=10, strategy="quantile")
    assert expected_calibration_error(LABELS, OFF, bins=10) == pytest.approx(
        np.mean(np.abs(observed - predicted)), abs=1e-4
    )


def test_equal_probabilities_share_a_bin_whatever_their_order() -> None:
    labels, probabilities = np.array([1, 1, 0, 0.0]), np.full(4, 0.5)
    assert expected_calibration_error(labels, probabilities, bins=4) == 0
    assert expected_calibration_error(labels[::-1], probabilities, bins=4) == 0


def test_a_weight_is_so_many_rows() -> None:
    weights = RNG.integers(0, 4, 4000)
    again = np.repeat(np.arange(4000), weights)
    assert expected_calibration_error(LABELS, OFF, weights) == pytest.approx(
        expected_calibration_error(LABELS[again], OFF[again])
    )
    twice = recalibrate(LABELS[again].astype(bool), OFF[again], OFF[:50])
    assert recalibrate(LABELS.astype(bool), OFF, OFF[:50], weights.astype(float)) == pytest.approx(
        twice, rel=1e-6
    )


def test_platt_scaling_is_logistic_regression_on_the_logit() -> None:
    logit = np.log(OFF / (1 - OFF))[:, None]
    fitted = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(logit, LABELS)
    made = recalibrate(LABELS.astype(bool), OFF, OFF)
    # Platt's smoothed targets differ by 1 ÷ (number of positives).
    assert made == pytest.approx(fitted.predict_proba(logit)[:, 1], abs=3e-3)


def test_isotonic_steps_are_scikit_learns_but_for_one_row() -> None:
    fitted = IsotonicRegression().fit(OFF, LABELS).predict(OFF)
    made = recalibrate(LABELS.astype(bool), OFF, OFF, method="isotonic")
    assert made is not None
    assert np.mean(np.abs(made - fitted)) < 0.005
    assert 0 < made.min() < made.max() < 1


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_recalibration_undoes_what_does_not_change_the_order(method: str) -> None:
    true, off = normalized_entropy(LABELS, TRUE), normalized_entropy(LABELS, OFF)
    put_right = recalibrated_ne(LABELS, OFF, method=method)  # type: ignore[arg-type]
    assert off > true + 0.05
    assert put_right == pytest.approx(true, abs=0.02)


def test_what_was_fitted_on_a_half_is_not_measured_on_it() -> None:
    # Labels of each user are a coin; isotonic fitted on the same rows would find order in noise.
    scores, coins = RNG.random(300), RNG.integers(0, 2, 300).astype(float)
    assert recalibrated_ne(coins, scores, method="isotonic") > 1


def test_extreme_and_constant_probabilities_have_finite_figures() -> None:
    labels = np.array([0, 1] * 50, np.float32)
    for scores in (labels, 1 - labels, np.full(100, 0.0, np.float32), np.full(100, 1.0, np.float32)):
        made = describe_task(labels, scores)
        assert all(math.isfinite(v) for v in (made.log_loss, made.ne, made.recalibrated_ne, made.ece))
    assert describe_task(labels, np.full(100, 1.0, np.float32)).recalibrated_ne == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("label", "kind"), [(0, "negative"), (1, "positive")])
def test_one_class_is_said_in_words(label: int, kind: str) -> None:
    made = describe_task(np.full(7, label), np.full(7, 0.5), users=np.arange(7))
    assert made.undefined == f"One class only (7 rows, all {kind}): no AUC, no NE, no GAUC."
    assert (made.auc, made.ne, made.recalibrated_ne, made.gauc) == (None,) * 4
    assert made.to_dict()["auc"] is None
    assert describe_task(np.array([]), np.array([])).undefined == "No rows: no metric."


def test_masked_rows_are_not_looked_at() -> None:
    labels, mask = LABELS.copy(), np.arange(4000) % 3 > 0
    labels[~mask] = np.nan
    users = np.arange(4000) // 10
    made = describe_task(labels, OFF, users, mask=mask)
    assert made == describe_task(LABELS[mask], OFF[mask], users[mask])
    assert made.auc == auc(LABELS[mask], OFF[mask])
    assert made.gauc is not None
    assert made.gauc.users + made.gauc.left_out == 400


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(CaptionaryError, match="bins == 0, must be >= 1"):
        expected_calibration_error(LABELS, OFF, bins=0)
    with pytest.raises(CaptionaryError, match="method == spline"):
        recalibrated_ne(LABELS, OFF, method="spline")  # type: ignore[arg-type]
    with pytest.raises(CaptionaryError, match="score == nan"):
        describe_task(LABELS, np.where(np.arange(4000) == 3, np.nan, OFF))
