"""Two finished runs side by side: which arm gained more in which, by how much, and what differs between the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from captionary.errors import bad_value
from captionary.evidence import plots
from captionary.evidence.formats import UNKNOWN, interval, p_text, percent
from captionary.evidence.result import ArmResult, Evidence
from captionary.evidence.sections import Sheet
from captionary.evidence.tables import md_text, provenance

__all__ = ["ArmPair", "Difference", "SideBySide", "read_evidence", "side_by_side"]

ALPHA = 0.01
"""Level below which gains of two runs are said to differ, as of the verdicts."""
_INSIDE = ("report/evidence.json", "evidence.json")
_NOT_SETTINGS = ("name", "runs", "workers")


class ArmPair(NamedTuple):
    """An arm that both runs have; B minus A."""

    name: str
    gain_a: float | None
    gain_b: float | None
    """AUC gain against the run's own baseline."""
    verdict_a: str
    verdict_b: str
    difference: float | None
    error: float | None
    """Standard error of the difference: both runs' errors, over subsets and seeds, added in squares."""
    interval: tuple[float, float] | None
    p_value: float | None
    """Two-sided, Welch's t-test of estimates with these errors."""
    auc: dict[str, float | None]
    """B minus A, absolute AUC by task that both have."""

    @property
    def word(self) -> Literal["more in B", "more in A", "no clear difference", "not tested"]:
        """What the test says."""
        if self.p_value is None or self.difference is None:
            return "not tested"
        if self.p_value >= ALPHA:
            return "no clear difference"
        return "more in B" if self.difference > 0 else "more in A"


class Difference(NamedTuple):
    """A setting or fact that the runs do not share; None where a run does not have it."""

    key: str
    a: str | None
    b: str | None


