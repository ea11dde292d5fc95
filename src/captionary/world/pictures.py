"""The media of a catalogue: a JPEG for each scene, and damaged files as every real catalogue has them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from captionary.world.render import render
from captionary.world.scenes import SceneTable

__all__ = ["DAMAGES", "write_pictures"]

DAMAGES: tuple[str, ...] = ("corrupt", "truncated", "text", "missing", "bomb", "empty")
"""The sorts of damage, planted in turn."""

_FOLDER, _SHARDS = "media", 1000  # files in a folder at most, for the sake of file systems
_QUALITY = 88
_BOMB_SIDE = 12_000


def write_pictures(scenes: SceneTable, sound: int, root: Path) -> Iterator[str]:
    """Write the picture of each scene beneath `root`; yield its relative name when it is there.

    The scenes from number `sound` on get a damaged file instead, or none, by DAMAGES.
    """
    for row in range(scenes.rows):
        damage = DAMAGES[(row - sound) % len(DAMAGES)] if row >= sound else None
        suffix = "png" if damage == "bomb" else "jpg"
        name = f"{_FOLDER}/{row // _SHARDS:03d}/{row:06d}.{suffix}"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if damage != "missing":
            path.write_bytes(_content(scenes, row, damage))
        yield name


def _content(scenes: SceneTable, row: int, damage: str | None) -> bytes:
    if damage == "text":
        return b"This is no picture, whatever its name says.\n"
    if damage == "empty":
        return b""
    if damage == "bomb":
        return _bomb()
    file = io.BytesIO()
    render(scenes, row).save(file, "JPEG", quality=_QUALITY)
    jpeg = file.getvalue()
    if damage == "truncated":
        return jpeg[: len(jpeg) // 3]
    if damage == "corrupt":
        return _without_tables(jpeg)
    return jpeg


def _without_tables(jpeg: bytes) -> bytes:
    """Overwrite a Huffman table, without which no decoder can read the rest; the header stays as it was."""
    start = jpeg.index(b"\xff\xc4") + 4
    return jpeg[:start] + b"\xee" * 17 + jpeg[start + 17 :]


def _bomb() -> bytes:
    """A PNG of a few kilobytes that says 144 megapixels, and means it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    side = _BOMB_SIDE.to_bytes(4, "big")
    header = side + side + bytes((1, 0, 0, 0, 0))  # 1 bit a pixel, grey
    packer = zlib.compressobj()
    rows = [packer.compress(bytes(1 + _BOMB_SIDE // 8)) for _ in range(_BOMB_SIDE)]
    pixels = b"".join([*rows, packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
