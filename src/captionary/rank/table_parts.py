"""This process's rows of the tables that many processes share: where TorchRec's kernels have them, kept and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from captionary.rank.part_reader import PartReader
from captionary.rank.processes import Processes
from captionary.rank.sharded import TableSpec
from captionary.rank.sharded_state import quiet

__all__ = ["TablePart", "find_parts", "known_rows", "load_tables", "spread"]

Parts = Mapping[TableSpec, Sequence["TablePart"]]

_AXES = {"adagrad": 2, "rowwise_adagrad": 1, "sgd": -1}  # of the accumulators of a table


class TablePart(NamedTuple):
    """Some rows of a table, where TorchRec's kernel has them."""

    spec: TableSpec
    start: int
    weight: Tensor
    """[n, padded]."""
    total: Tensor | None
    """Their accumulators, [n] or [n, padded]."""
    share: float
    """What the accumulators are multiplied with, beside ours."""

    @property
    def end(self) -> int:
        """The row after its last."""
        return self.start + len(self.weight)

    def fill(self, start: int, rows: Tensor) -> None:
        """Take over those of `rows`, of which the first is row `start`, that are here."""
        low, high = max(start, self.start), min(start + len(rows), self.end)
        if low < high:
            to = self.weight.detach()[low - self.start : high - self.start]
            to.zero_()
            to[:, : rows.shape[1]] = rows[low - start : high - start].to(to.device)

    def rows(self) -> Tensor:
        """[n, width], a copy."""
        return self.weight.detach()[:, : self.spec.width].contiguous()

    def sums(self) -> Tensor:
        """Their accumulators as ours are, a copy."""
        assert self.total is not None
        used = self.total if self.total.ndim == 1 else self.total[:, : self.spec.width]
        return (used / self.share).contiguous()

    def fill_sums(self, sums: Tensor) -> None:
        """Take over the accumulators of its first rows (and columns), as ours are."""
        assert self.total is not None
        used = self.total[: len(sums)]
        if sums.ndim == 2:  # of another width where biases, say, came or went
            sums = sums[:, : self.spec.width]
            used = used[:, : sums.shape[1]]
        used.copy_(sums[: len(used)] * self.share)


def find_parts(
    parallel: Any, fused: Any, specs: Sequence[TableSpec], *, kind: str, damping: float
) -> dict[TableSpec, list[TablePart]]:
    """Views of what TorchRec's kernels change; accumulators begin at `damping`.

    Args:
        parallel: TorchRec's `DistributedModelParallel`.
        fused: its fused optimizer.
        specs: the tables.
        kind: of optimizer.
        damping: initial accumulator.
    """
    weights = {
        name.split(".embeddings.")[1].removesuffix(".weight"): value
        for name, value in parallel.state_dict().items()
        if name.startswith("collections.")
    }
    sums = {}
    for values in fused.state_dict()["state"].values():
        for name, value in values.items():
            if name.endswith(".momentum1"):
                sums[name.removesuffix(".momentum1")] = value
    found: dict[TableSpec, list[TablePart]] = {}
    for spec in specs:
        accumulated = {
            shard.metadata.shard_offsets[0]: shard.tensor
            for shard in (sums[spec.key].local_shards() if kind != "sgd" and spec.key in sums else [])
        }
        found[spec] = []
        share = spec.share if kind == "rowwise_adagrad" else 1.0
        for shard in weights[spec.key].local_shards():
            start = shard.metadata.shard_offsets[0]
            total = accumulated.get(start)
            if total is not None:
                total.fill_(damping * share)
            found[spec].append(TablePart(spec, start, shard.tensor, total, share))
    return found


def spread(parts: Sequence[tuple[int, Tensor]], rank: int, *size: int) -> Any:
    """A tensor of that size of which this process has `parts` (first row, values); all processes call it."""
    from torch.distributed._shard.sharded_tensor import init_from_local_shards
    from torch.distributed._shard.sharded_tensor.shard import Shard

    local = [
        Shard.from_tensor_and_offsets(values, [start, 0][: len(size)], rank)
        for start, values in parts
        if len(values)
    ]
    with quiet():
        return init_from_local_shards(local, *size)


def known_rows(kept: PartReader, spec: TableSpec) -> int:
    """How many of a table's rows a checkpoint has values for: all of a table of ids that it has."""
    size = kept.sizes.get(f"ranker.{spec.parameter}")
    if size is None or not spec.stream:
        return 0
    return spec.rows if spec.of_ids else min(size[0], spec.rows)


def load_tables(kept: PartReader, parts: Parts, team: Processes, *, kind: str, same: bool) -> None:
    """Rows and accumulators that a checkpoint has, a table at a time; all processes call it.

    Args:
        kept: the checkpoint.
        parts: of the tables, which may have gained rows: those of ids start from row 0, by which their ids were
            scored so far, others stay as they are, and so do accumulators.
        team: the processes.
        kind: of optimizer; accumulators of another kind are not taken.
        same: whether it is of this very training. Of another's, hashed tables keep the values that they have: what
            theirs mean here depends on all sizes.
    """
    for spec, here in parts.items():
        name = f"ranker.{spec.parameter}"
        if (same or spec.stream) and name in kept.sizes:
            rows, columns = kept.sizes[name]
            for part, values in zip(here, _load(kept, name, here, spec, team.rank), strict=True):
                part.fill(part.start, values[:, : spec.width])
            if spec.of_ids and rows < spec.rows:
                _start_new_ids(here, rows, min(columns, spec.width), team)
        name = f"optimizers.table.{spec.parameter}"
        size = kept.sizes.get(name, ())
        whole = bool(size) and size[0] == spec.rows
        if len(size) == _AXES[kind] and (whole or spec.grows):
            for part, values in zip(here, _load(kept, name, here, spec, team.rank), strict=True):
                part.fill_sums(values)


def _load(kept: PartReader, name: str, here: Sequence[TablePart], spec: TableSpec, rank: int) -> list[Tensor]:
    """What a checkpoint has for the rows of each part; rows that the table has lost are read by its last part."""
    size, loaded = kept.sizes[name], []
    for part in here:
        end = size[0] if part.end == spec.rows else min(part.end, size[0])
        loaded.append(torch.zeros(max(0, end - part.start), *size[1:]))
    starts = [part.start for part in here]
    kept.read({name: spread(list(zip(starts, loaded, strict=True)), rank, *size)})
    return loaded


def _start_new_ids(here: Sequence[TablePart], known: int, columns: int, team: Processes) -> None:
    """Rows from `known` on become row 0, wherever that is."""
    unseen = torch.zeros(columns, device=team.device)
    for part in here:
        if part.start == 0:
            unseen += part.weight.detach()[0, :columns]
    dist.all_reduce(unseen)
    for part in here:
        gained = part.weight.detach()[max(0, known - part.start) :]
        gained.zero_()
        gained[:, :columns] = unseen
