"""From labels and predictions to the figures of every arm: the one call that the pipeline makes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import CaptionaryError, bad_value
from captionary.evidence import compare as comparing
from captionary.evidence.arms import Arm, baseline_of, headline_of
from captionary.evidence.compare import ALPHA, Comparison, Ids, Measured, Verdict, compare, measure
from captionary.evidence.deal import dealt_test
from captionary.evidence.power import Components, Need
from captionary.evidence.result import ArmResult, Contrast, OracleResult, PerTask, TaskInfo
from captionary.evidence.slices import Slice, SliceGain, slice_gains, slice_measures

__all__ = ["RARE", "ArmDetail", "Evaluation", "evaluate"]

RARE = 50
"""Fewer positives (or negatives) than this in the evaluation rows get a warning."""


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
) -> Evaluation:
    """Measure every arm on the evaluation rows and compare it with the baseline, `+visual` or `ids`.

    Args:
        labels: 0 or 1, [N, T].
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
    warnings: list[str] = []
    count = int(min(subsets, len(np.unique(users))))
    if count < subsets:
        warnings.append(
            f"There are only {count} {subsets_of}s to evaluate, so {count} subsets instead of {subsets}."
        )
    subset = comparing.subsets(users, count, seed) if count >= 2 else np.zeros(len(labels), dtype=np.int64)
    measured: dict[str, Measured] = {}
    sliced: dict[str, dict[str, Measured]] = {}
    for arm in arms:
        measured[arm.name], sliced[arm.name] = _measure(
            arm.name, labels, predictions, subset, weights, mask, slices
        )
    baseline, headline = baseline_of(arms), headline_of(arms)
    results, details = [], []
    for arm in arms:
        speed = (samples_per_second or {}).get(arm.name)
        comparison = None
        if arm is not baseline:
            comparison = compare(measured[arm.name], measured[baseline.name], alpha=alpha, target=target)
            within = slice_gains(
                slices, labels, task_names, sliced[arm.name], sliced[baseline.name], mask, alpha=alpha
            )
            details.append(_detail(arm.name, comparison, task_names, within))
        result = _result(arm, measured[arm.name], comparison, task_names, speed)
        test = dealt_test(dealt[arm.name]) if dealt and arm.name in dealt else None
        if test is not None:
            result = dataclasses.replace(result, dealt_gain=test[0], dealt_p_value=test[1])
        results.append(result)
    tasks = _tasks(labels, task_names, measured[baseline.name], mask)
    counts = [len(labels)] * len(tasks) if mask is None else mask.sum(axis=0).tolist()
    warnings += _warn(tasks, counts, max(len(measured[baseline.name].subset_auc[0]), 1))
    if len(measured[baseline.name].auc) == 1:
        warnings.append("One seed: how much of a gain is the luck of one training is not measured.")
    contrasts = [
        _contrast(arm.name, compare(measured[headline.name], measured[arm.name], alpha=alpha, target=target))
        for arm in arms
        if headline is not None and arm.placebo
    ]
    return Evaluation(
        baseline=baseline.name,
        headline=headline.name if headline else None,
        tasks=tasks,
        arms=tuple(results),
        against_placebos=tuple(contrasts),
        oracle=None
        if truth is None
        else _oracle(labels, truth, task_names, measured[baseline.name], weights, mask),
        warnings=tuple(warnings),
        details=tuple(details),
    )


def _measure(
    name: str,
    labels: npt.NDArray[np.float32],
    predictions: Mapping[str, npt.NDArray[np.float32]],
    subset: npt.NDArray[np.int64],
    weights: npt.NDArray[np.floating] | None,
    mask: npt.NDArray[np.bool_] | None,
    slices: Sequence[Slice],
) -> tuple[Measured, dict[str, Measured]]:
    """Metrics of an arm on all rows, and by slice: both at once, as its predictions may be read for this alone."""
    if name not in predictions:
        raise bad_value("predictions", ", ".join(predictions) or "none", f"given for arm {name}")
    predicted = np.asarray(predictions[name])
    try:
        whole = measure(labels, predicted, subset, weights, mask)
        return whole, slice_measures(slices, labels, predicted, subset, weights, mask)
    except CaptionaryError as error:
        raise CaptionaryError(f"{error}; arm {name}") from None


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


def _oracle(
    labels: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float64],
    tasks: Sequence[str],
    baseline: Measured,
    weights: npt.NDArray[np.floating] | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> OracleResult:
    if truth.shape != labels.shape:
        raise bad_value("shape of truth", str(truth.shape), f"that of the labels, {labels.shape}")
    known = [t for t in range(len(tasks)) if not np.isnan(truth[:, t]).any()]
    one_subset = np.zeros(len(labels), dtype=np.int64)
    there = None if mask is None else mask[:, known]
    measured = measure(labels[:, known], truth[None][:, :, known], one_subset, weights, there)
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


def _tasks(
    labels: npt.NDArray[np.float32],
    names: Sequence[str],
    baseline: Measured,
    mask: npt.NDArray[np.bool_] | None,
) -> tuple[TaskInfo, ...]:
    both = (~np.isnan(baseline.subset_auc[0])).sum(axis=0)  # [T]
    there = np.ones(labels.shape, bool) if mask is None else mask
    positives = np.where(there, labels, 0).sum(axis=0, dtype=np.float64)
    counts = np.maximum(there.sum(axis=0), 1)
    return tuple(
        TaskInfo(
            name=name,
            positives=int(positives[t]),
            base_rate=float(positives[t] / counts[t]),
            subsets=int(both[t]),
        )
        for t, name in enumerate(names)
    )


def _warn(tasks: Sequence[TaskInfo], counts: Sequence[int], subsets: int) -> list[str]:
    words = []
    for task, rows in zip(tasks, counts, strict=True):
        rarer = min(task.positives, rows - task.positives)
        kind = "positives" if task.positives <= rows - task.positives else "negatives"
        if rarer == 0:
            words.append(
                f"Task {task.name} has one class only in the evaluation rows: it has no AUC and no NE, "
                "and is left out of every mean."
            )
            continue
        if rarer < RARE:
            words.append(
                f"Task {task.name} has only {rarer} {kind} in the evaluation rows: its figures are rough."
            )
        if task.subsets < subsets:
            words.append(
                f"Task {task.name} has one class only in {subsets - task.subsets} of {subsets} subsets: it "
                "is left out of the paired test there, in all arms."
            )
    return words


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
