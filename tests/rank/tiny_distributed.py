"""The settings of the distributed trainings in the tests: small, with every kind of penalty, every step logged."""

from __future__ import annotations

import dataclasses
from typing import Any

from captionary.rank.fit_settings import FitConfig, OptimizerConfig, StreamConfig
from captionary.rank.settings import RankerConfig

RANKER = RankerConfig(
    epochs=1,
    batch_size=128,
    shuffle_window=500,
    embedding_dim=6,
    top=(16,),
    tower=4,
    embedding_damping=0.01,
    embedding_decay=0.01,
)


def config(table: str = "rowwise_adagrad", **ranker: Any) -> FitConfig:
    """With another optimizer of tables, or other fields of the ranker."""
    return FitConfig(
        ranker=dataclasses.replace(RANKER, **ranker),
        optimizer=OptimizerConfig(table=table),
        stream=StreamConfig(log_steps=1, checkpoint_steps=4, keep=9),
    )
