"""Do predicted chances come true? Rows in bins by prediction: what was predicted in each, and what was observed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from captionary.errors import bad_value
from captionary.evidence.formats import count, percent

__all__ = ["CalibrationBin", "CalibrationCurve", "calibration_curve", "calibration_plot"]

SIZE, LEFT, BOTTOM, TOP = 300, 46, 34, 10
_Z = 1.959964
_STYLE = Markup(
    "<style>.calibrated line{stroke:var(--line,#ccc)}.calibrated .ideal{stroke:var(--soft,#666);stroke-dasharray:4 3}"
    ".calibrated text{fill:var(--soft,#666);font-size:12px}"
    ".calibrated .bound{stroke:var(--accent,#0a6570);stroke-width:1.5}"
    ".calibrated polyline,.calibrated circle{stroke:var(--accent,#0a6570);fill:none;stroke-width:1.5}"
    ".calibrated circle{fill:var(--accent,#0a6570)}.calibrated .base{stroke:var(--soft,#666)}"
    ".calibrated circle.base{fill:var(--paper,#fff)}</style>"
)


class CalibrationBin(NamedTuple):
    """Rows that were predicted about the same."""

    predicted: float
    """Mean prediction."""
    observed: float
    """Share of positives."""
    interval: tuple[float, float]
    """95 % of that share (Wilson 1927)."""
    rows: int


class CalibrationCurve(NamedTuple):
    """An arm at a task."""

    task: str
    arm: str
    bins: tuple[CalibrationBin, ...]
    """By rising prediction."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"task": self.task, "arm": self.arm, "bins": [one._asdict() for one in self.bins]}


def calibration_curve(
    task: str,
    arm: str,
    labels: npt.NDArray[np.floating[Any]],
    probabilities: npt.NDArray[np.floating[Any]],
    *,
    bins: int = 10,
) -> CalibrationCurve:
    """Bins of equal numbers of rows; rows of one prediction are never parted, so there may be fewer.

    Args:
        task, arm: names.
        labels: 0 or 1, [N].
        probabilities: of one ranker, or their mean over seeds, [N].
        bins: at most, >= 1.

    Raises:
        CaptionaryError: no rows, lengths that differ, no bins.
    """
    if len(labels) != len(probabilities) or not len(labels):
        raise bad_value(
            "rows of labels and probabilities", f"{len(labels)} and {len(probabilities)}", "the same, >= 1"
        )
    if bins < 1:
        raise bad_value("bins", bins, ">= 1")
    order = np.argsort(probabilities, kind="stable")
    chance, label = np.asarray(probabilities, np.float64)[order], np.asarray(labels, np.float64)[order]
    wanted = np.linspace(0, len(chance), bins + 1).astype(np.int64)[1:-1]
    # A boundary inside a run of equal predictions moves to the start of the run.
    edges = np.unique(np.concatenate([[0], np.searchsorted(chance, chance[wanted]), [len(chance)]]))
    found = []
    for first, last in pairwise(edges):
        rows, observed = int(last - first), float(label[first:last].mean())
        found.append(
            CalibrationBin(float(chance[first:last].mean()), observed, _wilson(observed, rows), rows)
        )
    return CalibrationCurve(task, arm, tuple(found))


def calibration_plot(curves: Sequence[CalibrationCurve], *, marked: str = "") -> Markup:
    """Observed against predicted, in percent, as inline SVG that the page's style sheet colours.

    Args:
        curves: arms at one task, >= 1.
        marked: the arm that is drawn filled and with intervals; the others hollow. Empty: the last.
    """
    from captionary.evidence.plots import scale_of

    if not curves:
        return Markup("")
    marked = marked or curves[-1].arm
    shown = [value for curve in curves for one in curve.bins for value in (one.predicted, one.observed)]
    shown += [one.interval[1] for curve in curves if curve.arm == marked for one in curve.bins]
    scale = scale_of(shown, zero=True, most_ticks=5)
    inner = SIZE - LEFT - BOTTOM

    def x(value: float) -> str:
        return f"{LEFT + inner * (value - scale.low) / (scale.high - scale.low):.1f}"

    def y(value: float) -> str:
        return f"{TOP + inner * (scale.high - value) / (scale.high - scale.low):.1f}"

    line = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    words = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    marks = []
    for tick in scale.ticks:
        said = percent(tick, sign=False, digits=max(0, scale.digits - 2)).removesuffix(" %")
        marks.append(line.format("grid", x(scale.low), x(scale.high), y(tick), y(tick)))
        marks.append(words.format(LEFT - 7, float(y(tick)) + 4, "end", said))
        marks.append(words.format(x(tick), TOP + inner + 18, "middle", said))
    marks.append(line.format("ideal", x(scale.low), x(scale.high), y(scale.low), y(scale.high)))
    told = []
    for curve in sorted(curves, key=lambda curve: curve.arm == marked):
        kind = "marked" if curve.arm == marked else "base"
        path = " ".join(f"{x(one.predicted)},{y(one.observed)}" for one in curve.bins)
        marks.append(Markup('<polyline class="{}" points="{}"/>').format(kind, path))
        for one in curve.bins:
            if kind == "marked":
                at = x(one.predicted)
                marks.append(line.format("bound", at, at, y(one.interval[0]), y(one.interval[1])))
            dot = Markup('<circle class="{}" cx="{}" cy="{}" r="3"/>')
            marks.append(dot.format(kind, x(one.predicted), y(one.observed)))
        pairs = ", ".join(
            f"{percent(b.predicted, sign=False)} → {percent(b.observed, sign=False)}" for b in curve.bins
        )
        told.append(f"{curve.arm}, predicted → observed: {pairs}")
    rows = count(sum(one.rows for one in curves[0].bins))
    title = f"{curves[0].task}, {rows} rows. " + "; ".join(told)
    return Markup(
        '<svg class="calibrated" role="img" viewBox="0 0 {} {}" width="100%" style="max-width:{}px">'
        "<title>{}</title>{}{}</svg>"
    ).format(SIZE, SIZE, SIZE, escape(title), _STYLE, Markup("").join(marks))


def _wilson(share: float, rows: int) -> tuple[float, float]:
    scale = 1 + _Z**2 / rows
    middle = (share + _Z**2 / (2 * rows)) / scale
    reach = _Z / scale * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)