class SideBySide(NamedTuple):
    """Run B beside run A."""

    a: str
    b: str
    """Names of the runs."""
    verdicts: tuple[str, str]
    arms: tuple[ArmPair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    """Arms of one run alone."""
    settings: tuple[Difference, ...]
    """Of the configs."""
    provenance: tuple[Difference, ...]
    warnings: tuple[str, ...]
    """What keeps the two from being compared, as data that differ."""

    def arm(self, name: str) -> ArmPair:
        """One arm.

        Raises:
            CaptionaryError: the runs do not share an arm of that name.
        """
        for one in self.arms:
            if one.name == name:
                return one
        raise bad_value("arm", name, f"one of {', '.join(one.name for one in self.arms)}")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return self._asdict() | {
            "arms": [one._asdict() | {"word": one.word} for one in self.arms],
            "settings": [one._asdict() for one in self.settings],
            "provenance": [one._asdict() for one in self.provenance],
        }

    def to_json(self) -> str:
        """The text of `comparison.json`."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"

    @property
    def sheets(self) -> dict[str, Sheet]:
        """Title → table, those that have rows."""
        head = (
            "Arm",
            "Gain A",
            "Gain B",
            "B − A",
            "Error",
            "95 % interval",
            "p",
            "Result",
            "Verdict A",
            "Verdict B",
        )
        arms = [
            (
                *(one.name, percent(one.gain_a), percent(one.gain_b), percent(one.difference)),
                percent(one.error, sign=False),
                *(interval(one.interval), p_text(one.p_value), one.word, one.verdict_a, one.verdict_b),
            )
            for one in self.arms
        ]
        found = {"AUC gain, arm by arm": Sheet(head, tuple(arms))}
        tasks = list(dict.fromkeys(task for one in self.arms for task in one.auc))
        if tasks:
            rows = [(one.name, *(_signed(one.auc.get(task)) for task in tasks)) for one in self.arms]
            found["AUC itself, B − A, by task"] = Sheet(("Arm", *tasks), tuple(rows))
        for title, differences in (("Settings that differ", self.settings), ("Provenance", self.provenance)):
            rows = [(one.key, one.a or UNKNOWN, one.b or UNKNOWN) for one in differences]
            found[title] = Sheet(("What", "A", "B"), tuple(rows))
        return {title: sheet for title, sheet in found.items() if sheet.rows}

    @property
    def sentence(self) -> str:
        """What came out, in a sentence."""
        tested = [one for one in self.arms if one.p_value is not None]
        clear = [one for one in tested if one.p_value is not None and one.p_value < ALPHA]
        if not tested:
            return "The runs share no arm whose gain was tested in both."
        if not clear:
            return f"No arm gains clearly more in one run than in the other ({len(tested)} compared)."
        said = [
            f"{one.name} by {percent(abs(one.difference or 0.0), sign=False)} {one.word}" for one in clear
        ]
        return f"{len(clear)} of {len(tested)} arms gain differently: {', '.join(said)}."

    def to_markdown(self) -> str:
        """The text of `report.md`."""
        out = [
            f"# {md_text(self.a)} and {md_text(self.b)} side by side",
            "",
            f"**{md_text(self.sentence)}**",
            "",
        ]
        out += [f"- A, {md_text(self.a)}: {md_text(self.verdicts[0])}"]
        out += [f"- B, {md_text(self.b)}: {md_text(self.verdicts[1])}"]
        if notes := self.notes:
            out += ["", "## To know before believing", "", *(f"- {md_text(note)}" for note in notes)]
        for title, sheet in self.sheets.items():
            out += ["", f"## {title}", "", sheet.to_markdown()]
        return "\n".join(out) + "\n"

    @property
    def notes(self) -> list[str]:
        """Warnings, and arms that could not be matched."""
        notes = list(self.warnings)
        for run, names in (("A", self.only_a), ("B", self.only_b)):
            if names:
                notes.append(f"Only in {run}: {', '.join(names)}.")
        return notes

    def to_html(self) -> str:
        """A page that stands alone, in the style of the report."""
        from captionary.evidence.report import environment, style

        drawn = [
            (one.name, one.difference, one.interval)
            for one in self.arms
            if one.difference is not None and one.error is not None
        ]
        return (
            environment()
            .get_template("side_by_side.html.j2")
            .render(found=self, style=style(), plot=plots.interval_strips(drawn), sheets=self.sheets)
        )


def read_evidence(path: Path) -> Evidence:
    """The evidence of a finished run.

    Args:
        path: the run's folder, its report's folder, or an evidence.json.

    Raises:
        CaptionaryError: there is none, or it cannot be read.
    """
    tried = [path / name for name in _INSIDE] if path.is_dir() else [path]
    for file in tried:
        if file.is_file():
            return Evidence.from_json(file.read_text(encoding="utf-8"), where=str(file))
    todo = "run `captionary evidence CONFIG` first"
    raise bad_value("run", str(path), "a folder with report/evidence.json", todo=todo)


def side_by_side(a: Evidence, b: Evidence) -> SideBySide:
    """Compare two runs.

    Arms are matched by name. Each gain is against the baseline of its own run; the errors of the two gains are taken as
    independent, so where the runs share evaluation rows the test is too careful, never too bold.
    """
    theirs = {arm.name: arm for arm in b.arms}
    pairs = [_pair(arm, theirs[arm.name]) for arm in a.arms if arm.name in theirs]
    mine = {arm.name for arm in a.arms}
    return SideBySide(
        a=a.run.name,
        b=b.run.name,
        verdicts=(a.verdict, b.verdict),
        arms=tuple(pairs),
        only_a=tuple(arm.name for arm in a.arms if arm.name not in theirs),
        only_b=tuple(arm.name for arm in b.arms if arm.name not in mine),
        settings=_differences(dict(_flat(a.run.config)), dict(_flat(b.run.config)), left_out=_NOT_SETTINGS),
        provenance=_differences(dict(provenance(a)), dict(provenance(b))),
        warnings=tuple(_warnings(a, b)),
    )


def _pair(a: ArmResult, b: ArmResult) -> ArmPair:
    difference = None if a.auc_gain is None or b.auc_gain is None else b.auc_gain - a.auc_gain
    error, bounds, p_value = None, None, None
    errors = [_error(a), _error(b)]
    known = [found for found in errors if found is not None]
    if difference is not None and len(known) == 2:
        error = math.sqrt(sum(part**2 for part, _ in known))
        if error > 0:
            freedom = error**4 / sum(part**4 / degrees for part, degrees in known if part > 0)
            reach = float(stats.t.ppf(0.975, freedom)) * error
            bounds = difference - reach, difference + reach
            p_value = float(2 * stats.t.sf(abs(difference) / error, freedom))
        else:
            bounds, p_value = (difference, difference), 1.0 if difference == 0 else 0.0
    return ArmPair(
        name=a.name,
        gain_a=a.auc_gain,
        gain_b=b.auc_gain,
        verdict_a=a.verdict,
        verdict_b=b.verdict,
        difference=difference,
        error=error,
        interval=bounds,
        p_value=p_value,
        auc={task: _minus(b.auc[task], a.auc[task]) for task in a.auc if task in b.auc},
    )


def _error(arm: ArmResult) -> tuple[float, float] | None:
    """(standard error of an arm's gain, degrees of freedom) from its interval over subsets and its seeds.

    The interval is mean ± t·error with subsets − 1 degrees of freedom; the error of the mean over seeds, where there
    are two and more, is added in squares. Freedom by Satterthwaite, at most that of the subsets.
    """
    if arm.verdict == "baseline" or arm.interval is None or arm.subsets < 2:
        return None
    degrees = arm.subsets - 1.0
    parts = [((arm.interval[1] - arm.interval[0]) / 2 / float(stats.t.ppf(0.975, degrees)), degrees)]
    if arm.seeds > 1 and len(arm.seed_auc_gains) == arm.seeds:
        spread = float(np.std(arm.seed_auc_gains, ddof=1))
        parts.append((spread / math.sqrt(arm.seeds), arm.seeds - 1.0))
    variance = sum(part**2 for part, _ in parts)
    if variance == 0:
        return 0.0, degrees
    freedom = variance**2 / sum(part**4 / each for part, each in parts)
    return math.sqrt(variance), min(freedom, degrees)


def _warnings(a: Evidence, b: Evidence) -> Iterator[str]:
    if (a.run.dataset, a.run.split) != (b.run.dataset, b.run.split):
        yield (
            f"A is measured on {a.run.dataset} ({a.run.split}), B on {b.run.dataset} ({b.run.split}): differences are "
            "between data as well as between runs."
        )
    elif a.run.fingerprints.get("data") != b.run.fingerprints.get("data"):
        yield "The data sets have one name and different content."
    elif a.run.eval_rows != b.run.eval_rows:
        yield f"A has {a.run.eval_rows:,} evaluation rows, B has {b.run.eval_rows:,}."
    if a.baseline != b.baseline:
        yield f"A's gains are against {a.baseline}, B's against {b.baseline}: they are gains of other things."
    if a.run.subsets_of != b.run.subsets_of:
        yield f"A's intervals are over {a.run.subsets_of}s, B's over {b.run.subsets_of}s."
    if {task.name for task in a.tasks} != {task.name for task in b.tasks}:
        yield "The runs have other tasks; gains are means over each run's own."
    single = [run for run, evidence in (("A", a), ("B", b)) if any(arm.seeds == 1 for arm in evidence.arms)]
    if single:
        yield f"With one seed ({' and '.join(single)}) the luck of training is not in the error."


def _differences(
    a: Mapping[str, str], b: Mapping[str, str], *, left_out: tuple[str, ...] = ()
) -> tuple[Difference, ...]:
    keys = [key for key in dict.fromkeys([*a, *b]) if key not in left_out]
    return tuple(Difference(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as (dotted key, text)."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _signed(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:+.4f}".replace("-", "−")
