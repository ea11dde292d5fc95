"""What a log of the past says for a plan: how much users vary, and how well their past foretells them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from captionary.errors import bad_value
from captionary.online.experiments.comparison import aggregates
from captionary.online.experiments.exposure import Exposed
from captionary.online.experiments.measures import DAY, Log, Measures, Sample
from captionary.online.experiments.settings import Experiment, Metric

__all__ = ["History", "look_back"]


class History(NamedTuple):
    """A metric over the last days of a log."""

    users: int
    """Different users of these days."""
    mean: float
    """Of a user, or the ratio."""
    cv: float
    """Coefficient of variation between users; of a ratio, by the delta method."""
    rho: float
    """Correlation with the same metric over the covariate's days before; 0 where the log has none."""
    users_per_day: float
    """Different users of a day, on average."""


def look_back(log: Log, metric: Metric, *, days: float = 14.0, covariate_days: float = 14.0) -> History:
    """Measure a metric on the last days of a log, as if an experiment had run then.

    A user counts from their first impression of these days on, as one would who is exposed by it.

    Raises:
        CaptionaryError: the log has no such measure, or fewer than two users in these days.
    """
    if log.impressions is None:
        raise bad_value("impressions", "(absent)", "among the log's tables")
    shown = log.impressions if isinstance(log.impressions, pl.DataFrame) else pl.DataFrame(log.impressions)
    seen = shown.select(pl.col("user_id").cast(pl.String), pl.col("timestamp").dt.epoch("us").alias("time"))
    end = int(seen["time"].max() or 0) + 1  # type: ignore[arg-type]
    recent = seen.filter(pl.col("time") >= end - int(days * DAY))
    users = recent.group_by("user_id").agg(pl.col("time").min()).sort("user_id")
    if users.height < 2:
        raise bad_value("users", users.height, "2 at least", where=f"the last {days:g} days of the log")
    by_day = recent.group_by((pl.col("time") - end) // DAY).agg(pl.col("user_id").n_unique())
    everybody = Exposed(
        experiment="history",
        arms=("all", "none"),
        users=users["user_id"],
        arm=np.zeros(users.height, np.int8),
        first=users["time"].to_numpy(),
        contaminated=0,
        forced=0,
        repeated=0,
    )
    experiment = _experiment(metric, covariate_days)
    sample = Measures(everybody, log, experiment).sample(experiment.metrics[0], end)
    cv, rho, mean = _variation(sample)
    return History(users.height, mean, cv, rho, float(by_day["user_id"].to_numpy().mean()))


def _experiment(metric: Metric, covariate_days: float) -> Experiment:
    """An experiment that has this metric only."""
    from dataclasses import replace

    from captionary.online.experiments.settings import Arm

    primary = replace(metric, role="primary", cuped=True)
    arms = (Arm(name="all", share=0.5), Arm(name="none", share=0.5))
    return Experiment(name="history", arms=arms, metrics=(primary,), covariate_days=covariate_days)


def _variation(sample: Sample) -> tuple[float, float, float]:
    """(CV, ρ, mean) of a sample, ratios by the delta method."""
    arm = aggregates(sample, 1)[0]
    below = None if sample.denominator is None else "denominator"
    mean = float(arm.mean("numerator") / arm.mean(below))
    if not mean > 0:
        raise bad_value("mean of the metric", mean, "> 0, or there is no relative effect")
    variance = float(arm.ratio_var("numerator", below))
    cv = variance**0.5 / mean
    if sample.numerator_before is None:
        return cv, 0.0, mean
    before = None if sample.denominator_before is None else "denominator_before"
    past = float(arm.ratio_var("numerator_before", before))
    shared = float(arm.ratio_cov("numerator", below, "numerator_before", before))
    return cv, shared / (variance * past) ** 0.5, mean
