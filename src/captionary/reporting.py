"""From trained rankers to the report: measure every arm, conclude, and pick the items and users that are shown."""

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
import pyarrow.parquet as pq

from captionary import __version__
from captionary.assemble import evaluation_rows, profile_folder
from captionary.config import to_mapping
from captionary.evidence.budget import BudgetCurve
from captionary.evidence.cards import ItemCard, ProfileCard
from captionary.evidence.evaluate import Evaluation, evaluate
from captionary.evidence.report import write_report
from captionary.evidence.result import CaptionCounts, Evidence, RunInfo
from captionary.evidence.sections import Sections
from captionary.evidence.verdict import conclude
from captionary.gating import curve_path
from captionary.pipeline import Stages, split_of
from captionary.represent.tables import read_item_tokens, read_profiles
from captionary.represent.tokenizers import load_tokenizer
from captionary.training import arm_folder
from captionary.weighing import (
    calibration_of_run,
    cost_of_run,
    history_of_run,
    importance_of_run,
    slices_of_run,
)

__all__ = ["write_evidence"]

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
    )
    evidence = conclude(
        evaluation, run=_run_info(stages, len(rows)), captions=_counts(stages), left_out=arms.left_out
    )
    write_report(
        evidence,
        out,
        _item_cards(stages),
        _profile_cards(stages, rows),
        _sections(stages, evaluation, evidence),
    )
    return {"outcome": evidence.outcome, "verdict": evidence.verdict}


def _sections(stages: Stages, evaluation: Evaluation, evidence: Evidence) -> Sections:
    """What the report says beside the comparison: importance, cost, calibration, gain against budget, failures."""
    config = stages.config
    headline = evidence.headline_arm
    gain = headline.auc_gain if evidence.outcome == "gain" and headline is not None else None
    curve = curve_path(config)
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


def _item_cards(stages: Stages) -> list[ItemCard]:
    """A spread of captioned items, and one of each kind of failure."""
    config, dataset, captions, tokens = stages.config, stages.dataset, stages.captions, stages.tokens
    assert captions is not None
    assert tokens is not None
    table = pq.read_table(captions.folder / "captions.parquet")
    status, reasons = table["status"].to_pylist(), table["reason"].to_pylist()
    told = [row for row, state in enumerate(status) if state == "ok"]
    if not told:
        return []
    spread = np.random.default_rng(config.evidence.seed).permutation(told)[: config.evidence.cards]
    failures = {reasons[row]: row for row, state in reversed(list(enumerate(status))) if state == "failed"}
    items = dataset.items()
    folders = {letter: tokens.folder / letter for letter in tokens.facts["letters"]}
    lists = {
        letter: (load_tokenizer(folder), read_item_tokens(folder / "item_tokens.parquet")[1])
        for letter, folder in folders.items()
    }
    cards = []
    for row in [*sorted(spread.tolist()), *sorted(failures.values())]:
        media = [uri for uri in items["media"][row].as_py() or [] if uri]
        cards.append(
            ItemCard(
                item_id=str(items["item_id"][row]),
                title=items["title"][row].as_py() or "",
                image=dataset.media_path(media[0]) if media else None,
                caption_raw=table["caption"][row].as_py() or "",
                caption=table["normalized"][row].as_py() or "",
                tokens={
                    letter: tuple(tok.decode(listed.row(row))) for letter, (tok, listed) in lists.items()
                },
                status=status[row],
                reason=reasons[row] or "",
            )
        )
    return cards


def _profile_cards(stages: Stages, rows: npt.NDArray[np.int64], shown: int = 4) -> list[ProfileCard]:
    """The profiles of a few users at their last evaluated impression: those with the fullest lists among a draw."""
    tokens, profiles = stages.tokens, stages.profiles
    assert tokens is not None
    assert profiles is not None
    if not profiles.facts["keys"]:
        return []
    key = profiles.facts["keys"][0]
    tokenizer = load_tokenizer(tokens.folder / key)
    built = read_profiles(profile_folder(profiles.folder, key))[1]
    chosen = stages.dataset.impressions(["user_id", "timestamp"]).take(rows)
    order = np.argsort(chosen["timestamp"].to_numpy(), kind="stable")
    last = {str(user): row for row, user in zip(order, np.asarray(chosen["user_id"])[order], strict=True)}
    drawn = np.random.default_rng(stages.config.evidence.seed).permutation(list(last.items()))[:200]
    length = {user: sum(p.lists.lengths[rows[int(row)]] for p in built.values()) for user, row in drawn}
    cards = []
    for user in sorted(length, key=lambda name: (-length[name], name))[:shown]:
        row = int(rows[last[user]])
        cards.append(
            ProfileCard(
                user_id=user,
                events={event: _words(tokenizer, p.lists, row) for event, p in built.items()},
                as_of=f"{chosen['timestamp'][last[user]].as_py():%Y-%m-%d %H:%M} UTC",
                mass={event: float(p.mass[row]) for event, p in built.items()},
            )
        )
    return cards


def _words(tokenizer: Any, lists: Any, row: int) -> tuple[tuple[str, float], ...]:
    first, last = lists.offsets[row], lists.offsets[row + 1]
    pairs = zip(tokenizer.decode(lists.values[first:last]), lists.weights[first:last].tolist(), strict=True)
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))


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
