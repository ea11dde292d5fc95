"""The record of decisions: a line each, appended, never changed; a stop in it takes effect at the next assignment."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from captionary.errors import bad_value
from captionary.online.experiments.monitor import Action, Decision

__all__ = ["DecisionLog", "DecisionRecord"]


class DecisionRecord(NamedTuple):
    """One line of the record."""

    at: str
    """When it was written, ISO 8601 in UTC."""
    experiment: str
    """Name."""
    arm: str
    """Name of the treatment arm."""
    action: Action
    """What was decided."""
    reason: str
    """Why, in words."""
    look: dict[str, Any]
    """The figures of the look that decided; empty without one."""


class DecisionLog:
    """A file of decisions, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write(self, decision: Decision, at: datetime | None = None) -> DecisionRecord:
        """Append a decision, synced to disk before this returns."""
        record = DecisionRecord(
            (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
            decision.experiment,
            decision.arm,
            decision.action,
            decision.reason,
            json.loads(json.dumps(decision.looks[-1]._asdict())) if decision.looks else {},
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, (json.dumps(record._asdict(), ensure_ascii=False) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return record

    def read(self) -> list[DecisionRecord]:
        """All decisions, oldest first; none where there is no file. A last line cut short by a crash is left out.

        Raises:
            CaptionaryError: a whole line that is no decision.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        records = []
        for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):
            try:
                records.append(DecisionRecord(**json.loads(line)))
            except (ValueError, TypeError):
                shown = line.decode(errors="replace")
                raise bad_value(
                    "decision", shown, "a decision", where=f"{self.path}, line {number}"
                ) from None
        return records

    def stopped(self) -> frozenset[str]:
        """Names of the experiments that were stopped for harm or because they are broken: for `Assigner`.

        A stop of one arm stops the experiment: the control of what goes on would be another one.
        """
        return frozenset(
            record.experiment for record in self.read() if record.action in ("stop: harm", "stop: broken")
        )
