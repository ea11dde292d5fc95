import torch
from torch import nn
from torch.nn import functional as F

from captionary.rank.optimizers import TableAdagrad


def trained(sparse, steps=5):
    table = nn.Parameter(torch.linspace(-1, 1, 40).view(10, 4).clone())
    adagrad = TableAdagrad([table], lr=0.1, damping=0.01)
    for step in range(steps):
        ids = torch.tensor([1, 1, 3, step])
        F.embedding(ids, table, sparse=sparse).square().sum(1).mean().backward()
        adagrad.step(1.0, 4)
    return table.detach()


def test_sparse_and_dense_gradients_give_the_same_tables():
    torch.testing.assert_close(trained(True), trained(False), rtol=1e-6, atol=1e-7)


def test_rows_without_a_gradient_stay():
    start = torch.linspace(-1, 1, 40).view(10, 4)
    assert torch.equal(trained(False)[5:], start[5:])
    assert torch.equal(trained(True)[5:], start[5:])


def test_it_is_torchs_adagrad():
    ours, theirs = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    adagrad = TableAdagrad([ours], lr=0.1, damping=0.5)
    reference = torch.optim.Adagrad([theirs], lr=0.1, initial_accumulator_value=0.5, eps=1e-8)
    for _ in range(3):
        for table in (ours, theirs):
            (table.square().sum() / 2).backward()
        adagrad.step(1.0, 1)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(ours, theirs)
