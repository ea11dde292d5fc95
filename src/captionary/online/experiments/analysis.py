"""What an experiment came to: every metric of every arm against the control, corrected for how many are looked at.

The primary metric is tested once, uncorrected. Secondary metrics, of all arms, are one family: Holm or
Benjamini–Hochberg, by `tea-tasting`. Before any of it stands whether the split is what was asked for.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

import numpy as np

from captionary.evidence.formats import count, interval, p_text, percent, share
from captionary.online.experiments.comparison import Comparison, compare, sample_ratio_p, tea_tasting
from captionary.online.experiments.exposure import Exposed
from captionary.online.experiments.guardrails import GuardrailResult, judge_guardrail
from captionary.online.experiments.measures import DAY, Log, Measures
from captionary.online.experiments.settings import Experiment, Metric

__all__ = ["Analysis", "MetricResult", "SampleRatio", "analyse"]

Found = Literal["better", "worse", "nothing shown"]
_CONTAMINATED = 0.001  # more than this of the users in two arms: hashes or the log are broken


class SampleRatio(NamedTuple):
    """Whether an arm has its share of the users."""

    arm: str
    """Name of the treatment arm."""
    control_users: int
    """Users of the control arm."""
    treatment_users: int
    """Users of the treatment arm."""
    p_value: float
    """Of such a split or a less likely one."""
    mismatch: bool
    """Whether that is below the experiment's `sample_ratio_alpha`: then nothing else here can be believed."""


class MetricResult(NamedTuple):
    """One metric of one arm against the control."""

    metric: str
    """Name."""
    role: Literal["primary", "secondary"]
    """Whether it decides."""
    arm: str
    """Name of the treatment arm."""
    control: float
    """Mean per user, or ratio, of the control arm."""
    treatment: float
    """The same of the treatment arm."""
    effect: float
    """Relative: treatment ÷ control − 1."""
    interval: tuple[float, float]
    """Of the effect, 1 − alpha; not corrected for several metrics."""
    p_value: float
    """Two-sided."""
    p_adjusted: float
    """For several metrics or arms; what `found` goes by."""
    variance_left: float | None
    """What CUPED leaves of the variance; None without CUPED."""
    found: Found
    """In a word, by the metric's own direction."""


