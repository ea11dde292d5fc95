"""What of an item is captioned: its pictures, one view each, and how their captions become the item's own.

    item ──media entries, frames──▶ views ──one caption each──▶ merge ──▶ the item's caption

A view is the smallest thing that is paid for: the store knows it by the digest of its file's bytes and, where the
file holds several pictures, the number of the frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from PIL.Image import Image

from captionary.errors import bad_value, nearest
from captionary.understand.media import MediaLimits, decode

__all__ = ["Locate", "Merge", "Reader", "View", "join_distinct", "read_picture", "views_of"]

ENTRIES = ("first", "all")


class View(NamedTuple):
    """One picture of an item."""

    uri: str
    """A media entry, as the items table has it."""
    frame: int | None = None
    """Which picture of a file that holds several, as the reader counts them; None for a file that is one picture."""

    def key(self, digest: str) -> str:
        """Its key in the store, given the digest of its file's bytes."""
        return digest if self.frame is None else f"{digest}@{self.frame}"


Reader = Callable[[bytes, View, int, MediaLimits], Image]
"""(a file's bytes, the view, pixels of the shorter side, limits) -> upright RGB picture; raises MediaError.

It runs in threads and in worker processes: a function at the top of a module, so that it can be sent by name."""

Locate = Callable[[str, Path], Path]
"""(a media entry, where relative ones start) -> a local file, fetched first where need be; raises MediaError.

It runs in threads, several at once."""

Merge = Callable[[Sequence[str]], str]
"""The captions of an item's views, in their order, at least one -> the item's caption."""


def read_picture(data: bytes, view: View, size: int, limits: MediaLimits) -> Image:
    """The one picture of an image file, of an animation the first."""
    return decode(data, size, name=view.uri, limits=limits)


def join_distinct(captions: Sequence[str]) -> str:
    """The captions in order, joined by "; "; of those that differ in case, spaces or punctuation only, the first."""
    distinct: dict[str, str] = {}
    for caption in captions:
        distinct.setdefault(" ".join(re.findall(r"\w+", caption.casefold())), caption.strip())
    return "; ".join(distinct.values())


def views_of(items: pa.Table, *, entries: str = "first", most: int = 4) -> tuple[list[list[View]], list[int]]:
    """The views of each item, and how many of its media entries are left out.

    Args:
        items: needs the columns `item_id` and `media` (list of string); blank entries do not count.
        entries: `first` or `all` of an item's media entries.
        most: views per item with `all`, ≥ 1; an entry that is listed twice counts once.

    Raises:
        CaptionaryError: a column is missing or of another type, or a bad option.
    """
    if entries not in ENTRIES:
        raise bad_value("entries", entries, nearest(entries, ENTRIES))
    if most < 1:
        raise bad_value("most views per item", most, ">= 1")
    for column in ("item_id", "media"):
        if column not in items.column_names:
            rule = "with columns item_id and media"
            raise bad_value("items", ", ".join(items.column_names) or "(no columns)", rule)
    kind = items.schema.field("media").type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (pa.types.is_null(kind) or (lists and str(kind.value_type) in ("string", "large_string", "null"))):
        raise bad_value("items: media", str(kind), "of type list<string>")
    views, unused = [], []
    for listed in items["media"].to_pylist():
        uris = [uri for uri in listed or () if uri and uri.strip()]
        chosen = uris[:1] if entries == "first" else list(dict.fromkeys(uris))[:most]
        views.append([View(uri) for uri in chosen])
        unused.append(len(uris) - len(chosen))
    return views, unused
