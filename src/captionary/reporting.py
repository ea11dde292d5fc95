"""From trained rankers to the report: measure every arm, conclude, and gather what is shown beside the verdict."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from captionary import __version__
from captionary.assemble import evaluation_rows
from captionary.config import to_mapping
from captionary.evidence.budget import BudgetCurve
from captionary.evidence.evaluate import Evaluation, evaluate
from captionary.evidence.report import write_report
from captionary.evidence.result import CaptionCounts, Evidence, RunInfo
from captionary.evidence.sections import Sections
from captionary.evidence.verdict import conclude
from captionary.gating import curve_path
from captionary.pipeline import Stages, split_of
from captionary.showing import change_cards, item_cards, profile_cards
from captionary.training import arm_folder
from captionary.weighing import (
    calibration_of_run,
    cost_of_run,
    extremes_of_run,
    history_of_run,
    importance_of_run,
    slices_of_run,
)

__all__ = ["write_evidence"]

_EXTREMES = 3
"""Items shown that captions helped most, and as many that they hurt most."""
_PACKAGES = ("numpy", "polars", "pyarrow", "scipy", "tokenizers", "torch", "transformers")


def write_evidence(stages: Stages, out: Path) -> Mapping[str, Any]:
    """Evaluate the arms of a run and write index.html, report.md and evidence.json to `out`."""
    config, dataset = stages.config, stages.dataset
    assert stages.rankers is not None
    impressions = dataset.impressions()
    rows = evaluation_rows(stages, impressions)
    chosen = impressions.take(rows)
    arms = stages.arms
    unit = _subsets_of(stages)
    evaluation = evaluate(
        dataset.labels(chosen),
        chosen[f"{unit}_id"].to_numpy(),
        [task.name for task in dataset.spec.tasks],
        _Predictions(stages),
        arms.arms,
        _truth(stages, chosen["impression_id"]),
        subsets=config.evidence.subsets,
        subsets_of=unit,
        seed=config.evidence.seed,
        samples_per_second=stages.rankers.facts["samples_per_second"],
        dealt=_dealt(stages),
        slices=slices_of_run(stages, rows),
        kinds=tuple(task.kind for task in dataset.spec.tasks),
        gauc_users=chosen["user_id"].to_numpy(),
    )
    evidence = conclude(
        evaluation, run=_run_info(stages, len(rows)), captions=_counts(stages), left_out=arms.left_out
    )
    write_report(
        evidence,
        out,
        item_cards(stages),
        profile_cards(stages, rows),
        _sections(stages, evaluation, evidence, rows),
    )
    return {"outcome": evidence.outcome, "verdict": evidence.verdict}


def _sections(
    stages: Stages, evaluation: Evaluation, evidence: Evidence, rows: npt.NDArray[np.int64]
) -> Sections:
    """What the report says beside the comparison: importance, cost, calibration, gain against budget, failures."""
    config = stages.config
    headline = evidence.headline_arm
    gain = headline.auc_gain if evidence.outcome == "gain" and headline is not None else None
    curve = curve_path(config)
    changed = extremes_of_run(stages, rows, min(config.evidence.cards, _EXTREMES))
    return Sections(
        importance=(
            importance_of_run(stages, repeats=config.evidence.importance)
            if config.evidence.importance
            else None
        ),
        cost=cost_of_run(stages, gain=gain, requests=config.evidence.requests),
        slices=_slices(evaluation, headline.name if headline is not None else ""),
        calibration=calibration_of_run(stages),
        history=history_of_run(stages),
        best=change_cards(stages, changed.best),
        worst=change_cards(stages, changed.worst),
        budget=(
            BudgetCurve.from_dict(json.loads(curve.read_text(encoding="utf-8"))) if curve.exists() else None
        ),
    )


def _slices(evaluation: Evaluation, arm: str) -> list[dict[str, Any]]:
    """The slices of an arm in the columns that fit a page: what is too small for a figure says so."""
    detail = evaluation.detail(arm) if arm else None
    return [
        {
            "slice": one.name,
            "of": one.words,
            "rows": one.rows,
            "auc_gain": one.auc_gain,
            "interval": one.interval,
            "p_adjusted": one.p_adjusted,
            "verdict": "too small" if one.too_small else one.verdict,
        }
        for one in (detail.slices if detail is not None else ())
    ]


class _Predictions(Mapping[str, npt.NDArray[np.float32]]):
    """Arm → predictions of its seeds [S, N, T], read when asked for: one arm in memory at a time."""

    def __init__(self, stages: Stages) -> None:
        assert stages.rankers is not None
        self._seeds = range(stages.config.evidence.seeds)
        self._folder = stages.config.folder / "rankers"
        self._names = [arm.name for arm in stages.arms.arms]

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        if name not in self._names:
            raise KeyError(name)
        return np.stack([np.load(arm_folder(self._folder, name, s) / "predictions.npy") for s in self._seeds])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _dealt(stages: Stages) -> dict[str, npt.NDArray[np.float64]]:
    """Arm → its scores under dealt captions [S, 1 + deals, T], where they were dealt."""
    found = {}
    for arm in stages.arms.arms:
        folders = [
            arm_folder(stages.config.folder / "rankers", arm.name, s)
            for s in range(stages.config.evidence.seeds)
        ]
        if all((folder / "dealt.npy").exists() for folder in folders):
            found[arm.name] = np.stack([np.load(folder / "dealt.npy") for folder in folders])
    return found


def _truth(stages: Stages, wanted: Any) -> npt.NDArray[np.float64] | None:
    """True probabilities of the evaluation rows, [N, T], where the data set knows them."""
    truth = stages.dataset.truth()
    if truth is None:
        return None
    rows = pc.index_in(wanted.combine_chunks(), value_set=truth["impression_id"].combine_chunks())
    known = truth.take(rows)
    return np.column_stack([known[task.name].to_numpy() for task in stages.dataset.spec.tasks])


def _subsets_of(stages: Stages) -> Literal["user", "item"]:
    """Where items are held out, the luck is in which ones: subsets then share no item."""
    return "item" if stages.holds_items_out else "user"


def _run_info(stages: Stages, eval_rows: int) -> RunInfo:
    config, dataset, captions, tokens = stages.config, stages.dataset, stages.captions, stages.tokens
    assert captions is not None
    assert tokens is not None
    assert stages.profiles is not None
    assert stages.rankers is not None
    users = pc.count_distinct(dataset.impressions(["user_id"])["user_id"]).as_py()
    return RunInfo(
        name=config.name,
        dataset=dataset.spec.name,
        split=split_of(config, dataset),
        source=dataset.spec.source,
        license=dataset.spec.license,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        train_rows=stages.rankers.facts["train_rows"],
        eval_rows=eval_rows,
        subsets_of=_subsets_of(stages),
        users=users,
        items=dataset.items(["item_id"]).num_rows,
        captioner=f"{captions.facts['captioner']} ({captions.facts['fingerprint']})"
        if captions.facts["ok"]
        else "",
        tokenizers={
            letter: f"{made['kind']}, {made['vocabulary']:,} tokens ({made['fingerprint'][:12]})"
            for letter, made in tokens.facts["tokenizers"].items()
        },
        hardware=_hardware(),
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        config=_plain(to_mapping(config)),
        versions={"captionary": __version__, "python": platform.python_version(), **_versions()},
        fingerprints={
            "data": stages.data,
            "captions": captions.fingerprint,
            "tokens": tokens.fingerprint,
            "profiles": stages.profiles.fingerprint,
            "rankers": stages.rankers.fingerprint,
        },
    )


def _counts(stages: Stages) -> CaptionCounts | None:
    assert stages.captions is not None
    facts = stages.captions.facts
    if not facts["ok"] and not facts["failed"]:
        return None
    return CaptionCounts(
        ok=facts["ok"],
        failed=sum(facts["failed"].values()),
        skipped=sum(facts["skipped"].values()),
        reasons={**facts["failed"], **facts["skipped"]},
    )


def _plain(value: Any) -> Any:
    """Paths as text and tuples as lists, as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _hardware() -> str:
    name = platform.processor() or platform.machine()
    memory = ""
    if (info := Path("/proc/cpuinfo")).exists() and (
        found := re.search(r"model name\s*: (.+)", info.read_text())
    ):
        name = found[1]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    return f"{name}, {os.cpu_count()} cores{memory}, no accelerator used"
