"""Plots as inline SVG that needs no script, no font and no library to show.

Each row of a plot is a strip of its own: the strip takes the width that the page has, positions are in
percent of it, so labels beside it are plain text that never shrinks on a phone. Colours come from the
page's style sheet, light or dark; what a strip shows is also said in its ``<title>``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup, escape

from captionary.evidence.formats import decimal, interval, p_phrase, percent
from captionary.evidence.result import Evidence
from captionary.evidence.tables import Group, group_of

__all__ = [
    "Plot",
    "Scale",
    "Strip",
    "ceiling",
    "forest",
    "importance_strips",
    "interval_strips",
    "scale_of",
    "table2_strips",
]

if TYPE_CHECKING:
    from captionary.evidence.importance import FeatureWeight

HEIGHT = 34
MIDDLE = HEIGHT // 2


class Scale(NamedTuple):
    """A linear axis that starts and ends at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int
    """Decimals that tell the ticks apart."""

    def at(self, value: float) -> str:
        """Where the value lies, as an SVG length in percent, 3 % of the strip kept free at both ends."""
        return f"{3 + 94 * (value - self.low) / (self.high - self.low):.2f}%"


class Strip(NamedTuple):
    """One row of a plot."""

    label: str
    group: Group
    figure: str
    """What the row shows, as text."""
    svg: Markup


class Plot(NamedTuple):
    """Rows over a common axis."""

    strips: tuple[Strip, ...]
    axis: Markup


def scale_of(values: Iterable[float], *, zero: bool, most_ticks: int = 6) -> Scale:
    """The axis that holds all values, at most `most_ticks` ticks 1, 2 or 5 times a power of ten apart."""
    known = [*values, 0.0] if zero else list(values)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.001, high + 0.001
    raw = (high - low) / (most_ticks - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        step
        for step in (power, 2 * power, 5 * power, 10 * power, 20 * power)
        if math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9) < most_ticks
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return Scale(first * step, last * step, tuple(i * step for i in range(first, last + 1)), digits)


def forest(evidence: Evidence) -> Plot | None:
    """AUC gain of each arm with captions, with its intervals: one row an arm; None without such arms.

    Thick: 95 % over subsets. Thin: with the spread over seeds added. Dots below: single seeds.
    """
    arms = [arm for arm in evidence.arms if arm.captions and arm.auc_gain is not None]
    if not arms:
        return None
    shown = [value for arm in arms for value in (*(arm.interval or ()), *(arm.combined_interval or ()))]
    shown += [value for arm in arms for value in (arm.auc_gain or 0.0, *arm.seed_auc_gains)]
    scale = scale_of(shown, zero=True)
    strips = []
    for arm in arms:
        group = group_of(arm, evidence)
        marks = _grid(scale)
        if arm.combined_interval:
            marks += _line("whisker", scale, arm.combined_interval)
        if arm.interval:
            marks += _line("bar", scale, arm.interval)
        if len(arm.seed_auc_gains) > 1:
            marks += [
                Markup('<circle class="seed" cx="{}" cy="{}" r="2"/>').format(scale.at(gain), MIDDLE + 11)
                for gain in arm.seed_auc_gains
            ]
        middle = arm.auc_gain if arm.subset_gain is None else arm.subset_gain
        marks.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(scale.at(middle or 0.0), MIDDLE)
        )
        words = f"{arm.name}: AUC gain {percent(arm.auc_gain)}"
        if arm.interval:
            words += f", 95 % interval {interval(arm.interval)}, {p_phrase(arm.p_value)}"
        strips.append(Strip(arm.name, group, percent(arm.auc_gain), _svg(marks, words, group)))
    return Plot(tuple(strips), _axis(scale, percents=True))


def table2_strips(evidence: Evidence) -> Plot | None:
    """Change of NE by task of the headline arm; None without one. Left of zero is better."""
    arm = evidence.headline_arm
    if arm is None:
        return None
    rows = []
    for task in evidence.tasks:
        gain, bounds = arm.task_ne_gain[task.name], arm.task_ne_interval[task.name]
        rows.append((task.name, None if gain is None else -gain, bounds and (-bounds[1], -bounds[0])))
    shown = [value for _, change, bounds in rows for value in (change or 0.0, *(bounds or ()))]
    scale = scale_of(shown, zero=True, most_ticks=5)  # its strip is a column of a table, so narrow
    strips = []
    for name, change, bounds in rows:
        marks = _grid(scale)
        words = f"{name}: change of NE not known"
        if bounds:
            marks += _line("bar", scale, bounds)
        if change is not None:
            words = f"{name}: change of NE {percent(change)}, 95 % interval {interval(bounds)}"
            marks.append(
                Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(scale.at(change), MIDDLE)
            )
        strips.append(Strip(name, "joint", percent(change), _svg(marks, words, "joint")))
    return Plot(tuple(strips), _axis(scale, percents=True))


