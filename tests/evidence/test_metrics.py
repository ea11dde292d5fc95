"""Metrics: worked by hand, checked against scikit-learn, and silent where a figure would lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from tests.optional import optional

from captionary.errors import CaptionaryError
from captionary.evidence.counting import losses, pairs, sorted_rows
from captionary.evidence.metrics import (
    auc,
    auc_gain,
    calibration,
    gauc,
    log_loss,
    ne_gain,
    normalized_entropy,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_auc_counts_won_pairs_and_half_of_the_ties() -> None:
    labels, scores = array(1, 0, 1, 0), array(0.9, 0.8, 0.8, 0.1)
    # .9 beats .8 and .1; .8 ties with .8 and beats .1: of 2 · 2 pairs
    assert auc(labels, scores) == (1 + 1 + 0.5 + 1) / (2 * 2)


def test_auc_of_equal_scores_is_one_half() -> None:
    assert auc(array(1, 0, 0), array(3, 3, 3)) == 0.5


def test_auc_takes_zero_of_either_sign_for_a_tie() -> None:
    assert auc(array(1, 0), np.array([0.0, -0.0], np.float32)) == 0.5


def test_auc_weighs_pairs() -> None:
    labels, scores, weights = array(1, 0, 1, 0), array(4, 3, 2, 1), array(2, 3, 5, 7)
    won = 2 * 3 + 2 * 7 + 5 * 7  # all pairs but (2, 3)
    assert auc(labels, scores, weights) == pytest.approx(won / ((2 + 5) * (3 + 7)))


def test_a_row_of_weight_zero_is_absent() -> None:
    assert auc(array(1, 0, 1), array(3, 2, 1), array(1, 1, 0)) == 1.0
    assert log_loss(array(1, 0), array(0.5, 0.9), array(1, 0)) == pytest.approx(math.log(2))


labelled = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda labels: 0 < sum(labels) < len(labels)),
        # Few distinct values, so that ties abound.
        st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.99999994, 1.0]), min_size=n, max_size=n),
        st.lists(st.floats(0.1, 10), min_size=n, max_size=n),
    )
)


@settings(max_examples=40, deadline=None)
@given(labelled)
def test_metrics_equal_scikit_learn(rows: tuple[list[bool], list[float], list[float]]) -> None:
    labels, scores, weights = np.array(rows[0]), np.array(rows[1]), np.array(rows[2])
    assert auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert auc(labels, scores, weights) == pytest.approx(
        sk.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-9
    )
    for probabilities in (scores, scores.astype(np.float32)):
        assert log_loss(labels, probabilities) == pytest.approx(sk.log_loss(labels, probabilities), rel=1e-6)
    assert log_loss(labels, scores, weights) == pytest.approx(
        sk.log_loss(labels, scores, sample_weight=weights), rel=1e-9
    )


def test_auc_is_exact_on_many_rows() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 1000, 200_000).astype(np.float32)
    labels = rng.random(200_000) < 0.001 + scores / 5000
    assert auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-13)


def test_normalized_entropy_is_log_loss_over_entropy_of_the_base_rate() -> None:
    labels, probabilities = array(1, 0, 0, 0), array(0.5, 0.2, 0.2, 0.2)
    loss = -(math.log(0.5) + 3 * math.log(0.8)) / 4
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert normalized_entropy(labels, probabilities) == pytest.approx(loss / entropy)


def test_the_base_rate_alone_has_a_normalized_entropy_of_one() -> None:
    assert normalized_entropy(array(1, 0, 0, 0), array(0.25, 0.25, 0.25, 0.25)) == pytest.approx(1.0)
    # Weights move the base rate to 3 / (3 + 1).
    assert normalized_entropy(array(1, 0), array(0.75, 0.75), array(3, 1)) == pytest.approx(1.0)


def test_a_saturated_float32_probability_costs_a_finite_amount() -> None:
    wrong = log_loss(array(0), np.array([1.0], np.float32))
    assert wrong == pytest.approx(-math.log(np.finfo(np.float32).eps))


def test_calibration_is_predicted_over_observed() -> None:
    assert calibration(array(1, 0, 0, 1), array(0.9, 0.3, 0.2, 0.4)) == pytest.approx(
        (0.9 + 0.3 + 0.2 + 0.4) / 2
    )
    assert math.isnan(calibration(array(0, 0), array(0.1, 0.1)))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc_and_no_normalized_entropy(label: float) -> None:
    labels, scores = array(label, label), array(0.2, 0.7)
    assert math.isnan(auc(labels, scores))
    assert math.isnan(auc(labels, scores, array(1, 1)))
    assert math.isnan(normalized_entropy(labels, scores))


def test_no_rows_have_no_metric() -> None:
    assert all(
        math.isnan(metric(array(), array())) for metric in (auc, log_loss, normalized_entropy, calibration)
    )


def test_gains_are_relative() -> None:
    assert auc_gain(0.80, 0.75) == pytest.approx((0.80 - 0.75) / (1 - 0.75))
    assert ne_gain(0.76, 0.80) == pytest.approx((0.80 - 0.76) / 0.80)
    assert auc_gain(0.70, 0.75) < 0
    assert math.isnan(auc_gain(1.0, 1.0))
    np.testing.assert_allclose(auc_gain(array(0.8, 1.0), array(0.75, 1.0)), [0.2, np.nan])


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "words"),
    [
        ([0.5, 1], [0.1, 0.2], None, "label == 0.5, must be 0 or 1"),
        ([math.nan, 1], [0.1, 0.2], None, "label == nan"),
        ([0, 1], [0.1, math.nan], None, "score == nan, must be a number; row 1"),
        ([0, 1], [0.1], None, "both \\[N\\]"),
        ([0, 1], [0.1, 0.2], [1], "shape of weights"),
        ([0, 1], [0.1, 0.2], [1, -1], "weight == -1.0, must be >= 0"),
        ([0, 1], [0.1, 0.2], [1, math.inf], "weight == inf"),
    ],
)
def test_bad_rows_are_refused(labels: list, scores: list, weights: list | None, words: str) -> None:
    with pytest.raises(CaptionaryError, match=words):
        auc(array(*labels), array(*scores), None if weights is None else array(*weights))


def test_logits_are_no_probabilities() -> None:
    with pytest.raises(CaptionaryError, match=r"probability == 2.5, must be in 0…1; pass probabilities"):
        normalized_entropy(array(0, 1), array(0.1, 2.5))


def test_masked_labels_are_absent() -> None:
    labels, scores = array(1, math.nan, 0, 1), array(0.9, math.nan, 0.2, 0.1)
    mask = np.array([True, False, True, True])
    assert auc(labels, scores, mask=mask) == 0.5
    assert normalized_entropy(labels, scores, mask=mask) == normalized_entropy(labels[mask], scores[mask])
    with pytest.raises(CaptionaryError, match="mask"):
        auc(labels, scores, mask=mask[:2])


def test_gauc_weighs_users_by_impressions_and_counts_those_without() -> None:
    labels, users = array(1, 0, 1, 0, 0, 0, 1), np.array(["a", "a", "b", "b", "b", "c", "d"])
    scores = array(0.9, 0.1, 0.5, 0.7, 0.3, 0.2, 0.2)
    made = gauc(labels, scores, users)
    assert made.value == pytest.approx((2 * 1.0 + 3 * 0.5) / (2 + 3))
    assert (made.users, made.left_out, made.rows_left_out) == (2, 2, 2)
    assert gauc(array(1, 1), array(0.1, 0.2), np.array([1, 1])).to_dict()["value"] is None


@settings(max_examples=25, deadline=None)
@given(labelled, st.integers(1, 5))
def test_groups_are_what_their_rows_alone_are(rows: tuple[list, list, list], count: int) -> None:
    labels, scores, weights = (np.array(column) for column in rows)
    groups = np.arange(len(labels)) % count
    for given_weights in (None, weights):
        counted = pairs(labels, scores, groups, count, given_weights).auc
        summed = losses(labels, scores, groups, count, given_weights).normalized_entropy
        for group in range(count):
            kept = groups == group
            w = None if given_weights is None else weights[kept]
            assert counted[group] == pytest.approx(auc(labels[kept], scores[kept], w), nan_ok=True)
            assert summed[group] == pytest.approx(
                normalized_entropy(labels[kept], scores[kept], w), nan_ok=True
            )
        assert counted[-1] == pytest.approx(auc(labels, scores, given_weights))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rows_are_sorted_by_score_of_either_sign(kind: type) -> None:
    scores = np.array([3, -1, 0.0, -0.0, -np.inf, np.inf, 1e-40, -2.5], kind)
    assert scores[sorted_rows(scores)].tolist() == sorted(scores.tolist())


def test_metrics_equal_torchrec() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optional("torchrec.metrics.ne", reason="torchrec is not installed")
    from torchrec.metrics.auc import compute_auc
    from torchrec.metrics.calibration import compute_calibration, get_calibration_states
    from torchrec.metrics.gauc import compute_window_auc, get_auc_states
    from torchrec.metrics.ne import compute_ne, get_ne_states

    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(100), 20)
    scores = rng.permutation(np.linspace(0.01, 0.99, 2000))  # torchrec breaks ties by position
    labels = (rng.random(2000) < scores).astype(np.float64)
    labels[:20] = 1  # a user with one class
    weights = rng.uniform(0.5, 2, 2000)
    p, y, w = (torch.tensor(column)[None] for column in (scores, labels, weights))
    assert auc(labels, scores, weights) == pytest.approx(float(compute_auc(1, [p], [y], [w])[0]), abs=1e-6)
    states = get_ne_states(y, p, w, 1e-12)
    theirs = compute_ne(
        states["cross_entropy_sum"],
        states["weighted_num_samples"],
        states["pos_labels"],
        states["neg_labels"],
        1e-12,
    )
    assert normalized_entropy(labels, scores, weights) == pytest.approx(float(theirs[0]), rel=1e-9)
    ratio = compute_calibration(*get_calibration_states(y, p, w).values())
    assert calibration(labels, scores, weights) == pytest.approx(float(ratio[0]), rel=1e-9)
    found = get_auc_states(y.float(), p.float(), torch.ones(1, 2000), torch.full((100,), 20))
    window = compute_window_auc(found["auc_sum"], found["num_samples"])["gauc"]
    assert gauc(labels, scores, users).value == pytest.approx(float(window[0]), rel=1e-5)
