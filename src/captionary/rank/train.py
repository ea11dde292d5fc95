"""Train a ranker in time order, and predict: the same rows in the same order for every arm of a seed."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captionary.errors import bad_value
from captionary.rank.batches import Source, draw_epoch
from captionary.rank.data import Ints, RankingData
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.losses import label_sums, to_prediction
from captionary.rank.model import Ranker
from captionary.rank.settings import RankerConfig
from captionary.rank.step import Step, start_biases

__all__ = ["LogEntry", "TrainedRanker", "predict", "train_ranker"]

_LOG_EVERY = 50  # steps


class LogEntry(NamedTuple):
    """The loss over some steps."""

    step: int
    """Steps done."""
    rows: int
    """Rows seen."""
    loss: float
    """Mean loss (nats for binary tasks) over tasks and the rows since the last entry, before each update."""


class TrainedRanker(NamedTuple):
    """What training gives."""

    model: Ranker
    samples_per_second: float
    """Training rows x epochs over the wall-clock seconds of the loop, gathering of batches included."""
    log: tuple[LogEntry, ...]


def train_ranker(data: RankingData, features: FeatureSet, config: RankerConfig, seed: int) -> TrainedRanker:
    """Train one arm with one seed, on the CPU with the threads that the caller set.

    Initial values, order of rows, ids shown as unseen and dropout depend on the seed and on names, so arms
    differ by their features alone.

    Raises:
        CaptionaryError: features that the data does not hold, or a loss that is no longer finite.
    """
    model = Ranker(config, Schema.of(data, features), seed)
    if features.token_vectors is not None:
        model.start_tokens(data.token_vectors[features.token_vectors])
    train = data.train
    dense = data.dense(train)
    spread = dense.std(axis=0)
    model.mean.copy_(torch.from_numpy(dense.mean(axis=0)))
    model.scale.copy_(torch.from_numpy(np.where(spread > 0, spread, 1.0)))
    start_biases(model, label_sums(data.labels[train], data.task_kinds))
    source = _source(model, data, features)
    step = Step(model, config, seed, config.epochs * math.ceil(len(train) / config.batch_size))
    log: list[LogEntry] = []
    rows_seen = since = 0
    total = 0.0
    model.train()
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # dropout has streams of its own; the caller's is left alone
        for epoch in range(config.epochs):
            drawn = draw_epoch(
                train,
                seed,
                epoch,
                config.shuffle_window,
                config.unseen_share,
                config.unseen_items_share,
                users=data.user,
                together=config.together,
            )
            for start in range(0, len(train), config.batch_size):
                part = slice(start, start + config.batch_size)
                rows = drawn.order[part]
                batch = source.batch(rows, drawn.unseen_user[part], drawn.unseen_item[part])
                loss = step(batch, torch.from_numpy(np.asarray(data.labels[rows], np.float32)))
                rows_seen, since = rows_seen + len(rows), since + len(rows)
                total += loss * len(rows)
                if step.done % _LOG_EVERY == 0 or step.done == step.steps:
                    log.append(LogEntry(step.done, rows_seen, total / since))
                    total, since = 0.0, 0
    seconds = time.perf_counter() - began
    model.eval()
    return TrainedRanker(model, rows_seen / seconds, tuple(log))


@torch.inference_mode()
def predict(
    model: Ranker,
    data: RankingData,
    features: FeatureSet,
    rows: Ints | None = None,
    *,
    batch_size: int = 4096,
) -> npt.NDArray[np.float32]:
    """Predictions of `rows` (default: the evaluation rows) for each task, float32 [len(rows), T]: probabilities, or
    amounts where the task is of amounts.

    Raises:
        CaptionaryError: data that the ranker was not made for, or a ranker whose outputs are not finite.
    """
    model.schema.check_accepts(Schema.of(data, features))
    rows = data.eval if rows is None else rows
    source = _source(model, data, features)
    was_training = model.training
    model.eval()
    out = np.empty((len(rows), len(data.tasks)), np.float32)
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        logits = model(source.batch(rows[part])).logits
        out[part] = to_prediction(logits, model.schema.task_kinds).numpy()
    model.train(was_training)
    if not np.isfinite(out).all():
        raise bad_value("prediction", "NaN", "finite", where="the ranker's weights", todo="train it again")
    return out


def _source(model: Ranker, data: RankingData, features: FeatureSet) -> Source:
    return Source(data, features, model.mean.numpy(), model.scale.numpy())
