"""The tables of the report, as text cells: one source for the page, the Markdown and the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from captionary.evidence.behind import sheets
from captionary.evidence.formats import UNKNOWN, count, decimal, interval, p_text, percent, share
from captionary.evidence.result import ArmResult, Evidence, PerTask

__all__ = [
    "AbsoluteRow",
    "AttainableRow",
    "ByTaskCell",
    "ByTaskRow",
    "Table1Row",
    "Table2Row",
    "absolute",
    "attainable",
    "by_task",
    "markdown",
    "md_table",
    "md_text",
    "print_tables",
    "table1",
    "table2",
]

Group = Literal["reference", "feature", "joint", "ablation", "rival", "placebo"]


class Table1Row(NamedTuple):
    """One arm against the baseline: a row of the paper's Table 1, with what the paper leaves out."""

    group: Group
    name: str
    feature: str
    description: str
    tokenizer: str
    auc_gain: str
    ne_gain: str
    p_value: str
    p_adjusted: str
    """Of subsets and seeds, corrected for the number of arms that something could be claimed of."""
    interval: str
    seeds: str
    verdict: str
    limit: str
    """Smallest gain that would have been found, and what would find the target; empty unless it cannot tell."""


class Table2Row(NamedTuple):
    """One task: the change of NE, lower is better, as in the paper's Table 2."""

    task: str
    change: str
    interval: str
    auc_gain: str
    p_adjusted: str
    """Of the AUC gain, over subsets and seeds, corrected for the number of tasks."""
    verdict: str
    base_rate: str
    """Share of positives; the mean of a continuous task."""
    positives: str


class AbsoluteRow(NamedTuple):
    """One arm, or the oracle: what the gains are gains of."""

    group: Group | Literal["oracle"]
    name: str
    cells: tuple[tuple[str, str], ...]
    """(AUC, NE) by task."""
    mean: tuple[str, str]
    """(AUC, NE), mean over the tasks that have one."""
    speed: str
    """Training samples per second."""
    ratio: str
    """The same over that of the baseline."""


class AttainableRow(NamedTuple):
    """One arm's part of all there is to gain: (arm − baseline) ÷ (oracle − baseline)."""

    name: str
    auc_gain: str
    share: str
    interval: str
    """Of the share: that of the gain, error of training added, over the oracle's gain, which is known without error."""


def group_of(arm: ArmResult, evidence: Evidence) -> Group:
    """Where the arm stands in Table 1."""
    if arm.placebo:
        return "placebo"
    if arm.rival or arm.ablation:
        return "rival" if arm.rival else "ablation"
    if not arm.captions:
        return "reference"
    return "joint" if arm.name == evidence.headline and "profiles(" in arm.name else "feature"


def table1(evidence: Evidence) -> list[Table1Row]:
    """Rows of Table 1, in the order of the arms."""
    return [_row1(arm, evidence) for arm in evidence.arms]


def _row1(arm: ArmResult, evidence: Evidence) -> Table1Row:
    seeds = UNKNOWN
    if arm.verdict != "baseline":
        spread = "" if arm.seed_sd is None else f"± {100 * arm.seed_sd:.2f}, "
        seeds = f"{spread}{arm.seeds_agree} of {arm.seeds}"
    unsure = arm.verdict == "cannot tell" and arm.detectable is not None
    limit = f"finds {percent(arm.detectable, sign=False, digits=1)} or more" if unsure else ""
    if limit and arm.needs and not arm.placebo:
        limit += f"; for {percent(arm.target, sign=False)} {arm.needs}"
    return Table1Row(
        group=group_of(arm, evidence),
        name=arm.name,
        feature=arm.feature,
        description=arm.description,
        tokenizer=f"Tokenizer {arm.tokenizer}" if arm.tokenizer else UNKNOWN,
        auc_gain=UNKNOWN if arm.verdict == "baseline" else percent(arm.auc_gain),
        ne_gain=UNKNOWN if arm.verdict == "baseline" else percent(arm.ne_gain),
        p_value=p_text(arm.p_value),
        p_adjusted=p_text(arm.p_adjusted),
        interval=interval(arm.interval),
        seeds=seeds,
        verdict=arm.verdict,
        limit=limit,
    )


def table2(evidence: Evidence) -> list[Table2Row]:
    """Rows of Table 2 for the headline arm; empty without one."""
    arm = evidence.headline_arm
    if arm is None:
        return []
    rows = []
    for task in evidence.tasks:
        gain, bounds = arm.task_ne_gain[task.name], arm.task_ne_interval[task.name]
        rows.append(
            Table2Row(
                task=task.name,
                change=percent(None if gain is None else -gain),
                interval=interval(None if bounds is None else (-bounds[1], -bounds[0])),
                auc_gain=percent(arm.task_auc_gain[task.name]),
                p_adjusted=p_text(arm.task_p_adjusted.get(task.name)),
                verdict=arm.task_verdict.get(task.name, UNKNOWN),
                base_rate=percent(task.base_rate, sign=False)
                if task.kind == "binary"
                else f"mean {decimal(task.mean, 2)}",
                positives=count(task.positives),
            )
        )
    return rows


