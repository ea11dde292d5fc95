import pytest
import torch

from captionary.rank.initial import normal, pretrained, seed_of


def test_a_stream_depends_on_its_seed_and_name_alone():
    first = normal(0, "token", (4, 2), 1.0)
    torch.randn(3)
    assert torch.equal(normal(0, "token", (4, 2), 1.0), first)
    assert not torch.equal(normal(0, "other", (4, 2), 1.0), first)
    assert not torch.equal(normal(1, "token", (4, 2), 1.0), first)
    assert 0 <= seed_of(0, "token") < 2**63


def test_known_rows_are_scaled_and_the_others_stay_as_drawn():
    drawn = normal(0, "token", (3, 2), 0.1)
    vectors = torch.tensor([[9.0, 9.0], [3.0, 0.0], [0.0, 4.0]])
    table = pretrained(drawn, vectors, torch.tensor([False, True, True]), 0.1)
    assert torch.equal(table[0], drawn[0])
    # the root mean square of 3, 0, 0, 4 is sqrt(25 / 4) = 2.5
    torch.testing.assert_close(table[1:], torch.tensor([[0.1 * 3 / 2.5, 0.0], [0.0, 0.1 * 4 / 2.5]]))


def test_wider_vectors_keep_their_dot_products_as_well_as_they_can():
    """Vectors [6, 5] of rank 2 lose nothing in 2 dimensions but their scale."""
    flat, wide = normal(0, "flat", (6, 2), 1.0), normal(0, "wide", (2, 5), 1.0)
    vectors = flat @ wide
    table = pretrained(torch.zeros(6, 2), vectors, torch.ones(6, dtype=torch.bool), 0.1)
    assert table.square().mean().sqrt().item() == pytest.approx(0.1)
    products, expected = table @ table.T, vectors @ vectors.T
    torch.testing.assert_close(products / products[0, 0], expected / expected[0, 0], rtol=1e-4, atol=1e-5)


def test_nothing_known_changes_nothing():
    drawn = normal(0, "token", (3, 2), 0.1)
    nothing = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(pretrained(drawn, torch.ones(3, 4), nothing, 0.1), drawn)
    assert torch.equal(pretrained(drawn, torch.zeros(3, 2), ~nothing, 0.1), drawn)