def ceiling(evidence: Evidence) -> Plot | None:
    """AUC by task from `ids` over baseline and headline arm to the oracle; None without a headline."""
    arm, oracle = evidence.headline_arm, evidence.oracle
    if arm is None:
        return None
    points = [("base", evidence.arm(evidence.baseline)), ("dot", arm)]
    if evidence.arms[0].name != evidence.baseline:
        points.insert(0, ("ids", evidence.arms[0]))
    shown = [value for _, one in points for value in one.auc.values() if value is not None]
    shown += [value for value in (oracle.auc if oracle else {}).values() if value is not None]
    scale = scale_of(shown, zero=False)
    strips = []
    for task in evidence.tasks:
        marks, words = _grid(scale), []
        known = [(kind, one.name, one.auc[task.name]) for kind, one in points]
        if oracle:
            known.append(("oracle", "oracle", oracle.auc[task.name]))
        values = [value for _, _, value in known if value is not None]
        if values:
            marks += _line("span", scale, (min(values), max(values)))
        for kind, name, value in known:
            if value is None:
                continue
            words.append(f"{name} {decimal(value)}")
            if kind == "oracle":
                marks += _line("oracle", scale, (value, value), reach=9)
            else:
                marks.append(
                    Markup('<circle class="{}" cx="{}" cy="{}" r="5"/>').format(kind, scale.at(value), MIDDLE)
                )
        label = f"{task.name}: AUC of " + ", ".join(words) if words else f"{task.name}: AUC not known"
        strips.append(Strip(task.name, "joint", decimal(arm.auc[task.name]), _svg(marks, label, "joint")))
    return Plot(tuple(strips), _axis(scale, percents=False))


def interval_strips(
    rows: Sequence[tuple[str, float, Sequence[float] | None]], group: Group = "feature"
) -> Plot | None:
    """AUC gains (name, gain, 95 % interval) of one kind, as of slices; None without rows."""
    if not rows:
        return None
    scale = scale_of([value for _, gain, bounds in rows for value in (gain, *(bounds or ()))], zero=True)
    strips = []
    for name, gain, bounds in rows:
        marks = _grid(scale) + (_line("bar", scale, bounds) if bounds else [])
        marks.append(Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(scale.at(gain), MIDDLE))
        words = f"{name}: AUC gain {percent(gain)}, 95 % interval {interval(bounds)}"
        strips.append(Strip(name, group, percent(gain), _svg(marks, words, group)))
    return Plot(tuple(strips), _axis(scale, percents=True))


def importance_strips(weights: Sequence[FeatureWeight]) -> Plot | None:
    """What features weigh: a dot with its interval where shuffled, a ring within strata, a bar where retrained without.

    Features made of captions stand out. None where nothing is known.
    """
    known = [one for one in weights if one.shuffled.auc_gain is not None]
    figures = [figure for one in known for figure in (one.shuffled, one.within, one.retrained) if figure]
    if not known:
        return None
    shown = [figure.auc_gain for figure in figures if figure.auc_gain is not None]
    scale = scale_of([*shown, *(bound for one in known for bound in one.shuffled.interval or ())], zero=True)
    strips = []
    for one in known:
        group: Group = "joint" if one.name.startswith(("item tokens", "profile", "captions")) else "reference"
        marks = _grid(scale)
        words = f"{one.name}: shuffled {percent(one.shuffled.auc_gain)}"
        if one.shuffled.interval:
            marks += _line("bar", scale, one.shuffled.interval)
            words += f", 95 % interval {interval(one.shuffled.interval)}"
        gain = one.shuffled.auc_gain or 0.0
        marks.append(Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(scale.at(gain), MIDDLE))
        if one.within is not None and one.within.auc_gain is not None:
            words += f"; within strata {percent(one.within.auc_gain)}"
            ring = Markup('<circle class="ids" cx="{}" cy="{}" r="4"/>')
            marks.append(ring.format(scale.at(one.within.auc_gain), MIDDLE))
        if one.retrained is not None and one.retrained.auc_gain is not None:
            words += f"; retrained without it {percent(one.retrained.auc_gain)}"
            marks += _line("oracle", scale, (one.retrained.auc_gain,) * 2, reach=9)
        strips.append(Strip(one.name, group, percent(gain), _svg(marks, words, group)))
    return Plot(tuple(strips), _axis(scale, percents=True))


def _grid(scale: Scale) -> list[Markup]:
    return [
        Markup('<line class="{}" x1="{x}" x2="{x}" y1="0" y2="{}"/>').format(
            "zero" if abs(tick) < 1e-12 else "grid", HEIGHT, x=scale.at(tick)
        )
        for tick in scale.ticks
    ]


def _line(kind: str, scale: Scale, bounds: Sequence[float], *, reach: int = 0) -> list[Markup]:
    """From low to high at the middle of the strip; with a `reach`, that far up and down as well."""
    return [
        Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            kind, scale.at(bounds[0]), scale.at(bounds[1]), MIDDLE - reach, MIDDLE + reach
        )
    ]


def _svg(marks: Sequence[Markup], words: str, group: str) -> Markup:
    return Markup(
        '<svg class="strip {}" role="img" width="100%" height="{}"><title>{}</title>{}</svg>'
    ).format(group, HEIGHT, escape(words), Markup("").join(marks))


def _axis(scale: Scale, *, percents: bool) -> Markup:
    digits = max(0, scale.digits - 2) if percents else scale.digits
    marks = []
    for tick in scale.ticks:
        words = percent(tick, digits=digits).removesuffix(" %") if percents else decimal(tick, digits)
        marks.append(
            Markup('<text x="{}" y="13" text-anchor="middle">{}</text>').format(scale.at(tick), words)
        )
    return Markup('<svg class="axis" aria-hidden="true" width="100%" height="18">{}</svg>').format(
        Markup("").join(marks)
    )
