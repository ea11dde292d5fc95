"""Small plots as inline SVG: no script and no style in the markup, which the pages' policy forbids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from captionary.evidence.formats import interval, percent
from captionary.evidence.plots import scale_of

__all__ = ["LookPoint", "effects", "share_bar", "spark"]

_WIDTH, _HEIGHT = 96, 24
_PLOT, _TOP, _BOTTOM = 220, 12, 26


class LookPoint(NamedTuple):
    """An effect at one look."""

    day: float
    effect: float
    low: float
    high: float
    decides: bool


def spark(values: Sequence[float], most: float, words: str) -> Markup:
    """A line of values from 0 to `most`, for a cell of a table; `words` say the same."""
    if len(values) < 2 or most <= 0:
        return Markup("")
    step = (_WIDTH - 8) / (len(values) - 1)
    points = [
        (4 + number * step, _HEIGHT - 4 - (_HEIGHT - 8) * min(value / most, 1))
        for number, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    svg = (
        '<svg class="spark" role="img" width="{}" height="{}" viewBox="0 0 {} {}"><title>{}</title>'
        '<polyline points="{}"/><circle cx="{}" cy="{}" r="2.5"/></svg>'
    )
    return Markup(svg).format(
        _WIDTH, _HEIGHT, _WIDTH, _HEIGHT, words, line, f"{points[-1][0]:.1f}", f"{points[-1][1]:.1f}"
    )


def share_bar(share: float) -> Markup:
    """A bar of a share, 0 to 1, of the width that there is; the number stands beside it."""
    svg = '<svg class="bar" aria-hidden="true" width="100%" height="8"><rect width="{}%" height="8" rx="2"/></svg>'
    return Markup(svg).format(f"{100 * min(max(share, 0.0), 1.0):.1f}")


def effects(points: Sequence[LookPoint], days: float, words: str) -> Markup:
    """Effects with their intervals over the days of an experiment; `days` is its planned length."""
    if not points:
        return Markup("")
    # Early intervals may be wider than all that follows: the axis holds what the last half of the looks needs.
    late = points[len(points) // 2 :]
    scale = scale_of([bound for point in late for bound in (point.low, point.high)], zero=True, most_ticks=6)
    span = max(days, points[-1].day, 1.0)

    def across(day: float) -> str:
        return f"{12 + 85 * day / span:.2f}%"

    def down(value: float) -> str:
        held = min(max(value, scale.low), scale.high)
        return f"{_TOP + (_PLOT - _TOP - _BOTTOM) * (scale.high - held) / (scale.high - scale.low):.1f}"

    marks = []
    for tick in scale.ticks:
        kind = "zero" if abs(tick) < 1e-12 else "grid"
        digits = max(0, scale.digits - 2)
        label = percent(tick, digits=digits)
        marks.append(
            Markup(
                '<line class="{}" x1="12%" x2="100%" y1="{y}" y2="{y}"/><text x="11%" y="{y}" dy="4" '
                'text-anchor="end">{}</text>'
            ).format(kind, label, y=down(tick))
        )
    for point in points:
        group = "decides" if point.decides else "look"
        said = f"day {point.day:.1f}: {percent(point.effect)}, {interval((point.low, point.high))}"
        marks.append(
            Markup(
                '<g class="{}"><title>{}</title><line x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
                '<circle cx="{x}" cy="{}" r="4"/></g>'
            ).format(group, said, down(point.low), down(point.high), down(point.effect), x=across(point.day))
        )
    every = max(1, round(span / 7))
    text = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>')
    marks += [text.format(across(day), _PLOT - 6, day) for day in range(0, int(span) + 1, every)]
    return Markup(
        '<svg class="effects" role="img" width="100%" height="{}"><title>{}</title>{}</svg>'
    ).format(_PLOT, words, Markup("").join(marks))
