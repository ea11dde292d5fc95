"""From labels and predictions to the figures of every arm: the one call that the pipeline makes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import CaptionaryError, bad_value
from captionary.evidence import compare as comparing
from captionary.evidence.ablation import ablations
from captionary.evidence.arms import Arm, baseline_of, headline_of
from captionary.evidence.by_kind import extras, kinds_of, known_rows
from captionary.evidence.compare import ALPHA, Comparison, Ids, Measured, Verdict, compare, measure
from captionary.evidence.deal import dealt_test
from captionary.evidence.multiplicity import holm_by_name
from captionary.evidence.power import Components, Need
from captionary.evidence.result import (
    Ablation,
    ArmResult,
    Contrast,
    OracleResult,
    PerTask,
    RivalContrast,
    TaskInfo,
)
from captionary.evidence.slices import Slice, SliceGain, slice_gains, slice_measures
from captionary.evidence.task_info import RARE, task_infos, task_warnings
from captionary.spec import TaskKind

__all__ = ["RARE", "ArmDetail", "Evaluation", "evaluate"]


class ArmDetail(NamedTuple):
    """One arm against the baseline, beside what `ArmResult` has: all by task, slice or source of error."""

    name: str
    """Of the arm."""
    need: Need | None
    """Rows and seeds that would find the target; None where nothing can be tested."""
    sources: Components | None
    """Variance of the gain by source; None with fewer than 2 subsets."""
    task_interval: dict[str, tuple[float, float] | None]
    """95 % interval of the AUC gain by task, over subsets and seeds."""
    task_p_value: dict[str, float | None]
    """Two-sided, over subsets and seeds."""
    task_p_adjusted: dict[str, float | None]
    """The same, corrected for the number of tasks (Holm 1979)."""
    task_verdict: dict[str, Verdict]
    """Of each task alone, by the corrected p-value."""
    slices: tuple[SliceGain, ...]
    """Gains within slices; empty where none were given."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self._asdict(),
            "need": self.need.to_dict() if self.need else None,
            "sources": self.sources._asdict() if self.sources else None,
            "slices": [one.to_dict() for one in self.slices],
        }


class Evaluation(NamedTuple):
    """What `captionary.evidence.verdict.conclude` turns into an `Evidence`."""

    baseline: str
    """Name of the arm that gains are measured against."""
    headline: str | None
    """Name of the arm that the verdict is about; None without captions."""
    tasks: tuple[TaskInfo, ...]
    """In the order of the labels."""
    arms: tuple[ArmResult, ...]
    """In the order given."""
    against_placebos: tuple[Contrast, ...]
    """The headline arm against each placebo."""
    oracle: OracleResult | None
    """What the truth scores."""
    warnings: tuple[str, ...]
    """Sentences."""
    details: tuple[ArmDetail, ...] = ()
    """What stands behind each arm but the baseline, in the order of the arms."""
    against_rivals: tuple[RivalContrast, ...] = ()
    """The headline arm against each rival."""
    ablation: tuple[Ablation, ...] = ()
    """Features of the headline arm added alone, and removed alone."""

    def detail(self, name: str) -> ArmDetail | None:
        """That of the arm of this name, where there is one."""
        return next((one for one in self.details if one.name == name), None)


