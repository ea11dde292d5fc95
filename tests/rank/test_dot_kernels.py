import numpy as np
import pytest
import torch

from captionary.rank.dot_kernels import dot_pairs


def pairs_of(count: int) -> torch.Tensor:
    low, high = torch.tril_indices(count, count, offset=-1)
    return low * count + high


def test_pairs_come_in_the_order_of_the_lower_triangle():
    fields = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]]])
    assert dot_pairs(fields, pairs_of(3)).tolist() == [[1 * 3 + 2 * 5, 7 * 1 + 11 * 2, 7 * 3 + 11 * 5]]


@pytest.mark.parametrize("shape", [(4, 2, 3), (3, 7, 5), (0, 4, 2), (2, 1, 3)])
def test_gradients_are_those_of_the_matrix_product(shape):
    rng = np.random.default_rng(0)
    fields = torch.from_numpy(rng.normal(size=shape).astype(np.float32)).requires_grad_()
    other = fields.detach().clone().requires_grad_()
    pairs = pairs_of(shape[1])
    grad = torch.from_numpy(rng.normal(size=(shape[0], len(pairs))).astype(np.float32))

    dot_pairs(fields, pairs).backward(grad)
    torch.bmm(other, other.transpose(1, 2)).flatten(1)[:, pairs].backward(grad)

    torch.testing.assert_close(fields.grad, other.grad)


def test_fields_need_not_be_contiguous():
    whole = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))
    part = whole[:, :4].requires_grad_()
    dot_pairs(part, pairs_of(4)).sum().backward()
    total = part.detach().sum(1, keepdim=True)
    torch.testing.assert_close(
        part.grad, total - part.detach()
    )  # of a sum of pairs: the sum of all the others


def test_the_gradient_has_a_gradient():
    fields = torch.randn(3, 4, 2, dtype=torch.float32, requires_grad=True)
    low, high = torch.tril_indices(4, 4, -1)
    pairs = low * 4 + high
    plain = torch.bmm(fields, fields.transpose(1, 2)).flatten(1)[:, pairs]
    found = []
    for dots in (dot_pairs(fields, pairs), plain):
        (first,) = torch.autograd.grad((dots**3).sum(), fields, create_graph=True)
        found.append(torch.autograd.grad((first**2).sum(), fields)[0])
    torch.testing.assert_close(*found)
