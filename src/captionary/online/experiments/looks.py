"""An experiment seen again and again: the relative effect to date, at the end of every day.

A user's total grows with the days, and so does the difference of two arms; their ratio does not. So looks are on the
log of the ratio, whose estimates at two moments are correlated as sequential tests ask: corr = √(I_earlier ÷ I_later).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from captionary.online.experiments.comparison import Comparison, compare
from captionary.online.experiments.guardrails import harm_of
from captionary.online.experiments.measures import DAY, Measures, Sample
from captionary.online.experiments.settings import Experiment, Metric

__all__ = ["Look", "RailLook", "look_at", "looks_of"]


class RailLook(NamedTuple):
    """One guardrail at one look."""

    metric: str
    """Name."""
    harm: float
    """ln of how many times worse than the control."""
    error: float
    """Its standard error."""


class Look(NamedTuple):
    """One arm against the control at one moment."""

    day: float
    """Days since the experiment's first exposure."""
    control_users: int
    """Users of the control arm who were exposed until then."""
    treatment_users: int
    """The same of the treatment arm."""
    effect: float
    """ln(treatment ÷ control) of the primary metric; above 0 is good, whichever way the metric goes."""
    error: float
    """Its standard error."""
    rails: tuple[RailLook, ...] = ()
    """Guardrails."""


def look_at(
    day: float, metric: Metric, found: Comparison, rails: list[tuple[Metric, Comparison]] | None = None
) -> Look:
    """A look from comparisons that were made."""
    return Look(
        day,
        found.control_users,
        found.treatment_users,
        -harm_of(metric, found),
        found.log_error,
        tuple(RailLook(rail.name, harm_of(rail, seen), seen.log_error) for rail, seen in rails or []),
    )


def looks_of(
    measures: Measures, experiment: Experiment, *, every_days: float = 1.0, until: int | None = None
) -> dict[str, list[Look]]:
    """Treatment arm → its looks, one at the end of every day that is over, and one at `until` where it is given.

    Args:
        measures: the log by user.
        experiment: arms and metrics.
        every_days: days between looks.
        until: microseconds since 1970; the last look is then. None: the end of the log.

    Raises:
        CaptionaryError: no metrics.
    """
    primary = experiment.primary()
    rails = [metric for metric in experiment.metrics if metric.role == "guardrail"]
    end = measures.last if until is None else until
    ends = np.arange(1, int((end - measures.begin) / (every_days * DAY)) + 1) * every_days
    moments = [measures.begin + int(day * DAY) for day in ends]
    if not moments or moments[-1] < end:
        moments.append(end)
    found: dict[str, list[Look]] = {name: [] for name in experiment.arm_names[1:]}
    for moment in moments:
        there = measures.exposed.first < moment
        users = np.bincount(measures.exposed.arm[there], minlength=len(experiment.arms))
        # Before the burn-in nothing is decided; and what has no users has no effect.
        samples: dict[str, Sample] = {}
        for index, name in enumerate(experiment.arm_names[1:], 1):
            if min(users[0], users[index]) < experiment.monitoring.burn_in_users:
                continue
            if not samples:
                samples = {metric.name: measures.sample(metric, moment) for metric in (primary, *rails)}
            seen = [(rail, compare(samples[rail.name], index)) for rail in rails]
            day = (moment - measures.begin) / DAY
            found[name].append(look_at(day, primary, compare(samples[primary.name], index), seen))
    return found
