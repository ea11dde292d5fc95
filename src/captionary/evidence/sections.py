"""What a report shows beside the tests: importance, cost, slices, gain against budget, calibration, what failed.

Each is optional; what was not measured has no section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from captionary.evidence.formats import UNKNOWN, count, decimal, interval, p_text, percent
from captionary.evidence.tables import md_table

if TYPE_CHECKING:
    from captionary.evidence.budget import BudgetCurve
    from captionary.evidence.calibration import CalibrationCurve
    from captionary.evidence.cards import ItemCard
    from captionary.evidence.cost import Cost
    from captionary.evidence.importance import Importance

__all__ = ["Happening", "Sections", "Sheet", "sheet_of", "slice_name"]

_NAMES = ("slice", "name")


class Happening(NamedTuple):
    """Something that failed, was tried again or was given up."""

    stage: str
    """Where: caption, train, …"""
    what: str
    why: str = ""
    when: str = ""
    """ISO 8601, or empty."""
    number: int = 1
    """Of items, requests, trainings, …"""


class Sheet(NamedTuple):
    """A table as text cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Column by column, whether its cells line up on the right."""
        return tuple(
            all(cell[:1].isdigit() or cell[:1] in ("+", "−", UNKNOWN, "<") for cell in column) and index > 0
            for index, column in enumerate(zip(*self.rows, strict=True))
        )

    def to_markdown(self) -> str:
        """As Markdown."""
        return "\n".join(md_table(self.head, self.rows))


class Sections(NamedTuple):
    """Everything optional."""

    importance: Importance | None = None
    cost: Cost | None = None
    slices: Sequence[Mapping[str, Any]] = ()
    """One mapping a slice, with like keys. The name is under `slice` (or `name`); keys with `gain` or `share` hold
    fractions, `p_value` and `p_adjusted` p values; a pair of numbers is an interval. An `auc_gain` is drawn."""
    budget: BudgetCurve | None = None
    calibration: Sequence[CalibrationCurve] = ()
    """Of any tasks and arms."""
    history: Sequence[Happening] = ()
    """In the order of time."""
    best: Sequence[ItemCard] = ()
    """Items whose loss captions lowered most, the first most of all."""
    worst: Sequence[ItemCard] = ()
    """Items whose loss captions raised most."""

    def to_dict(self) -> dict[str, Any]:
        """What there is, ready for JSON."""
        found: dict[str, Any] = {
            name: part.to_dict()
            for name in ("importance", "cost", "budget")
            if (part := getattr(self, name)) is not None
        }
        if self.slices:
            found["slices"] = [dict(one) for one in self.slices]
        if self.calibration:
            found["calibration"] = [one.to_dict() for one in self.calibration]
        if self.history:
            found["history"] = [one._asdict() for one in self.history]
        if self.best or self.worst:
            found["extremes"] = {
                name: [card.to_dict() for card in cards]
                for name, cards in (("best", self.best), ("worst", self.worst))
            }
        return found

    def to_markdown(self) -> list[tuple[str, str]]:
        """(title, text) of what there is, in the order of the page."""
        parts = []
        if self.slices:
            parts.append(("Slices", sheet_of(self.slices).to_markdown()))
        if self.importance is not None:
            parts.append(("Feature importance", self.importance.to_markdown()))
        if self.cost is not None and (text := self.cost.to_markdown()):
            parts.append(("Cost", text))
        if self.budget is not None:
            parts.append(("Gain against budget", self.budget.to_markdown()))
        if self.calibration:
            parts.append(("Calibration", self.calibration_sheet.to_markdown()))
        for title, cards in (
            ("Items that captions helped most", self.best),
            ("Items that captions hurt most", self.worst),
        ):
            if cards:
                rows = tuple((one.item_id, one.title, one.caption_raw, one.note) for one in cards)
                parts.append((title, Sheet(("Item", "Title", "Caption", "Change"), rows).to_markdown()))
        if self.history:
            parts.append(("What failed and why", self.history_sheet.to_markdown()))
        return parts

    @property
    def calibration_sheet(self) -> Sheet:
        """Bins as rows."""
        rows = [
            (
                *(curve.task, curve.arm),
                *(percent(one.predicted, sign=False), percent(one.observed, sign=False)),
                *(interval(one.interval), count(one.rows)),
            )
            for curve in self.calibration
            for one in curve.bins
        ]
        return Sheet(("Task", "Arm", "Predicted", "Observed", "95 % interval", "Rows"), tuple(rows))

    @property
    def history_sheet(self) -> Sheet:
        """Happenings as rows; no column for times where none is known."""
        timed = any(one.when for one in self.history)
        rows = [
            ((one.stage, one.when or UNKNOWN) if timed else (one.stage,))
            + (one.what, one.why or UNKNOWN, count(one.number))
            for one in self.history
        ]
        return Sheet(("Stage", *(("When",) if timed else ()), "What", "Why", "Count"), tuple(rows))


def sheet_of(entries: Sequence[Mapping[str, Any]]) -> Sheet:
    """Mappings as a table: a column a key, in the order in which keys come; what is no text or number is left out."""
    keys = list(dict.fromkeys(key for one in entries for key in one))
    keys = [key for key in keys if all(_plain(one.get(key)) for one in entries)]
    keys.sort(key=lambda key: key not in _NAMES)  # stable: the name first
    rows = tuple(tuple(_cell(key, one.get(key)) for key in keys) for one in entries)
    return Sheet(tuple(_title(key) for key in keys), rows)


def slice_name(one: Mapping[str, Any]) -> str:
    """What a slice is called."""
    return str(next((one[key] for key in _NAMES if key in one), ""))


def _title(key: str) -> str:
    known = {"interval": "95 % interval", "p_value": "p", "p_adjusted": "p, corrected"}
    words = key.replace("_", " ").replace("auc", "AUC").replace("ne gain", "NE gain")
    return known.get(key, words[:1].upper() + words[1:])


def _pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(each, int | float) for each in value)
    )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float) or _pair(value)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _pair(value):
        return interval(value)
    if key in ("p", "p_adjusted") or "p_value" in key:
        return p_text(value)
    if "gain" in key or "share" in key or "detectable" in key:
        return percent(value, sign="gain" in key)
    return count(value) if isinstance(value, int) else decimal(value)
