"""How fast our ranker trains on an accelerator, and how much of the card's memory bandwidth its tables take.

    python benchmarks/training_accelerator.py                        on the first CUDA device; without one, no result
    python benchmarks/training_accelerator.py --quick --device cpu   tiny, anywhere: does the script run; no result

Batches of 32,768 impressions lie ready on the device, and a step is waited for before the next (`Step` looks at its
loss), so what is measured is steps alone. Two kinds of rows:

random  those of benchmarks/training.py: 26 tables of 100,000 rows x 32, 13 numbers, and 32 tokens of another such table
        for each impression, all drawn anew; by optimizer of tables
demo    drawn to the shape of the demo world's batches (`DEMO`), on its five tasks, with its caption features (tokens of
        items and profiles of users) and without; each distinct item and profile once

The contenders of a kind take turns in an order that rotates; what is reported is the median over rounds, of ratios that
of two speeds of the same round with its 95 % bootstrap interval.

Bytes that the tables of a step move at least, of 4-byte numbers:

    sum over tables of   N W      the row of each of N occurrences (ids, tokens) is read to be looked up
                       + 2 U W    each of the U distinct rows is read and written by the optimizer
                       + 2 U S    and so is its accumulator: S = 1 row-wise, W with Adagrad, 0 with SGD

Gradients, the layers, indices and everything that is read twice are left out: the share of bandwidth is how near a step
is to one that does nothing but this, not how busy the memory is. Bandwidth is that of a copy on the device in the same
run, read and written bytes a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result import write_result
from training import RANDOM, ratio, speed

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from ours import MANY, random_batches, random_ranker

from captionary.rank.bags import Lists
from captionary.rank.devices import choose_device, to_device
from captionary.rank.features import Schema
from captionary.rank.fit_settings import TABLE_OPTIMIZERS, OptimizerConfig
from captionary.rank.model import Batch, Ranker
from captionary.rank.settings import RankerConfig
from captionary.rank.step import Step

BATCH = 32_768
READY = 16  # batches
DEMO: dict[str, Any] = {
    "users": 3969,
    "items": 2778,
    "context": {"hour": 25, "surface": 4, "device": 4},
    "numeric": 4,
    "tasks": 5,
    "events": 4,
    "vocabulary": 249,
    "tokens_an_item": 5,
    "tokens_a_profile": 16,
    "distinct_items": 0.054,  # of a batch's impressions
    "distinct_profiles": 0.52,
}
"""Of the rows of configs/demo.yaml, in batches of 32,768."""

Ready = list[tuple[Batch, torch.Tensor]]


def demo_shaped(rows: int, captions: bool, device: torch.device) -> tuple[Ranker, RankerConfig, Ready]:
    """A ranker as configs/demo.yaml has it, and batches of its shape."""
    config = RankerConfig(batch_size=rows)
    events = tuple(f"e{number}" for number in range(DEMO["events"])) if captions else ()
    schema = Schema(
        tasks=tuple(f"t{number}" for number in range(DEMO["tasks"])),
        users=DEMO["users"],
        items=DEMO["items"],
        numeric=tuple(f"n{number}" for number in range(DEMO["numeric"])),
        context=DEMO["context"],
        tokens=captions,
        events=events,
        vocabulary=DEMO["vocabulary"] if captions else 0,
    )
    rng = np.random.default_rng(0)
    items, profiles = (max(1, int(rows * DEMO[f"distinct_{name}"])) for name in ("items", "profiles"))
    made: Ready = []
    for _ in range(READY):
        ids = {"user": DEMO["users"], "item": DEMO["items"]}
        ids |= {f"context.{name}": size for name, size in DEMO["context"].items()}
        batch = Batch(
            dense=torch.from_numpy(rng.normal(size=(rows, DEMO["numeric"])).astype(np.float32)),
            ids={name: torch.from_numpy(rng.integers(0, size, rows)) for name, size in ids.items()},
            place=torch.from_numpy(rng.integers(0, items, rows)),
            visual=None,
            tokens=_lists(rng, items, DEMO["tokens_an_item"]) if captions else None,
            profiles=_lists(rng, profiles, DEMO["tokens_a_profile"]) if captions else None,
            profile_place=torch.from_numpy(rng.integers(0, profiles, (rows, len(events))))
            if events
            else None,
        )
        labels = torch.from_numpy((rng.random((rows, DEMO["tasks"])) < 0.1).astype(np.float32))
        made.append(to_device((batch, labels), device))
    return Ranker(config, schema, 0).to(device), config, made


def table_bytes(model: Ranker, batch: Batch, optimizer: str) -> int:
    """The bytes of the module's formula, of one step."""
    looked_up = [(model.tables[name.replace(".", "/")], index) for name, index in batch.ids.items()]
    lists = [each.values for each in (batch.tokens, batch.profiles) if each is not None]
    if lists:
        looked_up.append((model.token_table, torch.cat(lists)))
    total = 0
    for table, index in looked_up:
        width, used = table.shape[1], len(torch.unique(index))
        state = {"adagrad": width, "rowwise_adagrad": 1, "sgd": 0}[optimizer]
        total += len(index) * width + 2 * used * width + 2 * used * state
    return 4 * total