class Analysis(NamedTuple):
    """All that an analysis says."""

    experiment: str
    """Name."""
    days: float
    """From the first exposure to the end of what was analysed."""
    users: dict[str, int]
    """Arm → users, the control first."""
    sample_ratios: tuple[SampleRatio, ...]
    """One for each treatment arm."""
    contaminated: int
    """Users seen in two arms, left out."""
    forced: int
    """Users with a forced arm, left out."""
    metrics: tuple[MetricResult, ...]
    """The primary metric, then secondary ones, for each treatment arm."""
    guardrails: tuple[GuardrailResult, ...]
    """What must not get worse."""
    alpha: float
    """Two-sided, of the primary metric."""
    warnings: tuple[str, ...]
    """What to know before believing the figures."""

    @property
    def verdict(self) -> str:
        """In a sentence."""
        if any(ratio.mismatch for ratio in self.sample_ratios):
            return "The split is not what was asked for: find out why before believing any figure."
        broken = [rail for rail in self.guardrails if rail.state == "broken"]
        sentences = [f"{rail.arm}: guardrail {rail.metric} is broken." for rail in broken]
        sentences += [_sentence(result) for result in self.metrics if result.role == "primary"]
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self._asdict(),
            "verdict": self.verdict,
            "sample_ratios": [ratio._asdict() for ratio in self.sample_ratios],
            "metrics": [result._asdict() for result in self.metrics],
            "guardrails": [rail._asdict() for rail in self.guardrails],
        }

    def to_json(self) -> str:
        """The text of a JSON file."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Verdict, split, metrics and guardrails, for a document."""
        users = ", ".join(f"{name} {count(number)}" for name, number in self.users.items())
        lines = [f"**{self.experiment}**: {self.verdict}", "", f"{self.days:.1f} days; users: {users}", ""]
        lines += [_row(row) for row in self._metric_rows()]
        if self.guardrails:
            lines += ["", *(_row(row) for row in self._guardrail_rows())]
        lines += ["", *(f"- {note}" for note in self._notes())]
        return "\n".join(lines).rstrip()

    def to_string(self) -> str:
        """The same in columns, for a terminal."""
        users = ", ".join(f"{name} {count(number)}" for name, number in self.users.items())
        parts = [f"{self.experiment}: {self.verdict}", f"{self.days:.1f} days; users: {users}"]
        parts.append(_columns(self._metric_rows()))
        if self.guardrails:
            parts.append(_columns(self._guardrail_rows()))
        return "\n\n".join([*parts, "\n".join(self._notes())]).rstrip()

    def _metric_rows(self) -> list[list[str]]:
        rows = [["metric", "arm", "control", "treatment", "effect", f"{1 - self.alpha:.0%} interval"]]
        rows[0] += ["p", "p adjusted", "found"]
        rows.append(["---"] * len(rows[0]))
        for result in self.metrics:
            name = f"{result.metric} (primary)" if result.role == "primary" else result.metric
            means = [f"{result.control:.5g}", f"{result.treatment:.5g}", percent(result.effect)]
            ps = [p_text(result.p_value), p_text(result.p_adjusted)]
            rows.append([name, result.arm, *means, interval(result.interval), *ps, result.found])
        return rows

    def _guardrail_rows(self) -> list[list[str]]:
        rows = [["guardrail", "arm", "worse by", "at least", "at most", "put up with", "state"]]
        rows.append(["---"] * len(rows[0]))
        for rail in self.guardrails:
            worse = [percent(rail.harm), percent(rail.interval[0]), percent(rail.interval[1])]
            rows.append([rail.metric, rail.arm, *worse, percent(rail.margin, sign=False), rail.state])
        return rows

    def _notes(self) -> list[str]:
        notes = [
            f"split of {ratio.arm}: {count(ratio.control_users)} : {count(ratio.treatment_users)}, "
            f"p = {p_text(ratio.p_value)}{', MISMATCH' if ratio.mismatch else ''}"
            for ratio in self.sample_ratios
        ]
        left = [
            f"{result.metric}: {share(result.variance_left, 1)}"
            for result in self.metrics
            if result.variance_left
        ]
        if left:
            notes.append(f"variance left by CUPED: {', '.join(left)}")
        if self.contaminated or self.forced:
            notes.append(
                f"left out: {count(self.contaminated)} users seen in two arms, {count(self.forced)} with a forced arm"
            )
        return [*notes, *self.warnings]


def analyse(exposed: Exposed, log: Log, experiment: Experiment, *, until: int | None = None) -> Analysis:
    """Analyse an experiment at its end: once. While it runs, `monitor` looks.

    Args:
        exposed: who saw which arm since when.
        log: what they did.
        experiment: arms, metrics and levels.
        until: microseconds since 1970; None for all of the log.

    Raises:
        CaptionaryError: no metrics, a measure that the log does not have, an arm with fewer than two users.
    """
    experiment.primary()
    measures = Measures(exposed, log, experiment)
    end = measures.last if until is None else until
    shares = tuple(arm.share for arm in experiment.arms)
    counts = np.bincount(exposed.arm[exposed.first < end], minlength=len(shares))
    level = experiment.monitoring
    ratios = []
    for index, name in enumerate(experiment.arm_names[1:], 1):
        p_value = sample_ratio_p(counts.tolist(), shares, index)
        mismatch = p_value < level.sample_ratio_alpha
        ratios.append(SampleRatio(name, int(counts[0]), int(counts[index]), p_value, mismatch))
    compared: dict[tuple[str, str], tuple[Metric, Comparison]] = {}
    rails = []
    limits = sum(metric.role == "guardrail" for metric in experiment.metrics) * len(ratios)
    for metric in sorted(experiment.metrics, key=lambda metric: metric.role):  # guardrail, primary, secondary
        sample = measures.sample(metric, end)
        for index, name in enumerate(experiment.arm_names[1:], 1):
            found = compare(sample, index, confidence=1 - level.alpha)
            if metric.role == "guardrail":
                rails.append(judge_guardrail(metric, name, found, level.harm_alpha / limits))
            else:
                compared[metric.name, name] = (metric, found)
    return Analysis(
        experiment=experiment.name,
        days=(end - measures.begin) / DAY,
        users={name: int(number) for name, number in zip(experiment.arm_names, counts, strict=True)},
        sample_ratios=tuple(ratios),
        contaminated=exposed.contaminated,
        forced=exposed.forced,
        metrics=_results(compared, experiment),
        guardrails=tuple(rails),
        alpha=level.alpha,
        warnings=_warnings(exposed, experiment, (end - measures.begin) / DAY),
    )


