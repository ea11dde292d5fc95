"""Train a ranker whose tables no single device can keep, with many processes that `torchrun` started.

    tables   spread over the processes by TorchRec's planner, their optimizer fused into the backward pass
    layers   on every process, their gradients averaged (torch's DistributedDataParallel)
    rows     each process brings its part of every batch, see `captionary.rank.portions`

Weights start from the same values, steps have the same learning rates, and optimizers add up the same gradients as one
process's training (`captionary.rank.fit`), whatever the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from captionary.errors import bad_value
from captionary.rank.fit_settings import FitConfig
from captionary.rank.initial import seed_of
from captionary.rank.losses import task_loss
from captionary.rank.model import Batch
from captionary.rank.optimizers import dense_optimizer
from captionary.rank.portions import Portion, portions, steps_of
from captionary.rank.processes import Processes
from captionary.rank.scan import scan, schema_of
from captionary.rank.sharded import ShardedRanker, TablePart, TableSpec, plan_tables
from captionary.rank.sharded_state import load_into, quiet, read_about, save_sharded
from captionary.rank.shards import Shards
from captionary.rank.state import Checkpoint, Progress
from captionary.rank.step import Watch, learning_rate_factor, start_biases
from captionary.rank.stream import Encoder, Order, prefetched

__all__ = ["DistributedTrainer"]


class DistributedTrainer:
    """A ranker in training, of which this process has a part; all processes make and use it alike.

    Args:
        shards: what to learn from, on a disk that all processes see.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        team: the processes.
        resumed: a checkpoint of this very training to go on from.
        reading: see `captionary.rank.portions`.
        placement: see `plan_tables`.

    Raises:
        CaptionaryError: shards that a ranker cannot read, settings that TorchRec's kernels do not have, tables that
            fit nowhere.
    """

    def __init__(
        self,
        shards: Shards,
        config: FitConfig,
        seed: int,
        team: Processes,
        *,
        resumed: Path | None = None,
        reading: str = "own",
        placement: Mapping[str, str] | None = None,
    ) -> None:
        if reading not in ("own", "all"):
            raise bad_value("reading", reading, "own or all")
        ranker, items = config.ranker, shards.items()
        self.shards, self.config, self.seed, self.team = shards, config, seed, team
        self.total = shards.rows("train")
        self.portion = Portion(team.rank, team.world, "own" if reading == "own" else "all")
        self.order = Order(
            seed,
            ranker.shuffle_window,
            ranker.batch_size,
            ranker.unseen_share,
            ranker.unseen_items_share,
            ranker.together,
        )
        self.epoch_steps = steps_of(self.portion, self.order, self.total)
        self.steps, self.done, self.seen = ranker.epochs * self.epoch_steps, 0, 0
        self.watch = Watch(config.stream.diverged)
        self._total, self._since = 0.0, 0
        found = None
        if resumed is not None:
            about, self.schema = read_about(resumed)
            self.vocabularies = about["vocabularies"]
        else:  # one process reads the columns of ids and tells the others
            found = team.first(scan(shards, items, config) if team.rank == 0 else None)
            self.vocabularies = found.vocabularies
            self.schema = schema_of(shards, self.vocabularies, config)
        self.model = ShardedRanker(ranker, self.schema, seed, config.optimizer)
        if found is not None:
            self.model.ranker.mean.copy_(torch.from_numpy(found.mean))
            self.model.ranker.scale.copy_(torch.from_numpy(found.scale))
            start_biases(self.model.ranker, found.labels)
        self._shard(placement or {})
        if resumed is not None:
            self._resume(resumed, about["progress"])
        mean, scale = (each.cpu().numpy() for each in (self.model.ranker.mean, self.model.ranker.scale))
        self.encoder = Encoder(shards, items, self.schema, self.vocabularies, mean, scale)

    @property
    def factor(self) -> float:
        """On the learning rates of the next step."""
        return learning_rate_factor(self.done / self.steps, self.config.ranker.cooldown)

    def train(self, until: int | None = None) -> Iterator[int]:
        """Learn up to step `until` (default: to the end); yields after each step how many rows all had in it.

        Raises:
            CaptionaryError: the loss is not finite, or far over where it began; see `Encoder.block`.
        """
        until = self.steps if until is None else min(until, self.steps)
        self.parallel.train()
        while self.done < until:
            epoch, first = divmod(self.done, self.epoch_steps)
            source = portions(self.encoder, self.order, self.portion, epoch, self.total, first=first)
            ahead = prefetched(source, self.config.stream.prefetch)
            try:
                for batch, labels in ahead:
                    with torch.random.fork_rng(devices=[]):
                        rows, loss = self._step(_to(batch, self.team.device), labels.to(self.team.device))
                    self.seen, self._since = self.seen + rows, self._since + rows
                    self._total += loss * rows
                    yield rows
                    if self.done >= until:
                        break
            finally:
                ahead.close()

    def mean_loss(self) -> float:
        """Mean loss of the rows since the last call."""
        mean = self._total / max(1, self._since)
        self._total, self._since = 0.0, 0
        return mean

    def save(self, folder: Path, identity: Mapping[str, Any], log_bytes: int = 0) -> None:
        """Write a checkpoint, see `captionary.rank.sharded_state`."""
        epoch, batch = divmod(self.done, self.epoch_steps)
        row = min(batch * self.order.batch_size, self.total)
        shard, group, offset = self.shards.place("train", row)
        where = (shard, group, offset, self.team.first(log_bytes), self._total, self._since)
        progress = Progress(self.steps, self.done, 0, self.seen, epoch, batch, *where)
        about = Checkpoint(
            self.model.ranker, {}, self.vocabularies, progress, self.config, self.shards.schema, identity
        )
        save_sharded(folder, self._state(whole=True), about, self.schema)

    def _shard(self, placement: Mapping[str, str]) -> None:
        from torchrec.distributed import DistributedModelParallel
        from torchrec.distributed.types import ShardingEnv

        team, ranker = self.team, self.config.ranker
        with quiet():
            plan, sharders = plan_tables(
                self.model,
                device=team.device,
                local_world=team.local_world,
                rows=max(1, ranker.batch_size // team.world),
                placement=placement,
            )
            self.plan = str(plan)
            self.model.ranker.to(team.device)
            self.parallel = DistributedModelParallel(
                self.model,
                env=ShardingEnv.from_process_group(dist.group.WORLD),
                device=team.device,
                plan=plan,
                sharders=sharders,
            )
        self.fused = self.parallel.fused_optimizer
        self._rates = [group["lr"] for group in self.fused.param_groups]
        self._find_parts()
        for spec in self.model.specs:
            for start, rows in self.model.start(spec):
                for part in self._parts[spec]:
                    part.fill(start, rows)
        named = {name: p for name, p in self.model.ranker.named_parameters() if p.requires_grad}
        self._layers = named
        self.layers = dense_optimizer(
            self.config.optimizer.dense, list(named.values()), lr=ranker.dense_lr, decay=ranker.dense_decay
        )

    def _find_parts(self) -> None:
        """This process's rows of each table and their accumulators, as views of what TorchRec's kernels change."""
        weights = {
            name.split(".embeddings.")[1].removesuffix(".weight"): value
            for name, value in self.parallel.state_dict().items()
            if name.startswith("collections.")
        }
        sums = {}
        for values in self.fused.state_dict()["state"].values():
            for name, value in values.items():
                if name.endswith(".momentum1"):
                    sums[name.removesuffix(".momentum1")] = value
        kind = self.config.optimizer.table
        self._parts: dict[TableSpec, list[TablePart]] = {}
        for spec in self.model.specs:
            parts = []
            accumulated = {
                shard.metadata.shard_offsets[0]: shard.tensor
                for shard in (sums[spec.key].local_shards() if kind != "sgd" and spec.key in sums else [])
            }
            for shard in weights[spec.key].local_shards():
                start = shard.metadata.shard_offsets[0]
                total = accumulated.get(start)
                share = spec.share if kind == "rowwise_adagrad" else 1.0
                if total is not None:
                    total.fill_(self.config.ranker.embedding_damping * share)
                parts.append(TablePart(spec, start, shard.tensor, total, share))
            self._parts[spec] = parts

    def _step(self, batch: Batch, labels: Tensor) -> tuple[int, float]:
        """(rows of the step, their mean loss before the update), of all processes."""
        config, team = self.config.ranker, self.team
        stream = f"dropout {self.done}" + (f" process {team.rank}" if team.rank else "")
        torch.manual_seed(seed_of(self.seed, stream))
        factor = self.factor
        for group, rate in zip(self.fused.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self.fused.step()  # tells the kernels, which take their rate with them when they look up
        output = self.parallel(batch)
        mean = task_loss(output.logits, labels, self.schema)
        given = (~torch.isnan(labels)).sum()
        rows = len(labels) if bool(given) else 0
        penalty = output.penalty * rows
        sums = torch.stack([mean.detach() * given, given, penalty.detach(), given.new_tensor(rows)]).double()
        dist.all_reduce(sums)
        loss_sum, count, _, all_rows = sums.tolist()
        value = loss_sum / max(1, count)
        where = f"step {self.done + 1} of {self.steps}, seed {self.seed}"
        todo = "lower embedding_lr or dense_lr"
        if not math.isfinite(value):
            raise bad_value("training loss", value, "finite", where=where, todo=todo)
        if rule := self.watch.look(value):
            raise bad_value("training loss", f"{self.watch.recent:.4g}", rule, where=where, todo=todo)
        # Every process's gradient is averaged, of layers by torch and of tables by TorchRec: times `world` it is a sum.
        loss = mean * (given * team.world / max(1, count))
        loss = loss + config.embedding_decay / 2 * penalty * (team.world / max(1, all_rows))
        self.model.factor.fill_(max(1, count))
        loss.backward()
        for group in self.layers.param_groups:
            group["lr"] = config.dense_lr * factor
        self.layers.step()
        self.layers.zero_grad()
        self.done += 1
        return int(all_rows), value

    def _state(self, *, whole: bool) -> dict[str, Any]:
        """What a checkpoint keeps, under one process's names; `whole`: with the layers' moments as they are."""
        inner = self.model.ranker
        tables = {spec.parameter for spec in self.model.specs}
        state: dict[str, Any] = {
            f"ranker.{name}": value for name, value in inner.state_dict().items() if name not in tables
        }
        for spec, parts in self._parts.items():
            state[f"ranker.{spec.parameter}"] = self._spread(
                [(part.start, part.rows()) for part in parts], spec.rows, spec.width
            )
            if self.config.optimizer.table != "sgd":
                size = (
                    (spec.rows,)
                    if self.config.optimizer.table == "rowwise_adagrad"
                    else (spec.rows, spec.width)
                )
                state[f"optimizers.table.{spec.parameter}"] = self._spread(
                    [(part.start, part.sums()) for part in parts], *size
                )
        if whole:
            for name, parameter in self._layers.items():
                for key, value in self.layers.state.get(parameter, {}).items():
                    state[f"optimizers.layer.{name}.{key}"] = value
            state["optimizers.done"] = torch.tensor(self.done)
            state["optimizers.watch"] = self.watch.state()
        return state

    def _spread(self, parts: list[tuple[int, Tensor]], *size: int) -> Any:
        """A tensor of that size of which this process has `parts` (first row, values)."""
        from torch.distributed._shard.sharded_tensor import init_from_local_shards
        from torch.distributed._shard.sharded_tensor.shard import Shard

        local = [
            Shard.from_tensor_and_offsets(values, [start, 0][: len(size)], self.team.rank)
            for start, values in parts
            if len(values)
        ]
        with quiet():
            return init_from_local_shards(local, *size)

    def _resume(self, folder: Path, progress: Progress) -> None:
        state = self._state(whole=False)
        if progress.done:
            for parameter in self._layers.values():  # AdamW has no moments before its first step
                parameter.grad = torch.zeros_like(parameter)
            kept = {name: p.detach().clone() for name, p in self._layers.items()}
            self.layers.step()
            self.layers.zero_grad()
            with torch.no_grad():
                for name, value in kept.items():
                    self._layers[name].copy_(value)
            for name, parameter in self._layers.items():
                for key, value in self.layers.state[parameter].items():
                    state[f"optimizers.layer.{name}.{key}"] = value
        seen = min(progress.done, 20)
        state["optimizers.watch"] = torch.zeros(
            2 + max(0, min(progress.done - seen, 20)), dtype=torch.float64
        )
        load_into(folder, state)
        self.watch.load(state["optimizers.watch"])
        for spec, parts in self._parts.items():
            names = (f"ranker.{spec.parameter}", f"optimizers.table.{spec.parameter}")
            loaded = [
                {shard.metadata.shard_offsets[0]: shard.tensor for shard in state[name].local_shards()}
                if name in state
                else {}
                for name in names
            ]
            for part in parts:
                part.load(*(each.get(part.start) for each in loaded))
        self.done, self.seen = progress.done, progress.rows
        self._total, self._since = progress.log_loss, progress.log_rows


def _to(part: Any, device: torch.device) -> Any:
    """A batch on a device."""
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(_to(each, device) for each in part))
    if isinstance(part, tuple):
        return tuple(_to(each, device) for each in part)
    if isinstance(part, Mapping):
        return {name: _to(each, device) for name, each in part.items()}
    return part
