r"""Files that are an image to us and something else to another program: a page, a script, a PDF, an archive.

The rule. What follows the end of an image may be anything that is not recognised as another kind of file: cameras
and phones append previews, depth maps, short videos and padding there, and nothing of it reaches us, because only
decoded pixels go on. Refused is an image

1. whose trailing data hold the beginning of a document, an archive or a program;
2. that is a ZIP archive as well: its end record, which readers look for from the back, fits a directory in it;
3. that has `%PDF-` in its first 1,024 bytes, where readers of PDF look for it, or is a TAR or an ISO 9660 image;
4. that holds the markup of a page or a script anywhere, in comments and metadata too;
5. whose first bytes are the beginning of a JavaScript comment or assignment.

Signatures that are searched for in compressed pixels are so long, or confirmed by so much structure, that chance
does not write them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["end_of", "is_also"]

_MOST_PARTS = 1_000_000
"""A file of more chunks, segments or blocks than that is built to cost time: each is read by Python code."""

_MARKUP = re.compile(
    rb"<(?i:script[\s>/]|\?php[\s]|!doctype\s+html|html[\s>]|iframe[\s>]|svg\s+[^>]{0,400}(?:xmlns|onload)\s*=)"
)
_TRAILING = re.compile(
    rb"PK\x03\x04[\0-\x3f]\0..[\0-\x63]\0|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|%PDF-[12]\.|%!PS-Adobe"
    rb"|\x7fELF[\x01\x02][\x01\x02]\x01|\xfd7zXZ\0|<(?i:svg[\s>]|body[\s>]|img\s|embed\s|object\s)",
    re.DOTALL,
)
_TRAILING_START = re.compile(
    rb"[\s\0]*(?:MZ|#!|\x1f\x8b\x08|BZh[1-9]|\xca\xfe\xba\xbe|\{\\rtf|\xd0\xcf\x11\xe0)"
)
# `GIF89a=…` assigns to a name; `GIF89a/*…*/=` hides the image in a comment first.
_ASSIGNED = re.compile(rb"\*/\s*[=:]")
_FREE_FIELD = {"GIF": 6, "BMP": 2, "WEBP": 4, "JPEG": 4}
"""Where the first field begins that is the maker's choice; the bytes before it are a name to JavaScript."""
_END_RECORD = b"PK\x05\x06"
_BOXES = frozenset(
    re.findall(
        b"....",
        b"ftypmetamdatmoovmoofmfrafreeskipwideuuidministypsidxssixprftpdinemsg"
        b"jP  jp2hjp2cjp2ixml uinfrreqasocnlstlbl flstcrefjpchjplhcompcoptinstcptrdrepdtbl",
    )
)
"""Names of boxes that stand by themselves in AVIF, HEIF and JPEG 2000."""
_JPEG_MARKER = re.compile(rb"\xff+[^\0\xff\xd0-\xd7]", re.DOTALL)


def is_also(data: bytes, image_format: str) -> str | None:
    """What the image is besides being one; None for an honest image.

    Raises:
        ValueError: the file has more parts than an honest one.
    """
    if _is_zip(data):
        return "a ZIP archive"
    if b"%PDF-" in data[:1024]:
        return "a PDF"
    if data[257:262] == b"ustar":
        return "a TAR archive"
    if data[0x8001:0x8006] == b"CD001":
        return "an ISO 9660 image"
    if _MARKUP.search(data):
        return "markup with a script or a page"
    if _is_script(data, image_format):
        return "a script"
    end = end_of(data, image_format)
    if end is not None and end < len(data):
        found = _TRAILING.search(data, end) or _TRAILING_START.match(data, end)
        if found:
            return f"{found[0].strip()[:6]!r} in {len(data) - end:,} bytes after its end"
    return None


