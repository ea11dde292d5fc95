"""What an experiment can see, before it is run: users, days, and effects too small for the traffic.

    users an arm = 2 · (z₁₋α⸝₂ + z_power)² · CV² · (1 − ρ²) ÷ effect²

CV is the standard deviation of the metric between users ÷ its mean, ρ its correlation with what CUPED takes off. The
paper's +0.02 % (§4.3) at CV 1, α 5 %, power 80 %:  2 · (1.960 + 0.842)² · 1² ÷ 0.0002² = 392 million users an arm.

An offline gain is no online effect. The one published pair is the paper's: 0.35 % AUC gain and +0.02 % online. Their
ratio is `PAPER_TRANSFER`; a plan that starts from an offline gain takes that ratio, or one that is given, and says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from scipy import optimize, special

from captionary.errors import bad_value
from captionary.evidence.formats import count, percent
from captionary.online.experiments.sequential import Mixture
from captionary.online.experiments.spending import boundaries, crossing, sample_inflation

__all__ = [
    "PAPER_TRANSFER",
    "Horizon",
    "Plan",
    "Traffic",
    "detectable",
    "make_plan",
    "sequential_costs",
    "users_needed",
]

PAPER_TRANSFER = 0.0002 / 0.0035
"""Relative online effect per relative decrease of 1 − AUC, from the paper's two figures."""
_LONGEST = 3650
_MONTH = 28
_MOST_LOOKS = 28


class Traffic(NamedTuple):
    """Who comes, and how many of them take part."""

    users_per_day: float
    """Different users of a day."""
    users_per_month: float
    """Different users of 28 days: between those of a day (always the same) and 28 times as many (never again)."""
    share: float = 1.0
    """Part of all users that is in the experiment's range."""
    ramp: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    """(day, part of the range that takes part from then on), growing."""

    def distinct(self, days: float) -> float:
        """Different users of so many days: users_per_day · days^γ through both figures."""
        if days <= 0:
            return 0.0
        growth = math.log(self.users_per_month / self.users_per_day) / math.log(_MONTH)
        # Within the first day users come in proportion to time.
        return self.users_per_day * (days**growth if days >= 1 else days)

    def exposed(self, days: float) -> float:
        """Users who took part after so many days of the experiment, all arms together."""
        before, users = 0.0, 0.0
        for since, share in self.ramp:
            users += (share - before) * self.distinct(days - since)
            before = share
        return users * self.share

    def looks(self, days: float) -> list[float]:
        """The part of the plan's users who are there at each daily look; of more than four weeks 28 looks."""
        count = min(max(math.ceil(days), 1), _MOST_LOOKS)
        there = [self.exposed(days * (look + 1) / count) for look in range(count)]
        grown = sorted({users / there[-1] for users in there if users > 0}) if there[-1] > 0 else []
        return grown or [1.0]

    def check(self) -> Traffic:
        """Itself.

        Raises:
            CaptionaryError: figures that no traffic has, or a ramp that shrinks.
        """
        if not self.users_per_day > 0:
            raise bad_value("users per day", self.users_per_day, "> 0")
        if not self.users_per_day <= self.users_per_month <= _MONTH * self.users_per_day:
            rule = f"{self.users_per_day:g} (the same every day) to {_MONTH * self.users_per_day:g} (never the same)"
            raise bad_value("users per month", self.users_per_month, rule)
        if not 0 < self.share <= 1:
            raise bad_value("share", self.share, "> 0 and <= 1")
        last = (-1.0, 0.0)
        for step in self.ramp:
            if not (step[0] > last[0] and last[1] <= step[1] <= 1 and step[0] >= 0):
                raise bad_value(
                    "ramp", f"{step[0]:g}:{step[1]:g}", "later than the step before, with no smaller share"
                )
            last = step
        return self


class Horizon(NamedTuple):
    """What is seen after some weeks."""

    weeks: float
    """Since the experiment began."""
    users: float
    """Users who took part, all arms together."""
    smallest_effect: float | None
    """Relative effect found with the chosen power by one test at the end; None before anybody takes part."""
    smallest_effect_watched: float | None
    """The same when looked at every day by the chosen method."""
    smallest_gain: float | None
    """The offline gain (relative decrease of 1 − AUC) that leads to the latter, by `transfer`."""


