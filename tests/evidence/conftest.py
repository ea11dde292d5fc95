"""A made-up comparison whose truth is known: rankers that see more or less of what decides a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from captionary.evidence.arms import Arm, default_arms
from captionary.evidence.evaluate import evaluate
from captionary.evidence.result import CaptionCounts, Evidence, RunInfo
from captionary.evidence.verdict import conclude

TASKS = ("comment", "like", "share", "time spent", "consumption")
BASE_LOGITS = (-3.0, -1.6, -3.2, -0.4, -0.8)
# How much of the media's part of a label each arm sees: its captions add to what the visual vector shows.
SEEN = {
    "ids": 0.0,
    "+visual": 0.35,
    "+visual+tokens(A)": 0.52,
    "+visual+tokens(B)": 0.44,
    "+visual+profiles(A)": 0.48,
    "+visual+tokens(A)+profiles(A)": 0.58,
}


class Simulated(NamedTuple):
    """The arguments of `evaluate`."""

    labels: npt.NDArray[np.float32]
    users: npt.NDArray[np.int64]
    task_names: tuple[str, ...]
    predictions: dict[str, npt.NDArray[np.float32]]
    arms: tuple[Arm, ...]
    truth: npt.NDArray[np.float64]


def simulate(
    rows: int = 4000,
    users: int = 400,
    seeds: int = 2,
    strength: float = 1.0,
    noise: float = 0.05,
    seed: int = 0,
) -> Simulated:
    """Labels from logits = task + user + strength·media; arms see the user, `SEEN` of the media, and err."""
    rng = np.random.default_rng(seed)
    tasks = len(TASKS)
    user = rng.integers(users, size=rows)
    taste = rng.normal(0, 0.7, (users, tasks))[user]
    media = strength * rng.normal(0, 0.9, (rows, tasks))
    truth = _sigmoid(np.asarray(BASE_LOGITS) + taste + media)
    labels = (rng.random((rows, tasks)) < truth).astype(np.float32)
    arms = default_arms(visual=True, tokens=("A", "B"), profiles=("A",)).arms
    predictions = {}
    for arm in arms:
        seen = SEEN.get(arm.name, SEEN["+visual"]) * media
        luck = noise * rng.normal(size=(seeds, rows, tasks))
        predictions[arm.name] = _sigmoid(np.asarray(BASE_LOGITS) + taste + seen + luck).astype(np.float32)
    return Simulated(labels, user, TASKS, predictions, arms, truth)


def conclude_simulated(simulated: Simulated, **of_run: Any) -> Evidence:
    """The evidence of a simulated comparison, with made-up provenance."""
    speeds = {arm.name: 48_000.0 - 700 * i for i, arm in enumerate(simulated.arms)}
    evaluation = evaluate(*simulated, subsets=20, seed=1, samples_per_second=speeds)
    run = RunInfo(
        **{
            "name": "demo",
            "dataset": "world",
            "split": "time",
            "source": "simulated",
            "license": "CC BY-SA 4.0 (OpenMoji)",
            "created_at": "2026-03-02T14:05:11Z",
            "train_rows": 7 * len(simulated.labels),
            "eval_rows": len(simulated.labels),
            "users": int(simulated.users.max()) + 1,
            "items": 4000,
            "captioner": "builtin 5c1f0a92",
            "tokenizers": {"A": "concepts, 1,204 tokens, 91be03", "B": "wordpiece, 2,048 tokens, 0dd2c4"},
            "hardware": "2 cores, 24 GiB",
            "command": "captionary run configs/demo.yaml",
            "config": {
                "world": {"seed": 7, "semantic_strength": 1.0},
                "evidence": {"subsets": 20, "seeds": 3},
            },
            "versions": {"captionary": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
            "fingerprints": {"dataset": "4f0c77aa1e", "captions": "b1946ac92492d234"},
            **of_run,
        }
    )
    reasons = {"media: cannot identify image file": 7, "media: file not found": 4, "no media": 12}
    counts = CaptionCounts(ok=3977, failed=11, skipped=12, reasons=reasons)
    return conclude(evaluation, run=run, captions=counts)


def _sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


@pytest.fixture(scope="session")
def simulation() -> Callable[..., Simulated]:
    """`simulate`, as a fixture."""
    return simulate


@pytest.fixture(scope="session")
def concluded() -> Callable[..., Evidence]:
    """`conclude_simulated`, as a fixture."""
    return conclude_simulated


@pytest.fixture(scope="session")
def evidence() -> Evidence:
    """Captions that help, at a size where the tests see it."""
    return conclude_simulated(simulate(rows=20_000, users=1000))
