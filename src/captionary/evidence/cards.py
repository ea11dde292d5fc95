"""What a report shows of single items and users: picture, caption and tokens; a profile as words."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from captionary.understand.media import MediaError, decode, open_image

__all__ = ["THUMBNAIL_BYTES", "ItemCard", "ProfileCard", "thumbnail"]

THUMBNAIL_BYTES = 8192
"""A thumbnail is at most this large, so that a page of 50 items stays below half a megabyte."""
_SIDES = (240, 192, 160, 128, 96)
_QUALITIES = (82, 70, 58, 46, 34)


class ItemCard(NamedTuple):
    """One item on its way from picture to tokens."""

    item_id: str
    title: str = ""
    image: Path | bytes | None = None
    """File or content of the picture; None where the item has none."""
    caption_raw: str = ""
    """As the captioner wrote it."""
    caption: str = ""
    """Normalised."""
    tokens: Mapping[str, tuple[str, ...]] = {}
    """Tokenizer's letter → its tokens, decoded to words."""
    status: str = "ok"
    """ok, failed or skipped."""
    reason: str = ""
    """Why it failed or was skipped."""
    note: str = ""
    """Why this item is shown."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, the picture left out."""
        kept = {name: value for name, value in self._asdict().items() if name not in ("image", "tokens")}
        return kept | {"tokens": {letter: list(words) for letter, words in self.tokens.items()}}


class ProfileCard(NamedTuple):
    """One user's interests at one moment."""

    user_id: str
    events: Mapping[str, tuple[tuple[str, float], ...]]
    """Event type → (token decoded to a word, weight), heaviest first."""
    as_of: str = ""
    """The moment, in words."""
    mass: Mapping[str, float] = {}
    """Event type → decayed number of events behind the list."""
    note: str = ""
    """What happened next, or why this user is shown."""


def thumbnail(image: Path | bytes | None, *, limit: int = THUMBNAIL_BYTES) -> str | None:
    """A data URI of a small JPEG of at most `limit` bytes; None where there is no readable picture.

    The report has to come out whatever the pictures are like, so a picture that cannot be read, or is so
    large that it could be a decompression bomb, is no error here: its caption says what happened.
    """
    if image is None:
        return None
    try:
        picture = decode(image, _SIDES[0]) if isinstance(image, bytes) else open_image(image, _SIDES[0])
    except MediaError:
        return None
    for side in _SIDES:
        for quality in _QUALITIES:
            content = _jpeg(picture, side, quality)
            if len(content) <= limit:
                return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
    return None


def _jpeg(picture: Image.Image, side: int, quality: int) -> bytes:
    smaller = picture.copy()
    smaller.thumbnail((side, side))
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
