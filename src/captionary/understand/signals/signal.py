"""One thing that was perceived in a medium, with where it came from, as it is kept in a caption record."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from captionary.errors import bad_value

__all__ = ["Signal", "SignalKind", "clean", "signals_from_json", "signals_to_json"]

SignalKind = Literal["caption", "title", "sound", "screen_text", "speech"]

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+|\bwww\.\S+|[^\s@]+@[^\s@]+\.\w+", re.IGNORECASE)


class Signal(NamedTuple):
    """What one model, or the catalogue, says about a medium."""

    kind: SignalKind
    text: str
    """One line, cleaned by `clean`."""
    origin: str
    """Name and fingerprint of what said it, as `speech base 3f2a…`; `item` for a title."""
    score: float = 1.0
    """How sure it is, 0 to 1; 1 where it does not say."""
    at_seconds: float | None = None
    """When in a video or a sound; None for a still picture and a title."""
    frame: int | None = None
    """Which key frame, from 0; None for what is heard and for a title."""


def clean(text: str) -> str:
    """One line without control characters, addresses of the web and of people, and runs of white space.

    What a picture shows or a voice says is data of strangers: it ends up in files, pages and logs.
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    return " ".join(_ADDRESS.sub(" ", text).split())


def signals_to_json(signals: Iterable[Signal]) -> str:
    """A JSON array of objects, in order, fields that are None left out."""
    rows = [{name: value for name, value in s._asdict().items() if value is not None} for s in signals]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def signals_from_json(text: str) -> list[Signal]:
    """What `signals_to_json` wrote.

    Raises:
        CaptionaryError: it is something else.
    """
    try:
        return [_signal(row) for row in json.loads(text)]
    except (ValueError, TypeError, RecursionError) as error:
        rule = "a JSON array written by `signals_to_json`"
        raise bad_value("signals", text[:100], rule, where=str(error)[:200]) from None


def _signal(row: dict[str, object]) -> Signal:
    signal = Signal(**row)  # type: ignore[arg-type]
    fine = (
        signal.kind in get_args(SignalKind)
        and isinstance(signal.text, str)
        and isinstance(signal.origin, str)
        and all(
            isinstance(value, int | float | None) for value in (signal.score, signal.at_seconds, signal.frame)
        )
    )
    if not fine:
        raise ValueError(f"no signal: {row}"[:200])
    return signal
