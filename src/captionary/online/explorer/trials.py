"""What pages say of experiments: how users are dealt, what each look found, and what was decided and why.

Looks are those that `captionary ab monitor --decisions` wrote down: a page reads no event log.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from captionary.evidence.formats import interval, p_text, percent
from captionary.online.experiments.decisions import DecisionLog, DecisionRecord
from captionary.online.experiments.settings import Experiment, moment
from captionary.online.explorer.charts import LookPoint, effects

if TYPE_CHECKING:
    from markupsafe import Markup

    from captionary.online.service.services import Services

__all__ = ["ArmView", "Check", "LookView", "TreatmentView", "TrialView", "trials"]


class ArmView(NamedTuple):
    """One arm, as users are dealt to it."""

    name: str
    share: float
    ranker: str
    """"": none; the default."""


class LookView(NamedTuple):
    """One look of the record."""

    at: str
    day: float
    users: tuple[int, int]
    """Of control and treatment."""
    effect: float
    interval: tuple[float, float]
    z: float
    bound: float
    action: str


class Check(NamedTuple):
    """A thing that must hold for the figures to be believed, or for the experiment to go on."""

    name: str
    state: str
    """fine, stopped, none: what colour it has."""
    word: str
    """The state in words."""
    detail: str


class TreatmentView(NamedTuple):
    """A treatment arm against the control."""

    arm: str
    action: str
    """`no look yet`, or that of the newest decision."""
    reason: str
    at: str
    plot: Markup
    looks: tuple[LookView, ...]
    """The newest first."""
    checks: tuple[Check, ...]


class TrialView(NamedTuple):
    """An experiment."""

    name: str
    layer: str
    state: str
    """running, ended, stopped, not begun."""
    joined: float
    """Share of its users that takes part now."""
    buckets: tuple[int, ...]
    arms: tuple[ArmView, ...]
    metrics: tuple[tuple[str, str, str], ...]
    """Name, role, what it is."""
    rules: tuple[tuple[str, str], ...]
    treatments: tuple[TreatmentView, ...]


def trials(services: Services) -> list[TrialView]:
    """Every experiment of the file in use. Blocks.

    Raises:
        CaptionaryError: a record of decisions that cannot be read.
    """
    experiments = services.trials.experiments
    if experiments is None:
        return []
    records = DecisionLog(services.config.decisions).read()
    found = []
    for layer in experiments.layers:
        for one in layer.experiments:
            mine = [record for record in records if record.experiment == one.name]
            found.append(_view(services, layer.name, one, mine))
    return found


def _view(services: Services, layer: str, one: Experiment, records: list[DecisionRecord]) -> TrialView:
    present = datetime.now(UTC)
    joined = one.joined_share(present)
    if one.name in services.trials.stopped:
        state = "stopped"
    elif one.end is not None and present >= moment(one.end, "end"):
        state = "ended"
    else:
        state = "running" if joined else "not begun"
    rankers = services.config.arms.get(one.name, {})
    rules = one.monitoring
    return TrialView(
        name=one.name,
        layer=layer,
        state=state,
        joined=0.0 if state == "stopped" else joined,
        buckets=one.range,
        arms=tuple(ArmView(arm.name, arm.share, rankers.get(arm.name, "")) for arm in one.arms),
        metrics=tuple(
            (metric.name, metric.role, metric.of + (f" per {metric.per}" if metric.per else ""))
            for metric in one.metrics
        ),
        rules=(
            ("Watched", f"{rules.method}, alpha {rules.alpha:g} over all looks"),
            ("Planned", f"{rules.days} days"),
            ("Stops for harm", f"alpha {rules.harm_alpha:g}, one-sided"),
            ("First look", f"at {rules.burn_in_users:,} users an arm"),
        ),
        treatments=tuple(
            _treatment(one, arm.name, [record for record in records if record.arm == arm.name])
            for arm in one.arms[1:]
        ),
    )


def _treatment(one: Experiment, arm: str, records: list[DecisionRecord]) -> TreatmentView:
    days: dict[float, tuple[DecisionRecord, dict[str, Any]]] = {}
    for record in records:  # a day that was looked at again shows the later look
        if record.look:
            days[round(float(record.look["day"]), 2)] = record, record.look
    looks = [
        LookView(
            record.at,
            float(look["day"]),
            (int(look["control_users"]), int(look["treatment_users"])),
            float(look["effect"]),
            (float(look["interval"][0]), float(look["interval"][1])),
            float(look["z"]),
            float(look["bound"]),
            record.action,
        )
        for _, (record, look) in sorted(days.items())
    ]
    newest = records[-1] if records else None
    points = [
        LookPoint(look.day, look.effect, *look.interval, look.action != "go on")
        for look in looks
        if all(map(math.isfinite, (look.effect, *look.interval)))
    ]
    words = ""
    if looks:
        words = (
            f"Effect of {arm} by day; the last: {percent(looks[-1].effect)}, {interval(looks[-1].interval)}"
        )
    return TreatmentView(
        arm=arm,
        action="no look yet" if newest is None else newest.action,
        reason="" if newest is None else newest.reason,
        at="" if newest is None else newest.at,
        plot=effects(points, one.monitoring.days, words),
        looks=tuple(reversed(looks)),
        checks=_checks(one, arm, newest),
    )


def _checks(one: Experiment, arm: str, newest: DecisionRecord | None) -> tuple[Check, ...]:
    """The split and the guardrails, at the newest look."""
    if newest is None or not newest.look:
        return ()
    look, rules, shared = newest.look, one.monitoring, len(one.arms) - 1
    shares = {each.name: each.share for each in one.arms}
    users = int(look["control_users"]), int(look["treatment_users"])
    asked = shares[arm] / (shares[arm] + shares[one.control])
    got = users[1] / max(sum(users), 1)
    limit = rules.sample_ratio_alpha / shared
    p_split = float(look["split_p"])
    split = Check(
        "Sample ratio",
        *_state(p_split < limit, "mismatch", "as asked for"),
        f"{percent(got, sign=False)} of {sum(users):,} users in {arm}, {percent(asked, sign=False)} asked for; "
        f"p {p_text(p_split)} over all looks, a mismatch below {limit:g}",
    )
    rails = [metric for metric in one.metrics if metric.role == "guardrail"]
    if not rails or not look["worst_rail"]:
        return split, Check("Guardrails", "none", "none", "the experiment names none")
    bound, p_rail = rules.harm_alpha / len(rails) / shared, float(look["rail_p"])
    rail = Check(
        "Guardrails",
        *_state(p_rail < bound, "broken", "none broken"),
        f"nearest to its stop: {look['worst_rail']}, p {p_text(p_rail)} of harm beyond its margin; "
        f"stops below {bound:g}",
    )
    bound, p_harm = rules.harm_alpha / shared, float(look["harm_p"])
    harm = Check(
        "Harm",
        *_state(p_harm < bound, "shown", "none shown"),
        f"p {p_text(p_harm)} of being worse on {one.primary().name}; stops below {bound:g}",
    )
    return split, rail, harm


def _state(stopped: bool, bad: str, good: str) -> tuple[str, str]:
    return ("stopped", bad) if stopped else ("fine", good)
