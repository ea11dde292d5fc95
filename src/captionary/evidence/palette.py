"""Colours and type of every page that people see: the report, the comparison of two runs, the explorer."""

from __future__ import annotations

from pathlib import Path

__all__ = ["palette"]

_FILE = Path(__file__).parent / "templates" / "palette.css"


def palette() -> str:
    """CSS that sets the variables, in light and in dark; a page's own style sheet goes after it."""
    return _FILE.read_text(encoding="utf-8")
