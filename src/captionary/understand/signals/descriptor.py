"""Many signals of a medium, one descriptor: what is said twice is said once.

    captions of frames ─┐
    title ──────────────┤
    sounds ─────────────┼──same or contained? left out──▶ "a dog on a sofa. A cat … . dog bark, rain. …"
    on-screen text ─────┤
    speech ─────────────┘

Only content words go in, no labels such as "speech:": which signal said what stays in the signals, and words that
every descriptor holds tell a ranker nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from captionary.understand.signals.signal import Signal, SignalKind, clean

__all__ = ["MAX_CHARACTERS", "describe"]

MAX_CHARACTERS = 400
_ORDER: tuple[SignalKind, ...] = ("caption", "title", "sound", "screen_text", "speech")
_ALIKE = 0.75
"""Two texts with this share of their words in common (Jaccard) say the same."""
_LITTLE_WORDS = frozenset({
    "a", "an", "the", "some", "this", "that", "these", "those", "is", "are", "was", "were", "be", "being", "there",
    "it", "its", "his", "her", "their", "with", "and", "of", "to",
})  # fmt: skip


class _Part(NamedTuple):
    kind: SignalKind
    text: str
    words: frozenset[str]


def describe(signals: Iterable[Signal], max_characters: int = MAX_CHARACTERS) -> str:
    """Merge signals into one descriptor.

    Captions come first, in the order of time, then the title, sounds, on-screen text and speech. Of two captions
    that say nearly the same the longer stays, in the place of the first; a text whose words are all in another one
    is left out. Sounds and on-screen strings are joined by commas, everything else by full stops.

    Args:
        signals: of one medium, or of all media of an item, in any order within a kind as they shall be read.
        max_characters: of the result, >= 1; what does not fit is cut between words, the speech first.

    Returns:
        One line; empty where no signal has a word. The same signals give the same line.
    """
    ordered = sorted(
        ((_ORDER.index(s.kind), s.at_seconds or 0.0, s.frame or 0, n, s) for n, s in enumerate(signals)),
        key=lambda row: row[:4] if row[0] == 0 else (row[0], 0.0, 0, row[3]),
    )
    parts: list[_Part] = []
    for *_, signal in ordered:
        text = clean(signal.text).strip(" .,;")
        if text:
            _add(parts, _Part(signal.kind, text, _words(text)))
    return _joined(parts, max_characters)


def _words(text: str) -> frozenset[str]:
    """Its words in lower case without plurals and little words; all of them where nothing else is left."""
    spelt = "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()
    stems = [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in spelt]
    return frozenset(w for w in stems if w not in _LITTLE_WORDS) or frozenset(stems) or frozenset([text])


def _add(parts: list[_Part], new: _Part) -> None:
    said = frozenset[str]().union(*(part.words for part in parts)) if new.kind != "caption" else frozenset()
    if new.words <= said:
        return
    for at, part in enumerate(parts):
        common = len(part.words & new.words)
        if new.words <= part.words:
            return
        same_kind = part.kind == new.kind
        if same_kind and (part.words <= new.words or common / len(part.words | new.words) >= _ALIKE):
            longer = new if len(new.words) > len(part.words) else part
            # The one that stays may in turn contain others.
            parts[at:] = [longer, *(p for p in parts[at + 1 :] if not p.words <= longer.words)]
            return
    parts.append(new)


def _joined(parts: Sequence[_Part], most: int) -> str:
    line = ""
    for at, part in enumerate(parts):
        listed = at and part.kind == parts[at - 1].kind and part.kind in ("sound", "screen_text")
        text = part.text if at == 0 else (", " if listed else ". ") + part.text
        if len(line) + len(text) <= most:
            line += text
            continue
        room = most - len(line)
        cut = text[:room].rsplit(" ", 1)[0].rstrip(" .,;") if " " in text[:room].strip() else ""
        if not line and not cut:
            return text[:most]
        return line + cut
    return line
