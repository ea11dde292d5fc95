"""Dot products of all pairs of field vectors, with a compiled backward pass that touches each pair once.

torch's own way back makes a gradient [F, F] of each impression, as if all products had been wanted, those of a field
with itself and both orders of a pair, and multiplies it with the fields twice.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captionary.rank.kernels import compiled

__all__ = ["dot_pairs"]


def dot_pairs(fields: Tensor, pairs: Tensor) -> Tensor:
    """f_i · f_j for j < i, in the order of `torch.tril_indices(F, F, -1)`: [B, F, D] → [B, F (F - 1) / 2].

    Args:
        fields: [B, F, D].
        pairs: i F + j of each pair.
    """
    dots: Tensor = _DotPairs.apply(fields, pairs)
    return dots


class _DotPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fields: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(fields, pairs)
        return torch.bmm(fields, fields.transpose(1, 2)).flatten(1).index_select(1, pairs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        fields, pairs = ctx.saved_tensors
        compiled_for = fields.device.type == "cpu" and fields.dtype == torch.float32
        # a gradient of the gradient may be wanted, such as explanations are checked by
        if torch.is_grad_enabled() or not compiled_for:
            count = fields.shape[1]
            whole = grads[0].new_zeros(len(fields), count * count).index_copy(1, pairs, grads[0])
            whole = whole.view(-1, count, count)
            return torch.bmm(whole + whole.transpose(1, 2), fields), None
        moved = torch.empty_like(fields, memory_format=torch.contiguous_format)
        dot_pairs_grad(grads[0].contiguous().numpy(), fields.contiguous().numpy(), moved.numpy())
        return moved, None


@compiled
def dot_pairs_grad(grads, fields, into):
    """The gradient of `dot_pairs` by its fields: grads [B, pairs], fields and into [B, F, D], which is written."""
    rows, count, width = fields.shape
    for row in range(rows):
        for one in range(count):
            for column in range(width):
                into[row, one, column] = 0
        pair = 0
        for one in range(count):
            for other in range(one):
                grad = grads[row, pair]
                for column in range(width):
                    into[row, one, column] += grad * fields[row, other, column]
                    into[row, other, column] += grad * fields[row, one, column]
                pair += 1
