"""Our ranker as a contender of benchmarks/training.py.

ours.py arm RUN ARM SIZES   the demo's ranker with the features of an arm, on its five tasks; {}: with its own sizes
ours.py rows ROWS           one task, with the sizes and features that the peers have, gathered batch by batch
ours.py ready ROWS          the same, batches that lie ready
ours.py random SIZES        batches of random rows that lie ready
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import data_of
from turns import take_turns

from captionary.rank.bags import Lists
from captionary.rank.batches import Source, draw_epoch
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.fit_settings import OptimizerConfig
from captionary.rank.model import Batch, Ranker
from captionary.rank.settings import RankerConfig
from captionary.rank.step import Step

ARMS = {
    "without": {},
    "captions": {"tokens": "A", "profiles": "A"},
    "visual": {"visual": True},
    "visual and captions": {"visual": True, "tokens": "A", "profiles": "A"},
}
READY = 16  # batches
MANY = 10_000_000  # steps, over which rates do not fall


def gathered(data: Any, features: FeatureSet, config: RankerConfig) -> Any:
    """Endless batches as the trainer makes them."""
    dense = data.dense(data.train)
    scale = np.where(dense.std(0) > 0, dense.std(0), 1.0)
    source = Source(data, features, dense.mean(0), scale)
    epoch = 0
    while True:
        drawn = draw_epoch(
            data.train,
            0,
            epoch,
            config.shuffle_window,
            config.unseen_share,
            config.unseen_items_share,
            users=data.user,
            together=config.together,
        )
        for start in range(0, len(drawn.order), config.batch_size):
            part = slice(start, start + config.batch_size)
            rows = drawn.order[part]
            batch = source.batch(rows, drawn.unseen_user[part], drawn.unseen_item[part])
            yield batch, torch.from_numpy(np.asarray(data.labels[rows], np.float32))
        epoch += 1


def random_batches(sizes: dict[str, Any], device: str) -> Any:
    """Sixteen batches, again and again: every row draws all its ids and tokens anew."""
    rng = np.random.default_rng(0)
    rows, made = sizes["batch"], []
    names = ["user", "item", *(f"context.c{number}" for number in range(sizes["features"] - 2))]
    for _ in range(READY):
        count = rows * sizes["tokens"]
        lists = Lists(
            torch.from_numpy(rng.integers(0, sizes["rows"], count)),
            torch.arange(0, count + 1, sizes["tokens"]),
            torch.full((count,), 1 / sizes["tokens"]),
        )
        batch = Batch(
            dense=torch.from_numpy(rng.normal(size=(rows, sizes["dense"])).astype(np.float32)).to(device),
            ids={name: torch.from_numpy(rng.integers(0, sizes["rows"], rows)).to(device) for name in names},
            place=torch.arange(rows).to(device),
            visual=None,
            tokens=Lists(*(part.to(device) for part in lists)),
            profiles=None,
        )
        labels = (torch.from_numpy(rng.random((rows, 1))) < 0.3).float()
        made.append((batch, labels.to(device)))
    while True:
        yield from made


def random_ranker(sizes: dict[str, Any]) -> tuple[Ranker, RankerConfig]:
    """Sized as the peer's: 13 numbers through 64 and 32, a dot interaction, 128 and 32, one logit."""
    config = RankerConfig(
        embedding_dim=sizes["width"],
        bottom=(64,),
        top=(128,),
        tower=32,
        interaction="dot",
        biases=False,
        batch_size=sizes["batch"],
    )
    schema = Schema(
        tasks=("click",),
        users=sizes["rows"],
        items=sizes["rows"],
        numeric=tuple(f"n{number}" for number in range(sizes["dense"])),
        context={f"c{number}": sizes["rows"] for number in range(sizes["features"] - 2)},
        tokens=True,
        vocabulary=sizes["rows"],
    )
    return Ranker(config, schema, 0), config


def main() -> None:
    """Make the ranker and its batches, then wait."""
    torch.set_num_threads(1)
    kind, optimizer, device = sys.argv[1], OptimizerConfig(), "cpu"
    if kind == "random":
        sizes = json.loads(sys.argv[2])
        device = sizes.get("device", "cpu")
        optimizer = OptimizerConfig(table="rowwise_adagrad")
        model, config = random_ranker(sizes)
        model.to(device)
        batches = random_batches(sizes, device)
    else:
        if kind == "arm":
            data, features, config = data_of(Path(sys.argv[2]), **ARMS[sys.argv[3]])
            sizes = {
                name: tuple(size) if isinstance(size, list) else size
                for name, size in json.loads(sys.argv[4]).items()
            }
            config = dataclasses.replace(config, **sizes)
        else:
            said = json.loads((Path(sys.argv[2]) / "rows.json").read_text())
            data, features, config = data_of(Path(said["run"]), tokens="A", profiles="A")
            data = dataclasses.replace(
                data, tasks=data.tasks[:1], labels=data.labels[:, :1], task_kinds=(), task_weights=()
            )
            config = dataclasses.replace(config, interaction="dot", biases=False)
            optimizer = OptimizerConfig(table="rowwise_adagrad")
        model = Ranker(config, Schema.of(data, features), 0)
        batches = gathered(data, features, config)
        if kind == "ready":
            batches = itertools.cycle(list(itertools.islice(batches, READY)))
    learn = Step(model, config, 0, MANY, optimizer)
    model.train()

    def step(given: tuple[Batch, torch.Tensor]) -> int:
        learn(*given)
        if device != "cpu":
            torch.cuda.synchronize()
        return len(given[1])

    take_turns(step, batches, {"torch": torch.__version__})


if __name__ == "__main__":
    main()
