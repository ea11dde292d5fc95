import pytest
import torch

from captionary.rank.interaction import BlockLinear, Concatenation, CrossNetwork, DotInteraction, pair_name


def test_dots_of_all_pairs_then_the_fields():
    layer = DotInteraction(("a", "b", "c"), 2, "dot+fields")
    a, b, c = [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]
    out = layer(torch.tensor([[a, b, c]]))
    assert out.tolist() == [[3 * 1 + 4 * 2, 5 * 1 + 6 * 2, 5 * 3 + 6 * 4, *a, *b, *c]]
    assert layer.blocks == (("a*b", 1), ("a*c", 1), ("b*c", 1), ("a", 2), ("b", 2), ("c", 2))


def test_dot_alone_keeps_the_dense_vector():
    out = DotInteraction(("a", "b"), 2, "dot")(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    assert out.tolist() == [[11, 1, 2]]


def test_a_pair_has_one_name():
    assert pair_name("b", "a") == pair_name("a", "b")


def test_blocks_start_the_same_wherever_they_are():
    few = BlockLinear(3, "top", (("a*b", 1), ("b", 4)), 8)
    many = BlockLinear(3, "top", (("a*c", 1), ("b", 4), ("a*b", 1)), 8)
    for name in ("a*b", "b"):
        assert torch.equal(few.block(name), many.block(name))
    assert not torch.equal(few.block("a*b"), many.block("a*c"))


def test_concatenation_is_the_fields():
    layer = Concatenation(("a", "b"), 2)
    assert layer(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[1, 2, 3, 4]]
    assert layer.blocks == (("a", 2), ("b", 2))


def test_a_cross_layer_multiplies_by_what_came_first():
    """x' = x0 * (W x + b) + x, twice, by hand."""
    layer = CrossNetwork(0, ("a", "b"), 1, layers=2, rank=0)
    with torch.no_grad():
        layer.weight[0].copy_(torch.tensor([[0.5, 1.0], [0.0, 2.0]]))  # [read, given]
        layer.weight[1].copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        layer.bias[1].copy_(torch.tensor([0.0, 1.0]))
    out = layer(torch.tensor([[[2.0], [3.0]]]))
    one = [2 * (0.5 * 2) + 2, 3 * (1.0 * 2 + 2.0 * 3) + 3]
    assert out.tolist() == [[2 * one[0] + one[0], 3 * (one[1] + 1) + one[1]]]


def test_a_low_rank_cross_layer_is_the_full_one_of_the_product():
    low, full = (CrossNetwork(0, ("a", "b", "c"), 4, layers=1, rank=rank) for rank in (2, 0))
    with torch.no_grad():
        full.weight[0].copy_(low.project[0] @ low.expand[0])
    fields = torch.randn(5, 3, 4)
    torch.testing.assert_close(low(fields), full(fields))


@pytest.mark.parametrize("rank", [0, 2])
def test_cross_layers_of_arms_share_the_blocks_of_their_fields(rank):
    few = CrossNetwork(3, ("a", "c"), 2, layers=2, rank=rank)
    many = CrossNetwork(3, ("a", "b", "c"), 2, layers=2, rank=rank)
    kept = [0, 1, 4, 5]  # those of a and c
    for layer in range(2):
        if rank:
            assert torch.equal(few.project[layer], many.project[layer][kept])
            assert torch.equal(few.expand[layer], many.expand[layer][:, kept])
        else:
            assert torch.equal(few.weight[layer], many.weight[layer][kept][:, kept])
            assert not torch.equal(few.weight[0], few.weight[1])
