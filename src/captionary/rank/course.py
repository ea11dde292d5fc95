"""A training's way through its shards, in one process or in many: step after step, logged, kept, and continued."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captionary.config import to_mapping
from captionary.errors import bad_value
from captionary.rank.devices import forked, moved
from captionary.rank.fit_settings import FitConfig
from captionary.rank.model import Batch
from captionary.rank.portions import Portion, steps_of
from captionary.rank.shards import Shards
from captionary.rank.state import Progress, checkpoint_folder
from captionary.rank.step import learning_rate_factor
from captionary.rank.stream import Order, Stream, prefetched
from captionary.rank.training_log import TrainingLog

__all__ = ["Course", "check_same", "run"]

_ALONE = Portion(0, 1, "all")


class Course:
    """What the trainers have in common: which batches come when, how many are done, and their mean loss.

    A trainer says where its batches are from and what a step is.

    Args:
        shards: what to learn from.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        device: that batches are learnt from on.
        portion: of each batch, that this process brings.
        rows: the training rows to learn from; default: all.
    """

    module: nn.Module
    """What batches go through."""

    def __init__(
        self,
        shards: Shards,
        config: FitConfig,
        seed: int,
        *,
        device: torch.device,
        portion: Portion = _ALONE,
        rows: tuple[int, int] | None = None,
    ) -> None:
        self.shards, self.config, self.seed = shards, config, seed
        self.device, self.portion = device, portion
        self.first, self.last = rows or (0, shards.rows("train"))
        ranker = config.ranker
        self.order = Order(
            seed,
            ranker.shuffle_window,
            ranker.batch_size,
            ranker.unseen_share,
            ranker.unseen_items_share,
            ranker.together,
        )
        self.epoch_steps = steps_of(portion, self.order, self.last - self.first)
        self.steps = ranker.epochs * self.epoch_steps
        self.done, self.before, self.seen = 0, 0, 0
        self._since, self._total = 0, 0.0

    def _source(self, epoch: int, first: int) -> Stream:
        """The batches of an epoch, from batch `first` on."""
        raise NotImplementedError

    def _learn(self, batch: Batch, labels: Tensor) -> tuple[int, float]:
        """(rows that all processes had in this step, their mean loss before the update)."""
        raise NotImplementedError

    @property
    def factor(self) -> float:
        """On the learning rates of the next step."""
        return learning_rate_factor(self.done / self.steps, self.config.ranker.cooldown)

    def train(self, until: int | None = None) -> Iterator[int]:
        """Learn up to step `until` (default: to the end); yields after each step how many rows it had.

        The caller's stream of random numbers is left alone.

        Raises:
            CaptionaryError: the loss is not finite, or far over where it began; see `Encoder.block`.
        """
        until = self.steps if until is None else min(until, self.steps)
        self.module.train()
        while self.done < until:
            source = self._source(*divmod(self.done, self.epoch_steps))
            ahead = prefetched(moved(source, self.device), self.config.stream.prefetch)
            try:
                for batch, labels in ahead:
                    with forked(self.device):
                        rows, loss = self._learn(batch, labels)
                    self.done += 1
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

    def progress(self, log_bytes: int = 0) -> Progress:
        """How far it is, as a checkpoint says it."""
        epoch, batch = divmod(self.done, max(1, self.epoch_steps))
        row = self.first + min(batch * self.order.batch_size, self.last - self.first)
        shard, group, offset = self.shards.place("train", row)
        return Progress(
            steps=self.steps,
            done=self.done,
            before=self.before,
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

    def _go_on(self, progress: Progress) -> None:
        """Continue where a checkpoint of this very training was written."""
        self.done, self.before, self.seen = progress.done, progress.before, progress.rows
        self._total, self._since = progress.log_loss, progress.log_rows


def run(
    course: Course,
    out: Path,
    save: Callable[[Path, int], None],
    *,
    log_bytes: int = 0,
    first: bool = True,
    say: Callable[[dict[str, Any]], None] = lambda _: None,
) -> float:
    """Train to the end, with a log and checkpoints in `out`; all processes call it.

    Args:
        course: the training.
        out: its folder.
        save: writes a checkpoint, given its folder and the length of the log.
        log_bytes: length of the log at the checkpoint that is continued; 0: a new one.
        first: whether this is the first process, which writes the log.
        say: is given every line of the log, in the first process.

    Returns:
        Samples per second of all processes, checkpoints not counted; nan where no steps were left.
    """
    stream = course.config.stream
    board = out / "tensorboard" if stream.tensorboard else None
    rows, clock, seconds, whole = 0, time.perf_counter(), 0.0, 0
    with (
        TrainingLog(out / "log.jsonl", position=log_bytes, tensorboard=board, step=course.done)
        if first
        else nullcontext()
    ) as log:
        for count in course.train():
            rows += count
            last = course.done == course.steps
            if course.done % stream.log_steps == 0 or last:
                passed = time.perf_counter() - clock
                line = {
                    "rows": course.seen,
                    "loss": course.mean_loss(),
                    "samples_per_second": rows / passed,
                }
                if log is not None:
                    log.write(course.done, line | {"learning_rate_factor": course.factor})
                    say({"step": course.done, "steps": course.steps, **line})
                seconds, whole = seconds + passed, whole + rows
                rows, clock = 0, time.perf_counter()
            if course.done % stream.checkpoint_steps == 0 or last:
                paused = time.perf_counter()
                save(checkpoint_folder(out, course.done), log.position if log is not None else 0)
                clock += time.perf_counter() - paused
    return whole / seconds if seconds else math.nan


def check_same(
    kept: Mapping[str, Any], config: FitConfig, identity: Mapping[str, Any], now: FitConfig, out: Path
) -> None:
    """Refuse to continue in `out` another training than the one that is there.

    Args:
        kept: the identity that its checkpoint has: shards, seed, start, and of many processes how many.
        config: of its checkpoint.
        identity: of the training that is asked for.
        now: its config.
        out: its folder.

    Raises:
        CaptionaryError: names the first difference.
    """
    todo = "choose another --out, or give what it was begun with"
    for name, value in identity.items():
        if kept.get(name) != value:
            rule = f"{kept.get(name)}, as of the training there"
            raise bad_value(name, value, rule, where=str(out), todo=todo)
    was, asked = to_mapping(config), to_mapping(now)
    for group in ("ranker", "optimizer", "features", "stream"):
        for name in asked[group]:
            if name in ("prefetch", "log_steps", "checkpoint_steps", "keep", "tensorboard"):
                continue  # of no consequence for what is learnt
            if was[group].get(name) != asked[group][name]:
                rule = f"{was[group].get(name)}, as of the training there"
                raise bad_value(f"{group}.{name}", asked[group][name], rule, where=str(out), todo=todo)
