"""Adagrad (Duchi et al. 2011) for tables, exact for sparse and for dense gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TableAdagrad"]

_EPS = 1e-8


class TableAdagrad:
    """A row without a gradient stays as it is, so a sparse gradient gives the update of the dense one.

    Args:
        tables: what to train.
        lr: learning rate.
        damping: initial accumulator.
    """

    def __init__(self, tables: list[nn.Parameter], lr: float, damping: float) -> None:
        self.tables, self.lr = tables, lr
        self.sums = [torch.full_like(table, damping) for table in tables]

    @torch.no_grad()
    def step(self, factor: float, rows: int) -> None:
        """Apply and clear the gradients.

        Args:
            factor: on the learning rate.
            rows: what undoes the mean in the loss, so that `damping` does not depend on the batch.
        """
        for table, total in zip(self.tables, self.sums, strict=True):
            if table.grad is None:
                continue
            if table.grad.is_sparse:
                grad = table.grad.coalesce()
                index, values = grad.indices()[0], grad.values() * rows
                seen = total[index].addcmul_(values, values)
                total[index] = seen
                table[index] = table[index].sub_(self._move(values, seen, factor))
            else:
                values = table.grad * rows
                total.addcmul_(values, values)
                table.sub_(self._move(values, total, factor))
            table.grad = None

    def _move(self, grad: Tensor, total: Tensor, factor: float) -> Tensor:
        return grad / (total.sqrt() + _EPS) * (self.lr * factor)
