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
    vectors = torch.tensor([[9.0, 9.0], [8.0, 1.0], [2.0, 9.0]])
    table = pretrained(drawn, vectors, torch.tensor([False, True, True]), 0.1)
    assert torch.equal(table[0], drawn[0])
    # less their mean (5, 5) the known are (3, -4) and (-3, 4): a root mean square of sqrt((9 + 16) / 2)
    size = (25 / 2) ** 0.5
    torch.testing.assert_close(
        table[1:], torch.tensor([[0.3 / size, -0.4 / size], [-0.3 / size, 0.4 / size]])
    )


def test_wider_vectors_keep_their_dot_products_as_well_as_they_can():
    """Vectors [6, 5] of rank 2 lose nothing in 2 dimensions but their mean and scale."""
    flat, wide = normal(0, "flat", (6, 2), 1.0), normal(0, "wide", (2, 5), 1.0)
    vectors = flat @ wide + 7
    table = pretrained(torch.zeros(6, 2), vectors, torch.ones(6, dtype=torch.bool), 0.1)
    assert table.square().mean().sqrt().item() == pytest.approx(0.1)
    centred = vectors - vectors.mean(0)
    products, expected = table @ table.T, centred @ centred.T
    torch.testing.assert_close(products / products[0, 0], expected / expected[0, 0], rtol=1e-4, atol=1e-5)


def test_nothing_known_changes_nothing():
    drawn = normal(0, "token", (3, 2), 0.1)
    nothing = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(pretrained(drawn, torch.ones(3, 4), nothing, 0.1), drawn)
    assert torch.equal(pretrained(drawn, torch.zeros(3, 2), ~nothing, 0.1), drawn)