def absolute(evidence: Evidence) -> list[AbsoluteRow]:
    """AUC and NE of every arm and of the oracle, with training speed."""
    names = [task.name for task in evidence.tasks]
    base = evidence.arm(evidence.baseline).samples_per_second
    rows = []
    for arm in evidence.arms:
        speed = arm.samples_per_second
        ratio = f"{speed / base:.2f} ×" if speed and base else UNKNOWN
        cells, mean = _cells(arm.auc, arm.ne, names)
        rows.append(AbsoluteRow(group_of(arm, evidence), arm.name, cells, mean, count(speed), ratio))
    if evidence.oracle:
        cells, mean = _cells(evidence.oracle.auc, evidence.oracle.ne, names)
        rows.append(AbsoluteRow("oracle", "oracle", cells, mean, UNKNOWN, UNKNOWN))
    return rows


def attainable(evidence: Evidence) -> list[AttainableRow]:
    """What part of the oracle's gain each arm with captions reaches; empty where the truth is not known.

    Both gains are relative to 1 − AUC of the same baseline, so their ratio is that of the differences of AUC.
    """
    whole = evidence.oracle.auc_gain if evidence.oracle else None
    if whole is None or whole <= 0:
        return []
    rows = []
    for arm in evidence.arms:
        if arm.captions and arm.auc_gain is not None:
            bounds = arm.combined_interval or arm.interval
            part = None if bounds is None else [bound / whole for bound in bounds]
            rows.append(
                AttainableRow(
                    name=arm.name,
                    auc_gain=percent(arm.auc_gain),
                    share=percent(arm.auc_gain / whole, sign=False, digits=0),
                    interval=interval(part, digits=0),
                )
            )
    return rows


class ByTaskCell(NamedTuple):
    """One arm at one task."""

    gain: str
    p_adjusted: str
    verdict: str


class ByTaskRow(NamedTuple):
    """One arm's AUC gain at every task, with p corrected for their number."""

    group: Group
    name: str
    cells: tuple[ByTaskCell, ...]


def by_task(evidence: Evidence) -> list[ByTaskRow]:
    """AUC gain of every arm but the baseline at every task."""
    return [
        ByTaskRow(
            group_of(arm, evidence),
            arm.name,
            tuple(
                ByTaskCell(
                    percent(arm.task_auc_gain[task.name]),
                    p_text(arm.task_p_adjusted.get(task.name)),
                    arm.task_verdict.get(task.name, UNKNOWN),
                )
                for task in evidence.tasks
            ),
        )
        for arm in evidence.arms
        if arm.name != evidence.baseline
    ]


def _by_task_words(cell: ByTaskCell) -> str:
    return f"{cell.gain} ({cell.p_adjusted}; {cell.verdict})"


def _cells(
    auc: PerTask, ne: PerTask, names: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, str]]:
    known = [(auc[name], ne[name]) for name in names]
    aucs, nes = ([value for value in column if value is not None] for column in zip(*known, strict=True))
    mean = decimal(fmean(aucs) if aucs else None), decimal(fmean(nes) if nes else None)
    return tuple((decimal(a), decimal(n)) for a, n in known), mean


def print_tables(evidence: Evidence) -> str:
    """Verdict, Table 1 and Table 2 for a terminal, at most about 100 columns wide."""
    first = [("arm", "AUC gain", "NE gain", "p", "interval", "seeds", "verdict")]
    breaks = []
    last: Group = "reference"
    for row in table1(evidence):
        if row.group == "placebo" and last != "placebo":
            breaks.append(len(first))
        last = row.group
        first.append((row.name, row.auc_gain, row.ne_gain, row.p_value, row.interval, row.seeds, row.verdict))
    text = [
        _wrapped(evidence.statement),
        "",
        f"Table 1. Gains against {evidence.baseline}",
        _aligned(first, breaks),
    ]
    second = [("task", "ΔNE", "interval", "AUC gain", "p, corrected", "base rate", "verdict")]
    second += [
        (row.task, row.change, row.interval, row.auc_gain, row.p_adjusted, row.base_rate, row.verdict)
        for row in table2(evidence)
    ]
    if len(second) > 1:
        text += [
            "",
            f"Table 2. Change of NE by task, {evidence.headline} (lower is better)",
            _aligned(second, []),
        ]
    return "\n".join(text) + "\n"


