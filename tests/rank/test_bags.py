import pytest
import torch
from torch.nn import functional as F

from captionary.rank.bags import Lists, _transposed, gather, meet_lists, pool, pool_normalised


def lists(weights=(0.5, 2.0, 1.0, 0.25)):
    return Lists(torch.tensor([7, 3, 5, 7]), torch.tensor([0, 2, 2, 4]), torch.tensor(weights))


def test_a_list_is_the_weighted_sum_of_its_rows_and_an_empty_one_is_zero():
    table = torch.arange(16.0).view(8, 2)
    expected = [[0.5 * 14 + 2 * 6, 0.5 * 15 + 2 * 7], [0, 0], [10 + 0.25 * 14, 11 + 0.25 * 15]]
    torch.testing.assert_close(pool(table, lists()), torch.tensor(expected))


@pytest.mark.parametrize("sparse", [False, True])
def test_the_gradient_is_that_of_embedding_bag(sparse):
    ours = torch.randn(40, 4, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    _, offsets, weights = lists()
    values = torch.tensor([39, 3, 5, 39])
    out = torch.randn(3, 4)
    pool(ours, Lists(values, offsets, weights), sparse=sparse).backward(out)
    bag = F.embedding_bag(
        values, theirs, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
    bag.backward(out)
    assert ours.grad.is_sparse == sparse
    torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)
    if sparse:
        assert sorted(ours.grad._indices()[0].tolist()) == [3, 5, 39]


@pytest.mark.parametrize("sparse", [False, True])
def test_on_an_accelerator_the_gradient_is_pooled_over_the_transposed_lists(sparse):
    given = lists()
    out = torch.randn(3, 4)
    expected = torch.zeros(8, 4)
    for token, row, weight in ((7, 0, 0.5), (3, 0, 2.0), (5, 2, 1.0), (7, 2, 0.25)):
        expected[token] += weight * out[row]
    found = _transposed(out, (8, 4), *given, sparse=sparse)
    torch.testing.assert_close(found.to_dense(), expected)
    if sparse:
        assert found.is_coalesced()
        assert found.indices()[0].tolist() == [3, 5, 7]


def test_gathered_rows_give_their_gradients_back():
    table = torch.randn(5, 3, requires_grad=True)
    place = torch.tensor([4, 0, 4, 4])
    out = torch.randn(4, 3)
    torch.testing.assert_close(gather(table, place), table[place])
    gather(table, place).backward(out)
    expected = torch.stack([out[1], *torch.zeros(3, 3), out[0] + out[2] + out[3]])
    torch.testing.assert_close(table.grad, expected)


@pytest.mark.parametrize("sparse", [False, True])
def test_normalised_pooling_is_a_layer_norm_of_pooling(sparse):
    ours = torch.randn(8, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    out = torch.randn(3, 6)
    found = pool_normalised(ours, lists(), 0.7, sparse=sparse)
    expected = F.layer_norm(pool(theirs, lists()), (6,)) * 0.7
    torch.testing.assert_close(found, expected)
    assert not found[1].any()  # an empty list stays zero
    found.backward(out)
    expected.backward(out)
    torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)


def test_lists_meet_fields_as_in_plain_torch():
    place = torch.tensor([[0, 2], [1, 2], [0, 0], [2, 1]])
    columns = torch.tensor([3, 1, 0])
    given = [torch.randn(shape, requires_grad=True) for shape in ((3, 5), (4, 4, 5))]
    plain = [tensor.detach().clone().requires_grad_() for tensor in given]
    out = torch.randn(4, 2, 3)
    dots = meet_lists(given[0], place, given[1], columns)
    expected = (plain[0][place][:, :, None] * plain[1][:, columns][:, None]).sum(-1)
    torch.testing.assert_close(dots, expected)
    dots.backward(out)
    expected.backward(out)
    for found, known in zip(given, plain, strict=True):
        torch.testing.assert_close(found.grad, known.grad)
