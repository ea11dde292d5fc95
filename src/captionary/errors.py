"""The one error grammar: *what* == *value*, must be *rule*; *where it came from*; *what to do*."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["CaptionaryError", "bad_value", "nearest"]


class CaptionaryError(Exception):
    """A mistake that its maker can mend: the CLI prints the message alone and exits with code 2."""


def bad_value(
    what: str, value: object, rule: str, *, where: str | None = None, todo: str | None = None
) -> CaptionaryError:
    """Build the error for a value that breaks a rule, in the house grammar.

    Raise what it returns: ``raise bad_value("seeds", 0, ">= 1", where="demo.yaml: evidence")``.
    """
    shown = value if isinstance(value, str) and len(value) <= 200 else repr(value)[:200]
    parts = [f"{what} == {shown}, must be {rule}", where, todo]
    return CaptionaryError("; ".join(part for part in parts if part))


def nearest(name: str, known: Iterable[str]) -> str:
    """Rule text that lists the known names, the nearest to `name` first where one is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    listed = "one of " + ", ".join(names) if names else "absent"
    return f"{close[0]} (did you mean that?) or {listed}" if close else listed
