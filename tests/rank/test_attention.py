"""Attention over jagged lists, against a loop over impressions that reads as the formula."""

import pytest
import torch

from captionary.rank.attention import ProfileAttention, attend, attend_by_torch
from captionary.rank.bags import Lists


def lists_of(*lists, weights=None):
    lengths = torch.tensor([0, *(len(one) for one in lists)])
    values = torch.tensor([token for one in lists for token in one])
    given = torch.rand(len(values)) + 0.1 if weights is None else torch.tensor(weights)
    return Lists(values, lengths.cumsum(0), given)


def by_loop(queries, tokens, lists, place):
    rows = []
    for query, which in zip(queries, place, strict=True):
        part = slice(lists.offsets[which], lists.offsets[which + 1])
        shares = lists.weights[part] * torch.exp(tokens[part] @ query)
        rows.append((shares[:, None] * tokens[part]).sum(0) / shares.sum() if len(shares) else torch.zeros(4))
    return torch.stack(rows)


WAYS = pytest.mark.parametrize("attend", [attend, attend_by_torch], ids=["compiled", "torch"])


@WAYS
def test_attention_is_the_formula_with_its_gradients(attend):
    torch.manual_seed(0)
    lists = lists_of([3, 1, 4], [], [1, 5, 9, 2, 6], [7])
    tokens = torch.randn(9, 4, requires_grad=True)
    queries = torch.randn(7, 4, requires_grad=True)
    place = torch.tensor([2, 0, 1, 2, 3, 0, 2])  # lists come again and again, each with another query
    found = attend(queries, tokens, lists, place)
    expected = by_loop(queries, tokens, lists, place)
    torch.testing.assert_close(found, expected)
    assert (found[2] == 0).all()
    other = torch.randn(7, 4)
    one = torch.autograd.grad((found * other).sum(), (tokens, queries))
    two = torch.autograd.grad((expected * other).sum(), (tokens, queries))
    torch.testing.assert_close(one, two)


@WAYS
def test_weights_are_a_prior(attend):
    """Without a query the mean is that of the weights; a weight of 0 is no token, and all 0 no list."""
    tokens = torch.eye(4)
    lists = lists_of([0, 1], [2, 3], weights=[0.75, 0.25, 0.0, 0.0])
    found = attend(torch.zeros(2, 4), tokens, lists, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0, 0], [0, 0, 0, 0]]))


@WAYS
def test_large_scores_do_not_overflow(attend):
    lists = lists_of([0, 1], weights=[0.5, 0.5])
    found = attend(torch.full((1, 2), 1e4), torch.tensor([[1.0, 0.0], [0.0, 0.5]]), lists, torch.tensor([0]))
    assert found.tolist() == [[1, 0]]
    nothing = lists_of([], [])
    empty = attend(torch.ones(3, 2), torch.zeros(0, 2), nothing, torch.tensor([0, 1, 1]))
    assert empty.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("events", [("like",), ("like", "share")])
def test_the_query_starts_at_nothing_and_is_each_event_types_own(events):
    torch.manual_seed(0)
    layer = ProfileAttention(("item", "tokens"), events, 4, 0.1)
    lists, place = lists_of([0, 1, 2], [3, 4]), torch.randint(0, 2, (6, len(events)))
    tokens, item = torch.randn(5, 4), torch.randn(6, 8)
    start = layer(item, tokens, lists, place)
    assert start.shape == (6, len(events), 4)
    none = torch.zeros(place.numel(), 4)
    torch.testing.assert_close(start.view(-1, 4), by_loop(none, tokens, lists, place.view(-1)))
    with torch.no_grad():
        layer.weight[:, :4] = torch.randn(8, 4)
    moved = layer(item, tokens, lists, place)
    assert not torch.equal(moved[:, 0], start[:, 0])
    assert torch.equal(moved[:, 1:], start[:, 1:])