def _aligned(rows: Sequence[tuple[str, ...]], breaks: Sequence[int]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    last = len(widths) - 1
    lines = []
    for index, row in enumerate(rows):
        if index == 1 or index in breaks:
            lines.append(rule)
        cells = [
            # Names and verdicts read from the left, figures line up on the right.
            cell.ljust(width) if column in (0, last) and not cell[:1].isdigit() else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100)


def markdown(evidence: Evidence, sections: Sequence[tuple[str, str]] = ()) -> str:
    """The text of `report.md`.

    Args:
        evidence: what is reported.
        sections: (title, Markdown) of what was measured besides, see `captionary.evidence.sections`.
    """
    run = evidence.run
    out = [f"# {md_text(run.name)}: what captions are worth", "", f"**{md_text(evidence.verdict)}**", ""]
    out += [md_text(" ".join(evidence.remarks)), ""] if evidence.remarks else []
    out += [f"## Table 1. Gains against {md_text(evidence.baseline)}", ""]
    head = ("Feature Name", "Feature Description", "Tokenizer Type", "Arm", "AUC Gain", "NE Gain")
    rows = [
        (
            *(row.feature, row.description, row.tokenizer, row.name, row.auc_gain, row.ne_gain),
            *(row.p_value, row.p_adjusted, row.interval, row.seeds),
            f"{row.verdict} ({row.limit})" if row.limit else row.verdict,
        )
        for row in table1(evidence)
    ]
    out += md_table((*head, "p", "p, corrected", "95 % interval", "Seeds (sd, agreeing)", "Verdict"), rows)
    tasks = [task.name for task in evidence.tasks]
    if evidence.headline:
        out += ["", f"## Table 2. Change of NE by task, {md_text(evidence.headline)}", ""]
        out += md_table(
            (
                *("Task", "ΔNE (↓)", "95 % interval", "AUC Gain", "p, corrected", "Verdict"),
                *("Base rate", "Positives"),
            ),
            table2(evidence),
        )
        out += [
            "",
            "## Every arm by task",
            "",
            "AUC gain (p corrected for the number of tasks; verdict).",
            "",
        ]
        out += md_table(
            ("Arm", *tasks), [(row.name, *map(_by_task_words, row.cells)) for row in by_task(evidence)]
        )
    for title, cells in sheets(evidence).items():
        out += ["", f"## {title}", "", *md_table(*cells)]
    out += ["", "## AUC / NE and training speed", ""]
    out += md_table(
        ("Arm", *tasks, "Mean", "Samples/s", "÷ baseline"),
        [
            (row.name, *(" / ".join(cell) for cell in row.cells), " / ".join(row.mean), row.speed, row.ratio)
            for row in absolute(evidence)
        ],
    )
    if reached := attainable(evidence):
        out += ["", "## Share of the attainable", ""]
        out += md_table(("Arm", "AUC Gain", "÷ that of the oracle", "95 % interval"), reached)
    for title, text in sections:
        out += ["", f"## {md_text(title)}", "", text]
    if evidence.captions:
        counts = evidence.captions
        total = counts.ok + counts.failed + counts.skipped
        out += ["", "## Captions", ""]
        out.append(
            f"{count(counts.ok)} of {count(total)} items have a caption ({share(counts.ok, total)}); "
            f"{count(counts.failed)} failed, {count(counts.skipped)} skipped."
        )
        out += [""] + [f"- {md_text(reason)}: {count(number)}" for reason, number in counts.reasons.items()]
    if evidence.warnings or evidence.left_out:
        out += ["", "## To know before believing", ""]
        out += [f"- {md_text(sentence)}" for sentence in (*evidence.left_out, *evidence.warnings)]
    out += ["", "## Provenance", ""]
    out += [f"- {md_text(label)}: {md_text(text)}" for label, text in provenance(evidence)]
    return "\n".join(out) + "\n"


def provenance(evidence: Evidence) -> list[tuple[str, str]]:
    """(label, text) of everything needed to run it again; the config apart."""
    run = evidence.run
    lines = [
        ("Data set", f"{run.dataset}, split {run.split}" if run.split else run.dataset),
        ("Source", run.source),
        ("Licence of the data", run.license),
        ("Size", f"{count(run.users)} users, {count(run.items)} items"),
        ("Rows", f"{count(run.train_rows)} to train on, {count(run.eval_rows)} to evaluate on"),
        ("Captioner", run.captioner),
        *((f"Tokenizer {letter}", words) for letter, words in run.tokenizers.items()),
        ("Hardware", run.hardware),
        ("Finished", run.created_at),
        ("Command", run.command),
        *((f"Version of {name}", version) for name, version in run.versions.items()),
        *((f"Fingerprint of {name}", digest) for name, digest in run.fingerprints.items()),
    ]
    return [(label, text) for label, text in lines if text]


def md_text(text: str) -> str:
    """Text that Markdown shows as it is: names and reasons are data."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def md_table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table as lines of Markdown; cells are data."""
    lines = ["| " + " | ".join(md_text(cell) for cell in cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]