def evaluate(
    labels: npt.NDArray[np.float32],
    users: Ids,
    task_names: Sequence[str],
    predictions: Mapping[str, npt.NDArray[np.float32]],
    arms: Sequence[Arm],
    truth: npt.NDArray[np.float64] | None = None,
    *,
    subsets: int = 20,
    subsets_of: str = "user",
    seed: int = 0,
    samples_per_second: Mapping[str, float] | None = None,
    dealt: Mapping[str, npt.NDArray[np.float64]] | None = None,
    weights: npt.NDArray[np.floating] | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    slices: Sequence[Slice] = (),
    alpha: float = ALPHA,
    target: float | None = None,
    kinds: Sequence[TaskKind] = (),
    gauc_users: Ids | None = None,
) -> Evaluation:
    """Measure every arm on the evaluation rows and compare it with the baseline, `+visual` or `ids`.

    Args:
        labels: 0 or 1, of continuous tasks amounts >= 0, NaN where there is none, [N, T].
        users: the user (or item) of each row, integers or strings, [N].
        task_names: [T].
        predictions: arm name → probabilities of S trainings, [S, N, T]. Seed s of one arm is compared with
            seed s of another, so they should share their data order and initial values. Looked up once an
            arm, in the order of `arms`, so that a lazy mapping need hold one array at a time.
        arms: what is compared.
        truth: true probabilities, NaN where not known, [N, T]; None where there are none.
        subsets: disjoint subsets of the paired test; fewer where there are fewer users.
        subsets_of: what `users` holds, in a word: "item" where subsets share no item, because the items are new and
            it is their choice that luck is in.
        seed: deals the users into subsets.
        samples_per_second: arm name → training speed.
        dealt: arm name → scores under dealt captions [S, 1 + deals, T], see `captionary.evidence.deal`.
        weights: importance of each row, >= 0, [N]; None: each counts 1.
        mask: which rows have a label of which task, [N, T]; None: all. Nothing is looked at where there is none.
        slices: parts of the rows to compare within, see `captionary.evidence.slices.slices_by_history`.
        alpha: level of the tests behind a verdict.
        target: AUC gain that "needs about N rows / S seeds" is about, see `captionary.evidence.compare.compare`.
        kinds: of the tasks, [T]; (): all binary.
        gauc_users: the user of each row, where `users` holds something else: of these are GAUC and the halves of the
            recalibration. None: `users` where `subsets_of` is "user", else no GAUC, ECE and recalibrated NE.

    Raises:
        CaptionaryError: shapes that do not fit, an arm without predictions, a label that is neither 0 nor
            1, a
            prediction that is not a probability.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.shape != (len(users), len(task_names)) or not labels.size:
        raise bad_value(
            "shape of labels", str(labels.shape), f"[{len(users)} users, {len(task_names)} tasks]"
        )
    kinds = kinds_of(kinds, len(task_names))
    mask = known_rows(labels, mask)
    warnings: list[str] = []
    count = int(min(subsets, len(np.unique(users))))
    if count < subsets:
        warnings.append(
            f"There are only {count} {subsets_of}s to evaluate, so {count} subsets instead of {subsets}."
        )
    subset = comparing.subsets(users, count, seed) if count >= 2 else np.zeros(len(labels), dtype=np.int64)
    people = gauc_users if gauc_users is not None else users if subsets_of == "user" else None
    rows = _Rows(labels, subset, weights, mask, tuple(slices), kinds, people)
    measured: dict[str, Measured] = {}
    sliced: dict[str, dict[str, Measured]] = {}
    more: dict[str, npt.NDArray[np.float64]] = {}
    for arm in arms:
        measured[arm.name], sliced[arm.name], more[arm.name] = _measure(arm, rows, predictions)
    baseline, headline = baseline_of(arms), headline_of(arms)
    compared = {
        arm.name: compare(measured[arm.name], measured[baseline.name], alpha=alpha, target=target)
        for arm in arms
        if arm is not baseline
    }
    claimed = [arm for arm in arms if arm.name in compared and arm.captions and not arm.placebo]
    adjusted = holm_by_name({arm.name: _p(compared[arm.name]) for arm in claimed if not arm.ablation})
    results, details = [], []
    for arm in arms:
        comparison = compared.get(arm.name)
        if comparison is not None:
            within = slice_gains(
                slices,
                labels,
                task_names,
                sliced[arm.name],
                sliced[baseline.name],
                mask,
                alpha=alpha,
                kinds=kinds,
            )
            details.append(_detail(arm.name, comparison, task_names, within))
        speed = (samples_per_second or {}).get(arm.name)
        result = _result(arm, measured[arm.name], comparison, task_names, speed)
        result = dataclasses.replace(
            result, p_adjusted=adjusted.get(arm.name), **_by_task_extras(more[arm.name], task_names)
        )
        test = dealt_test(dealt[arm.name]) if dealt and arm.name in dealt else None
        if test is not None:
            result = dataclasses.replace(result, dealt_gain=test[0], dealt_p_value=test[1])
        results.append(result)
    tasks = task_infos(labels, task_names, measured[baseline.name], mask, kinds, more[baseline.name])
    warnings += task_warnings(tasks, max(len(measured[baseline.name].subset_auc[0]), 1))
    if len(measured[baseline.name].auc) == 1:
        warnings.append("One seed: how much of a gain is the luck of one training is not measured.")

    def against(treatment: Arm, other: Arm) -> Comparison:
        return compare(measured[treatment.name], measured[other.name], alpha=alpha, target=target)

    return Evaluation(
        baseline=baseline.name,
        headline=headline.name if headline else None,
        tasks=tasks,
        arms=tuple(results),
        against_placebos=tuple(
            _contrast(arm.name, against(headline, arm)) for arm in arms if headline and arm.placebo
        ),
        oracle=None
        if truth is None
        else _oracle(labels, truth, task_names, measured[baseline.name], weights, mask, kinds),
        warnings=tuple(warnings),
        details=tuple(details),
        against_rivals=_against_rivals(headline, arms, against) if headline else (),
        ablation=ablations(headline, arms, against) if headline else (),
    )


class _Rows(NamedTuple):
    """What all arms are measured on."""

    labels: npt.NDArray[np.float32]
    subset: npt.NDArray[np.int64]
    weights: npt.NDArray[np.floating] | None
    mask: npt.NDArray[np.bool_]
    slices: tuple[Slice, ...]
    kinds: tuple[TaskKind, ...]
    users: Ids | None


def _measure(
    arm: Arm, rows: _Rows, predictions: Mapping[str, npt.NDArray[np.float32]]
) -> tuple[Measured, dict[str, Measured], npt.NDArray[np.float64]]:
    """Metrics of an arm on all rows, by slice, and GAUC, users, ECE, recalibrated NE [4, T] as means over seeds (NaN of
    a placebo): all at once, as its predictions may be read for this alone."""
    name = arm.name
    if name not in predictions:
        raise bad_value("predictions", ", ".join(predictions) or "none", f"given for arm {name}")
    predicted = np.asarray(predictions[name])
    given = (rows.labels, predicted, rows.subset, rows.weights, rows.mask, rows.kinds)
    try:
        whole, sliced = measure(*given), slice_measures(rows.slices, *given)
    except CaptionaryError as error:
        raise CaptionaryError(f"{error}; arm {name}") from None
    more = np.full((4, len(predicted), len(rows.kinds)), np.nan)
    if rows.users is None or arm.placebo or arm.ablation:
        return whole, sliced, more.mean(axis=1)
    people = np.unique(rows.users, return_inverse=True)[1]
    for task, kind in enumerate(rows.kinds):
        kept = rows.mask[:, task]
        weights = None if rows.weights is None else np.asarray(rows.weights[kept], np.float64)
        for seed in range(len(predicted)):
            more[:, seed, task] = extras(
                kind, rows.labels[kept, task], predicted[seed, kept, task], people[kept], weights
            )
    return whole, sliced, more.mean(axis=1)


def _by_task_extras(more: npt.NDArray[np.float64], tasks: Sequence[str]) -> dict[str, Any]:
    if np.isnan(more[1]).all():
        return {}
    return {
        field: {task: _number(value) for task, value in zip(tasks, more[row], strict=True)}
        for field, row in (("gauc", 0), ("ece", 2), ("recalibrated_ne", 3))
    }


def _detail(
    name: str, comparison: Comparison, tasks: Sequence[str], slices: tuple[SliceGain, ...]
) -> ArmDetail:
    return ArmDetail(
        name=name,
        need=comparison.need,
        sources=comparison.sources,
        task_interval={
            task: test.interval() if test else None
            for task, test in zip(tasks, comparison.task_auc, strict=True)
        },
        task_p_value={
            task: test.p_value if test else None
            for task, test in zip(tasks, comparison.task_auc, strict=True)
        },
        task_p_adjusted=dict(zip(tasks, comparison.task_p_adjusted, strict=True)),
        task_verdict=dict(zip(tasks, comparison.task_verdicts, strict=True)),
        slices=slices,
    )


def _result(
    arm: Arm, measured: Measured, comparison: Comparison | None, tasks: Sequence[str], speed: float | None
) -> ArmResult:
    def by_task(values: npt.NDArray[np.float64]) -> PerTask:
        return {task: _number(value) for task, value in zip(tasks, values, strict=True)}

    auc = measured.auc.mean(axis=0)
    result = ArmResult(
        name=arm.name,
        feature=arm.feature,
        description=arm.description,
        tokenizer=arm.tokenizer,
        placebo=arm.placebo,
        rival=arm.rival,
        ablation=arm.ablation,
        captions=arm.captions,
        auc=by_task(auc),
        ne=by_task(measured.ne.mean(axis=0)),
        calibration=by_task(measured.calibration.mean(axis=0)),
        task_auc_gain=by_task(np.where(np.isnan(auc), np.nan, 0.0)),
        task_ne_gain=by_task(np.where(np.isnan(auc), np.nan, 0.0)),
        task_ne_interval=dict.fromkeys(tasks),
        seeds=len(measured.auc),
        samples_per_second=_number(speed),
    )
    if comparison is None:
        return result
    subsets, seeds, combined = comparison.over_subsets, comparison.over_seeds, comparison.combined
    direction = np.sign(subsets.mean) if subsets else 0
    need, sources = comparison.need, comparison.sources
    return dataclasses.replace(
        result,
        auc_gain=_number(comparison.auc_gain),
        ne_gain=_number(comparison.ne_gain),
        task_auc_gain=by_task(comparison.task_auc_gain),
        task_ne_gain=by_task(comparison.task_ne_gain),
        task_ne_interval={
            task: test.interval() if test else None
            for task, test in zip(tasks, comparison.task_ne, strict=True)
        },
        p_value=subsets.p_value if subsets else None,
        direction="up" if direction > 0 else "down" if direction < 0 else "none",
        subsets=len(comparison.subset_gains),
        subset_gain=subsets.mean if subsets else None,
        interval=subsets.interval() if subsets else None,
        combined_interval=combined.interval() if combined else None,
        combined_p_value=combined.p_value if combined else None,
        seed_auc_gains=tuple(float(gain) for gain in comparison.seed_gains if not math.isnan(gain)),
        seed_sd=seeds.error * math.sqrt(len(comparison.seed_gains)) if seeds else None,
        seed_p_value=seeds.p_value if seeds else None,
        seeds_agree=comparison.seeds_agree,
        detectable=combined.detectable() if combined else None,
        target=need.target if need else None,
        needs=need.words if need else "",
        needs_rows=need.rows if need else None,
        needs_seeds=need.seeds if need else None,
        variance={name: _number(getattr(sources, name)) for name in ("training", "users", "rest")}
        if sources
        else {},
        task_p_value={
            task: test.p_value if test else None
            for task, test in zip(tasks, comparison.task_auc, strict=True)
        },
        task_p_adjusted=dict(zip(tasks, comparison.task_p_adjusted, strict=True)),
        task_verdict=dict(zip(tasks, comparison.task_verdicts, strict=True)),
        verdict=comparison.verdict,
    )


def _contrast(placebo: str, comparison: Comparison) -> Contrast:
    test = comparison.over_subsets
    return Contrast(
        placebo=placebo,
        auc_gain=_number(comparison.auc_gain),
        p_value=test.p_value if test else None,
        interval=test.interval() if test else None,
        verdict=comparison.verdict,
    )


def _p(comparison: Comparison) -> float | None:
    return comparison.combined.p_value if comparison.combined else None


def _against_rivals(
    headline: Arm, arms: Sequence[Arm], against: Callable[[Arm, Arm], Comparison]
) -> tuple[RivalContrast, ...]:
    found = {arm.name: against(headline, arm) for arm in arms if arm.rival}
    adjusted = holm_by_name({name: _p(comparison) for name, comparison in found.items()})
    return tuple(
        RivalContrast(
            rival=name,
            auc_gain=_number(comparison.auc_gain),
            p_value=_p(comparison),
            p_adjusted=adjusted[name],
            interval=comparison.combined.interval() if comparison.combined else None,
            verdict=comparison.verdict,
        )
        for name, comparison in found.items()
    )


def _oracle(
    labels: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float64],
    tasks: Sequence[str],
    baseline: Measured,
    weights: npt.NDArray[np.floating] | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    kinds: Sequence[TaskKind] = (),
) -> OracleResult:
    if truth.shape != labels.shape:
        raise bad_value("shape of truth", str(truth.shape), f"that of the labels, {labels.shape}")
    known = [t for t in range(len(tasks)) if not np.isnan(truth[:, t]).any()]
    one_subset = np.zeros(len(labels), dtype=np.int64)
    there = None if mask is None else mask[:, known]
    of = tuple(kind for t, kind in enumerate(kinds_of(kinds, len(tasks))) if t in known)
    measured = measure(labels[:, known], truth[None][:, :, known], one_subset, weights, there, of)
    # The oracle is no training, so it has no seeds to pair: it meets the mean of the baseline's.
    mean = measured._replace(
        auc=baseline.auc[:, known].mean(axis=0, keepdims=True),
        ne=baseline.ne[:, known].mean(axis=0, keepdims=True),
    )
    comparison = compare(measured, mean, target=1.0)
    auc: PerTask = dict.fromkeys(tasks)
    ne: PerTask = dict.fromkeys(tasks)
    for i, t in enumerate(known):
        auc[tasks[t]], ne[tasks[t]] = _number(measured.auc[0, i]), _number(measured.ne[0, i])
    return OracleResult(
        auc=auc, ne=ne, auc_gain=_number(comparison.auc_gain), ne_gain=_number(comparison.ne_gain)
    )


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
