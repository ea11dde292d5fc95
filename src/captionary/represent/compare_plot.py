"""A comparison of tokenizers as one picture: a panel a measure, a bar a tokenizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from captionary.errors import bad_value
from captionary.represent.compare import Comparison, TokenizerRow

__all__ = ["plot_comparison"]


class _Panel(NamedTuple):
    title: str
    values: list[float]
    marks: list[float] | None = None
    """A second figure of each bar, as a tick across it."""


def plot_comparison(comparison: Comparison, folder: Path, name: str = "comparison") -> list[Path]:
    """Write ``folder/NAME.svg`` and ``folder/NAME.png``; the files.

    Raises:
        CaptionaryError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        todo = "pip install 'captionary[plots]'"
        raise bad_value("matplotlib", "(absent)", "installed to plot", todo=todo) from None

    panels = _panels(comparison.rows)
    names = [row.name for row in comparison.rows]
    columns = 3
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(12, lines * (0.9 + 0.32 * len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        places = list(range(len(names)))
        axis.barh(places, [0 if math.isnan(v) else v for v in panel.values], color="#4477aa", height=0.65)
        if panel.marks is not None:
            axis.plot(panel.marks, places, "|", color="#222222", markersize=14, markeredgewidth=2)
        axis.set_yticks(places, names)
        axis.invert_yaxis()
        axis.set_title(panel.title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    written = [folder / f"{name}.svg", folder / f"{name}.png"]
    # No date and no random ids: the same comparison gives the same file.
    with mpl.rc_context({"svg.hashsalt": "captionary"}):
        figure.savefig(written[0], metadata={"Date": None})
    figure.savefig(written[1], dpi=120)
    return written


def _panels(rows: tuple[TokenizerRow, ...]) -> list[_Panel]:
    panels = [
        _Panel("vocabulary (rows of the token table)", [float(row.vocabulary) for row in rows]),
        _Panel("later captions with a known token, %", [100 * row.coverage for row in rows]),
        _Panel("later tokens out of vocabulary, %", [100 * row.oov for row in rows]),
        _Panel("tokens a caption; mark: 95 %", [row.length for row in rows], [row.length_95 for row in rows]),
        _Panel("concept words that collide, %", [_part(row.collisions, row.words) for row in rows]),
        _Panel(
            "ids kept by growth, %; mark: by a refit",
            [100 * row.stable for row in rows],
            [100 * row.stable_refit for row in rows],
        ),
        _Panel(
            "drift between slices, bits; mark: by chance",
            [row.drift for row in rows],
            [row.drift_by_chance for row in rows],
        ),
        _Panel("thousand captions a second", [row.captions_per_second / 1000 for row in rows]),
    ]
    if any(row.gain is not None for row in rows):
        panels.append(_Panel("AUC gain of the ranker, %", [_gain(row, "auc_gain") for row in rows]))
        panels.append(_Panel("NE gain of the ranker, %", [_gain(row, "ne_gain") for row in rows]))
    return panels


def _part(count: int, whole: int) -> float:
    return 100 * count / whole if whole else math.nan


def _gain(row: TokenizerRow, which: str) -> float:
    found = getattr(row.gain, which, None)
    return math.nan if found is None else 100 * float(found)
