"""How fast an exported ranker scores 500 candidates of one user, with caption features and without, and by what engine.

    python benchmarks/serving.py [--quick] [--run CONFIG]

Needs a finished run (default configs/demo.yaml: `make demo`). Exports two of its arms, `+visual` and the joint one, and

- compares scores with the ranker's own on 10,000 evaluation rows;
- times whole requests of both arms in turns: raw ids in, scores out, on one thread, profiles as the run's users have;
- does so with both arms at the sizes of published DLRMs, untrained, which costs the same;
- times the engines on the same folded rows and request state, see `serving_engines.py`;
- states the bytes of an item's row, and what half of them would cost in parity.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from published import PUBLISHED
from result import write_result
from serving_engines import ENGINES

from captionary.assemble import profile_folder, ranking_data, with_features
from captionary.evidence.arms import BASELINE, Arm
from captionary.exporting import export_run, finished_stages, raw_keys, whitening_of
from captionary.pipeline import Stages
from captionary.rank.checkpoint import load_ranker
from captionary.rank.data import RankingData
from captionary.rank.export import RawKeys, artefact_of
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.served import ScoringRequest, ServingRanker
from captionary.rank.train import predict
from captionary.represent.profiles import ProfileList, Profiles
from captionary.represent.tables import read_profiles
from captionary.settings import load_run
from captionary.training import arm_folder

CANDIDATES = 500
Ints = npt.NDArray[np.int64]


class Traffic:
    """Requests behind the evaluation rows of a run."""

    def __init__(self, stages: Stages, data: RankingData, keys: RawKeys, letter: str) -> None:
        assert stages.profiles is not None
        self.data = data
        self.items = keys.items.to_pylist()
        self.users = keys.users.to_pylist()
        self.context = {name: column.to_pylist() for name, column in keys.context.items()}
        self.context |= {name: column.tolist() for name, column in data.context_numeric.items()}
        self.profiles: Mapping[str, Profiles] = read_profiles(profile_folder(stages.profiles.folder, letter))[
            1
        ]

    def request(self, row: int, places: Ints) -> ScoringRequest:
        """The user and moment of `row`, for the items at `places`."""
        profiles = {}
        for event, of in self.profiles.items():
            start, end = of.lists.offsets[row], of.lists.offsets[row + 1]
            weights = of.lists.weights
            assert weights is not None
            profiles[event] = ProfileList(of.lists.values[start:end], weights[start:end], float(of.mass[row]))
        return ScoringRequest(
            user=self.users[row],
            items=[self.items[place] for place in places],
            context={name: column[row] for name, column in self.context.items()},
            profiles=profiles,
        )


def main() -> None:
    """Measure, and write benchmarks/results/serving.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer rows and requests; nothing is written")
    parser.add_argument("--run", type=Path, default=Path("configs/demo.yaml"), metavar="CONFIG")
    given = parser.parse_args()
    config = load_run(given.run)
    stages = finished_stages(config)
    joint = stages.arms.headline
    if joint is None or not joint.visual:
        raise SystemExit("the run has no joint arm on visual vectors")
    shared = ranking_data(stages)
    traffic = Traffic(stages, shared, raw_keys(stages), joint.tokenizer)
    rng = np.random.default_rng(0)
    rows = rng.permutation(shared.eval)[: 500 if given.quick else 10_000]
    arms = {arm.name: arm for arm in stages.arms.arms}
    rankers, figures = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in (BASELINE, joint.name):
            out = Path(scratch) / str(len(rankers))
            made = export_run(config, out, arm=name)
            rankers[name] = ServingRanker.load(out)
            features = FeatureSet(**arms[name].features())
            model = load_ranker(arm_folder(config.folder / "rankers", name, 0) / "ranker")
            expected = predict(model, with_features(stages, shared, features), features, rows)
            figures[name] = {
                "bytes_per_item": made.row_bytes,
                "engine": rankers[name].engine,
                "parity": _parity(rankers[name], traffic, rows, expected),
            }
            print(name, figures[name])
        requests = [
            traffic.request(int(row), rng.integers(0, len(shared.item_id), CANDIDATES))
            for row in rng.choice(shared.eval, 100 if given.quick else 400)
        ]
        whole = _in_turns(rankers, requests, 2 if given.quick else 10)
        figures["requests"] = whole
        figures["captions_over_without"] = _ratios(whole[joint.name], whole[BASELINE])
        print(whole, figures["captions_over_without"])
        figures["published sizes"] = {
            name: _published(stages, sizes, arms, shared, requests, 2 if given.quick else 10)
            for name, sizes in PUBLISHED.items()
        }
        print(figures["published sizes"])
        figures["engines"] = _engines(rankers, requests[0], 200 if given.quick else 2000)
    if given.quick:
        print(figures["engines"])
        return
    print(write_result("serving", {"candidates": CANDIDATES, "rows": len(rows), **figures}))


