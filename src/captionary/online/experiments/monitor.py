"""What to do after a look: go on, stop because it is decided, or stop for harm; with the reason in words.

    split not as asked for           → stop: broken        (always-valid, sample_ratio_alpha)
    a guardrail beyond its margin    → stop: harm          (always-valid, one-sided, harm_alpha over all guardrails)
    primary metric worse             → stop: harm          (always-valid, one-sided, harm_alpha; or by the test below)
    primary metric beyond the bound  → stop: success       (group-sequential or always-valid, alpha)
    planned days over                → stop: no finding    (group-sequential only)
    otherwise                        → go on

Every test has its own alpha and holds over all looks together, so looking costs nothing. Several treatment arms share
each alpha (Bonferroni). The first rule that applies decides; looks after it are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from captionary.evidence.formats import count, interval, percent
from captionary.online.experiments.looks import Look
from captionary.online.experiments.sequential import Mixture
from captionary.online.experiments.settings import Experiment, Metric, Monitoring
from captionary.online.experiments.spending import boundaries

__all__ = ["Action", "Decision", "LookResult", "Monitor"]

Action = Literal["go on", "stop: success", "stop: harm", "stop: no finding", "stop: broken"]
_SPLIT = 0.01  # the test of the split is sharpest for a share that is off by this part of itself
_LATE = 0.02  # days
_RAIL = 0.02  # the test of a guardrail is sharpest for harm of this size, or of its margin


class LookResult(NamedTuple):
    """A look, and how far it is from each stop."""

    day: float
    """Days since the first exposure."""
    control_users: int
    """Users of the control arm."""
    treatment_users: int
    """Users of the treatment arm."""
    effect: float
    """Relative effect on the primary metric; above 0 is good."""
    interval: tuple[float, float]
    """Of the effect, right at all looks together with probability 1 − alpha."""
    z: float
    """Log effect ÷ its error."""
    bound: float
    """What |z| has to reach."""
    harm_p: float
    """Always-valid p value of "not worse", the smallest so far."""
    worst_rail: str
    """The guardrail that is nearest to its stop; empty without guardrails."""
    rail_p: float
    """Its always-valid p value of "within its margin", the smallest so far."""
    split_p: float
    """Always-valid p value of the split, the smallest so far."""


class Decision(NamedTuple):
    """What is to be done with an arm, and why."""

    experiment: str
    """Name."""
    arm: str
    """Name of the treatment arm."""
    action: Action
    """What to do."""
    reason: str
    """Why, in a sentence."""
    day: float
    """Of the look that decided, or of the last one; days since the first exposure."""
    looks: tuple[LookResult, ...]
    """All looks until then."""

    @property
    def stops(self) -> bool:
        """Whether the experiment is to end."""
        return self.action != "go on"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "looks": [look._asdict() for look in self.looks]}

    def to_string(self) -> str:
        """The decision, and a line for each look."""
        lines = [f"{self.experiment}, {self.arm}: {self.action.upper()}. {self.reason}"]
        if self.looks:
            lines += [
                "",
                "  day    users c      users t    effect   interval over all looks        z    bound  harm p",
            ]
        lines += [
            f"{look.day:5.1f} {count(look.control_users):>10} {count(look.treatment_users):>12} "
            f"{percent(look.effect):>9}   {interval(look.interval):<21} {look.z:>9.2f} {look.bound:>8.2f} "
            f"{look.harm_p:>7.2g}"
            for look in self.looks
        ]
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """The same as a table."""
        lines = [f"**{self.experiment}, {self.arm}: {self.action}.** {self.reason}", ""]
        lines += [
            "| day | control | treatment | effect | interval | z | bound |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {look.day:.1f} | {count(look.control_users)} | {count(look.treatment_users)} | {percent(look.effect)} "
            f"| {interval(look.interval)} | {look.z:.2f} | {look.bound:.2f} |"
            for look in self.looks
        ]
        return "\n".join(lines)


class Monitor:
    """The rules of one experiment. Pure: the same looks give the same decision."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._rules = experiment, experiment.monitoring
        self._treatments = len(experiment.arms) - 1
        rules, shared = self._rules, self._treatments
        rails = [metric for metric in experiment.metrics if metric.role == "guardrail"]
        self._open = Mixture.for_effect(rules.smallest_effect, rules.alpha / shared)
        self._harm = Mixture.for_effect(rules.harm_effect, rules.harm_alpha / shared, two_sided=False)
        self._rails = {metric.name: self._rail(metric, len(rails)) for metric in rails}
        self._split = Mixture.for_effect(_SPLIT, rules.sample_ratio_alpha / shared)

    def _rail(self, metric: Metric, number: int) -> tuple[float, Mixture]:
        """(log margin, test) of a guardrail."""
        alpha = self._rules.harm_alpha / number / self._treatments
        test = Mixture.for_effect(max(metric.margin, _RAIL), alpha, two_sided=False)
        return math.log1p(metric.margin), test

    def decide(self, arm: str, looks: Sequence[Look]) -> Decision:
        """Go through the looks in order until one decides.

        Args:
            arm: name of the treatment arm.
            looks: what `looks_of` gave, in order of time.
        """
        results: list[LookResult] = []
        bounds = self._bounds(looks)
        for number, look in enumerate(looks):
            result = self._judge(look, bounds[number], arm, results[-1] if results else None)
            results.append(result)
            action, reason = self._rule(result, arm)
            if action != "go on":
                return Decision(self._experiment.name, arm, action, reason, look.day, tuple(results))
        if not results:
            fewest = count(self._rules.burn_in_users)
            reason = f"No look yet: each arm needs {fewest} users before the first one."
            return Decision(self._experiment.name, arm, "go on", reason, 0.0, ())
        last = results[-1]
        reason = (
            f"Day {last.day:.1f}: {percent(last.effect)} ({interval(last.interval)} over all looks), "
            f"z = {last.z:.2f} within ±{last.bound:.2f}; nothing is decided."
        )
        return Decision(self._experiment.name, arm, "go on", reason, last.day, tuple(results))

    def _bounds(self, looks: Sequence[Look]) -> list[float]:
        """What |z| has to reach at each look."""
        if self._rules.method == "always-valid":
            return [self._open.bound(look.error**-2) for look in looks]
        inside, total = _until(looks, self._rules), 0.0
        fractions, information = [], []
        for look in inside:
            fractions.append(1.0 if _over(look.day, self._rules) else look.day / self._rules.days)
            # Information never shrinks; where an estimate of it does by chance, the look adds next to nothing.
            total = max(look.error**-2, total * 1.005)
            information.append(total)
        if not inside:
            return []
        found = boundaries(
            fractions,
            alpha=self._rules.alpha / self._treatments,
            information=information,
            kind=self._rules.spending,
        )
        # After the planned end alpha is used up: the last boundary stays, and the rule of the planned days stops.
        return [*(float(bound) for bound in found), *[float(found[-1])] * (len(looks) - len(inside))]

    def _judge(self, look: Look, bound: float, arm: str, before: LookResult | None) -> LookResult:
        half = bound * look.error
        harm_p = self._harm.p_value(-look.effect, look.error)
        rails = {
            rail.metric: self._rails[rail.metric][1].p_value(
                rail.harm, rail.error, at=self._rails[rail.metric][0]
            )
            for rail in look.rails
        }
        worst = min(rails, key=rails.__getitem__, default="")
        shares = {each.name: each.share for each in self._experiment.arms}
        expected = shares[arm] / (shares[arm] + shares[self._experiment.control])
        users = look.control_users + look.treatment_users
        error = math.sqrt(expected * (1 - expected) / users)
        split_p = self._split.p_value((look.treatment_users / users - expected) / expected, error / expected)
        rail_p = rails.get(worst, 1.0)
        if before is not None:
            if before.rail_p < rail_p:
                worst, rail_p = before.worst_rail, before.rail_p
            harm_p, split_p = min(harm_p, before.harm_p), min(split_p, before.split_p)
        return LookResult(
            day=look.day,
            control_users=look.control_users,
            treatment_users=look.treatment_users,
            effect=math.expm1(look.effect),
            interval=(math.expm1(look.effect - half), math.expm1(look.effect + half)),
            z=look.effect / look.error,
            bound=bound,
            harm_p=harm_p,
            worst_rail=worst,
            rail_p=rail_p,
            split_p=split_p,
        )

    def _rule(self, seen: LookResult, arm: str) -> tuple[Action, str]:
        """The first rule that applies."""
        rules, shared = self._rules, self._treatments
        metric = self._experiment.primary().name
        figures = f"{percent(seen.effect)} ({interval(seen.interval)} over all looks)"
        if seen.split_p < rules.sample_ratio_alpha / shared:
            split = f"{count(seen.control_users)} : {count(seen.treatment_users)}"
            reason = (
                f"Day {seen.day:.1f}: the split {split} is not what was asked for (p = {seen.split_p:.1g}, always "
                "valid); find out why, for no figure can be believed."
            )
            return "stop: broken", reason
        if seen.worst_rail and seen.rail_p < rules.harm_alpha / len(self._rails) / shared:
            margin = math.expm1(self._rails[seen.worst_rail][0])
            reason = (
                f"Day {seen.day:.1f}: guardrail {seen.worst_rail} is worse in {arm} by more than the "
                f"{percent(margin, sign=False)} that is put up with (p = {seen.rail_p:.1g}, one-sided, always valid)."
            )
            return "stop: harm", reason
        if seen.harm_p < rules.harm_alpha / shared:
            reason = (
                f"Day {seen.day:.1f}: {arm} is worse on {metric}, {figures}, p = {seen.harm_p:.1g} (one-sided, always "
                f"valid, below {rules.harm_alpha / shared:g})."
            )
            return "stop: harm", reason
        if abs(seen.z) >= seen.bound:
            way = "better" if seen.z > 0 else "worse"
            reason = (
                f"Day {seen.day:.1f}: {arm} is {way} on {metric}, {figures}; z = {seen.z:.2f} is beyond "
                f"±{seen.bound:.2f} ({rules.method}, alpha {rules.alpha / shared:g})."
            )
            return ("stop: success" if seen.z > 0 else "stop: harm"), reason
        if rules.method == "group-sequential" and _over(seen.day, rules):
            reason = (
                f"Day {seen.day:.1f} of {rules.days} planned: no effect on {metric} is shown, {figures}; what the "
                "interval leaves out is excluded."
            )
            return "stop: no finding", reason
        return "go on", ""


def _until(looks: Sequence[Look], rules: Monitoring) -> list[Look]:
    """The looks until the planned end, the first one at or after it included."""
    inside = []
    for look in looks:
        inside.append(look)
        if _over(look.day, rules):
            break
    return inside


def _over(day: float, rules: Monitoring) -> bool:
    """Whether the planned days are over. They are counted from the first exposure, a little after the start."""
    return day >= rules.days - _LATE
