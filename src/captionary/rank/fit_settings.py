"""How a ranker is trained from shards: its config, optimizers and checkpoints; light, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from captionary.config import from_mapping, load_yaml
from captionary.errors import bad_value
from captionary.rank.settings import RankerConfig

__all__ = [
    "DENSE_OPTIMIZERS",
    "TABLE_OPTIMIZERS",
    "FitConfig",
    "OptimizerConfig",
    "StreamConfig",
    "StreamFeatures",
    "load_fit",
]

TableKind = Literal["adagrad", "rowwise_adagrad", "sgd"]
DenseKind = Literal["adamw", "adam"]
TABLE_OPTIMIZERS: tuple[str, ...] = get_args(TableKind)
DENSE_OPTIMIZERS: tuple[str, ...] = get_args(DenseKind)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimizers; their rates are the ranker's `embedding_lr` and `dense_lr`."""

    table: TableKind = "adagrad"
    """Of tables: adagrad, rowwise_adagrad (one accumulator a row, as TorchRec's) or sgd."""
    table_decay: float = 0.0
    """Decoupled L2 on the rows of tables that occur in a batch, >= 0, times the learning rate."""
    dense: DenseKind = "adamw"
    """Of layers: adamw or adam."""

    def __post_init__(self) -> None:
        if self.table not in TABLE_OPTIMIZERS:
            raise bad_value("table", self.table, "one of " + ", ".join(TABLE_OPTIMIZERS))
        if self.dense not in DENSE_OPTIMIZERS:
            raise bad_value("dense", self.dense, "one of " + ", ".join(DENSE_OPTIMIZERS))
        if not self.table_decay >= 0:
            raise bad_value("table_decay", self.table_decay, ">= 0")


@dataclass(frozen=True, kw_only=True)
class StreamFeatures:
    """What of the shards the ranker reads beside ids, context, item columns and activity."""

    visual: bool = True
    """Whether the items' visual vectors are a field, where the shards hold some."""
    tokens: bool = True
    """Whether the items' tokens are a field, where the shards hold some."""
    profiles: bool = True
    """Whether the users' profiles are fields, where the shards hold some."""
    vectors: bool = True
    """Whether further dense vectors, of items and of users, are fields, where the shards hold some."""
    token_vectors: bool = True
    """Whether the token table starts from learnt vectors, where the shards hold some."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How shards are read, and what is kept of a training."""

    prefetch: int = 4
    """Batches made ahead in the background, >= 1."""
    log_steps: int = 50
    """Steps between lines of log.jsonl, >= 1."""
    checkpoint_steps: int = 2000
    """Steps between checkpoints, >= 1; one more is written at the end."""
    keep: int = 3
    """Latest checkpoints to keep, >= 1."""
    diverged: float = 2.0
    """Training stops when its mean loss of 20 steps is this many times that of its first 20, > 1, and worse than a
    coin's (ln 2)."""
    tensorboard: bool = False
    """Whether scalars are also written for TensorBoard (extra `tensorboard`)."""

    def __post_init__(self) -> None:
        for name in ("prefetch", "log_steps", "checkpoint_steps", "keep"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        if not self.diverged > 1:
            raise bad_value("diverged", self.diverged, "> 1")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """All of a training from shards, as `captionary fit --config` reads it."""

    ranker: RankerConfig = field(default_factory=lambda: RankerConfig(epochs=1))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    features: StreamFeatures = field(default_factory=StreamFeatures)
    stream: StreamConfig = field(default_factory=StreamConfig)


def load_fit(path: Path) -> FitConfig:
    """Read a YAML file with any of ranker, optimizer, features and stream; `ranker.epochs` is 1 where not said.

    Raises:
        CaptionaryError: see `captionary.config`.
    """
    said = load_yaml(path)
    ranker = said.get("ranker", {})
    if isinstance(ranker, dict):
        said["ranker"] = {"epochs": 1} | ranker
    return from_mapping(FitConfig, said, where=str(path))
