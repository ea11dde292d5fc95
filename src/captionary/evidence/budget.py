"""What a caption budget buys: AUC gain over the baseline against the share of items captioned, policy by policy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from captionary.errors import bad_value
from captionary.evidence.by_kind import kinds_of, order_of
from captionary.evidence.formats import percent
from captionary.spec import TaskKind

__all__ = ["BudgetCurve", "BudgetPoint", "Measurement", "budget_curve"]

Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 56, 34, 12, 150
_MARKS = {"budget": "", "learned": "7 3", "popular": "3 3", "random": "1 4"}
"""How the line of a policy is broken: told apart without colours too."""


_STYLE = Markup(
    "<style>.budget line{stroke:var(--line,#ccc)}.budget .zero{stroke:var(--soft,#666)}"
    ".budget .span,.budget .whisker{stroke:var(--accent,#0a6570);stroke-width:1.5}"
    ".budget text{fill:var(--soft,#666)}.budget .seed{fill:var(--accent,#0a6570);opacity:.6}"
    ".budget polyline{stroke:var(--soft,#666)}.budget .policy-budget{stroke:var(--accent,#0a6570);stroke-width:3}"
    "</style>"
)


class Measurement(NamedTuple):
    """One training of the arm with captions of some items."""

    policy: str
    share: float
    """Of the items that have media, asked for."""
    lent: bool
    """Whether items that were left out were lent tokens."""
    seed: int
    items: int
    """Captioned."""
    described: float
    """Share of the evaluation rows whose item is captioned."""
    auc: tuple[float, ...]
    """By task; NaN where the rows hold one class only."""

    @classmethod
    def of(
        cls,
        labels: npt.NDArray[np.float32],
        predictions: npt.NDArray[np.floating],
        *,
        policy: str,
        share: float,
        lent: bool,
        seed: int,
        items: int,
        described: float,
        kinds: Sequence[TaskKind] = (),
    ) -> Measurement:
        """From labels and predictions, both [N, T]; `kinds` of the tasks, (): all binary."""
        found = tuple(
            order_of(kind, labels[:, task], predictions[:, task])
            for task, kind in enumerate(kinds_of(kinds, labels.shape[1]))
        )
        return cls(policy, share, lent, seed, items, described, found)


class BudgetPoint(NamedTuple):
    """A policy at a share."""

    policy: str
    share: float
    lent: bool
    items: float
    """Captioned, mean over seeds (a policy may be drawn anew for each)."""
    described: float
    """Share of the evaluation rows whose item is captioned, mean over seeds."""
    gain: float
    """AUC gain over the baseline, mean over tasks and seeds."""
    seed_gains: tuple[float, ...]
    sd: float | None
    """Standard deviation over seeds; None with one."""
    kept: float | None
    """Gain as a share of that with every item captioned; None where that is not above 0."""


class BudgetCurve(NamedTuple):
    """All policies at all shares, and what captioning everything gains."""

    full: BudgetPoint
    points: tuple[BudgetPoint, ...]
    """By policy, whether lent, and rising share."""
    seeds: int

    def at(self, policy: str, share: float, *, lent: bool = True) -> BudgetPoint:
        """One point.

        Raises:
            CaptionaryError: it was not measured.
        """
        for point in self.points:
            if (point.policy, point.lent) == (policy, lent) and math.isclose(point.share, share):
                return point
        raise bad_value("point of the curve", f"{policy} at {share}, lent {lent}", "one that was measured")

    @property
    def policies(self) -> tuple[str, ...]:
        """In the order of the points."""
        return tuple(dict.fromkeys(point.policy for point in self.points))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "seeds": self.seeds,
            "full": self.full._asdict(),
            "points": [point._asdict() for point in self.points],
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> BudgetCurve:
        """Read what `to_dict` gave."""

        def point(values: dict[str, Any]) -> BudgetPoint:
            return BudgetPoint(**(values | {"seed_gains": tuple(values["seed_gains"])}))

        return cls(point(found["full"]), tuple(map(point, found["points"])), found["seeds"])

    def to_markdown(self) -> str:
        """A row for each share, a column for each policy: AUC gain ± sd over seeds (share of the full gain kept)."""
        parts = []
        for lent in (True, False):
            mine = [point for point in self.points if point.lent is lent]
            if not mine:
                continue
            policies = list(dict.fromkeys(point.policy for point in mine))
            words = "Items left out are lent tokens" if lent else "Items left out have no tokens"
            lines = [f"{words}:", "", "| captioned | " + " | ".join(policies) + " |"]
            lines.append("|---:" * (1 + len(policies)) + "|")
            by = {(point.policy, point.share): point for point in mine}
            for share in sorted({point.share for point in mine}):
                cells = [_cell(by.get((policy, share))) for policy in policies]
                lines.append(f"| {percent(share, sign=False, digits=0)} | " + " | ".join(cells) + " |")
            parts.append("\n".join(lines))
        parts.append(
            f"Captioning everything: {_cell(self.full)}. Mean of {self.seeds} seeds ± standard deviation."
        )
        return "\n\n".join(parts)

    def plot(self, *, lent: bool = True) -> Markup:
        """AUC gain against share, a line a policy, as inline SVG that the page's style sheet colours.

        Seeds are dots. The full gain is a line across, 60 % of it a broken one. Empty without points.
        """
        from captionary.evidence.plots import scale_of

        mine = [point for point in self.points if point.lent is lent]
        if not mine:
            return Markup("")
        shown = [gain for point in (*mine, self.full) for gain in (point.gain, *point.seed_gains)]
        scale = scale_of(shown, zero=True, most_ticks=6)

        def x(share: float) -> str:
            return f"{LEFT + (WIDTH - LEFT - RIGHT) * share:.1f}"

        def y(gain: float) -> str:
            return f"{TOP + (HEIGHT - TOP - BOTTOM) * (scale.high - gain) / (scale.high - scale.low):.1f}"

        marks = []
        for tick in scale.ticks:
            kind = "zero" if abs(tick) < 1e-12 else "grid"
            marks.append(_line(kind, x(0), x(1), y(tick), y(tick)))
            marks.append(_text(LEFT - 8, y(tick), percent(tick, digits=max(0, scale.digits - 2)), "end"))
        marks += [
            _text(x(share), HEIGHT - 12, percent(share, sign=False, digits=0).removesuffix(" %"), "middle")
            for share in sorted({point.share for point in mine} | {0.0, 1.0})
        ]
        marks.append(_line("span", x(0), x(1), y(self.full.gain), y(self.full.gain)))
        marks.append(
            _line("whisker", x(0), x(1), y(0.6 * self.full.gain), y(0.6 * self.full.gain), dash="5 5")
        )
        words: list[str] = []
        ends: list[tuple[float, str]] = []
        for policy in dict.fromkeys(point.policy for point in mine):
            line = sorted((point for point in mine if point.policy == policy), key=lambda point: point.share)
            path = " ".join(f"{x(point.share)},{y(point.gain)}" for point in line)
            marks.append(
                Markup(
                    '<polyline class="policy-{}" fill="none" stroke-width="2" stroke-dasharray="{}" points="{}"/>'
                ).format(policy, _MARKS.get(policy, "5 2"), path)
            )
            for point in line:
                marks += [
                    Markup('<circle class="seed" cx="{}" cy="{}" r="2"/>').format(x(point.share), y(gain))
                    for gain in point.seed_gains
                ]
            ends.append((float(y(line[-1].gain)), policy))
            words.append(
                f"{policy}: "
                + ", ".join(f"{percent(p.share, sign=False, digits=0)} {_cell(p)}" for p in line)
            )
        last, free = max(point.share for point in mine), -math.inf
        for height, policy in sorted(ends):  # names never lie on one another
            free = max(height, free + 15)
            marks.append(_text(float(x(last)) + 8, free, policy, "start"))
        title = "AUC gain against percent of items captioned. " + "; ".join(words)
        return Markup(
            '<svg class="budget" role="img" viewBox="0 0 {} {}" width="100%" style="max-width:{}px">'
            "<title>{}</title>{}{}</svg>"
        ).format(WIDTH, HEIGHT, WIDTH, escape(title), _STYLE, Markup("").join(marks))


def budget_curve(
    baseline: Iterable[Measurement], full: Iterable[Measurement], measured: Iterable[Measurement]
) -> BudgetCurve:
    """Gather trainings into a curve.

    With A and B the AUC of an arm and of the baseline of the same seed and B̄ₜ the baseline's AUC of task t, mean over
    seeds, the gain of a seed is the mean over tasks of (A − B) / (1 − B̄ₜ), as in `compare`.

    Args:
        baseline: the arm without captions, one a seed.
        full: the arm with every item captioned, one a seed.
        measured: the arm with some items captioned; every point has all seeds.

    Raises:
        CaptionaryError: seeds that differ, or none.
    """
    base = {one.seed: np.array(one.auc) for one in baseline}
    if not base:
        raise bad_value("baseline", "none", "one a seed")
    seeds = sorted(base)
    headroom = 1 - np.mean([base[seed] for seed in seeds], axis=0)
    headroom = np.where(headroom > 0, headroom, np.nan)
    groups: dict[tuple[str, bool, float], list[Measurement]] = {}
    for one in measured:
        groups.setdefault((one.policy, one.lent, one.share), []).append(one)

    def point(group: list[Measurement], whole: float | None) -> BudgetPoint:
        group = sorted(group, key=lambda one: one.seed)
        if [one.seed for one in group] != seeds:
            found = ", ".join(str(one.seed) for one in group)
            raise bad_value(
                f"seeds of {group[0].policy} at {group[0].share}", found, f"those of the baseline, {seeds}"
            )
        gains = [float(np.nanmean((np.array(one.auc) - base[one.seed]) / headroom)) for one in group]
        gain = float(np.mean(gains))
        return BudgetPoint(
            policy=group[0].policy,
            share=group[0].share,
            lent=group[0].lent,
            items=float(np.mean([one.items for one in group])),
            described=float(np.mean([one.described for one in group])),
            gain=gain,
            seed_gains=tuple(gains),
            sd=float(np.std(gains, ddof=1)) if len(gains) > 1 else None,
            kept=gain / whole if whole is not None and whole > 0 else None,
        )

    whole = list(full)
    if not whole:
        raise bad_value("full", "none", "one a seed")
    everything = point(whole, None)
    everything = everything._replace(kept=1.0 if everything.gain > 0 else None)
    order = {policy: index for index, policy in enumerate(dict.fromkeys(key[0] for key in groups))}
    keys = sorted(groups, key=lambda key: (order[key[0]], not key[1], key[2]))
    return BudgetCurve(everything, tuple(point(groups[key], everything.gain) for key in keys), len(seeds))


def _cell(point: BudgetPoint | None) -> str:
    if point is None:
        return "–"
    spread = "" if point.sd is None else f" ± {100 * point.sd:.2f}"
    kept = "" if point.kept is None else f" ({percent(point.kept, digits=0)})".replace("+", "")
    return percent(point.gain).removesuffix(" %") + spread + " %" + kept


def _line(kind: str, x1: str, x2: str, y1: str, y2: str, *, dash: str = "") -> Markup:
    broken = Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup("")
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"{}/>').format(kind, x1, x2, y1, y2, broken)


def _text(x: object, y: object, words: str, anchor: str) -> Markup:
    return Markup(
        '<text x="{}" y="{}" text-anchor="{}" dominant-baseline="middle" font-size="12">{}</text>'
    ).format(x, y, anchor, words)