class Plan(NamedTuple):
    """A plan, with all that it was made of."""

    effect: float
    """Relative effect that is to be found."""
    offline_gain: float | None
    """What it was expected from; None where the effect was given."""
    transfer: float
    """Online effect per offline gain."""
    cv: float
    """Coefficient of variation of the metric between users."""
    rho: float
    """Correlation of the metric with its CUPED covariate."""
    alpha: float
    """Two-sided."""
    power: float
    """Chance of finding the effect."""
    method: str
    """How it is watched."""
    shares: tuple[float, float]
    """Parts of the experiment's users in the control and in the treatment arm."""
    users_per_arm: float
    """With equal arms and one test at the end."""
    users: float
    """Of all arms together, with these shares, watched daily."""
    inflation: float
    """How many times the sample of one test at the end it costs to watch so many days."""
    days: int | None
    """Days until so many users took part; None: more than ten years, or never."""
    horizons: tuple[Horizon, ...]
    """What is seen after 1, 2 and 4 weeks."""
    traffic: Traffic
    """Who comes."""

    @property
    def verdict(self) -> str:
        """In sentences."""
        need = f"{percent(self.effect, digits=3)} needs about {count(_round(self.users))} users"
        if self.days is None:
            last = self.horizons[-1]
            return (
                f"This effect cannot be seen with this traffic: {need}, more than come in ten years. After "
                f"{last.weeks:g} weeks effects from {percent(last.smallest_effect_watched, digits=3)} on are seen."
            )
        if self.days > _MONTH:
            return (
                f"{need}: {self.days:,} days with this traffic. Longer than four weeks, cookies, seasons and other "
                "launches change what is compared: look for a larger effect, a less variable metric, or more traffic."
            )
        whole = " Run it for a whole week all the same: days of the week differ." if self.days < 7 else ""
        return f"{need}: {self.days} {'day' if self.days == 1 else 'days'} with this traffic.{whole}"

    @property
    def arithmetic(self) -> str:
        """The formula with its numbers, to redo."""
        z = (-special.ndtri(self.alpha / 2), special.ndtri(self.power))
        return (
            f"2 · ({z[0]:.3f} + {z[1]:.3f})² · {self.cv:g}² · (1 − {self.rho:g}²) ÷ {self.effect:g}² = "
            f"{count(self.users_per_arm)} users an arm"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self._asdict(),
            "verdict": self.verdict,
            "arithmetic": self.arithmetic,
            "horizons": [horizon._asdict() for horizon in self.horizons],
            "traffic": self.traffic._asdict(),
        }

    def to_json(self) -> str:
        """The text of a JSON file."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_string(self) -> str:
        """For a terminal."""
        return "\n".join([*self._head(), "", *(" ".join(cells) for cells in self._table(pad=True))])

    def to_markdown(self) -> str:
        """For a document."""
        rows = self._table(pad=False)
        table = [f"| {' | '.join(cells)} |" for cells in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
        return "\n\n".join([*self._head(), "\n".join(table)])

    def _head(self) -> list[str]:
        lines = [self.verdict, self.arithmetic]
        if self.offline_gain is not None:
            lines.append(
                f"The effect is the offline gain {percent(self.offline_gain)} times {self.transfer:.3g}, the ratio of "
                "online effect to offline gain: an assumption, not a law. The paper's two figures (0.35 % offline, "
                f"0.02 % online) make {PAPER_TRANSFER:.3g}; take that of your own last experiments."
            )
        lines.append(
            f"One test at the end; watched daily ({self.method}) it takes {self.inflation:.2f} times the users. "
            f"{count(self.traffic.users_per_day)} users a day, {count(self.traffic.users_per_month)} in 28 days."
        )
        return lines

    def _table(self, *, pad: bool) -> list[list[str]]:
        rows = [["weeks", "users", "smallest effect", "watched daily", "offline gain for that"]]
        for each in self.horizons:
            effects = [each.smallest_effect, each.smallest_effect_watched, each.smallest_gain]
            rows.append(
                [f"{each.weeks:g}", count(each.users), *(percent(value, digits=3) for value in effects)]
            )
        if not pad:
            return rows
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]


def users_needed(
    effect: float, cv: float, *, rho: float = 0.0, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Users in each of two equal arms that find a relative effect with that power, two-sided.

    Raises:
        CaptionaryError: effect 0, cv <= 0, rho not within −1 and 1, alpha or power not within 0 and 1.
    """
    _check(cv, rho, alpha, power)
    if effect == 0 or not math.isfinite(effect):
        raise bad_value("effect", effect, "a number other than 0")
    return 2 * _reach(alpha, power) ** 2 * cv**2 * (1 - rho**2) / effect**2


