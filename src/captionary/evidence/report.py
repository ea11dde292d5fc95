"""The report: one page that stands alone, its Markdown twin, and the figures as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jinja2
from markupsafe import Markup

from captionary.errors import bad_value
from captionary.evidence import formats, plots, tables
from captionary.evidence.behind import ABLATION, CALIBRATION, POWER, RIVALS, sheets
from captionary.evidence.calibration import calibration_plot
from captionary.evidence.cards import ItemCard, ProfileCard, thumbnail
from captionary.evidence.palette import palette
from captionary.evidence.result import Evidence
from captionary.evidence.sections import Sections, Sheet, sheet_of, slice_name
from captionary.publish import atomic_file

if TYPE_CHECKING:
    from captionary.evidence.calibration import CalibrationCurve
    from captionary.evidence.cost import Cost
    from captionary.evidence.importance import Importance

__all__ = ["ReportFiles", "environment", "render", "style", "write_report", "write_texts"]

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
    sections: Sections | None = None,
) -> ReportFiles:
    """Write index.html, report.md and evidence.json into `out_dir`, which is made if need be.

    What `sections` hold is in all three; it replaces `evidence.sections`.

    Each file appears whole or not at all, and `evidence.json` last: where it is new, the others are too.

    Raises:
        CaptionaryError: the folder cannot be written to.
    """
    files = ReportFiles(out_dir / "index.html", out_dir / "report.md", out_dir / "evidence.json")
    sections = sections or Sections()
    evidence = dataclasses.replace(evidence, sections=sections.to_dict())
    texts = (
        render(evidence, items, profiles, sections),
        tables.markdown(evidence, sections.to_markdown()),
        evidence.to_json(),
    )
    write_texts(dict(zip(files, texts, strict=True)))
    return files


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write files, in their order, each whole or not at all; their folders are made if need be.

    Raises:
        CaptionaryError: a folder cannot be written to.
    """
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(text.encode())
        except OSError as error:
            folder = str(path.parent)
            raise bad_value("report folder", folder, "a folder to write to", where=error.strerror) from None


