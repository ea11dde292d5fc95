"""Pictures as pages show them: made anew as small JPEGs, so no byte of what strangers sent reaches a browser.

record's media ──spool, or below the catalogue's folder──▶ decode by the media rules ──▶ JPEG, so large at most
                                                     └──▶ a video or a sound is not decoded: the page draws a tile
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from captionary.errors import CaptionaryError
from captionary.online.items import ItemRecord
from captionary.online.spool import Spool
from captionary.understand.media import MediaError, MediaLimits, locate, open_image
from captionary.understand.signals.kinds import sniff

__all__ = ["Medium", "Pictures", "Size"]

Size = Literal["small", "large"]
_SIDES: dict[Size, int] = {"small": 320, "large": 960}
_BYTES: dict[Size, int] = {"small": 24 << 10, "large": 160 << 10}
"""A picture is at most this large."""
_QUALITIES = (82, 68, 54, 40)
_KEPT_BYTES = 24 << 20
_SPOOLED = re.compile(r"[0-9a-f]{2}/([0-9a-f]{32})")
_HEAD = 1 << 16
"""Bytes that tell a video or a sound from a picture."""
_KINDS_KEPT = 1 << 16
_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,5})")


class Medium(NamedTuple):
    """As what a page shows a medium."""

    kind: Literal["picture", "video", "sound"]
    """`picture` also where nobody can tell: the picture itself is a plain grey one then."""
    extension: str
    """Of a video's or a sound's name in the catalogue, in capitals, such as `MP4`; "" for none, as of an upload."""


class Pictures:
    """Makes pictures of items' media, and keeps what was asked for last; for any number of threads.

    Args:
        spool: of uploads.
        media: folder below which the catalogue's media lie; None: only uploads are shown.
        limits: refused above these.
    """

    def __init__(self, spool: Spool, media: Path | None, limits: MediaLimits) -> None:
        self.spool, self.limits = spool, limits
        self.media = None if media is None else media.resolve()
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, Size], bytes] = OrderedDict()
        self._bytes = 0
        self._sniffed = functools.lru_cache(_KINDS_KEPT)(_sniffed)

    @staticmethod
    def key(record: ItemRecord, place: int) -> str:
        """What names the content of an item's medium in an address: its digest, or one of its name."""
        name = record.media[place]
        if spooled := _SPOOLED.fullmatch(name):
            return spooled[1]
        if place == 0 and record.media_digest:
            return record.media_digest
        return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()

    def medium(self, record: ItemRecord, place: int) -> Medium:
        """What is at a place of the item's media, told by its content. Blocks for the first bytes of a new file."""
        path = self._path(record.media[place])
        if path is None:
            return _PICTURE
        try:
            return self._sniffed(path, self.key(record, place))
        except OSError:
            return _PICTURE

    def jpeg(self, record: ItemRecord, place: int, size: Size) -> bytes:
        """The picture at a place of the item's media; a plain grey one where none can be made. Blocks."""
        key = (self.key(record, place), size)
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found
        made = self._made(record.media[place], size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made

    def _made(self, name: str, size: Size) -> bytes:
        path = self._path(name)
        if path is None:
            return _NOTHING
        try:
            picture = open_image(path, _SIDES[size], limits=self.limits)
        except MediaError:
            return _NOTHING
        for side in (_SIDES[size], _SIDES[size] * 3 // 4, _SIDES[size] // 2, _SIDES[size] // 4):
            for quality in _QUALITIES:
                content = _jpeg(picture, side, quality)
                if len(content) <= _BYTES[size]:
                    return content
        return _NOTHING

    def _path(self, name: str) -> Path | None:
        """Where a medium lies; None: nowhere that pages may show."""
        if _SPOOLED.fullmatch(name):
            try:
                return self.spool.path(name)
            except CaptionaryError:
                return None
        if self.media is None:
            return None
        try:
            path = locate(name, self.media).resolve()
        except (MediaError, OSError, ValueError):
            return None
        return path if path.is_relative_to(self.media) else None


_PICTURE = Medium("picture", "")


def _sniffed(path: Path, _key: str) -> Medium:
    """The medium of a file; the key names its content, so that what replaces it is looked at anew.

    Raises:
        OSError: it cannot be read, now at least.
    """
    if not path.is_file():
        raise FileNotFoundError(path)  # nor is a pipe waited for
    with path.open("rb") as file:
        kind = sniff(file.read(_HEAD)).kind
    if kind != "video" and kind != "sound":
        return _PICTURE
    extension = _EXTENSION.fullmatch(path.suffix)
    return Medium(kind, extension[1].upper() if extension else "")


def _jpeg(picture: Image.Image, side: int, quality: int) -> bytes:
    smaller = picture.copy()
    smaller.thumbnail((side, side))
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


_NOTHING = _jpeg(Image.new("RGB", (32, 24), (128, 128, 124)), 32, 60)
