"""Train every arm with every seed, side by side in processes of one thread each; each training is done once."""

from __future__ import annotations

import ctypes
import functools
import gc
import multiprocessing
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from captionary.config import to_mapping
from captionary.evidence.arms import Arm, Features
from captionary.pipeline import Stages, placebo_key, split_of
from captionary.rank.settings import RankerConfig
from captionary.stages import Stage, code_version, fingerprint, run_stage, stage_done

__all__ = ["arm_folder", "train_arms"]


def arm_folder(rankers: Path, arm: str, seed: int) -> Path:
    """Where the ranker and the predictions of one training are."""
    return rankers / "-".join(re.findall(r"\w+", arm)) / f"seed-{seed}"


def train_arms(stages: Stages) -> Stage:
    """Train what is not trained yet. The stage's facts: rows learnt from, and samples/s by arm, mean over seeds."""
    config = stages.config
    folder = config.folder / "rankers"
    began = time.monotonic()
    jobs = [(arm, seed) for arm in stages.arms.arms for seed in range(config.evidence.seeds)]
    expected = {(arm.name, seed): _fingerprint(stages, arm, seed) for arm, seed in jobs}
    done: dict[tuple[str, int], Stage] = {}
    for arm, seed in jobs:
        if found := stage_done(arm_folder(folder, arm.name, seed), expected[arm.name, seed]):
            done[arm.name, seed] = found
    missing = [(arm, seed) for arm, seed in jobs if (arm.name, seed) not in done]
    with tqdm(total=len(jobs), initial=len(done), desc="train", unit="ranker", disable=not missing) as bar:
        for key, stage in _trainings(stages, missing, expected):
            done[key] = stage
            bar.update()
    speeds: dict[str, list[float]] = {}
    for (name, _), stage in done.items():
        speeds.setdefault(name, []).append(stage.facts["samples_per_second"])
    facts = {
        "train_rows": next(iter(done.values())).facts["train_rows"],
        "samples_per_second": {name: round(float(np.mean(found)), 1) for name, found in speeds.items()},
    }
    whole = fingerprint(**{f"{name} {seed}": value for (name, seed), value in expected.items()})
    return Stage(folder, facts, whole, bool(missing), time.monotonic() - began)


def _fingerprint(stages: Stages, arm: Arm, seed: int) -> str:
    """Of one training: the arm's name and words are for the report, its features and inputs decide."""
    assert stages.captions is not None
    assert stages.tokens is not None
    return fingerprint(
        data=stages.data,
        split=split_of(stages.config, stages.dataset),
        visual=(stages.captions.fingerprint, stages.config.visual_dimensions)
        if arm.visual or arm.placebo == "pictures"
        else None,
        activity=to_mapping(stages.config.profiles),
        tokens=stages.tokens.fingerprint if arm.captions else None,
        placebo=(arm.placebo, stages.config.evidence.seed) if arm.placebo else None,
        features=arm.features(),
        ranker=to_mapping(_ranker(stages, arm)),
        sentence_dimensions=stages.config.vectors.sentence_dimensions if arm.vectors else None,
        seed=seed,
        deals=(_deals(stages, arm), stages.config.evidence.seed),
        code=code_version(
            "rank",
            "represent",
            "rivals.py",
            "assemble.py",
            "evidence/placebo.py",
            "evidence/deal.py",
            "training.py",
        ),
    )


def _trainings(
    stages: Stages, jobs: Sequence[tuple[Arm, int]], expected: Mapping[tuple[str, int], str]
) -> Iterator[tuple[tuple[str, int], Stage]]:
    """Train each (arm, seed) of `jobs`; yields them as they finish."""
    if not jobs:
        return
    keyed = [(arm, seed, expected[arm.name, seed]) for arm, seed in jobs]
    workers = min(stages.config.workers, len(jobs))
    if workers <= 1:
        import torch

        threads = torch.get_num_threads()
        _start(stages)
        try:
            for arm, seed, value in keyed:
                yield (arm.name, seed), _train(arm, seed, value)
        finally:
            torch.set_num_threads(threads)
        return
    _give_back()
    # Spawned, not forked: torch's and Arrow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(stages,)) as pool:
        running = {pool.submit(_train, *job): (job[0].name, job[1]) for job in keyed}
        try:
            for finished in as_completed(running):
                yield running[finished], finished.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _give_back() -> None:
    """Return what earlier stages have freed, the captioner above all, to the system: the workers need it."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps it otherwise; other libraries have no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


_stages: Stages


def _start(stages: Stages) -> None:
    """In each worker: one thread, for speed beside other workers and for bit-equal results."""
    global _stages
    import torch

    torch.set_num_threads(1)
    _stages = stages
    _shared.cache_clear()
    _data.cache_clear()


@functools.lru_cache(maxsize=1)
def _shared() -> Any:
    from captionary.assemble import ranking_data

    return ranking_data(_stages)


@functools.lru_cache(maxsize=1)
def _data(features: Any) -> Any:
    from captionary.assemble import with_features

    return with_features(_stages, _shared(), features)


def _drawn(arm: Arm, seed: int) -> Features:
    """The arm's features; of a placebo, the draw that belongs to the seed."""
    features = arm.features()
    if arm.placebo == "pictures":
        features["vectors"] = (placebo_key("visual", arm.placebo, seed),)
    elif arm.placebo:
        for name in ("tokens", "profiles"):
            if key := features[name]:
                features[name] = placebo_key(key.split(":")[0], arm.placebo, seed)
    return features


def _deals(stages: Stages, arm: Arm) -> int:
    """How often the captions of held-out items are dealt anew, see `captionary.evidence.deal`; 0: not at all."""
    dealt = stages.holds_items_out and arm.tokens and not (arm.placebo or arm.rival or arm.ablation)
    return stages.config.evidence.deals if dealt else 0


def _ranker(stages: Stages, arm: Arm) -> RankerConfig:
    """The ranker's config in one arm."""
    ranker = stages.config.ranker
    return ranker if arm.token_table is None else replace(ranker, token_table=arm.token_table)


def _order(stages: Stages, arm: Arm, rows: int) -> RankerConfig:
    """The arm's ranker config; where timestamps are no time, rows are shuffled whole.

    Ranks within users put everyone's first impressions first and leave only the most active users for the end, to whom
    a ranker that learns in that order then bends.
    """
    ranker = _ranker(stages, arm)
    return ranker if stages.dataset.spec.clock == "time" else replace(ranker, shuffle_window=rows)


def _train(arm: Arm, seed: int, expected: str) -> Stage:
    from captionary.evidence.deal import deal_captions
    from captionary.rank.checkpoint import save_ranker
    from captionary.rank.features import FeatureSet
    from captionary.rank.train import predict, train_ranker

    features = FeatureSet(**_drawn(arm, seed))

    def work(out: Path) -> Mapping[str, Any]:
        data = _data(features)
        trained = train_ranker(data, features, _order(_stages, arm, len(data.train)), seed)
        np.save(out / "predictions.npy", predict(trained.model, data, features))
        save_ranker(trained.model, out / "ranker", data.vocabularies)
        if deals := _deals(_stages, arm):
            chosen = _stages.config.evidence.seed
            np.save(out / "dealt.npy", deal_captions(trained.model, data, features, deals=deals, seed=chosen))
        return {
            "arm": arm.name,
            "seed": seed,
            "train_rows": len(data.train),
            "samples_per_second": round(trained.samples_per_second, 1),
            "loss": [[entry.rows, round(entry.loss, 5)] for entry in trained.log],
        }

    return run_stage(arm_folder(_stages.config.folder / "rankers", arm.name, seed), expected, work)
