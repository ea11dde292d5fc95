"""Weighted pooling of jagged token lists, with a gradient that costs a fraction of `embedding_bag`'s own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Lists", "pool"]


class Lists(NamedTuple):
    """M jagged lists as tensors.

    lists    [[7, 3], [], [5]]
    values   [7, 3, 5]        int64   [nnz]
    offsets  [0, 2, 2, 3]     int64   [M + 1]
    weights  [.5, .5, 1.]     float32 [nnz]
    """

    values: Tensor
    offsets: Tensor
    weights: Tensor


def pool(table: Tensor, lists: Lists) -> Tensor:
    """The weighted sum of each list's rows of `table` [V, D], as [M, D]; zeros for an empty list."""
    pooled: Tensor = _Pool.apply(table, *lists)  # type: ignore[no-untyped-call]
    return pooled


class _Pool(torch.autograd.Function):
    """The gradient is pooled over the transposed lists: for each token, the lists that hold it.

    `embedding_bag` sorts token ids and sums rows one by one; here both passes are its fast forward kernel.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, offsets, weights)
        ctx.rows = table.shape[0]
        return F.embedding_bag(
            values, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        values, offsets, weights = ctx.saved_tensors
        owners = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=values.device), offsets.diff())
        # 16-bit keys take torch's radix sort; stable, so that sums have one order
        keys = values.short() if ctx.rows <= 1 << 15 else values
        order = torch.sort(keys, stable=True).indices
        ends = F.pad(torch.bincount(values, minlength=ctx.rows).cumsum(0), (1, 0))
        grad = F.embedding_bag(
            owners[order],
            grads[0].contiguous(),
            ends,
            mode="sum",
            per_sample_weights=weights[order],
            include_last_offset=True,
        )
        return grad, None, None, None