def _results(
    compared: dict[tuple[str, str], tuple[Metric, Comparison]], experiment: Experiment
) -> tuple[MetricResult, ...]:
    alpha = experiment.monitoring.alpha
    adjusted: dict[tuple[str, str], float] = {}
    for role in ("primary", "secondary"):
        family = {key: found for key, (metric, found) in compared.items() if metric.role == role}
        # Several arms on the primary metric are a family too; Holm whatever is chosen for the secondary ones.
        adjusted |= _adjusted(family, "holm" if role == "primary" else experiment.correction, alpha)
    results = []
    for (name, arm), (metric, found) in compared.items():
        role_: Literal["primary", "secondary"] = "primary" if metric.role == "primary" else "secondary"
        shown = adjusted[name, arm] < alpha
        good = (found.effect > 0) == (metric.better == "more")
        results.append(
            MetricResult(
                metric=name,
                role=role_,
                arm=arm,
                control=found.control,
                treatment=found.treatment,
                effect=found.effect,
                interval=found.interval,
                p_value=found.p_value,
                p_adjusted=adjusted[name, arm],
                variance_left=found.variance_left,
                found="nothing shown" if not shown else "better" if good else "worse",
            )
        )
    return tuple(results)


def _adjusted(
    family: dict[tuple[str, str], Comparison], correction: Literal["holm", "bh"], alpha: float
) -> dict[tuple[str, str], float]:
    """p values corrected for the size of the family, by tea-tasting."""
    if not family:
        return {}
    package = tea_tasting()
    from tea_tasting.experiment import ExperimentResult

    by_arm: dict[object, Any] = {}
    for (metric, arm), found in family.items():
        by_arm.setdefault(arm, {})[metric] = found.result
    results = {arm: ExperimentResult(metrics) for arm, metrics in by_arm.items()}
    if correction == "bh":
        answer = package.adjust_fdr(results, alpha=alpha)
    else:
        answer = package.adjust_fwer(results, alpha=alpha, arbitrary_dependence=True, method="bonferroni")
    return {
        (metric, str(arm)): min(float(values["pvalue_adj"]), 1.0)
        for arm, metrics in answer.items()
        for metric, values in metrics.items()
    }


def _warnings(exposed: Exposed, experiment: Experiment, days: float) -> tuple[str, ...]:
    found = []
    if exposed.contamination > _CONTAMINATED:
        part = percent(exposed.contamination, sign=False)
        found.append(
            f"{part} of the users were seen in two arms: a salt was changed, or two services disagree"
        )
    if days < 7:
        found.append("less than a week: days of the week differ, and so may what is new")
    if days < 0.9 * experiment.monitoring.days:
        found.append(
            f"{days:.1f} of {experiment.monitoring.days} planned days: a p value of before the end is only right "
            "where this was meant to be the one look; `captionary ab monitor` may look as often as it likes"
        )
    return tuple(found)


def _sentence(result: MetricResult) -> str:
    figures = f"{percent(result.effect)} ({interval(result.interval)}, p = {p_text(result.p_value)})"
    words = {
        "better": f"{result.arm} is better on {result.metric}: {figures}.",
        "worse": f"{result.arm} is worse on {result.metric}: {figures}.",
        "nothing shown": f"{result.arm}: no effect on {result.metric} is shown: {figures}.",
    }
    return words[result.found]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _columns(rows: list[list[str]]) -> str:
    kept = [row for row in rows if set(row) != {"---"}]
    widths = [max(len(row[column]) for row in kept) for column in range(len(kept[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in kept)
    return "\n".join(line.rstrip() for line in lines)
