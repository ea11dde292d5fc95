"""What `experiments.yaml` says: layers of experiments with arms, ramps and holdouts, and metrics that judge them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

from captionary.config import from_mapping, load_yaml
from captionary.errors import bad_value, nearest

__all__ = [
    "BUCKETS",
    "MEASURES",
    "Arm",
    "Experiment",
    "Experiments",
    "Layer",
    "Metric",
    "Monitoring",
    "RampStep",
    "load_experiments",
    "moment",
]

BUCKETS = 10_000
"""Buckets of a layer: an experiment has a range of them."""
MEASURES: tuple[str, ...] = ("impressions", "requests", "latency_ms", "slow_requests", "errors")
"""What a metric may count beside event types: rows of impressions, and columns of the request log."""


def moment(value: datetime | date | str, what: str) -> datetime:
    """A moment in UTC from a YAML timestamp, an ISO 8601 text or a date (its midnight, UTC).

    Raises:
        CaptionaryError: not a moment, or without a time zone.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise bad_value(what, value, "a moment such as 2026-03-02T09:00:00Z") from None
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        raise bad_value(what, value.isoformat(), "a moment with a time zone, such as 2026-03-02T09:00:00Z")
    return value.astimezone(UTC)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the things that users are shown."""

    name: str
    """Unique in its experiment."""
    share: float
    """Of the experiment's users. > 0; those of all arms make 1."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise bad_value("share", self.share, "> 0 and <= 1")