def detectable(
    control_users: float,
    treatment_users: float,
    cv: float,
    *,
    rho: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """The relative effect that so many users find with that power: infinite without users."""
    _check(cv, rho, alpha, power)
    if min(control_users, treatment_users) <= 0:
        return math.inf
    return _reach(alpha, power) * cv * math.sqrt((1 - rho**2) * (1 / control_users + 1 / treatment_users))


def sequential_costs(
    method: str, fractions: Sequence[float], *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """How many times the users of one test at the end it takes to have its power when looked at on the way.

    Args:
        method: fixed, group-sequential or always-valid.
        fractions: of the users who are there at each look, growing to 1.
        alpha: two-sided.
        power: chance of finding the effect.

    Raises:
        CaptionaryError: the method is not one of the three.
    """
    if method == "fixed":
        return 1.0
    if method == "group-sequential":
        bounds = [float(bound) for bound in boundaries(fractions, alpha=alpha)]
        return sample_inflation(bounds, fractions, alpha=alpha, power=power)
    if method != "always-valid":
        raise bad_value("method", method, "fixed, group-sequential or always-valid")
    test = Mixture.for_effect(1.0, alpha)  # effects in units of the one that is to be found

    def short(drift: float) -> float:
        information = [fraction * drift**2 for fraction in fractions]
        always = [test.bound(each) for each in information]
        return power - float(crossing(always, information, drift=drift).sum())

    return float((optimize.brentq(short, 0.5, 20.0, xtol=1e-6) / _reach(alpha, power)) ** 2)


def make_plan(
    effect: float | None,
    traffic: Traffic,
    *,
    cv: float,
    rho: float = 0.0,
    offline_gain: float | None = None,
    transfer: float = PAPER_TRANSFER,
    alpha: float = 0.05,
    power: float = 0.8,
    method: str = "group-sequential",
    treatment_share: float = 0.5,
    weeks: Sequence[float] = (1, 2, 4),
) -> Plan:
    """Plan an experiment with a control and a treatment arm.

    Args:
        effect: relative effect that is to be found; None: `offline_gain` times `transfer`.
        traffic: who comes.
        cv: standard deviation of the metric between users ÷ its mean.
        rho: correlation with the CUPED covariate; 0 without CUPED.
        offline_gain: relative decrease of 1 − AUC.
        transfer: online effect per offline gain.
        alpha: two-sided.
        power: chance of finding the effect.
        method: how it is watched: fixed (one test at the end), group-sequential or always-valid, daily to its end.
        treatment_share: of the experiment's users; the control has the rest.
        weeks: horizons to say the smallest effect for.

    Raises:
        CaptionaryError: neither effect nor offline gain, or a value out of its range.
    """
    if effect is None:
        if offline_gain is None:
            raise bad_value("effect", "(absent)", "given, or an offline gain to expect it from")
        effect = offline_gain * transfer
    if not transfer > 0:
        raise bad_value("transfer", transfer, "> 0")
    if not 0 < treatment_share < 1:
        raise bad_value("treatment share", treatment_share, "> 0 and < 1")
    traffic.check()
    equal = users_needed(effect, cv, rho=rho, alpha=alpha, power=power)
    shares = (1 - treatment_share, treatment_share)
    once = equal / 2 * (1 / shares[0] + 1 / shares[1])

    def cost(days: float) -> float:
        return sequential_costs(method, traffic.looks(days), alpha=alpha, power=power)

    days, inflation = _length(once, traffic, cost)
    users = once * inflation
    horizons = []
    for week in weeks:
        there = traffic.exposed(7 * week)
        if there <= 0:
            horizons.append(Horizon(week, there, None, None, None))
            continue
        seen = detectable(there * shares[0], there * shares[1], cv, rho=rho, alpha=alpha, power=power)
        watched = seen * math.sqrt(cost(7 * week))
        horizons.append(Horizon(week, there, seen, watched, watched / transfer))
    return Plan(
        effect, offline_gain, transfer, cv, rho, alpha, power, method, shares, equal, users, inflation, days,
        tuple(horizons), traffic,
    )  # fmt: skip


def _length(once: float, traffic: Traffic, cost: Callable[[float], float]) -> tuple[int | None, float]:
    """(days, what watching so many costs): each decides the other; None: more than ten years, or never."""
    cost = cache(cost)

    def first(users: float) -> int | None:
        return next((day for day in range(1, _LONGEST + 1) if traffic.exposed(day) >= users), None)

    days = first(once)
    tried: set[int] = set()
    while days is not None:
        after = first(once * cost(days))
        if (
            after == days or after in tried
        ):  # where two lengths lead to each other, the longer has users enough
            longer = max(after, days)
            return longer, cost(longer)
        tried.add(days)
        days = after
    return None, cost(_MONTH)


def _reach(alpha: float, power: float) -> float:
    return float(special.ndtri(1 - alpha / 2) + special.ndtri(power))


def _check(cv: float, rho: float, alpha: float, power: float) -> None:
    if not cv > 0:
        raise bad_value("cv", cv, "> 0")
    if not -1 < rho < 1:
        raise bad_value("rho", rho, "> -1 and < 1")
    if not 0 < alpha < 1:
        raise bad_value("alpha", alpha, "> 0 and < 1")
    if not alpha < power < 1:
        raise bad_value("power", power, f"> alpha, {alpha}, and < 1")


def _round(users: float) -> int:
    """Three digits, upwards: 392,443,916 → 393,000,000."""
    whole = math.ceil(users)
    unit: int = 10 ** max(len(str(whole)) - 3, 0)
    return math.ceil(whole / unit) * unit
