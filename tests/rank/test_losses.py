import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captionary.rank.features import Schema
from captionary.rank.losses import base_logits, label_sums, labels_given, task_loss, to_prediction

KINDS = ("binary", "weighted_logistic", "huber_log")


def schema(*kinds, weights=()):
    names = tuple(f"task {k}" for k in range(len(kinds)))
    return Schema(tasks=names, users=1, items=1, numeric=(), task_kinds=kinds, task_weights=weights)


def test_binary_labels_without_gaps_give_torchs_loss_and_gradient_bit_by_bit():
    torch.manual_seed(0)
    logits = torch.randn(257, 3, requires_grad=True)
    labels = (torch.rand(257, 3) < 0.3).float()
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    (wanted,) = torch.autograd.grad(expected, logits)
    loss = task_loss(logits, labels, schema("binary", "binary", "binary"))
    (found,) = torch.autograd.grad(loss, logits)
    assert torch.equal(loss, expected)
    assert torch.equal(found, wanted)


def test_missing_labels_weigh_nothing():
    logits = torch.tensor([[0.5, 2.0], [1.0, -1.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [float("nan"), 0.0]])
    loss = task_loss(logits, labels, schema("binary", "binary"))
    losses = [np.log1p(np.exp(-0.5)), np.log1p(np.exp(-1.0))]
    assert loss.item() == pytest.approx(sum(losses) / 2)
    loss.backward()
    assert logits.grad[0, 1] == logits.grad[1, 0] == 0
    assert labels_given(labels) == 2
    assert task_loss(logits, labels * float("nan"), schema("binary", "huber_log")) == 0


def test_each_kind_has_its_loss_and_its_weight():
    z = 0.7
    logits, labels = torch.full((1, 3), z), torch.tensor([[1.0, 3.0, 9.0]])
    softplus = np.log1p(np.exp(z))
    losses = [softplus - z, (1 + 3) * softplus - 3 * z, np.log(10) - z - 0.5]
    loss = task_loss(logits, labels, schema(*KINDS, weights=(1.0, 0.5, 2.0)))
    assert loss.item() == pytest.approx((losses[0] + 0.5 * losses[1] + 2 * losses[2]) / 3)


def test_the_odds_of_weighted_logistic_regression_are_the_mean_seconds():
    """However many are positive; Huber's prediction stays near what is typical beside one long stay."""
    seconds = torch.tensor([0.0, 2.0, 0.0, 90.0, 8.0]).repeat(3, 1).T
    logits = torch.zeros(3, requires_grad=True)
    kinds = ("weighted_logistic", "huber_log", "huber_log")
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def step():
        optimizer.zero_grad()
        loss = task_loss(logits.expand(5, 3), seconds, schema(*kinds))
        loss.backward()
        return loss

    optimizer.step(step)
    predicted = to_prediction(logits.detach()[None], kinds)[0]
    assert predicted[0].item() == pytest.approx((2 + 90 + 8) / 5, rel=1e-3)
    assert 1 < predicted[1].item() < 8


def test_predictions_are_in_the_unit_of_the_label_and_finite():
    logits = torch.tensor([[0.0, np.log(40.0), np.log1p(7.0)], [200.0, 200.0, -3.0]], dtype=torch.float32)
    predicted = to_prediction(logits, KINDS)
    torch.testing.assert_close(predicted[0], torch.tensor([0.5, 40.0, 7.0]))
    assert predicted.isfinite().all()
    assert predicted[1, 2] == 0  # never below nothing


def test_base_logits_predict_the_mean():
    labels = np.array([[1, 10, 1], [0, 20, 3], [np.nan, np.nan, np.nan], [0, 0, np.nan]], np.float32)
    sums = label_sums(labels[:2], KINDS).plus(label_sums(labels[2:], KINDS))
    assert sums.given.tolist() == [3, 3, 2]
    expected = [np.log(1.5 / 2.5), np.log(30.5 / 4), (np.log1p(1) + np.log1p(3)) / 2]
    np.testing.assert_allclose(base_logits(sums, KINDS), expected, rtol=1e-6)
    nothing = label_sums(np.full((2, 3), np.nan), KINDS)
    assert np.isfinite(base_logits(nothing, KINDS)).all()