@dataclass(frozen=True, kw_only=True)
class RampStep:
    """From when on which part of the experiment's users takes part."""

    at: datetime | date | str
    """With a time zone; a date is its midnight, UTC."""
    share: float
    """Of the users in the experiment's range. 0 to 1; never less than in the step before."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", moment(self.at, "at"))
        if not 0 <= self.share <= 1:
            raise bad_value("share", self.share, "0 to 1")

    @property
    def since(self) -> datetime:
        """`at`, in UTC."""
        return moment(self.at, "at")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is measured of every user, and compared between arms."""

    name: str
    """As reports show it."""
    of: str
    """An event type of the log, or impressions, requests, latency_ms, slow_requests, errors."""
    per: str | None = None
    """The same for the denominator of a ratio, such as impressions; absent: per user."""
    value: bool = False
    """Sum the events' values instead of counting events."""
    role: Literal["primary", "secondary", "guardrail"] = "secondary"
    """The primary metric decides, secondary ones are corrected for their number, guardrails only stop."""
    better: Literal["more", "less"] = "more"
    """Which way is good."""
    margin: float = 0.0
    """Of a guardrail: how much worse, relatively, is put up with. >= 0."""
    cuped: bool = True
    """Take off what the same measure was before exposure (CUPED), where the log goes back that far."""

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise bad_value("margin", self.margin, ">= 0 and < 1")


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """How an experiment is watched while it runs."""

    method: Literal["group-sequential", "always-valid"] = "group-sequential"
    """group-sequential: most power where the length is planned; always-valid: where it is open."""
    alpha: float = 0.05
    """Of the primary metric, two-sided, over all looks."""
    spending: Literal["obrien-fleming", "pocock"] = "obrien-fleming"
    """Of the group-sequential method: nearly all of alpha at the end, or evenly."""
    days: int = 14
    """Planned length. 1 to 365 days."""
    smallest_effect: float = 0.01
    """Relative effect that matters: the always-valid test is sharpest where this is found. > 0."""
    harm_alpha: float = 0.01
    """Of the stop for harm, one-sided and always-valid, over all looks; guardrails share as much again."""
    harm_effect: float = 0.05
    """Relative harm that is to be stopped soon: the test for harm is sharpest where it finds this. > 0."""
    burn_in_users: int = 200
    """No decision before each arm has so many users: until then estimates are not normal. >= 20."""
    sample_ratio_alpha: float = 0.001
    """A split less likely than this stops the experiment: something is broken."""

    def __post_init__(self) -> None:
        for name in ("alpha", "harm_alpha", "sample_ratio_alpha"):
            if not 0 < getattr(self, name) < 0.5:
                raise bad_value(name, getattr(self, name), "> 0 and < 0.5")
        if not 1 <= self.days <= 365:
            raise bad_value("days", self.days, "1 to 365")
        for name in ("smallest_effect", "harm_effect"):
            if not 0 < getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), "> 0 and < 1")
        if self.burn_in_users < 20:
            raise bad_value("burn_in_users", self.burn_in_users, ">= 20")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: whom it may have, which arms there are, how it grows, and what judges it."""

    name: str
    """Unique in the file."""
    arms: tuple[Arm, ...]
    """Two at least; the first is the control."""
    range: tuple[int, ...] = (0, BUCKETS)
    """Its buckets of the layer, [first, end): experiments of a layer never share a user. 0 to 10,000."""
    salt: str | None = None
    """What arms are drawn with; absent: the name. Another one deals every user anew."""
    ramp: tuple[RampStep, ...] = ()
    """Absent: everybody, at once."""
    end: datetime | date | str | None = None
    """From here on everybody is outside it."""
    forced: dict[str, str] = field(default_factory=dict)
    """User → arm, whatever is drawn: for those who test. Kept out of every analysis."""
    metrics: tuple[Metric, ...] = ()
    """One of them primary."""
    covariate_days: float = 14.0
    """How long before a user's first exposure the measures for CUPED are taken. > 0 days."""
    slow_ms: float = 100.0
    """A request that takes longer counts among slow_requests. > 0."""
    correction: Literal["holm", "bh"] = "holm"
    """Of secondary metrics: Holm (no false finding) or Benjamini–Hochberg (few among the findings)."""
    monitoring: Monitoring = Monitoring()

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise bad_value("arms", len(self.arms), "2 at least")
        names = [arm.name for arm in self.arms]
        _unique("arms", names)
        total = math.fsum(arm.share for arm in self.arms)
        if abs(total - 1) > 1e-9:
            raise bad_value("shares of arms", f"{total:g} together", "1 together")
        if len(self.range) != 2 or not 0 <= self.range[0] < self.range[1] <= BUCKETS:
            raise bad_value("range", list(self.range), f"[first, end) with 0 <= first < end <= {BUCKETS}")
        for before, after in pairwise(self.ramp):
            if after.since <= before.since:
                raise bad_value("ramp", str(after.at), f"later than the step before, {before.at}")
            if after.share < before.share:
                rule = f"{before.share:g} at least: who takes part stays in"
                raise bad_value(
                    "ramp share", after.share, rule, todo="set `end` to stop, or another salt to begin anew"
                )
        for user, arm in self.forced.items():
            if arm not in names:
                raise bad_value("arm", arm, nearest(arm, names), where=f"forced: {user}")
        if self.end is not None:
            object.__setattr__(self, "end", moment(self.end, "end"))
        for name in ("covariate_days", "slow_ms"):
            if not getattr(self, name) > 0:
                raise bad_value(name, getattr(self, name), "> 0")
        _unique("metrics", [metric.name for metric in self.metrics])
        primary = [metric.name for metric in self.metrics if metric.role == "primary"]
        if self.metrics and len(primary) != 1:
            raise bad_value("primary metrics", ", ".join(primary) or "none", "exactly one")

    @property
    def control(self) -> str:
        """The arm that others are measured against."""
        return self.arms[0].name

    @property
    def arm_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(arm.name for arm in self.arms)

    def primary(self) -> Metric:
        """The metric that decides.

        Raises:
            CaptionaryError: the experiment names no metrics.
        """
        for metric in self.metrics:
            if metric.role == "primary":
                return metric
        raise bad_value("metrics", "(absent)", "given, one of them primary", where=f"experiment {self.name}")

    def joined_share(self, at: datetime) -> float:
        """The part of the users in its range that takes part at that moment."""
        if self.end is not None and at >= moment(self.end, "end"):
            return 0.0
        if not self.ramp:
            return 1.0
        return max((step.share for step in self.ramp if step.since <= at), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Experiments that exclude each other; those of different layers are drawn independently."""

    name: str
    """Unique in the file."""
    experiments: tuple[Experiment, ...] = ()
    """With ranges that do not overlap."""
    salt: str | None = None
    """What buckets are drawn with; absent: the name."""
    holdout: float = 0.0
    """Part of all users that no experiment of this layer may have. 0 to 0.5."""

    def __post_init__(self) -> None:
        _holdout(self.holdout)
        ordered = sorted(self.experiments, key=lambda experiment: experiment.range[0])
        for left, right in pairwise(ordered):
            if right.range[0] < left.range[1]:
                where = f"experiment {left.name} has {list(left.range)}; layer {self.name}"
                rule = f"apart from those of other experiments, so from {left.range[1]} on"
                todo = "or put one of the two into another layer"
                raise bad_value(f"range of {right.name}", list(right.range), rule, where=where, todo=todo)


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """All experiments of a service: the content of `experiments.yaml`."""

    salt: str
    """Of everything here; two services with the same salt and names deal users alike."""
    layers: tuple[Layer, ...]
    """One at least."""
    holdout: float = 0.0
    """Part of all users that no experiment may have, to measure all of them together. 0 to 0.5."""

    def __post_init__(self) -> None:
        _holdout(self.holdout)
        _unique("layers", [layer.name for layer in self.layers])
        _unique("experiments", [experiment.name for layer in self.layers for experiment in layer.experiments])
        salts = [layer.salt or layer.name for layer in self.layers]
        _unique("salts of layers", salts)

    def find(self, name: str) -> tuple[Layer, Experiment]:
        """An experiment and its layer.

        Raises:
            CaptionaryError: there is none of that name.
        """
        for layer in self.layers:
            for experiment in layer.experiments:
                if experiment.name == name:
                    return layer, experiment
        raise bad_value("experiment", name, nearest(name, self.names))

    def version(self, name: str) -> str:
        """A digest of all that decides who gets what of an experiment: another one, where any of it was changed.

        Metrics and monitoring are not in it: they decide what is said of it.

        Raises:
            CaptionaryError: there is none of that name.
        """
        layer, experiment = self.find(name)
        dealt = {key: value for key, value in dataclasses.asdict(experiment).items() if key in _DEALS}
        said = [self.salt, self.holdout, layer.salt or layer.name, layer.holdout, dealt]
        return hashlib.blake2b(
            json.dumps(said, sort_keys=True, default=str).encode(), digest_size=6
        ).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all experiments, layer by layer."""
        return tuple(experiment.name for layer in self.layers for experiment in layer.experiments)


_DEALS = ("name", "salt", "range", "arms", "ramp", "forced", "end")


def load_experiments(path: Path) -> Experiments:
    """Read `experiments.yaml`.

    Raises:
        CaptionaryError: an unknown key, overlapping ranges, shares that do not make 1, an unknown arm, a ramp that
            shrinks, a moment without a time zone; with the place in the file.
    """
    return from_mapping(Experiments, load_yaml(path), where=str(path))


def _holdout(value: float) -> None:
    if not 0 <= value <= 0.5:
        raise bad_value("holdout", value, "0 to 0.5")


def _unique(what: str, names: list[str]) -> None:
    for name in names:
        if not name:
            raise bad_value(what, "(empty name)", "named")
        if names.count(name) > 1:
            raise bad_value(what, name, "there once")
