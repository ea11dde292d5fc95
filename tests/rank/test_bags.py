import torch
from torch.nn import functional as F

from captionary.rank.bags import Lists, pool


def lists(weights=(0.5, 2.0, 1.0, 0.25)):
    return Lists(torch.tensor([7, 3, 5, 7]), torch.tensor([0, 2, 2, 4]), torch.tensor(weights))


def test_a_list_is_the_weighted_sum_of_its_rows_and_an_empty_one_is_zero():
    table = torch.arange(16.0).view(8, 2)
    expected = [[0.5 * 14 + 2 * 6, 0.5 * 15 + 2 * 7], [0, 0], [10 + 0.25 * 14, 11 + 0.25 * 15]]
    torch.testing.assert_close(pool(table, lists()), torch.tensor(expected))


def test_the_gradient_is_that_of_embedding_bag():
    for rows in (8, 40_000):  # both widths of the sort keys
        ours = torch.randn(rows, 4, requires_grad=True)
        theirs = ours.detach().clone().requires_grad_()
        _, offsets, weights = lists()
        values = torch.tensor([rows - 1, 3, 5, rows - 1])
        out = torch.randn(3, 4)
        pool(ours, Lists(values, offsets, weights)).backward(out)
        bag = F.embedding_bag(
            values, theirs, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        bag.backward(out)
        torch.testing.assert_close(ours.grad, theirs.grad)
