"""A small training from shards, which can be done in a process of its own and be killed there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from captionary.rank.fit import fit
from captionary.rank.fit_settings import FitConfig, StreamConfig
from captionary.rank.settings import RankerConfig
from captionary.rank.shards import open_shards

RANKER = RankerConfig(
    epochs=2,
    batch_size=50,
    shuffle_window=400,
    embedding_dim=4,
    bottom=(4,),
    top=(8,),
    tower=2,
    dropout=0.2,
    token_dropout=0.1,
    sparse_rows=8,
)
CONFIG = FitConfig(ranker=RANKER, stream=StreamConfig(log_steps=7, checkpoint_steps=10, keep=2))


def train_in_process(shards: str, out: str) -> None:
    torch.set_num_threads(1)
    config = dataclasses.replace(
        CONFIG, stream=dataclasses.replace(CONFIG.stream, log_steps=1, checkpoint_steps=7)
    )
    fit(open_shards(Path(shards)), Path(out), config, seed=1)
