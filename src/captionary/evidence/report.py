"""The report: one page that stands alone, its Markdown twin, and the figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from captionary.errors import bad_value
from captionary.evidence import formats, plots, tables
from captionary.evidence.cards import ItemCard, ProfileCard, thumbnail
from captionary.evidence.result import Evidence
from captionary.publish import atomic_file

__all__ = ["ReportFiles", "render", "write_report"]

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_WORDS = 24


class ReportFiles(NamedTuple):
    """What `write_report` wrote."""

    page: Path
    markdown: Path
    evidence: Path


def write_report(
    evidence: Evidence,
    out_dir: Path,
    items: Sequence[ItemCard] = (),
    profiles: Sequence[ProfileCard] = (),
) -> ReportFiles:
    """Write index.html, report.md and evidence.json into `out_dir`, which is made if need be.

    Each file appears whole or not at all, and `evidence.json` last: where it is new, the others are too.

    Raises:
        CaptionaryError: the folder cannot be written to.
    """
    files = ReportFiles(out_dir / "index.html", out_dir / "report.md", out_dir / "evidence.json")
    texts = (render(evidence, items, profiles), evidence.to_markdown(), evidence.to_json())
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for path, text in zip(files, texts, strict=True):
            with atomic_file(path) as file:
                file.write(text.encode())
    except OSError as error:
        raise bad_value("report folder", str(out_dir), "a folder to write to", where=error.strerror) from None
    return files


def render(evidence: Evidence, items: Sequence[ItemCard] = (), profiles: Sequence[ProfileCard] = ()) -> str:
    """The page: HTML with its style, plots and thumbnails inside, no script, nothing fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # captions, titles and reasons are data, whatever they contain
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": formats.percent, "count": formats.count, "unbroken": formats.unbroken}
    return environment.get_template("report.html.j2").render(
        evidence=evidence,
        run=evidence.run,
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        key_figures=_key_figures(evidence),
        table1=_grouped(tables.table1(evidence), evidence.headline),
        table2=tables.table2(evidence),
        absolute=tables.absolute(evidence),
        forest=plots.forest(evidence),
        table2_plot=plots.table2_strips(evidence),
        ceiling=plots.ceiling(evidence),
        items=[(card, thumbnail(card.image)) for card in items],
        profiles=[_sized(card) for card in profiles],
        provenance=tables.provenance(evidence),
        config=json.dumps(evidence.run.config, ensure_ascii=False, indent=2, default=str),
        share=formats.share,
    )


def _key_figures(evidence: Evidence) -> list[tuple[str, str, str]]:
    """(figure, what it is, small print) for the band below the verdict."""
    arm = evidence.headline_arm
    if arm is None:
        return []
    figures = [
        (formats.percent(arm.auc_gain), "AUC gain", f"NE gain {formats.percent(arm.ne_gain)}"),
        (formats.p_text(arm.p_value), "p, two-sided", f"paired over {arm.subsets} subsets"),
    ]
    placebos = [one for one in evidence.arms if one.placebo and one.auc_gain is not None]
    if placebos:
        best = max(placebos, key=lambda one: one.auc_gain or 0.0)
        figures.append((formats.percent(best.auc_gain), "best placebo", f"{best.name}: {best.verdict}"))
    oracle = evidence.oracle
    if oracle and oracle.auc_gain and oracle.auc_gain > 0:
        attainable = formats.percent(oracle.auc_gain)
        if evidence.outcome == "gain":
            part = formats.share(arm.auc_gain or 0.0, oracle.auc_gain)
            figures.append((part, "of the attainable", f"the oracle gains {attainable}"))
        else:
            figures.append((attainable, "attainable", "what the oracle gains"))
    base = evidence.arm(evidence.baseline).samples_per_second
    if base and arm.samples_per_second:
        speed = f"{formats.count(arm.samples_per_second)} samples/s"
        figures.append((f"{arm.samples_per_second / base:.2f} ×", "training speed", speed))
    return figures


def _grouped(
    rows: Sequence[tables.Table1Row], headline: str | None
) -> list[tuple[str, list[tables.Table1Row]]]:
    """Table 1 in blocks with a heading each: references, the paper's rows and the joint one, placebos."""
    blocks = {
        "References": [row for row in rows if row.group == "reference"],
        "Caption features": [row for row in rows if row.group in ("feature", "joint")],
        f"Placebos of {headline}": [row for row in rows if row.group == "placebo"],
    }
    return [(title, block) for title, block in blocks.items() if block]


def _sized(card: ProfileCard) -> tuple[ProfileCard, list[tuple[str, float, list[tuple[str, float, float]]]]]:
    """The card with, by event type, its mass and (word, weight, type size in rem)."""
    events = []
    for event, words in card.events.items():
        heaviest = max((weight for _, weight in words), default=0.0)
        sized = [
            # Square root: the area of a word, not its height, follows the weight.
            (word, weight, 0.8 + 0.8 * (max(weight, 0.0) / heaviest) ** 0.5 if heaviest > 0 else 0.8)
            for word, weight in words[:_MOST_WORDS]
        ]
        events.append((event, float(card.mass.get(event, 0.0)), sized))
    return card, events