def _published(
    stages: Stages,
    sizes: Mapping[str, Any],
    arms: Mapping[str, Arm],
    shared: RankingData,
    requests: list[ScoringRequest],
    rounds: int,
) -> dict[str, Any]:
    """Both arms' rankers at other sizes, in turns."""
    joint = stages.arms.headline
    assert joint is not None
    rankers = {}
    for name in (BASELINE, joint.name):
        features = FeatureSet(**arms[name].features())
        data = with_features(stages, shared, features)
        config = dataclasses.replace(stages.config.ranker, **sizes)
        ranker = Ranker(config, Schema.of(data, features), 0).eval()
        parts = artefact_of(ranker, data, features, raw_keys(stages), whitening=whitening_of(stages, data))
        rankers[name] = ServingRanker(parts)
    found = _in_turns(rankers, requests, rounds)
    return {**sizes, "requests": found, "captions_over_without": _ratios(found[joint.name], found[BASELINE])}


def _parity(
    ranker: ServingRanker, traffic: Traffic, rows: Ints, expected: npt.NDArray[np.float32]
) -> dict[str, float]:
    """The greatest differences of scores from `expected`: as exported, and were the item's rows of 16 bits."""
    worst = {"float32": 0.0, "float16": 0.0, "bfloat16": 0.0}
    for row, wanted in zip(rows, expected, strict=True):
        asked = traffic.request(int(row), traffic.data.item[row : row + 1])
        assert asked.items is not None
        exact = ranker.rows(asked.items)
        halves = {
            "float32": exact,
            "float16": exact.astype(np.float16).astype(np.float32),
            "bfloat16": torch.from_numpy(exact).bfloat16().float().numpy(),
        }
        for kind, given in halves.items():
            found = ranker.score(asked._replace(items=None, rows=given))[0]
            worst[kind] = max(worst[kind], float(np.abs(found - wanted).max()))
    return worst


def _in_turns(
    rankers: Mapping[str, ServingRanker], requests: list[ScoringRequest], rounds: int
) -> dict[str, Any]:
    """Each request by all rankers before the next, so that a busy machine is busy for all of them alike."""
    names = list(rankers)
    took: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            took[name].append([])
        for place, asked in enumerate(requests):
            for name in names[place % len(names) :] + names[: place % len(names)]:
                began = time.perf_counter()
                rankers[name].score(asked)
                took[name][number].append(1000 * (time.perf_counter() - began))
    found = {}
    for name, by_round in took.items():
        flat = np.array(by_round[1:])  # the first round is not counted
        found[name] = {f"p{q}_ms": round(float(np.percentile(flat, q)), 4) for q in (50, 90, 99)}
        found[name] |= {
            f"p{q}_ms_by_round": np.percentile(flat, q, axis=1).round(4).tolist() for q in (50, 99)
        }
    return found


def _ratios(captions: Mapping[str, Any], without: Mapping[str, Any]) -> dict[str, Any]:
    """Medians over rounds of the ratio at p50 and at p99, and its range."""
    found: dict[str, Any] = {}
    for q in ("p50", "p99"):
        ratios = np.array(captions[f"{q}_ms_by_round"]) / np.array(without[f"{q}_ms_by_round"])
        found[q] = round(float(np.median(ratios)), 4)
        found[f"{q}_range"] = [round(float(ratios.min()), 4), round(float(ratios.max()), 4)]
    return found


def _engines(rankers: Mapping[str, ServingRanker], asked: ScoringRequest, times: int) -> dict[str, Any]:
    """Milliseconds from folded rows and a request's state to logits, engine by engine in turns."""
    found: dict[str, Any] = {}
    for name, ranker in rankers.items():
        with torch.inference_mode():
            state = ranker._state(asked)
        assert asked.items is not None
        rows = torch.from_numpy(ranker.rows(asked.items))
        engines, took = {}, {}
        expected = ranker._served(rows, state).detach().numpy()
        found[name] = {}
        for kind, make in ENGINES.items():
            try:
                engines[kind] = make(ranker._served, rows, state)
                worst = float(np.abs(np.asarray(engines[kind](rows, state)) - expected).max())
                found[name][kind] = {"worst_logit": worst}
                took[kind] = []
            except Exception as error:  # an exporter that cannot is a result too
                engines.pop(kind, None)
                found[name][kind] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        for _ in range(times):
            for kind, run in engines.items():
                began = time.perf_counter()
                run(rows, state)
                took[kind].append(1000 * (time.perf_counter() - began))
        for kind, each in took.items():
            found[name][kind] |= {f"p{q}_ms": round(float(np.percentile(each, q)), 4) for q in (50, 99)}
    return found


if __name__ == "__main__":
    main()
