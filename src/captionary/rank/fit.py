"""Train a ranker from shards of any size: one pass in the order of time, continued where it was killed, or tomorrow.

Two ways to continue. The same command again goes on in the middle of an epoch, and what comes out is, bit for bit, what
a training that nobody killed gives (on a CPU, with one number of threads). `start` begins a new training, on tomorrow's
shards, with what an earlier one learnt: its vocabularies grow, and a new id starts as the unseen id that it was until
then, so no prediction jumps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captionary.config import to_mapping
from captionary.errors import bad_value
from captionary.rank.calibration import Method, fit_calibration
from captionary.rank.fit_settings import FitConfig
from captionary.rank.losses import task_loss
from captionary.rank.model import Ranker
from captionary.rank.scan import scan, schema_of
from captionary.rank.shards import Shards
from captionary.rank.state import (
    Checkpoint,
    Progress,
    checkpoint_folder,
    checkpoints,
    clean,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from captionary.rank.step import Step, start_biases
from captionary.rank.stream import Encoder, Order, batches, prefetched
from captionary.rank.training_log import TrainingLog
from captionary.rank.warm_start import Carrier, warm_start
from captionary.stages import locked

__all__ = ["Fitted", "Trainer", "fit", "latest"]

_SCORED = 4096  # impressions at a time


class Fitted(NamedTuple):
    """What a training gave."""

    trainer: Trainer
    """With the ranker, its vocabularies, and `predict`."""
    checkpoint: Path
    """The last one."""
    samples_per_second: float
    """Of the steps done now; nan where none were left."""


class Trainer:
    """A ranker in training on shards.

    Args:
        shards: what to learn from.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        start: an earlier training to begin with, or, where `resumed`, this one, as it was when it was killed.
        resumed: whether `start` is this very training.
        rows: the training rows to learn from; default: all.

    Raises:
        CaptionaryError: shards that a ranker cannot read, or that `start` does not fit.
    """

    def __init__(
        self,
        shards: Shards,
        config: FitConfig,
        seed: int = 0,
        *,
        start: Checkpoint | None = None,
        resumed: bool = False,
        rows: tuple[int, int] | None = None,
    ) -> None:
        self.shards, self.config, self.seed = shards, config, seed
        self.first, self.last = rows or (0, shards.rows("train"))
        ranker, items = config.ranker, shards.items()
        if start is not None:
            shards.schema.check_continues(start.schema, str(shards.root))
        steps = ranker.epochs * self._batches
        before = 0
        if start is not None and resumed:
            self.model, self.vocabularies, before = start.model, start.vocabularies, start.progress.before
        else:
            known = start.vocabularies if start is not None else None
            found = scan(shards, items, config, known, start=self.first, stop=self.last)
            self.vocabularies = found.vocabularies
            schema = schema_of(shards, found.vocabularies, config)
            if start is None:
                self.model = Ranker(ranker, schema, seed)
                self.model.mean.copy_(torch.from_numpy(found.mean))
                self.model.scale.copy_(torch.from_numpy(found.scale))
                start_biases(self.model, found.labels)
            else:
                self.model = warm_start(start.model, schema, ranker, seed)[0]
                before = start.progress.before + start.progress.done
        self.step = Step(
            self.model, ranker, seed, steps, config.optimizer, before=before, diverged=config.stream.diverged
        )
        self.seen, self._since, self._total = 0, 0, 0.0
        if start is not None and resumed:
            self.step.load_state_dict(start.optimizers)
            self.seen, self._since = start.progress.rows, start.progress.log_rows
            self._total = start.progress.log_loss
        elif start is not None:
            self.step.adopt(start.optimizers, Carrier(start.model, self.model))
        self.order = Order(
            seed,
            ranker.shuffle_window,
            ranker.batch_size,
            ranker.unseen_share,
            ranker.unseen_items_share,
            ranker.together,
        )
        mean, scale = self.model.mean.numpy(), self.model.scale.numpy()
        self.encoder = Encoder(shards, items, self.model.schema, self.vocabularies, mean, scale)

    @property
    def _batches(self) -> int:
        return math.ceil((self.last - self.first) / self.config.ranker.batch_size)

    def train(self, until: int | None = None) -> Iterator[int]:
        """Learn up to step `until` (default: to the end); yields after each step how many rows it had.

        The caller's stream of random numbers is left alone.

        Raises:
            CaptionaryError: see `Step` and `Encoder.block`.
        """
        until = self.step.steps if until is None else min(until, self.step.steps)
        self.model.train()
        while self.step.done < until:
            epoch, batch = divmod(self.step.done, self._batches)
            source = batches(self.encoder, self.order, epoch, self.first, self.last, first=batch)
            ahead = prefetched(source, self.config.stream.prefetch)
            try:
                for inputs, labels in ahead:
                    with torch.random.fork_rng(devices=[]):
                        loss = self.step(inputs, labels)
                    self.seen, self._since = self.seen + len(labels), self._since + len(labels)
                    self._total += loss * len(labels)
                    yield len(labels)
                    if self.step.done >= until:
                        break
            finally:
                ahead.close()

    def mean_loss(self) -> float:
        """Mean loss of the rows since the last call."""
        mean = self._total / max(1, self._since)
        self._total, self._since = 0.0, 0
        return mean

    def predict(
        self, part: str = "eval", start: int = 0, stop: int | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(predictions, labels) of impressions in the order of time, each float32 [N, T], labels NaN where missing.

        Predictions are calibrated where `calibrate` was called.
        """
        logits, labels = self._logits(part, start, stop)
        calibrated = self.model.calibration is not None
        return self.model.predictions(logits, calibrated=calibrated).numpy(), labels.numpy()

    def calibrate(self, method: Method = "platt", part: str = "eval", stop: int | None = None) -> None:
        """Fit each task's calibration on the first `stop` impressions of a part, which were not learnt from.

        Raises:
            CaptionaryError: see `captionary.rank.calibration.fit_calibration`.
        """
        logits, labels = self._logits(part, 0, stop)
        schema = self.model.schema
        self.model.calibration = fit_calibration(
            logits.numpy(), labels.numpy(), schema.tasks, schema.task_kinds, method
        )

    def _logits(self, part: str, start: int, stop: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        empty = torch.empty(0, len(self.model.schema.tasks))
        each = list(self._scored(part, start, stop))
        if not each:
            return empty, empty
        logits, labels = (torch.cat([empty, *parts]) for parts in zip(*each, strict=True))
        return logits, labels

    def loss(self, part: str, start: int = 0, stop: int | None = None) -> float:
        """The loss on impressions that need not have been learnt from, without dropout; nan where there are none."""
        total, rows = 0.0, 0
        for logits, labels in self._scored(part, start, stop):
            total += float(task_loss(logits, labels, self.model.schema)) * len(labels)
            rows += len(labels)
        return total / rows if rows else math.nan

    def _scored(self, part: str, start: int, stop: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(logits, labels) of each batch."""
        self.model.eval()
        order = Order(self.seed, window=1, batch_size=_SCORED)
        for inputs, labels in batches(self.encoder, order, 0, start, stop, part=part, shuffled=False):
            with torch.inference_mode():
                logits = self.model(inputs).logits
            yield logits, labels

    def checkpoint(self, identity: Mapping[str, Any], log_bytes: int = 0) -> Checkpoint:
        """The training as it is."""
        epoch, batch = divmod(self.step.done, max(1, self._batches))
        row = self.first + min(batch * self.order.batch_size, self.last - self.first)
        shard, group, offset = self.shards.place("train", row)
        progress = Progress(
            steps=self.step.steps,
            done=self.step.done,
            before=self.step.before,
            rows=self.seen,
            epoch=epoch,
            batch=batch,
            shard=shard,
            row_group=group,
            offset=offset,
            log_bytes=log_bytes,
            log_loss=self._total,
            log_rows=self._since,
        )
        state, schema = self.step.state_dict(), self.shards.schema
        return Checkpoint(self.model, state, self.vocabularies, progress, self.config, schema, identity)


def fit(
    shards: Shards,
    out: Path,
    config: FitConfig,
    seed: int = 0,
    *,
    start: Path | None = None,
    say: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Fitted:
    """Train in the folder `out`, or continue what is there.

    Args:
        shards: what to learn from.
        out: gets checkpoints/, log.jsonl and, where asked for, tensorboard/.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        start: a checkpoint, or the folder of a training whose last one is taken, to begin with.
        say: is given every line of the log.

    Raises:
        CaptionaryError: another training is in `out`, or another process at it; shards with other columns than those
            of `start`; a loss that diverges; a full disk: what was kept until then can be continued from.
    """
    with locked(out):
        return _fit(shards, out, config, seed, start, say)


def latest(folder: Path) -> Path:
    """The last checkpoint of a training, or `folder` itself where it is one.

    Raises:
        CaptionaryError: there is none.
    """
    found = checkpoints(folder)
    if not found:
        raise bad_value("checkpoint", str(folder), "a checkpoint, or a folder that captionary fit wrote")
    return found[-1]


def _fit(
    shards: Shards,
    out: Path,
    config: FitConfig,
    seed: int,
    start: Path | None,
    say: Callable[[dict[str, Any]], None],
) -> Fitted:
    began = load_checkpoint(latest(start)) if start is not None else None
    identity = {
        "shards": shards.fingerprint,
        "seed": seed,
        "start": None if began is None else _named(began),
    }
    clean(out)
    kept = checkpoints(out)
    resumed = load_checkpoint(kept[-1]) if kept else None
    if resumed is not None:
        _check_same(resumed, identity, config, out)
    trainer = Trainer(shards, config, seed, start=resumed or began, resumed=resumed is not None)
    stream, step = config.stream, trainer.step
    position = resumed.progress.log_bytes if resumed is not None else 0
    board = out / "tensorboard" if stream.tensorboard else None
    rows, clock, seconds, whole = 0, time.perf_counter(), 0.0, 0
    with TrainingLog(out / "log.jsonl", position=position, tensorboard=board, step=step.done) as log:
        for count in trainer.train():
            rows += count
            last = step.done == step.steps
            if step.done % stream.log_steps == 0 or last:
                passed = time.perf_counter() - clock
                line = {
                    "rows": trainer.seen,
                    "loss": trainer.mean_loss(),
                    "samples_per_second": rows / passed,
                }
                log.write(step.done, line | {"learning_rate_factor": step.factor})
                say({"step": step.done, "steps": step.steps, **line})
                seconds, whole = seconds + passed, whole + rows
                rows, clock = 0, time.perf_counter()
            if step.done % stream.checkpoint_steps == 0 or last:
                paused = time.perf_counter()
                save_checkpoint(checkpoint_folder(out, step.done), trainer.checkpoint(identity, log.position))
                prune(out, stream.keep)
                clock += time.perf_counter() - paused
    trainer.model.eval()
    return Fitted(trainer, checkpoints(out)[-1], whole / seconds if seconds else math.nan)


def _named(start: Checkpoint) -> dict[str, Any]:
    """Which training a checkpoint is of, and where in it."""
    steps = start.progress.before + start.progress.done
    return {"shards": start.identity["shards"], "seed": start.identity["seed"], "steps": steps}


def _check_same(kept: Checkpoint, identity: Mapping[str, Any], config: FitConfig, out: Path) -> None:
    """Refuse to continue a training with another seed, other shards or another config."""
    todo = "choose another --out, or give what it was begun with"
    for name in ("shards", "seed", "start"):
        if kept.identity[name] != identity[name]:
            raise bad_value(
                name,
                identity[name],
                f"{kept.identity[name]}, as of the training there",
                where=str(out),
                todo=todo,
            )
    was, now = to_mapping(kept.config), to_mapping(config)
    for group in ("ranker", "optimizer", "features", "stream"):
        for name in now[group]:
            if name in ("prefetch", "log_steps", "checkpoint_steps", "keep", "tensorboard"):
                continue  # of no consequence for what is learnt
            if was[group].get(name) != now[group][name]:
                rule = f"{was[group].get(name)}, as of the training there"
                raise bad_value(f"{group}.{name}", now[group][name], rule, where=str(out), todo=todo)
