import torch

from captionary.rank.interaction import BlockLinear, DotInteraction, pair_name


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
