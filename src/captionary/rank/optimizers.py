"""Optimizers for tables, exact for sparse as for dense gradients; and those of the layers.

All of them see the gradients of single rows' losses, summed: the mean of the loss over a batch is undone, so that
neither damping nor learning rate depends on the batch. A row without a gradient stays as it is, its accumulator and
its decay included, so a sparse gradient (`sparse_rows` of the ranker's config) gives the update of the dense one.

    adagrad            s += g g               p -= lr g / (sqrt(s) + eps)     Duchi et al. 2011
    rowwise_adagrad    s += mean(g g)         p -= lr g / (sqrt(s) + eps)     one s a row: Gupta et al. 2014; fbgemm's
                                                                              and TorchRec's EXACT_ROWWISE_ADAGRAD
    sgd                                       p -= lr g
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from captionary.errors import bad_value, nearest
from captionary.rank import table_kernels
from captionary.rank.fit_settings import DENSE_OPTIMIZERS, TABLE_OPTIMIZERS

if TYPE_CHECKING:
    from captionary.rank.warm_start import Carrier

__all__ = [
    "EPSILON",
    "RowWiseAdagrad",
    "TableAdagrad",
    "TableOptimizer",
    "TableSGD",
    "carry_layers",
    "dense_optimizer",
    "load_layers",
    "table_optimizer",
]

EPSILON = 1e-8
"""Of Adagrad, added to the root of its accumulator."""


class TableSGD:
    """Plain stochastic gradient descent, and what the optimizers of tables have in common.

    Args:
        tables: what to train, each [rows, width].
        lr: learning rate.
        decay: decoupled L2 (Loshchilov and Hutter 2019): a row that has a gradient also loses this share x lr of
            itself, >= 0. Rows that do not occur do not fade.
    """

    def __init__(self, tables: Sequence[nn.Parameter], lr: float, *, decay: float = 0.0) -> None:
        self.tables, self.lr, self.decay = list(tables), lr, decay
        self.sums: list[Tensor] = []
        """The accumulator of each table; none without accumulators."""
        self._stamps, self._turn = np.zeros(0, np.int64), 1  # scratch of `merge_rows`

    @torch.no_grad()
    def step(self, factor: float, rows: float) -> None:
        """Apply and clear the gradients.

        Args:
            factor: on the learning rate.
            rows: what undoes the mean in the loss, so that `damping` does not depend on the batch.
        """
        for place, table in enumerate(self.tables):
            if table.grad is None:
                continue
            if table.grad.is_sparse and table.device.type == "cpu" and table.dtype == torch.float32:
                self._compiled(place, table, table.grad, factor, rows)
            elif table.grad.is_sparse:
                grad = table.grad.coalesce()
                self._sparse(place, table, grad.indices()[0], grad.values() * rows, factor)
            else:
                self._dense(place, table, table.grad * rows, factor)
            table.grad = None

    def _compiled(self, place: int, table: Tensor, grad: Tensor, factor: float, rows: float) -> None:
        """Move the rows that a sparse gradient names, where they lie."""
        if len(self._stamps) < len(table):
            self._stamps, self._turn = np.zeros(max(map(len, self.tables)), np.int64), 1
        index, values = grad._indices()[0].numpy(), grad._values().contiguous().numpy()
        found, merged = table_kernels.merge_rows(index, values, self._stamps, self._turn)
        self._turn += len(index)
        rate = self.lr * factor
        numbers = tuple(np.float32(each) for each in (rows, rate, EPSILON, 1 - rate * self.decay))
        self._move_rows(place, (table.detach().numpy(), found, merged), numbers)

    def _move_rows(self, place: int, parts: tuple[Any, ...], numbers: tuple[Any, ...]) -> None:  # noqa: ARG002
        scale, rate, _, fade = numbers
        table_kernels.sgd_rows(*parts, scale, rate, fade)

    def _sparse(self, place: int, table: Tensor, index: Tensor, grad: Tensor, factor: float) -> None:
        old = table[index]
        if self.decay:
            self._fade(old, grad, factor)
        if self.sums:
            seen = self._add(self.sums[place][index], grad)
            self.sums[place][index] = seen
            table[index] = old.sub_(self._move(grad, seen, factor))
        else:
            table[index] = old.sub_(grad, alpha=self.lr * factor)

    def _dense(self, place: int, table: Tensor, grad: Tensor, factor: float) -> None:
        if self.decay:
            self._fade(table, grad, factor)
        if self.sums:
            table.sub_(self._move(grad, self._add(self.sums[place], grad), factor))
        else:
            table.sub_(grad, alpha=self.lr * factor)

    def _fade(self, rows: Tensor, grad: Tensor, factor: float) -> None:
        learns = grad.ne(0).any(dim=1, keepdim=True)
        rows.mul_(1 - self.lr * factor * self.decay * learns)

    def _add(self, total: Tensor, grad: Tensor) -> Tensor:
        """Add a gradient to an accumulator in place."""
        raise NotImplementedError

    def _move(self, grad: Tensor, total: Tensor, factor: float) -> Tensor:
        return grad / (total.sqrt() + EPSILON) * (self.lr * factor)


class TableAdagrad(TableSGD):
    """Adagrad: an accumulator for each number.

    Args:
        tables, lr, decay: as of `TableSGD`.
        damping: initial accumulator.
    """

    def __init__(
        self, tables: Sequence[nn.Parameter], lr: float, damping: float, *, decay: float = 0.0
    ) -> None:
        super().__init__(tables, lr, decay=decay)
        self.sums = [torch.full_like(table, damping) for table in tables]

    def _move_rows(self, place: int, parts: tuple[Any, ...], numbers: tuple[Any, ...]) -> None:
        table, found, merged = parts
        table_kernels.adagrad_rows(table, self.sums[place].numpy(), found, merged, *numbers)

    def _add(self, total: Tensor, grad: Tensor) -> Tensor:
        return total.addcmul_(grad, grad)


class RowWiseAdagrad(TableSGD):
    """Adagrad with one accumulator a row, which adds the mean square of the row's gradient: memory of 1 / width.

    Args:
        tables, lr, decay: as of `TableSGD`.
        damping: initial accumulator.
    """

    def __init__(
        self, tables: Sequence[nn.Parameter], lr: float, damping: float, *, decay: float = 0.0
    ) -> None:
        super().__init__(tables, lr, decay=decay)
        self.sums = [table.new_full((len(table),), damping) for table in tables]

    def _move_rows(self, place: int, parts: tuple[Any, ...], numbers: tuple[Any, ...]) -> None:
        table, found, merged = parts
        table_kernels.rowwise_adagrad_rows(table, self.sums[place].numpy(), found, merged, *numbers)

    def _add(self, total: Tensor, grad: Tensor) -> Tensor:
        return total.add_(grad.square().mean(dim=1))

    def _move(self, grad: Tensor, total: Tensor, factor: float) -> Tensor:
        return super()._move(grad, total.unsqueeze(1), factor)


TableOptimizer = TableSGD
"""The type of all three."""


def table_optimizer(
    name: str, tables: Sequence[nn.Parameter], *, lr: float, damping: float = 0.0, decay: float = 0.0
) -> TableOptimizer:
    """The optimizer of that name (see the module) for `tables`.

    Raises:
        CaptionaryError: no such optimizer.
    """
    if name == "adagrad":
        return TableAdagrad(tables, lr, damping, decay=decay)
    if name == "rowwise_adagrad":
        return RowWiseAdagrad(tables, lr, damping, decay=decay)
    if name == "sgd":
        return TableSGD(tables, lr, decay=decay)
    raise bad_value("optimizer of tables", name, nearest(name, TABLE_OPTIMIZERS))


def dense_optimizer(
    name: str, layers: Sequence[nn.Parameter], *, lr: float, decay: float = 0.0
) -> torch.optim.Optimizer:
    """AdamW (decoupled decay), or Adam (decay as a part of the gradient), for the layers.

    Raises:
        CaptionaryError: no such optimizer.
    """
    if name not in DENSE_OPTIMIZERS:
        raise bad_value("optimizer of layers", name, nearest(name, DENSE_OPTIMIZERS))
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(layers, lr=lr, betas=(0.9, 0.99), weight_decay=decay)


def load_layers(
    layers: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Give the optimizer of layers its moments, on the device of each layer.

    Args:
        layers: the optimizer.
        named: its parameters by name.
        state: `layer.NAME.MOMENT` → values; those of a layer that is not there begin anew.
    """
    places = {parameter: place for place, parameter in enumerate(layers.param_groups[0]["params"])}
    loaded: dict[int, dict[str, Any]] = {}
    for key, value in state.items():
        name, _, part = key.removeprefix("layer.").rpartition(".")
        loaded.setdefault(places[named[name]], {})[part] = value.clone()
    said = layers.state_dict()
    said["state"] = loaded
    layers.load_state_dict(said)


def carry_layers(
    layers: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
    state: Mapping[str, Tensor],
    carrier: Carrier,
) -> None:
    """Let layers begin with the moments that an earlier ranker's had; what it did not have begins anew.

    Args:
        layers, named: as of `load_layers`.
        state: `layer.NAME.MOMENT` → values, of the earlier ranker; other names are passed over.
        carrier: from that ranker to this one.
    """
    moved: dict[str, Tensor] = {}
    for key, value in state.items():
        kind, _, rest = key.partition(".")
        name = rest.rpartition(".")[0]
        if kind != "layer" or name not in named:
            continue
        target = value.clone() if not value.ndim else torch.zeros_like(named[name])
        if not value.ndim or carrier.into(name, value, target) != "new":
            moved[key] = target
    whole = {key.rpartition(".")[0] for key in moved if moved[key].ndim}
    load_layers(
        layers, named, {key: value for key, value in moved.items() if key.rpartition(".")[0] in whole}
    )
