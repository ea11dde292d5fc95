"""Train a ranker whose tables no single device can keep, with many processes that `torchrun` started.

    tables   spread over the processes by TorchRec's planner, their optimizer fused into the backward pass
    layers   on every process, their gradients averaged (torch's DistributedDataParallel)
    rows     each process brings its part of every batch, see `captionary.rank.portions`

Weights start from the same values, steps have the same learning rates, and optimizers add up the same gradients as one
process's training (`captionary.rank.fit`), whatever the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from captionary.errors import bad_value
from captionary.rank.course import Course
from captionary.rank.fit_settings import FitConfig
from captionary.rank.initial import seed_of
from captionary.rank.losses import task_loss
from captionary.rank.model import Batch, Ranker
from captionary.rank.optimizers import carry_layers, dense_optimizer, load_layers
from captionary.rank.part_reader import PartReader
from captionary.rank.portions import Portion, portions
from captionary.rank.processes import Processes
from captionary.rank.scan import scan, schema_of
from captionary.rank.sharded import ShardedRanker, plan_tables, stand_in
from captionary.rank.sharded_state import quiet, save_sharded
from captionary.rank.shards import Shards
from captionary.rank.state import Checkpoint
from captionary.rank.step import Watch, start_biases
from captionary.rank.stream import Encoder, Stream
from captionary.rank.table_parts import find_parts, known_rows, load_tables, spread
from captionary.rank.warm_start import Carrier

__all__ = ["DistributedTrainer"]


class DistributedTrainer(Course):
    """A ranker in training, of which this process has a part; all processes make and use it alike.

    Args:
        shards: what to learn from, on a disk that all processes see.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        team: the processes.
        resumed: a checkpoint of this very training to go on from.
        start: a checkpoint of an earlier training to begin with, of one process or of many; not with `resumed`.
        reading: see `captionary.rank.portions`.
        placement: see `plan_tables`.

    Raises:
        CaptionaryError: shards that a ranker cannot read, or that `start` does not fit, settings that TorchRec's
            kernels do not have, tables that fit nowhere.
    """

    def __init__(
        self,
        shards: Shards,
        config: FitConfig,
        seed: int,
        team: Processes,
        *,
        resumed: Path | None = None,
        start: Path | None = None,
        reading: str = "own",
        placement: Mapping[str, str] | None = None,
    ) -> None:
        if reading not in ("own", "all"):
            raise bad_value("reading", reading, "own or all")
        portion = Portion(team.rank, team.world, "own" if reading == "own" else "all")
        super().__init__(shards, config, seed, device=team.device, portion=portion)
        self.team, self.watch = team, Watch(config.stream.diverged)
        ranker, items = config.ranker, shards.items()
        source = resumed or start
        kept = PartReader(source, verify=team.rank == 0) if source is not None else None
        if kept is not None:
            shards.schema.check_continues(kept.said.schema, str(shards.root))
        found, begin = None, None
        if kept is not None and resumed is not None:
            self.vocabularies, self.schema = kept.vocabularies(), kept.ranker()[1]
            self._go_on(kept.said.progress)
        else:  # one process reads the columns of ids and tells the others
            if team.rank == 0:
                found = scan(shards, items, config, kept.vocabularies() if kept is not None else None)
            found = team.first(found)
            self.vocabularies = found.vocabularies
            self.schema = schema_of(shards, self.vocabularies, config)
        if kept is not None and resumed is None:
            begin = self._earlier(kept)
            self.before = kept.said.progress.before + kept.said.progress.done
        self.model = ShardedRanker(ranker, self.schema, seed, config.optimizer, begin=begin)
        learnt_before = resumed is not None or (begin is not None and bool(begin.schema.vocabulary))
        if config.features.token_vectors and not learnt_before:
            self.model.learnt = shards.token_vectors()
        if found is not None and begin is None:
            self.model.ranker.mean.copy_(torch.from_numpy(found.mean))
            self.model.ranker.scale.copy_(torch.from_numpy(found.scale))
            start_biases(self.model.ranker, found.labels)
        self._shard(placement or {}, kept)
        if kept is not None:
            self._load(kept, begin)
        mean, scale = (each.cpu().numpy() for each in (self.model.ranker.mean, self.model.ranker.scale))
        self.encoder = Encoder(shards, items, self.schema, self.vocabularies, mean, scale)

    def save(self, folder: Path, identity: Mapping[str, Any], log_bytes: int = 0) -> None:
        """Write a checkpoint, see `captionary.rank.sharded_state`."""
        progress = self.progress(self.team.first(log_bytes))
        about = Checkpoint(
            self.model.ranker, {}, self.vocabularies, progress, self.config, self.shards.schema, identity
        )
        save_sharded(folder, self._state(), about, self.schema)

    def _source(self, epoch: int, first: int) -> Stream:
        return portions(self.encoder, self.order, self.portion, epoch, self.last, first=first)

    def _shard(self, placement: Mapping[str, str], kept: PartReader | None) -> None:
        """Lay out the tables; what `kept` does not have starts as one process's ranker does."""
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
            self.model.factor = self.model.factor.to(team.device)
            parallel = DistributedModelParallel(
                self.model,
                env=ShardingEnv.from_process_group(dist.group.WORLD),
                device=team.device,
                plan=plan,
                sharders=sharders,
            )
        self.module, self.fused = parallel, parallel.fused_optimizer
        self._rates = [group["lr"] for group in self.fused.param_groups]
        self._parts = find_parts(
            parallel,
            self.fused,
            self.model.specs,
            kind=self.config.optimizer.table,
            damping=ranker.embedding_damping,
        )
        for spec in self.model.specs:
            if kept is not None and known_rows(kept, spec) == spec.rows:
                continue
            for start, rows in self.model.start(spec):
                for part in self._parts[spec]:
                    part.fill(start, rows)
        named = {name: p for name, p in self.model.ranker.named_parameters() if p.requires_grad}
        self._layers = named
        self.layers = dense_optimizer(
            self.config.optimizer.dense, list(named.values()), lr=ranker.dense_lr, decay=ranker.dense_decay
        )

    def _learn(self, batch: Batch, labels: Tensor) -> tuple[int, float]:
        config, team = self.config.ranker, self.team
        stream = f"dropout {self.before + self.done}" + (f" process {team.rank}" if team.rank else "")
        torch.manual_seed(seed_of(self.seed, stream))
        factor = self.factor
        for group, rate in zip(self.fused.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self.fused.step()  # tells the kernels, which take their rate with them when they look up
        output = self.module(batch)
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
        return int(all_rows), value

    def _state(self) -> dict[str, Any]:
        """What a checkpoint keeps, under one process's names."""
        inner, kind = self.model.ranker, self.config.optimizer.table
        tables = {spec.parameter for spec in self.model.specs}
        state: dict[str, Any] = {
            f"ranker.{name}": value for name, value in inner.state_dict().items() if name not in tables
        }
        for spec, parts in self._parts.items():
            size = (spec.rows, spec.width)
            rows = [(part.start, part.rows()) for part in parts]
            state[f"ranker.{spec.parameter}"] = spread(rows, self.team.rank, *size)
            if kind != "sgd":
                sums = [(part.start, part.sums()) for part in parts]
                axes = size if kind == "adagrad" else size[:1]
                state[f"optimizers.table.{spec.parameter}"] = spread(sums, self.team.rank, *axes)
        for name, parameter in self._layers.items():
            for key, value in self.layers.state.get(parameter, {}).items():
                state[f"optimizers.layer.{name}.{key}"] = value
        state["optimizers.done"] = torch.tensor(self.before + self.done)
        state["optimizers.watch"] = self.watch.state()
        return state

    def _earlier(self, kept: PartReader) -> Ranker:
        """The layers of an earlier training's ranker."""
        ranker = stand_in(*kept.ranker(), self.seed)
        shapes = {f"ranker.{name}": value for name, value in ranker.state_dict().items()}
        kept.read({name: value for name, value in shapes.items() if kept.sizes.get(name) == value.shape})
        return ranker

    def _load(self, kept: PartReader, begin: Ranker | None) -> None:
        """Go on where `kept` is, or begin with what it learnt; `begin`: its layers."""
        state = {
            name: torch.zeros(size)
            for name, size in kept.sizes.items()
            if name.startswith("optimizers.layer.")
        }
        if begin is None:
            tables = {spec.parameter for spec in self.model.specs}
            weights = self.model.ranker.state_dict()
            state |= {f"ranker.{name}": value for name, value in weights.items() if name not in tables}
            state["optimizers.watch"] = torch.zeros(kept.sizes["optimizers.watch"], dtype=torch.float64)
        kept.read(state)
        moments = {
            name.removeprefix("optimizers."): value
            for name, value in state.items()
            if name.startswith("optimizers.layer.")
        }
        if begin is None:
            self.watch.load(state["optimizers.watch"])
            load_layers(self.layers, self._layers, moments)
        else:
            carry_layers(self.layers, self._layers, moments, Carrier(begin, self.model.ranker))
        kind = self.config.optimizer.table
        load_tables(kept, self._parts, self.team, kind=kind, same=begin is None)
