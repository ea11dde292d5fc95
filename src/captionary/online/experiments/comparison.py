"""Two arms on one metric, by `tea-tasting`: means, ratios of sums by the delta method, CUPED, sample-ratio mismatch.

Users are the unit: one row each, so what a user does many times is never taken for many independent observations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

from captionary.errors import bad_value
from captionary.online.experiments.measures import Sample

if TYPE_CHECKING:
    from tea_tasting.aggr import Aggregates
    from tea_tasting.metrics import MeanResult

__all__ = ["Comparison", "aggregates", "compare", "sample_ratio_p", "tea_tasting"]

_COLUMNS = ("numerator", "denominator", "numerator_before", "denominator_before")


class Comparison(NamedTuple):
    """A treatment against the control."""

    control: float
    """Mean, or ratio of sums, with CUPED taken off."""
    treatment: float
    """The same of the treatment."""
    control_users: int
    """Users."""
    treatment_users: int
    """Users."""
    effect: float
    """treatment ÷ control − 1."""
    interval: tuple[float, float]
    """Of the relative effect, at the level asked for; both ends finite."""
    p_value: float
    """Two-sided, Welch's test of the difference."""
    log_effect: float
    """ln(treatment ÷ control): what sequential tests look at."""
    log_error: float
    """Standard error of `log_effect`, by the delta method."""
    variance_left: float | None
    """With CUPED: variance of the effect ÷ what it would be without; None without CUPED."""
    variation: float
    """Coefficient of variation of a user in the control arm, CUPED taken off: what a plan needs."""
    result: Any
    """tea-tasting's own `MeanResult`."""


def tea_tasting() -> Any:
    """The package.

    Raises:
        CaptionaryError: it is not installed.
    """
    try:
        import tea_tasting as package
    except ImportError:
        todo = "pip install 'captionary[experiments]'"
        raise bad_value(
            "tea-tasting", "(not installed)", "installed to analyse experiments", todo=todo
        ) from None
    return package


def aggregates(sample: Sample, arms: int) -> list[Aggregates]:
    """Count, means, variances and covariances of a sample's columns, arm by arm."""
    from tea_tasting.aggr import Aggregates

    columns = {name: getattr(sample, name) for name in _COLUMNS if getattr(sample, name) is not None}
    names = sorted(columns)
    found = []
    for arm in range(arms):
        rows = np.stack([columns[name][sample.arm == arm] for name in names])  # [columns, users]
        count = rows.shape[1]
        if count < 2:
            raise bad_value(f"users in arm {arm}", count, "2 at least")
        mean = rows.mean(axis=1)
        cov = np.cov(rows).reshape(len(names), len(names))
        pairs = {
            (left, right): float(cov[i, j])
            for i, left in enumerate(names)
            for j, right in enumerate(names)
            if i < j
        }
        means = {name: float(mean[i]) for i, name in enumerate(names)}
        found.append(Aggregates(count, means, {n: float(cov[i, i]) for i, n in enumerate(names)}, pairs))
    return found


def compare(sample: Sample, treatment: int = 1, *, control: int = 0, confidence: float = 0.95) -> Comparison:
    """Compare two arms of a sample.

    Args:
        sample: a metric's numbers by user.
        treatment: index of the arm.
        control: index of the arm it is measured against.
        confidence: level of the interval.

    Raises:
        CaptionaryError: an arm with fewer than two users, or whose mean is below 0: there is no relative effect.
    """
    both = aggregates(sample, max(treatment, control) + 1)
    return _compare(both[control], both[treatment], sample, confidence)


def _compare(control: Aggregates, treatment: Aggregates, sample: Sample, confidence: float) -> Comparison:
    if min(control.mean("numerator"), treatment.mean("numerator")) == 0:
        return _rare(control, treatment, sample, confidence)
    plain = _means(control, treatment, sample, confidence, cuped=False)
    cuped = sample.numerator_before is not None
    result = _means(control, treatment, sample, confidence, cuped=True) if cuped else plain
    for name, mean in (("control", result.control), ("treatment", result.treatment)):
        if not mean > 0:
            rule = "> 0, or there is no relative effect"
            raise bad_value(f"mean of the {name} arm", mean, rule)
    error = _log_error(control, treatment, sample, cuped=cuped)
    without = _log_error(control, treatment, sample, cuped=False) if cuped else error
    return Comparison(
        control=float(result.control),
        treatment=float(result.treatment),
        control_users=int(control.count()),
        treatment_users=int(treatment.count()),
        effect=float(result.rel_effect_size),
        interval=(float(result.rel_effect_size_ci_lower), float(result.rel_effect_size_ci_upper)),
        p_value=float(result.pvalue),
        log_effect=math.log1p(float(result.rel_effect_size)),
        log_error=error,
        variance_left=(error / without) ** 2 if cuped and without > 0 else None,
        variation=error / math.sqrt(1 / control.count() + 1 / treatment.count()),
        result=result,
    )