def bandwidth(device: torch.device, numbers: int) -> float:
    """Bytes a second that a copy of `numbers` float32 on the device reads and writes."""
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    _wait(device)
    began = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    _wait(device)
    return 20 * 2 * 4 * numbers / (time.perf_counter() - began)


class Contender:
    """A ranker with its optimizers and endless batches.

    Args:
        model, config: on the device.
        ready: its batches.
        optimizer: of tables.
    """

    def __init__(self, model: Ranker, config: RankerConfig, ready: Ready, optimizer: str) -> None:
        self.device, self.batches = ready[0][1].device, itertools.cycle(ready)
        sizes = [table_bytes(model, batch, optimizer) for batch, _ in ready]
        self.bytes = statistics.mean(sizes) / len(ready[0][1])
        self.step = Step(model, config, 0, MANY, OptimizerConfig(table=optimizer))
        model.train()

    def train(self, seconds: float) -> float:
        """Samples a second over about so long."""
        _wait(self.device)
        began, samples = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            batch, labels = next(self.batches)
            self.step(batch, labels)
            samples += len(labels)
        _wait(self.device)
        return samples / (time.perf_counter() - began)


def in_turns(contenders: dict[str, Contender], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples a second of each contender in each round."""
    names = list(contenders)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:  # compile, choose algorithms, fill the allocator's cache
        contenders[name].train(min(2.0, seconds))
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            speeds[name].append(contenders[name].train(seconds))
    return speeds


def random_rows(sizes: dict[str, Any], device: torch.device) -> Iterator[tuple[str, Contender]]:
    """A contender for each optimizer of tables."""
    ready = list(itertools.islice(random_batches(sizes, str(device)), READY))
    for optimizer in TABLE_OPTIMIZERS:
        model, config = random_ranker(sizes)
        if optimizer == "sgd":
            config = dataclasses.replace(config, embedding_lr=1e-4)
        yield optimizer, Contender(model.to(device), config, ready, optimizer)


def _lists(rng: np.random.Generator, count: int, tokens: int) -> Lists:
    """Lists of so many distinct tokens each, every one of the same weight."""
    values = np.concatenate([rng.permutation(DEMO["vocabulary"])[:tokens] for _ in range(count)])
    return Lists(
        torch.from_numpy(values.astype(np.int64)),
        torch.arange(0, len(values) + 1, tokens),
        torch.full((len(values),), 1 / tokens),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure, print, and write benchmarks/results/training_accelerator.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: with --quick alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few short rounds, no result file")
    parser.add_argument("--rounds", type=int, default=21, help="in which all contenders have a turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    chosen = parser.parse_args()
    if chosen.device == "cpu" and not chosen.quick:
        parser.error("--device cpu is for --quick: benchmarks/training.py measures processors")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("no accelerator here: nothing measured, nothing written")
        return
    device = choose_device(chosen.device)
    rounds, seconds = (2, 0.2) if chosen.quick else (chosen.rounds, chosen.seconds)
    rows = 512 if chosen.quick else BATCH
    sizes = RANDOM | {"batch": rows} | ({"rows": 1000, "features": 4} if chosen.quick else {})
    moved = bandwidth(device, 1 << (20 if chosen.quick else 28))
    figures: dict[str, Any] = {
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "batch": rows,
        "rounds": rounds,
        "seconds_a_turn": seconds,
        "bandwidth_measured": round(moved),
        "random rows": {name: sizes[name] for name in ("features", "rows", "width", "tokens", "dense")},
    }
    contenders = dict(random_rows(sizes, device))
    for name, values in in_turns(contenders, rounds, seconds).items():
        found = speed(values)
        share = found["median"] * contenders[name].bytes / moved
        figures["random rows"][name] = found | {
            "table_bytes_a_sample": round(contenders[name].bytes),
            "share_of_bandwidth": round(share, 4),
        }
    contenders = {
        name: Contender(*demo_shaped(rows, captions, device), "adagrad")
        for name, captions in (("without", False), ("captions", True))
    }
    speeds = in_turns(contenders, rounds, seconds)
    figures["demo-shaped rows"] = {name: speed(values) for name, values in speeds.items()}
    figures["captions ÷ without, demo-shaped rows"] = ratio(speeds["captions"], speeds["without"])
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    if not chosen.quick:
        print(write_result("training_accelerator", figures))


if __name__ == "__main__":
    main()
