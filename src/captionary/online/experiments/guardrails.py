"""What an arm must not make worse, whatever it gains: latency, errors, and any other metric with a margin.

A guardrail is a question of how much worse: *broken* where harm beyond the margin is shown, *safe* where it is
excluded, *open* where neither is. "No significant difference" is not safe: a small experiment would always be.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from scipy import special

from captionary.online.experiments.comparison import Comparison
from captionary.online.experiments.sequential import Mixture
from captionary.online.experiments.settings import Metric

__all__ = ["GuardrailResult", "harm_of", "judge_guardrail", "limit_of"]

_SMALLEST = 0.02  # a guardrail without margin is sharpest for harm of this size


class GuardrailResult(NamedTuple):
    """One guardrail of one arm."""

    metric: str
    """Name."""
    arm: str
    """Name of the treatment arm."""
    harm: float
    """How much worse than the control, relatively; below 0 where it is better."""
    interval: tuple[float, float]
    """Of the harm, each end one-sided."""
    margin: float
    """How much is put up with."""
    state: Literal["safe", "open", "broken"]
    """Whether harm beyond the margin is excluded, or shown."""


def harm_of(metric: Metric, found: Comparison) -> float:
    """ln of how many times worse: the log effect where less is better, its opposite where more is."""
    return found.log_effect if metric.better == "less" else -found.log_effect


def limit_of(metric: Metric) -> float:
    """The log harm that is put up with."""
    return math.log1p(metric.margin)


def judge_guardrail(
    metric: Metric, arm: str, found: Comparison, alpha: float, *, always_valid: bool = False
) -> GuardrailResult:
    """Say whether harm beyond the margin is shown, or excluded, each at `alpha`, one-sided.

    Args:
        metric: with its margin.
        arm: name of the treatment arm.
        found: the comparison.
        alpha: of each side, over all looks where `always_valid`.
        always_valid: whether this is one look of many.
    """
    harm = harm_of(metric, found)
    if always_valid:
        test = Mixture.for_effect(max(metric.margin, _SMALLEST), alpha, two_sided=False)
        reach = test.bound(found.log_error**-2) * found.log_error
    else:
        reach = -float(special.ndtri(alpha)) * found.log_error
    low, high = harm - reach, harm + reach
    limit = limit_of(metric)
    state: Literal["safe", "open", "broken"] = "broken" if low > limit else "safe" if high < limit else "open"
    return GuardrailResult(
        metric.name, arm, math.expm1(harm), (math.expm1(low), math.expm1(high)), metric.margin, state
    )