def _rare(control: Aggregates, treatment: Aggregates, sample: Sample, confidence: float) -> Comparison:
    """Where an arm has none of what is counted: half a count more for each (Haldane 1955, Anscombe 1956), as Poisson.

    So that 500 errors against none are a finding, and none against none is not.
    """
    from tea_tasting.metrics.mean import MeanResult

    below = None if sample.denominator is None else "denominator"
    bases = [arm.mean(below) * arm.count() for arm in (control, treatment)]
    if not min(bases) > 0:
        raise bad_value("denominator of an arm", min(bases), "> 0")
    counts = [arm.mean("numerator") * arm.count() + 0.5 for arm in (control, treatment)]
    means = [(number - 0.5) / base for number, base in zip(counts, bases, strict=True)]
    log_effect = math.log(counts[1] / bases[1]) - math.log(counts[0] / bases[0])
    error = math.sqrt(1 / counts[0] + 1 / counts[1])
    p_value = float(2 * special.ndtr(-abs(log_effect) / error))
    half = float(special.ndtri((1 + confidence) / 2)) * error
    effect = math.expm1(log_effect)
    interval = (math.expm1(log_effect - half), math.expm1(log_effect + half))
    unknown = math.nan  # of the difference of the two means, which nobody asks for here
    z = log_effect / error
    result = MeanResult(
        *means, means[1] - means[0], unknown, unknown, effect, interval[0], interval[1], p_value, z
    )
    return Comparison(
        control=means[0],
        treatment=means[1],
        control_users=int(control.count()),
        treatment_users=int(treatment.count()),
        effect=effect,
        interval=interval,
        p_value=p_value,
        log_effect=log_effect,
        log_error=error,
        variance_left=None,
        variation=error / math.sqrt(1 / control.count() + 1 / treatment.count()),
        result=result,
    )


def _means(
    control: Aggregates,
    treatment: Aggregates,
    sample: Sample,
    confidence: float,
    *,
    cuped: bool,
    use_t: bool = True,
) -> MeanResult:
    """tea-tasting's answer."""
    metric = tea_tasting().RatioOfMeans(
        "numerator",
        None if sample.denominator is None else "denominator",
        "numerator_before" if cuped else None,
        "denominator_before" if cuped and sample.denominator_before is not None else None,
        alternative="two-sided",
        equal_var=False,
        use_t=use_t,
        confidence_level=confidence,
    )
    answer: MeanResult = metric.analyze_aggregates(control, treatment)
    return answer


def _log_error(control: Aggregates, treatment: Aggregates, sample: Sample, *, cuped: bool) -> float:
    """Standard error of ln(treatment ÷ control): the half width of tea-tasting's interval with the normal quantile."""
    level = 0.95
    result = _means(control, treatment, sample, level, cuped=cuped, use_t=False)
    ends = math.log1p(result.rel_effect_size_ci_upper) - math.log1p(result.rel_effect_size_ci_lower)
    return float(ends / 2 / special.ndtri((1 + level) / 2))


def sample_ratio_p(counts: Sequence[int], shares: Sequence[float], treatment: int = 1) -> float:
    """The chance of such a split between control and treatment, or one less likely, by tea-tasting's `SampleRatio`.

    Args:
        counts: users of each arm, the control first.
        shares: what was asked for, in the same order.
        treatment: index of the arm.
    """
    package = tea_tasting()
    from tea_tasting.aggr import Aggregates

    data: dict[object, Aggregates] = {
        0: Aggregates(count_=int(counts[0])),
        1: Aggregates(count_=int(counts[treatment])),
    }
    return float(package.SampleRatio(shares[treatment] / shares[0]).analyze(data, 0, 1).pvalue)
