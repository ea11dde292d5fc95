"""Train a ranker from shards of any size: one pass in the order of time, continued where it was killed, or tomorrow.

Two ways to continue. The same command again goes on in the middle of an epoch, and what comes out is, bit for bit, what
a training that nobody killed gives (on a CPU, with one number of threads). `start` begins a new training, on tomorrow's
shards, with what an earlier one learnt: its vocabularies grow, and a new id starts as the unseen id that it was until
then, so no prediction jumps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captionary.rank.calibration import Method, fit_calibration
from captionary.rank.course import Course, check_same, run
from captionary.rank.devices import CPU, to_device
from captionary.rank.fit_settings import FitConfig
from captionary.rank.losses import task_loss
from captionary.rank.model import Batch, Ranker
from captionary.rank.scan import scan, schema_of
from captionary.rank.shards import Shards
from captionary.rank.state import (
    Checkpoint,
    checkpoints,
    clean,
    latest,
    load_any,
    load_checkpoint,
    prune,
    read_said,
    save_checkpoint,
)
from captionary.rank.step import Step, start_biases
from captionary.rank.stream import Encoder, Order, Stream, batches
from captionary.rank.warm_start import Carrier, warm_start
from captionary.stages import locked

__all__ = ["Fitted", "Trainer", "fit"]

_SCORED = 4096  # impressions at a time


class Fitted(NamedTuple):
    """What a training gave."""

    trainer: Trainer
    """With the ranker, its vocabularies, and `predict`."""
    checkpoint: Path
    """The last one."""
    samples_per_second: float
    """Of the steps done now; nan where none were left."""


class Trainer(Course):
    """A ranker in training on shards.

    Args:
        shards: what to learn from.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        start: an earlier training to begin with, or, where `resumed`, this one, as it was when it was killed.
        resumed: whether `start` is this very training.
        rows: the training rows to learn from; default: all.
        device: that the ranker is on, whatever the one that `start` was on.

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
        device: torch.device = CPU,
    ) -> None:
        super().__init__(shards, config, seed, device=device, rows=rows)
        ranker, items = config.ranker, shards.items()
        if start is not None:
            shards.schema.check_continues(start.schema, str(shards.root))
        if start is not None and resumed:
            self.model, self.vocabularies = start.model, start.vocabularies
            self._go_on(start.progress)
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
                self.before = start.progress.before + start.progress.done
            if start is None or not start.model.schema.vocabulary:  # a table that is not learnt yet
                learnt = shards.token_vectors() if config.features.token_vectors else None
                if learnt is not None and schema.vocabulary:
                    self.model.start_tokens(learnt)
        self.module = self.model.to(device)
        self.step = Step(
            self.model,
            ranker,
            seed,
            self.steps,
            config.optimizer,
            before=self.before,
            diverged=config.stream.diverged,
        )
        if start is not None and resumed:
            self.step.load_state_dict(start.optimizers)
        elif start is not None:
            self.step.adopt(start.optimizers, Carrier(start.model, self.model))
        mean, scale = (each.cpu().numpy() for each in (self.model.mean, self.model.scale))
        self.encoder = Encoder(shards, items, self.model.schema, self.vocabularies, mean, scale)

    def _source(self, epoch: int, first: int) -> Stream:
        return batches(self.encoder, self.order, epoch, self.first, self.last, first=first)

    def _learn(self, batch: Batch, labels: torch.Tensor) -> tuple[int, float]:
        return len(labels), self.step(batch, labels)

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
        """The mean loss of the labels of impressions that need not have been learnt from, without dropout; nan where
        there are none."""
        total, given = 0.0, 0
        for logits, labels in self._scored(part, start, stop):
            count = int((~torch.isnan(labels)).sum())  # which the mean is over; batches differ in it
            total += float(task_loss(logits, labels, self.model.schema)) * count
            given += count
        return total / given if given else math.nan

    def _scored(self, part: str, start: int, stop: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(logits, labels) of each batch."""
        self.model.eval()
        order = Order(self.seed, window=1, batch_size=_SCORED)
        for inputs, labels in batches(self.encoder, order, 0, start, stop, part=part, shuffled=False):
            with torch.inference_mode():
                logits = self.model(to_device(inputs, self.device)).logits.cpu()
            yield logits, labels

    def checkpoint(self, identity: Mapping[str, Any], log_bytes: int = 0) -> Checkpoint:
        """The training as it is."""
        state, schema = self.step.state_dict(), self.shards.schema
        progress = self.progress(log_bytes)
        return Checkpoint(self.model, state, self.vocabularies, progress, self.config, schema, identity)


def fit(
    shards: Shards,
    out: Path,
    config: FitConfig,
    seed: int = 0,
    *,
    start: Path | None = None,
    device: torch.device = CPU,
    say: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Fitted:
    """Train in the folder `out`, or continue what is there.

    Args:
        shards: what to learn from.
        out: gets checkpoints/, log.jsonl and, where asked for, tensorboard/.
        config: of ranker, optimizers and stream.
        seed: of all that is random.
        start: a checkpoint, or the folder of a training whose last one is taken, to begin with: of one process or of
            many.
        device: to train on; a training may be continued on another one.
        say: is given every line of the log.

    Raises:
        CaptionaryError: another training is in `out`, or another process at it; shards with other columns than those
            of `start`; a loss that diverges; a full disk: what was kept until then can be continued from.
    """
    with locked(out):
        clean(out)
        kept = checkpoints(out)
        began = read_said(latest(start)) if start is not None else None
        identity = {
            "shards": shards.fingerprint,
            "seed": seed,
            "start": None if began is None else began.named,
        }
        resumed = load_checkpoint(kept[-1]) if kept else None
        if resumed is not None:
            check_same(resumed.identity, resumed.config, identity, config, out)
        earlier = load_any(latest(start)) if start is not None and resumed is None else None
        trainer = Trainer(
            shards, config, seed, start=resumed or earlier, resumed=resumed is not None, device=device
        )

        def save(folder: Path, log_bytes: int) -> None:
            save_checkpoint(folder, trainer.checkpoint(identity, log_bytes))
            prune(out, config.stream.keep)

        log_bytes = resumed.progress.log_bytes if resumed is not None else 0
        speed = run(trainer, out, save, log_bytes=log_bytes, say=say)
        trainer.model.eval()
        return Fitted(trainer, checkpoints(out)[-1], speed)
