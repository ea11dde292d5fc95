"""Calibration puts means right, keeps the order, and reads back as it was."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError
from captionary.rank.calibration import Calibration, fit_calibration

KINDS = ("binary",)


def rows(count=4000, seed=0):
    """Logits twice too sure and shifted: the truth is sigmoid((z - 0.7) / 2)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, 1))
    labels = (rng.random((count, 1)) < expit((logits - 0.7) / 2)).astype(np.float32)
    return logits.astype(np.float32), labels


def predicted(calibration, logits, kinds=KINDS, tasks=("like",)):
    return calibration.apply(torch.from_numpy(np.asarray(logits, np.float32)), tasks, kinds).numpy()


def test_platt_finds_the_line_and_leaves_auc_as_it_was():
    logits, labels = rows()
    found = fit_calibration(logits, labels, ("like",), KINDS, "platt")
    fit = LogisticRegression(C=np.inf).fit(logits, labels[:, 0])
    assert found.tasks["like"].slope == pytest.approx(fit.coef_[0, 0], abs=2e-3)  # beside Platt's smoothing
    assert found.tasks["like"].intercept == pytest.approx(fit.intercept_[0], abs=2e-3)
    fresh, truth = rows(seed=1)
    scores = predicted(found, fresh)[:, 0]
    before = roc_auc_score(truth[:, 0], fresh[:, 0])
    assert roc_auc_score(truth[:, 0], scores) == pytest.approx(before, abs=1e-6)  # float32 makes a tie or two
    assert log_loss(truth[:, 0], scores) < log_loss(truth[:, 0], expit(fresh[:, 0].astype(float))) - 0.05


def test_temperature_is_one_number():
    logits, labels = rows()
    one = fit_calibration(logits - 0.7, labels, ("like",), KINDS, "temperature").tasks["like"]
    assert one.intercept == 0
    assert one.slope == pytest.approx(1 / 2, abs=0.05)


def test_isotonic_is_scikit_learns_and_never_falls():
    logits, labels = rows(500)
    logits = logits.round(1)  # ties
    found = fit_calibration(logits, labels, ("like",), KINDS, "isotonic")
    expected = IsotonicRegression(out_of_bounds="clip").fit(logits[:, 0], labels[:, 0])
    points = np.linspace(-12, 12, 400)[:, None].astype(np.float32)
    scores = predicted(found, points)[:, 0]
    np.testing.assert_allclose(scores, expected.predict(points[:, 0]), atol=1e-6)
    assert (np.diff(scores) >= 0).all()


def test_amounts_are_calibrated_in_their_unit_and_gaps_left_out():
    rng = np.random.default_rng(0)
    seconds = rng.exponential(20, 5000).astype(np.float32)
    logits = np.log(seconds[:, None] * rng.uniform(0.5, 1.5, (5000, 1)) * 3)
    labels = seconds[:, None].copy()
    labels[::5] = np.nan
    for method in ("platt", "isotonic"):
        found = fit_calibration(logits, labels, ("time",), ("weighted_logistic",), method)
        scores = predicted(found, logits, ("weighted_logistic",), ("time",))
        assert scores.mean() == pytest.approx(seconds.mean(), rel=0.05)
    typical = fit_calibration(logits, labels, ("time",), ("huber_log",), "platt").tasks["time"]
    errors = typical.slope * logits[:, 0] + typical.intercept - np.log1p(labels[:, 0])
    assert abs(np.nanmean(np.clip(errors, -1, 1))) < 1e-4  # where Huber's loss is flat


@pytest.mark.parametrize("labels", [np.zeros(50), np.ones(50), np.arange(50) >= 25, np.arange(50) < 25])
def test_rows_of_one_class_or_in_perfect_or_reverse_order_stay_finite(labels):
    logits = np.linspace(-2, 2, 50)[:, None]
    for method in ("platt", "temperature"):
        found = fit_calibration(logits, labels[:, None].astype(float), ("like",), KINDS, method)
        one = found.tasks["like"]
        assert np.isfinite([one.slope, one.intercept]).all()
        assert one.slope > 0  # never turned round
        assert (np.diff(predicted(found, logits)[:, 0]) > 0).all()


def test_a_calibration_is_read_back_from_plain_values():
    logits, labels = rows(300)
    for method in ("platt", "isotonic"):
        found = fit_calibration(logits, labels, ("like",), KINDS, method)
        assert from_mapping(Calibration, to_mapping(found), where="") == found


def test_what_is_wrong_is_named():
    logits, labels = rows(10)
    with pytest.raises(CaptionaryError, match="method == plat, must be one of"):
        fit_calibration(logits, labels, ("like",), KINDS, "plat")  # type: ignore[arg-type]
    with pytest.raises(CaptionaryError, match="labels of like == 0"):
        fit_calibration(logits, labels * np.nan, ("like",), KINDS)
    with pytest.raises(CaptionaryError, match="logits of like == NaN"):
        fit_calibration(logits * np.nan, labels, ("like",), KINDS)
    with pytest.raises(CaptionaryError, match="shape of logits"):
        fit_calibration(logits[:5], labels, ("like",), KINDS)
    with pytest.raises(CaptionaryError, match="task == share, must be one of like"):
        predicted(fit_calibration(logits, labels, ("like",), KINDS), logits, tasks=("share",))