def end_of(data: bytes, image_format: str) -> int | None:
    """Where the image ends by its own structure; None where it does not end, or the format has no such thing.

    Raises:
        ValueError: the file has more parts than an honest one.
    """
    finder = _ENDS.get(image_format)
    return None if finder is None else finder(data)


def _is_zip(data: bytes) -> bool:
    at = data.rfind(_END_RECORD, max(0, len(data) - 65_557))
    while at >= 0:
        length, offset = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (12, 16))
        if length and (
            data[at - length : at - length + 4] == b"PK\x01\x02" or data[offset : offset + 4] == b"PK\x01\x02"
        ):
            return True
        at = data.rfind(_END_RECORD, max(0, len(data) - 65_557), at)
    return False


def _is_script(data: bytes, image_format: str) -> bool:
    at = _FREE_FIELD.get(image_format)
    if at is None:
        return False
    if data[at : at + 2] == b"/*":
        return _ASSIGNED.search(data, at) is not None
    return image_format == "GIF" and data[at : at + 2] in (b"='", b'="', b"=`", b"=1", b"=0")


def _many(parts: int) -> None:
    if parts > _MOST_PARTS:
        raise ValueError(f"more than {_MOST_PARTS:,} parts")


def _jpeg(data: bytes) -> int | None:
    at, parts = 2, 0
    while True:
        parts += 1
        _many(
            parts * 20
        )  # Pillow keeps a copy of each segment; one of the 64 KiB that it may have holds a lot
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            return None
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            return at
        if marker != 0x01:
            at += int.from_bytes(data[at : at + 2], "big")


def _png(data: bytes) -> int | None:
    at, parts = 8, 0
    while at + 12 <= len(data):
        parts += 1
        _many(parts * 10)
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return end if end <= len(data) else None
        at = end
    return None


def _gif(data: bytes) -> int | None:
    def colours(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    if len(data) < 13:
        return None
    at, parts = 13 + colours(data[10]), 0
    while at < len(data):
        kind = data[at]
        if kind == 0x3B:
            return at + 1
        if kind == 0x21:
            at += 2
        elif kind == 0x2C and at + 10 < len(data):
            at += 11 + colours(data[at + 9])
        else:
            at += 1  # as Pillow does with what it does not know
            parts += 1
            _many(parts)
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
            parts += 1
            _many(parts)
        at += 1
    return None


def _riff(data: bytes) -> int | None:
    end = 8 + int.from_bytes(data[4:8], "little")
    return end + end % 2 if end <= len(data) else None


def _bmp(data: bytes) -> int | None:
    end = int.from_bytes(data[2:6], "little")
    return end if 26 <= end <= len(data) else None


def _boxes(data: bytes) -> int | None:
    """Of AVIF, HEIF and JPEG 2000: boxes of a length and a name, the last one may run to the end of the file."""
    at, parts = 0, 0
    while at + 8 <= len(data):
        parts += 1
        _many(parts * 10)
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if kind not in _BOXES or 0 < length < 8:
            return at if at else None
        if length == 0:  # to the end of the file, with whatever is there: looked through as trailing data are
            return at + 8
        at += length
    return at if at <= len(data) else None


def _jpeg2000(data: bytes) -> int | None:
    if data[:4] == b"\xff\x4f\xff\x51":
        end = data.rfind(b"\xff\xd9")
        return end + 2 if end >= 0 else None
    return _boxes(data)


def _ico(data: bytes) -> int | None:
    count = int.from_bytes(data[4:6], "little")
    ends = [
        sum(int.from_bytes(data[at + i : at + i + 4], "little") for i in (8, 12))
        for at in range(6, min(len(data), 6 + 16 * count), 16)
    ]
    ends.append(6 + 16 * count)
    return max(ends) if max(ends) <= len(data) else None


_ENDS: dict[str, Callable[[bytes], int | None]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _riff,
    "BMP": _bmp,
    "AVIF": _boxes,
    "HEIF": _boxes,
    "JPEG2000": _jpeg2000,
    "ICO": _ico,
}
