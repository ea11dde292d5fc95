"""Concordance and the normalised squared error: against pairs counted one by one, AUC, and a few rows' arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionary.errors import CaptionaryError
from captionary.evidence.continuous import (
    concordance,
    errors,
    normalized_squared_error,
    quantities,
    shares_in_order,
)
from captionary.evidence.metrics import auc


def by_pairs(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> float:
    """Σ wᵢwⱼ(1[pᵢ > pⱼ] + ½·1[pᵢ = pⱼ]) ÷ Σ wᵢwⱼ over yᵢ > yⱼ, pair by pair."""
    above = (labels[:, None] > labels[None]) * np.outer(weights, weights)
    won = (predictions[:, None] > predictions[None]) + 0.5 * (predictions[:, None] == predictions[None])
    return float((above * won).sum() / above.sum()) if above.sum() else math.nan


rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.integers(0, 2)),
    min_size=1,
    max_size=40,
)


@given(rows, st.sampled_from([np.float32, np.float64]))
@settings(max_examples=150, deadline=None)
def test_concordance_is_that_of_all_pairs_in_every_group(cells, dtype) -> None:
    labels, predictions, weights, groups = np.array(cells).T
    labels, predictions = labels.astype(dtype), predictions.astype(dtype)
    plain = np.ones(len(labels))
    assert concordance(labels, predictions) == pytest.approx(
        by_pairs(labels, predictions, plain), nan_ok=True
    )
    heavy = weights.astype(float)
    found = shares_in_order(quantities(labels, predictions, heavy), groups, 4)
    for group in range(3):
        mine = groups == group
        expected = by_pairs(labels[mine], predictions[mine], heavy[mine])
        assert found[group] == pytest.approx(expected, nan_ok=True)
    assert math.isnan(found[3])  # a group without rows
    assert found[4] == pytest.approx(by_pairs(labels, predictions, heavy), nan_ok=True)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=60))
@settings(max_examples=100, deadline=None)
def test_of_two_classes_it_is_the_auc(cells) -> None:
    labels = np.array([label for label, _ in cells], np.float32)
    scores = np.array([score for _, score in cells], np.float32)
    assert concordance(labels, scores) == pytest.approx(auc(labels, scores), nan_ok=True)


def test_of_many_rows_the_count_is_exact() -> None:
    size = 300_000
    order = np.random.default_rng(0).permutation(size).astype(np.float32)
    assert concordance(order, order) == 1.0
    assert concordance(order, -order + size) == 0.0
    swapped = order.copy()
    swapped[np.argsort(order)[:2]] = swapped[np.argsort(order)[1::-1]]
    assert concordance(order, swapped) == 1 - 1 / (size * (size - 1) / 2)


def test_the_normalised_squared_error_is_of_logarithms() -> None:
    labels, predictions = np.array([0.0, 9.0, 99.0]), np.array([1.0, 9.0, 49.0])
    logs = np.log([1, 10, 100])
    missed = np.log(2 / 1) ** 2 + 0 + np.log(100 / 50) ** 2
    expected = missed / ((logs - logs.mean()) ** 2).sum()
    assert normalized_squared_error(labels, predictions) == pytest.approx(expected)
    typical = np.full(3, np.expm1(logs.mean()))
    assert normalized_squared_error(labels, typical) == pytest.approx(1.0)
    assert normalized_squared_error(labels, labels) == 0
    twice = normalized_squared_error(np.r_[labels, labels[0]], np.r_[predictions, predictions[0]])
    assert normalized_squared_error(labels, predictions, np.array([2.0, 1, 1])) == pytest.approx(twice)


def test_groups_and_the_whole_are_as_if_alone() -> None:
    rng = np.random.default_rng(3)
    labels, predictions = rng.exponential(5, 200), rng.exponential(5, 200)
    groups = rng.integers(0, 3, 200)
    error, ratio = errors(quantities(labels, predictions), groups, 4)
    for group in range(3):
        mine = groups == group
        assert error[group] == pytest.approx(normalized_squared_error(labels[mine], predictions[mine]))
        assert ratio[group] == pytest.approx(predictions[mine].sum() / labels[mine].sum())
    assert math.isnan(error[3])
    assert error[4] == pytest.approx(normalized_squared_error(labels, predictions))


def test_what_is_missing_or_not_defined() -> None:
    labels, predictions = np.array([1.0, np.nan, 3.0, 2.0]), np.array([1.0, np.nan, 2.0, 7.0])
    assert concordance(labels[[0, 2]], predictions[[0, 2]]) == 1
    assert concordance(labels, predictions) == pytest.approx(2 / 3)
    assert concordance(labels, predictions, mask=np.array([True, True, True, False])) == 1
    alike = np.full(5, 0.1)
    assert math.isnan(concordance(alike, np.arange(5.0)))
    assert math.isnan(normalized_squared_error(alike, np.arange(5.0)))
    assert math.isnan(concordance(np.array([]), np.array([])))


@pytest.mark.parametrize(
    ("labels", "predictions", "weights", "words"),
    [
        ([-1.0, 2], [1.0, 2], None, "label of a continuous task == -1"),
        ([1.0, 2], [1.0, math.inf], None, "prediction of a continuous task == inf"),
        ([1.0, 2], [1.0, math.nan], None, "prediction of a continuous task == nan"),
        ([1.0, 2], [1.0, 2], [1.0, -1], "weight of a continuous task == -1"),
        ([1.0, 2], [1.0], None, "shapes of labels and predictions"),
        ([1.0, 2], [1.0, 2], [1.0], "shape of weights"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels, predictions, weights, words) -> None:
    with pytest.raises(CaptionaryError, match=words):
        concordance(np.array(labels), np.array(predictions), None if weights is None else np.array(weights))
