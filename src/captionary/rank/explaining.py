"""Which token of a user's profile met which token of an item: the interaction of two bags, token by token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from captionary.rank.bags import Lists
from captionary.rank.folding import RequestState, Served
from captionary.rank.model import Ranker

__all__ = ["Pair", "bag_parts", "explain"]

_EPSILON = 1e-5  # of torch's layer_norm
Pair = tuple[str, int, int, float, float]
"""Event type, profile token, item token, contribution, share."""


def explain(
    served: Served, rows: Tensor, state: RequestState, profiles: Lists, tokens: Lists, *, task: int, top: int
) -> list[list[Pair]]:
    """The `top` pairs of each candidate by size of contribution; see `ServingRanker.explain` for what that is.

    Args:
        served: the ranker.
        rows: [C, R].
        state: of the request.
        profiles: E lists.
        tokens: C lists.
        task: its place.
        top: pairs of a candidate, at most.
    """
    names, ranker = served.schema.fields, served.ranker
    if "tokens" not in names or not served.schema.events:
        return [[] for _ in range(len(rows))]
    with torch.no_grad():
        fields = served.fields(rows, state)
    meets = _meetings(served, fields, task)  # [C, E, D, D]
    of_items = bag_parts(ranker, tokens, ranker.config.token_pooling)
    of_users = bag_parts(ranker, profiles, ranker.config.profile_pooling)
    ends = profiles.offsets.tolist()
    found = []
    for place, (start, end) in enumerate(
        zip(tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist(), strict=True)
    ):
        pairs: list[tuple[str, int, int, float]] = []
        if served.attends:
            of_users = bag_parts(ranker, _attended(ranker, fields[place], profiles), "mean")
        for event, name in enumerate(served.schema.events):
            one = of_users[ends[event] : ends[event + 1]] @ meets[place, event] @ of_items[start:end].T
            mine = profiles.values[ends[event] : ends[event + 1]].tolist()
            theirs = tokens.values[start:end].tolist()
            pairs += [
                (name, mine[k], theirs[j], value)
                for k, line in enumerate(one.tolist())
                for j, value in enumerate(line)
            ]
        total = sum(abs(pair[3]) for pair in pairs) or 1.0
        pairs.sort(key=lambda pair: -abs(pair[3]))
        found.append([(*pair, abs(pair[3]) / total) for pair in pairs[:top]])
    return found


@torch.no_grad()
def bag_parts(ranker: Ranker, lists: Lists, pooling: str) -> Tensor:
    """What each entry of `lists` adds to its list's bag, [nnz, D]: the parts of a list sum to its bag.

    Normalising takes off the mean over dimensions, which is a sum over tokens too, and divides by one number a list.
    """
    width, lengths = ranker.config.embedding_dim, lists.offsets.diff()
    if ranker.config.token_table == "hash":
        vectors = ranker.token_hash.rows(lists.values)
    else:
        vectors = F.embedding(lists.values, ranker.token_table)
    parts = vectors * lists.weights[:, None]
    owner = torch.repeat_interleave(lengths)
    if pooling == "sum":
        mass = lists.weights.new_zeros(len(lengths)).index_add_(0, owner, lists.weights)
        louder = lengths / torch.where(mass == 0, 1.0, mass)
        loud: Tensor = parts * (louder[owner, None] * ranker.config.bag_scale)
        return loud
    parts = parts - parts.mean(1, keepdim=True)
    bags = parts.new_zeros(len(lengths), width).index_add_(0, owner, parts)
    spread = (bags.square().mean(1) + _EPSILON).sqrt()
    scaled: Tensor = parts * (ranker.config.bag_scale / width**0.5) / spread[owner, None]
    return scaled


@torch.no_grad()
def _attended(ranker: Ranker, fields: Tensor, lists: Lists) -> Lists:
    """`lists` [E], weighted as the item whose `fields` [F, D] are given sees them."""
    by_name = dict(zip(ranker.schema.fields, fields, strict=True))
    attention = ranker.attention
    item = torch.cat([by_name[name] for name in attention.fields])
    queries = (item @ attention.weight * attention.scale).view(len(attention.events), -1)
    if ranker.config.token_table == "hash":
        keys = ranker.token_hash.rows(lists.values)
    else:
        keys = F.embedding(lists.values, ranker.token_table)
    owner = torch.repeat_interleave(lists.offsets.diff())
    scores = (queries[owner] * keys).sum(1)
    weights = lists.weights.clamp(min=0) * torch.exp(scores)
    total = weights.new_zeros(len(attention.events)).index_add_(0, owner, weights)
    return lists._replace(weights=weights / total.clamp(min=torch.finfo(total.dtype).tiny)[owner])


def _meetings(served: Served, fields: Tensor, task: int) -> Tensor:
    """The logit's mixed second derivative by each profile's vector and the item's bag, at `fields`: [C, E, D, D]."""
    names = served.schema.fields
    item = names.index("tokens")
    users = [names.index(f"profile.{event}") for event in served.schema.events]
    with torch.inference_mode(False), torch.enable_grad():
        fields = fields.detach().clone().requires_grad_()
        logit = served.from_fields(fields)[:, task].sum()
        (slope,) = torch.autograd.grad(logit, fields, create_graph=True)
        parts = []
        for dimension in range(served.width):
            by_item = slope[:, item, dimension].sum()
            if by_item.requires_grad:
                (second,) = torch.autograd.grad(by_item, fields, retain_graph=True)
                parts.append(second[:, users])
            else:  # no pair meets: the logit is linear in the item's bag
                parts.append(torch.zeros_like(fields[:, users]))
    return torch.stack(parts, dim=-1).detach()  # [C, E, D of the profile, D of the item]