def environment() -> jinja2.Environment:
    """Where the pages' templates are, with the filters that they use."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # captions, titles and reasons are data, whatever they contain
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": formats.percent, "count": formats.count, "unbroken": formats.unbroken}
    return made


def style() -> str:
    """The style sheet of the pages."""
    return palette() + (_TEMPLATES / "report.css").read_text(encoding="utf-8")


def render(
    evidence: Evidence,
    items: Sequence[ItemCard] = (),
    profiles: Sequence[ProfileCard] = (),
    sections: Sections | None = None,
) -> str:
    """The page: HTML with its style, plots and thumbnails inside, no script, nothing fetched."""
    sections = sections or Sections()
    reached = tables.attainable(evidence)
    drawn = [
        (slice_name(one), one["auc_gain"], one.get("interval"))
        for one in sections.slices
        if isinstance(one.get("auc_gain"), float)
    ]
    weights = sections.importance.weights if sections.importance else ()
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            evidence=evidence,
            run=evidence.run,
            style=style(),
            key_figures=_key_figures(evidence),
            table1=_grouped(tables.table1(evidence), evidence.headline),
            table2=tables.table2(evidence),
            by_task=tables.by_task(evidence),
            behind=_behind(evidence),
            extremes=_extremes(sections),
            absolute=tables.absolute(evidence),
            forest=plots.forest(evidence),
            table2_plot=plots.table2_strips(evidence),
            ceiling=plots.ceiling(evidence),
            items=[(card, thumbnail(card.image)) for card in items],
            profiles=[_sized(card) for card in profiles],
            provenance=tables.provenance(evidence),
            config=json.dumps(evidence.run.config, ensure_ascii=False, indent=2, default=str),
            share=formats.share,
            sections=sections,
            attainable=Sheet(("Arm", "AUC gain", "Of the attainable", "95 % interval"), tuple(reached))
            if reached
            else None,
            slices=sheet_of(sections.slices) if sections.slices else None,
            slices_plot=plots.interval_strips(drawn),
            importance_plot=plots.importance_strips(weights),
            importance_sheets=_importance_sheets(sections.importance),
            cost_sheets=_cost_sheets(sections.cost),
            calibration=_calibration(sections.calibration, evidence.headline or evidence.baseline),
        )
    )


def _behind(evidence: Evidence) -> list[tuple[str, str, Sheet, str]]:
    """(title, anchor, table, what its figures are) of what stands behind the gains."""
    unit = evidence.run.subsets_of
    words = {
        ABLATION: (
            "ablation",
            "Added alone: AUC gain of the arm with the feature over the arm without it and without the others of "
            "the headline arm. Missing where removed: AUC gain of the headline arm over the one that lacks the "
            f"feature. Intervals and p over {unit}-disjoint subsets and seeds.",
        ),
        RIVALS: (
            "rivals",
            "AUC gain of the headline arm over the rival, which uses the same media, events or captions in another "
            "way. Corrected for the number of rivals (Holm).",
        ),
        POWER: (
            "power",
            f"Found 80 % of the time: the least gain that this many {unit}s and seeds find that often. Rows and "
            "seeds: the cheapest plan that finds the target, which is the gain seen or 0.16 %, the size of the "
            "paper’s, whichever is larger, with every variance at its upper 80 % limit. Of the variance: where the "
            "error of the gain comes from.",
        ),
        CALIBRATION: (
            "order",
            "GAUC: AUC within users, weighted by their rows; in it nothing counts that tells one user from another. "
            "ECE: mean distance of predicted and observed shares in 15 bins of equal mass. Recalibrated: NE after "
            "Platt scaling fitted on the other half of the users, what is left of a difference that is not of order.",
        ),
    }
    return [
        (title, words[title][0], Sheet(cells[0], tuple(cells[1])), words[title][1])
        for title, cells in sheets(evidence).items()
    ]


def _extremes(sections: Sections) -> list[tuple[str, str, list[tuple[ItemCard, str | None]], str]]:
    """(title, anchor, (card, picture), words) of the items whose predictions captions changed most."""
    shown = (
        ("Items that captions helped most", "best", sections.best),
        ("Items that captions hurt most", "worst", sections.worst),
    )
    words = (
        "By the change of loss over all evaluation rows of the item, from the baseline to the headline arm, mean over "
        "seeds and tasks. Among many items some move by luck: read them for what the captions say, not as a proof."
    )
    known = [(title, anchor, cards) for title, anchor, cards in shown if cards]
    return [
        (title, anchor, [(card, thumbnail(card.image)) for card in cards], "" if place else words)
        for place, (title, anchor, cards) in enumerate(known)
    ]


def _importance_sheets(importance: Importance | None) -> list[Sheet]:
    """Rank and percentile with every figure and its interval; then by task."""
    if importance is None:
        return []
    head = ("Rank", "Percentile", "Shuffled", "95 % interval")
    sheets = []
    for title, weights in (("Feature", importance.features), ("Group", importance.groups)):
        within = any(one.within for one in weights)
        retrained = any(one.retrained for one in weights)
        rows = []
        for one in weights:
            cells = [one.name, str(one.rank), f"{one.percentile:.0f}"]
            for figure, wanted in ((one.shuffled, True), (one.within, within), (one.retrained, retrained)):
                if wanted:
                    cells += [
                        formats.percent(figure.auc_gain if figure else None),
                        formats.interval(figure.interval if figure else None),
                    ]
            rows.append(tuple(cells))
        more: tuple[str, ...] = ("Within strata", "95 % interval") if within else ()
        more += ("Retrained without", "95 % interval") if retrained else ()
        if rows:
            sheets.append(Sheet((title, *head, *more), tuple(rows)))
    if len(importance.tasks) > 1:
        rows = [
            (one.name, *(formats.percent(one.shuffled.tasks[task]) for task in importance.tasks))
            for one in importance.weights
        ]
        sheets.append(Sheet(("Shuffled, by task", *importance.tasks), tuple(rows)))
    return sheets


def _cost_sheets(cost: Cost | None) -> list[Sheet]:
    if cost is None:
        return []
    captions = Sheet(
        ("Captions", "In all", "Per 1,000 items", "Per point of AUC gain"), tuple(cost.caption_rows())
    )
    head = ("Arm", "Measure", "Figure", "÷ baseline", "95 % interval", "Verdict")
    return [sheet for sheet in (captions, Sheet(head, tuple(cost.arm_rows()))) if sheet.rows]


def _calibration(curves: Sequence[CalibrationCurve], marked: str) -> list[tuple[str, Markup]]:
    """(task, plot of its arms), the headline arm filled."""
    names = list(dict.fromkeys(curve.task for curve in curves))
    plotted = []
    for name in names:
        mine = [curve for curve in curves if curve.task == name]
        known = marked if any(curve.arm == marked for curve in mine) else mine[-1].arm
        plotted.append((name, calibration_plot(mine, marked=known)))
    return plotted


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
    """Table 1 in blocks with a heading each: references, the paper's rows and the joint one, rivals, placebos."""
    blocks = {
        "References": [row for row in rows if row.group == "reference"],
        "Caption features": [row for row in rows if row.group in ("feature", "joint")],
        "Ablation": [row for row in rows if row.group == "ablation"],
        "Rivals: other ways to use the same media, events and captions": [
            row for row in rows if row.group == "rival"
        ],
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
