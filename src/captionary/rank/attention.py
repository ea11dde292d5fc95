"""Profiles pooled as the item at hand sees them: its fields attend over the profile's tokens.

After the Deep Interest Network (Zhou et al. 2018), whose activation unit weighs a user's past by the candidate; here
the unit is a scaled dot product (Vaswani et al. 2017, §3.2.1), and a token's weight in its list is a prior:

    weight of token j in list p for impression b  ∝  w_j exp(q_b · k_j)         q_b = W_e (fields of the item)

W starts at zero, where the pooled list is its plain weighted mean: attention is learnt as a departure from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captionary.rank.bags import Lists
from captionary.rank.kernels import compiled

__all__ = ["ProfileAttention", "attend", "attend_by_torch"]


class ProfileAttention(nn.Module):
    """A query for each event type, from the fields of the item.

    Args:
        fields: names of the item's fields that the query is made from.
        events: names of the E event types.
        width: D of a field and of a token.
        scale: standard deviation of the initial token vectors: queries see them as of unit size.
    """

    def __init__(self, fields: tuple[str, ...], events: tuple[str, ...], width: int, scale: float) -> None:
        super().__init__()
        self.fields, self.events, self.scale = fields, events, 1 / (scale * width**0.5)
        self.weight = nn.Parameter(torch.zeros(len(fields) * width, len(events) * width))

    def forward(self, item: Tensor, tokens: Tensor, lists: Lists, place: Tensor) -> Tensor:
        """The profiles of B impressions, as [B, E, D]; zeros for an empty list.

        Args:
            item: [B, fields x D] the item's fields end to end.
            tokens: [nnz, D] the vector of each entry of `lists`.
            lists: P distinct lists.
            place: [B, E] which of them each profile is.
        """
        queries = (item @ self.weight * self.scale).view(place.numel(), -1)  # [B x E, D]
        return attend(queries, tokens, lists, place.reshape(-1)).view(*place.shape, -1)


def attend(queries: Tensor, tokens: Tensor, lists: Lists, place: Tensor) -> Tensor:
    """For each of N queries the weighted mean of its list's tokens, weights w_j exp(q · k_j): [N, D].

    Work and memory follow the tokens of the N pairs of a query and its list, not N times the longest list.

    Args:
        queries: [N, D].
        tokens: [nnz, D] the vector of each entry of `lists`, both key and value.
        lists: P lists; a token of weight 0 or less counts as absent.
        place: [N] which list each query reads.
    """
    usual = queries.device.type == "cpu" and queries.dtype == tokens.dtype == torch.float32
    if usual and not torch.compiler.is_compiling():
        attended: Tensor = _Attend.apply(queries, tokens, *lists[1:], place)  # type: ignore[no-untyped-call]
        return attended
    return attend_by_torch(queries, tokens, lists, place)


def attend_by_torch(queries: Tensor, tokens: Tensor, lists: Lists, place: Tensor) -> Tensor:
    """`attend` in operations of torch: on any device, of any float type, and to be traced or compiled."""
    lengths = lists.offsets.diff()[place]
    owner = torch.repeat_interleave(lengths)  # [n] the query of each pair of a query and a token
    ends = lengths.cumsum(0)
    entry = torch.arange(len(owner), device=place.device) + (lists.offsets[place] - ends + lengths)[owner]
    keys = tokens.index_select(0, entry)
    prior = lists.weights.clamp(min=0).log()[entry]
    scores = (queries.index_select(0, owner) * keys).sum(1) + prior
    # the greatest score of each list is taken off, so that no exponential overflows; it cancels out
    greatest = torch.segment_reduce(scores.detach(), "max", lengths=lengths, initial=float("-inf"))
    greatest = torch.where(greatest.isfinite(), greatest, 0.0)
    shares = torch.exp(scores - greatest[owner])
    total = shares.new_zeros(len(place)).index_add(0, owner, shares)
    summed = keys.new_zeros(len(place), keys.shape[1]).index_add(0, owner, shares[:, None] * keys)
    return summed / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]


class _Attend(torch.autograd.Function):
    """`attend` on a CPU: one pass over the pairs of a query and a token each way, nothing as long as they are many."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, tokens: Tensor, offsets: Tensor, weights: Tensor, place: Tensor
    ) -> Tensor:
        kept = [part.detach().contiguous() for part in (queries, tokens, offsets, weights, place)]
        attended = torch.zeros_like(kept[0])
        shares = torch.empty(int(kept[2].diff()[place].sum()))
        _attend(*(part.numpy() for part in (*kept, attended, shares)))
        ctx.save_for_backward(*kept, shares)
        return attended

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        queries, tokens, offsets, _, place, shares = ctx.saved_tensors
        by_query, by_token = torch.zeros_like(queries), torch.zeros_like(tokens)
        parts = (grads[0].contiguous(), queries, tokens, offsets, place, shares, by_query, by_token)
        _attend_grad(*(part.numpy() for part in parts))
        return by_query, by_token, None, None, None


@compiled
def _attend(queries, tokens, offsets, weights, place, attended, shares):  # type: ignore[no-untyped-def]
    """Fill `attended` [N, D], and `shares` [n] with the weight of each pair of a query and a token."""
    width, done = queries.shape[1], 0
    for index in range(len(place)):
        first, last = offsets[place[index]], offsets[place[index] + 1]
        greatest = np.float32(-np.inf)
        for token in range(first, last):
            score = np.float32(-np.inf)
            if weights[token] > 0:
                score = np.float32(np.log(weights[token]))
                for axis in range(width):
                    score += queries[index, axis] * tokens[token, axis]
            shares[done + token - first] = score
            greatest = max(greatest, score)
        total = np.float32(0)
        for token in range(first, last):
            share = np.float32(0)
            if shares[done + token - first] > -np.inf:
                share = np.float32(np.exp(shares[done + token - first] - greatest))
            shares[done + token - first] = share
            total += share
        for token in range(first, last):
            share = shares[done + token - first] / total if total > 0 else np.float32(0)
            shares[done + token - first] = share
            for axis in range(width):
                attended[index, axis] += share * tokens[token, axis]
        done += last - first


@compiled
def _attend_grad(grads, queries, tokens, offsets, place, shares, by_query, by_token):  # type: ignore[no-untyped-def]
    """Add to `by_query` [N, D] and `by_token` [nnz, D] what `grads` [N, D] of the attended means come to."""
    width, done = queries.shape[1], 0
    for index in range(len(place)):
        first, last = offsets[place[index]], offsets[place[index] + 1]
        mean = np.float32(0)  # of the tokens' gains, weighted by their shares
        for token in range(first, last):
            gain = np.float32(0)
            for axis in range(width):
                gain += grads[index, axis] * tokens[token, axis]
            mean += shares[done + token - first] * gain
        for token in range(first, last):
            share, gain = shares[done + token - first], np.float32(0)
            for axis in range(width):
                gain += grads[index, axis] * tokens[token, axis]
            score = share * (gain - mean)
            for axis in range(width):
                by_query[index, axis] += score * tokens[token, axis]
                by_token[token, axis] += share * grads[index, axis] + score * queries[index, axis]
        done += last - first
