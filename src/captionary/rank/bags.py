"""Weighted pooling of jagged token lists, with a gradient that costs a fraction of `embedding_bag`'s own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from captionary.rank import kernels

__all__ = ["Lists", "gather", "meet_lists", "pool", "pool_normalised"]


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


def pool(table: Tensor, lists: Lists, *, sparse: bool = False) -> Tensor:
    """The weighted sum of each list's rows of `table` [V, D], as [M, D]; zeros for an empty list.

    Args:
        table: token vectors.
        lists: what to pool.
        sparse: whether the gradient names the rows that occur alone, as of `torch.nn.functional.embedding`.
    """
    pooled: Tensor = _Pool.apply(table, *lists, sparse)  # type: ignore[no-untyped-call]
    return pooled


def pool_normalised(table: Tensor, lists: Lists, scale: float, *, sparse: bool = False) -> Tensor:
    """As `pool`, each row then without its mean and with a root mean square of `scale` (a layer norm): [M, D].

    A mean over many tokens is short: unless normalised, its dot products vanish beside those of ids.
    """
    if table.device.type != "cpu":
        return F.layer_norm(pool(table, lists, sparse=sparse), table.shape[1:]) * scale
    pooled: Tensor = _PoolNormalised.apply(table, *lists, scale, sparse)  # type: ignore[no-untyped-call]
    return pooled


def meet_lists(bags: Tensor, place: Tensor, fields: Tensor, columns: Tensor) -> Tensor:
    """Dot products of each bag of a row with some of the row's fields, [B, E, I].

    Args:
        bags: [P, D].
        place: [B, E] which of the P.
        fields: [B, F, D].
        columns: [I] which of the F.
    """
    if bags.device.type != "cpu":
        return torch.bmm(bags[place], fields[:, columns].transpose(1, 2))
    dots: Tensor = _Meet.apply(bags, place, fields, columns)  # type: ignore[no-untyped-call]
    return dots


def gather(table: Tensor, place: Tensor) -> Tensor:
    """``table[place]``: rows of [P, D] as [B, D], where most of the P are wanted."""
    rows: Tensor = _Gather.apply(table, place)  # type: ignore[no-untyped-call]
    return rows


class _Pool(torch.autograd.Function):
    """Forward is `embedding_bag`'s own kernel; its backward sorts the token ids, twenty times slower than a sum."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, values: Tensor, offsets: Tensor, weights: Tensor, sparse: bool
    ) -> Tensor:
        ctx.save_for_backward(values, offsets, weights)
        ctx.shape, ctx.sparse = table.shape, sparse
        return F.embedding_bag(
            values, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        values, offsets, weights = ctx.saved_tensors
        grad = grads[0].contiguous()
        if grad.device.type != "cpu":
            by_table = _transposed(grad, ctx.shape, values, offsets, weights, sparse=ctx.sparse)
            return by_table, None, None, None, None

        def add(values: Tensor, into: Tensor) -> None:
            kernels.add_lists(*_arrays(grad, values, offsets, weights, into))

        return _by_table(add, values, ctx.shape, ctx.sparse), None, None, None, None


class _PoolNormalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, values: Tensor, offsets: Tensor, weights: Tensor, scale: float, sparse: bool
    ) -> Tensor:
        rows = len(offsets) - 1
        pooled, spread = table.new_empty(rows, table.shape[1]), table.new_empty(rows)
        parts = _arrays(table.detach(), values, offsets, weights)
        kernels.pool_normalised(*parts, np.float32(scale), pooled.numpy(), spread.numpy())
        ctx.save_for_backward(values, offsets, weights, pooled, spread)
        ctx.shape, ctx.scale, ctx.sparse = table.shape, np.float32(scale), sparse
        return pooled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        values, offsets, weights, pooled, spread = ctx.saved_tensors
        known = _arrays(grads[0].contiguous(), pooled, spread)

        def add(values: Tensor, into: Tensor) -> None:
            kernels.pool_normalised_grad(*known, ctx.scale, *_arrays(values, offsets, weights, into))

        return _by_table(add, values, ctx.shape, ctx.sparse), None, None, None, None, None


class _Meet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bags: Tensor, place: Tensor, fields: Tensor, columns: Tensor) -> Tensor:
        given = [part.detach().contiguous() for part in (bags, place, fields, columns)]
        ctx.save_for_backward(*given)
        dots = bags.new_empty(*place.shape, len(columns))
        kernels.meet_lists(*_arrays(*given, dots))
        return dots

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, None]:
        bags, _, fields, _ = ctx.saved_tensors
        by_bags, by_fields = torch.zeros_like(bags), torch.zeros_like(fields)
        parts = (grads[0].contiguous(), *ctx.saved_tensors, by_bags, by_fields)
        kernels.meet_lists_grad(*_arrays(*parts))
        return by_bags, None, by_fields, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.shape = table.shape
        return table.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        grad = grads[0]
        summed = torch.zeros(ctx.shape, dtype=grad.dtype, device=grad.device)
        if grad.device.type != "cpu":
            return summed.index_add_(0, place, grad), None
        kernels.add_rows(grad.contiguous().numpy(), place.numpy(), summed.numpy())
        return summed, None


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.numpy() for tensor in tensors]


def _by_table(
    add: Callable[[Tensor, Tensor], None], values: Tensor, shape: tuple[int, int], sparse: bool
) -> Tensor:
    """The gradient of a table that `add` adds to a tensor's rows, by their numbers; of the rows that occur alone."""
    if not sparse:
        summed = torch.zeros(shape)
        add(values, summed)
        return summed
    tokens, place = kernels.distinct(values.numpy(), np.zeros(shape[0], np.int64), 1)
    summed = torch.zeros(len(tokens), shape[1])
    add(torch.from_numpy(place), summed)
    index = torch.from_numpy(tokens)[None]
    return torch.sparse_coo_tensor(index, summed, shape, check_invariants=False)


def _transposed(
    grad: Tensor, shape: tuple[int, int], values: Tensor, offsets: Tensor, weights: Tensor, *, sparse: bool
) -> Tensor:
    """The gradient by the fast forward kernel, over the transposed lists: for each token, the lists that hold it."""
    owners = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=values.device), offsets.diff())
    ordered, order = torch.sort(values, stable=True)
    if sparse:
        tokens, counts = torch.unique_consecutive(ordered, return_counts=True)
    else:
        tokens, counts = None, torch.bincount(values, minlength=shape[0])
    summed = F.embedding_bag(
        owners[order],
        grad,
        F.pad(counts.cumsum(0), (1, 0)),
        mode="sum",
        per_sample_weights=weights[order],
        include_last_offset=True,
    )
    if tokens is None:
        return summed
    return torch.sparse_coo_tensor(tokens[None], summed, shape, check_invariants=False, is_coalesced=True)
