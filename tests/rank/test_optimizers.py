import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from captionary.errors import CaptionaryError
from captionary.rank.optimizers import (
    RowWiseAdagrad,
    TableAdagrad,
    TableSGD,
    dense_optimizer,
    table_optimizer,
)

NAMES = ("adagrad", "rowwise_adagrad", "sgd")
START = torch.linspace(-1, 1, 40).view(10, 4)


def trained(name, batches, *, sparse=False, decay=0.0):
    """Tables after steps on batches of ids, whose rows are pulled to ever other places."""
    table = nn.Parameter(START.clone())
    optimizer = table_optimizer(name, [table], lr=0.1, damping=0.01, decay=decay)
    for step, ids in enumerate(batches):
        pulled = F.embedding(torch.tensor(ids), table, sparse=sparse) - step
        pulled.square().sum(1).mean().backward()
        optimizer.step(0.5, len(ids))
    return table.detach(), optimizer


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5]),
)
def test_sparse_and_dense_gradients_give_the_same_tables(name, batches, decay):
    dense, sparse = (trained(name, batches, sparse=each, decay=decay) for each in (False, True))
    torch.testing.assert_close(sparse[0], dense[0], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(sparse[1].sums, dense[1].sums, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    silent = [row for row in range(10) if all(row not in ids for ids in batches)]
    assert torch.equal(dense[0][silent], START[silent])  # no decay where there is no gradient


@settings(max_examples=6, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=5))
def test_adagrad_is_torchs(batches):
    theirs = nn.Parameter(START.clone())
    reference = torch.optim.Adagrad([theirs], lr=0.05, initial_accumulator_value=0.01, eps=1e-8)
    for step, ids in enumerate(batches):
        reference.zero_grad()
        (F.embedding(torch.tensor(ids), theirs) - step).square().sum().backward()
        reference.step()
    torch.testing.assert_close(
        trained("adagrad", batches, sparse=True)[0], theirs.detach(), rtol=1e-5, atol=1e-6
    )


def test_sgd_is_torchs():
    theirs = nn.Parameter(START.clone())
    reference = torch.optim.SGD([theirs], lr=0.05)
    for step, ids in enumerate([[1, 1, 2], [3]]):
        reference.zero_grad()
        (F.embedding(torch.tensor(ids), theirs) - step).square().sum().backward()
        reference.step()
    torch.testing.assert_close(trained("sgd", [[1, 1, 2], [3]], sparse=True)[0], theirs.detach())


def test_rowwise_adagrad_by_hand():
    table = nn.Parameter(torch.tensor([[1.0, 2.0], [5.0, 5.0]]))
    optimizer = RowWiseAdagrad([table], lr=0.1, damping=0.5)
    table.grad = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    optimizer.step(1.0, 2)
    total = 0.5 + (6**2 + 2**2) / 2
    expected = torch.tensor([[1 - 0.1 * 6 / total**0.5, 2 - 0.1 * 2 / total**0.5], [5.0, 5.0]])
    torch.testing.assert_close(table.detach(), expected)
    torch.testing.assert_close(optimizer.sums[0], torch.tensor([total, 0.5]))


def test_decay_is_decoupled_from_the_accumulator():
    table = nn.Parameter(torch.tensor([[2.0, 2.0]]))
    optimizer = TableAdagrad([table], lr=0.1, damping=0.0, decay=0.5)
    table.grad = torch.tensor([[4.0, 0.0]])
    optimizer.step(1.0, 1)
    faded = 2 * (1 - 0.1 * 0.5)
    torch.testing.assert_close(table.detach(), torch.tensor([[faded - 0.1 * 4 / 4, faded]]))
    assert optimizer.sums[0].tolist() == [[16.0, 0.0]]


def test_layers_learn_by_adamw_or_adam():
    for name, kind in (("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)):
        assert type(dense_optimizer(name, [nn.Parameter(torch.ones(1))], lr=0.1)) is kind


def test_names_that_are_not_known():
    with pytest.raises(CaptionaryError, match="optimizer of tables == adagard, must be adagrad"):
        table_optimizer("adagard", [], lr=0.1)
    with pytest.raises(CaptionaryError, match="optimizer of layers == adamm, must be adam"):
        dense_optimizer("adamm", [], lr=0.1)
    assert type(table_optimizer("sgd", [], lr=0.1)) is TableSGD
