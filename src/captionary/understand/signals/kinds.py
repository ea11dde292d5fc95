"""What a media file is, told by its content: its name and the type that somebody declared play no part.

The kind decides who reads the file, and `format` which decoder may: ffmpeg is never left to guess, since some of what
it would guess (playlists, concatenations) opens other files and addresses.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = ["MediaKind", "Sniffed", "is_cut_short", "sniff"]

MediaKind = Literal["image", "animation", "video", "sound", "other"]

_HEAD = 1 << 16
_IMAGES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"BM.{12}[\x0c-\x80]\0\0\0", "BMP"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
)
_STREAMS: tuple[tuple[bytes, MediaKind, str], ...] = (
    (rb"RIFF....AVI ", "video", "avi"),
    (rb"FLV\x01", "video", "flv"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "asf"),
    (rb"\0\0\x01\xba", "video", "mpeg"),
    (rb"\x47.{187}\x47.{187}\x47", "video", "mpegts"),
    (rb"(RIFF|RF64)....WAVE", "sound", "wav"),
    (rb"fLaC", "sound", "flac"),
    (rb"FORM....AIF[FC]", "sound", "aiff"),
    (rb"#!AMR", "sound", "amr"),
    (rb"caff\0\x01", "sound", "caf"),
    (rb"\.snd", "sound", "au"),
    (rb"ID3[\x02-\x04]", "sound", "mp3"),
    (rb"\xff[\xf0\xf1\xf8\xf9][\x40-\xbf]", "sound", "aac"),
    (rb"\xff[\xe2\xe3\xf2-\xf5\xfa-\xfd][\x10-\xef]", "sound", "mp3"),
)
_STILL_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"}
_MOVING_BRANDS = {b"avis", b"hevc", b"hevx", b"msf1"}


class Sniffed(NamedTuple):
    """A file's kind, and the one decoder that may read it."""

    kind: MediaKind
    format: str
    """Pillow's name of an image format, or ffmpeg's of a container; empty where the kind is `other`."""


def sniff(data: bytes) -> Sniffed:
    """Tell what a file is from its content.

    An MP4, Matroska, WebM or Ogg file is a sound where it holds no picture track. Anything that is not known (text,
    SVG, PDF, archives, playlists) is `other`.
    """
    head = data[:_HEAD]
    for pattern, image_format in _IMAGES:
        if re.match(pattern, head, re.DOTALL):
            return Sniffed("image", image_format)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Sniffed("animation" if _png_moves(data) else "image", "PNG")
    if re.match(rb"GIF8[79]a", head):
        return Sniffed("animation" if _gif_moves(data) else "image", "GIF")
    if re.match(rb"RIFF....WEBP", head, re.DOTALL):
        moves = head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 0x02)
        return Sniffed("animation" if moves else "image", "WEBP")
    if head[4:8] == b"ftyp":
        return _base_media(data)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        has_picture = re.search(rb"\x86.?V_", head, re.DOTALL) or not re.search(rb"\x86.?A_", head, re.DOTALL)
        return Sniffed("video" if has_picture else "sound", "matroska")
    if head.startswith(b"OggS"):
        pictures = (b"\x80theora", b"BBCD\0", b"OVP80", b"\x01video")
        return Sniffed("video" if any(mark in head[:4096] for mark in pictures) else "sound", "ogg")
    for pattern, kind, container in _STREAMS:
        if re.match(pattern, head, re.DOTALL):
            return Sniffed(kind, container)
    return Sniffed("other", "")


def is_cut_short(data: bytes, container: str) -> bool:
    """Whether a video or sound file states by its own lengths that it goes on after its last byte.

    A length that says "unknown", as live recordings have it, is no such statement.
    """
    if container == "mov":
        boxes = list(_boxes(data))
        return not boxes or boxes[-1][2] > len(data) or not any(kind == b"moov" for kind, *_ in boxes)
    if container in ("avi", "wav") and len(data) >= 8 and data[:4] == b"RIFF":
        stated = int.from_bytes(data[4:8], "little")
        return 0 < stated < 0xFFFFFFFF and stated + 8 > len(data) + 1
    if container == "aiff" and len(data) >= 8:
        return int.from_bytes(data[4:8], "big") + 8 > len(data) + 1
    if container == "matroska":
        return _segment_end(data) > len(data)
    return False


def _base_media(data: bytes) -> Sniffed:
    """ISO base media: HEIC and AVIF pictures, M4A, MP4, QuickTime."""
    length = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, length - 3, 4))}
    major = data[8:12]
    if major in _STILL_BRANDS | _MOVING_BRANDS or (brands & _STILL_BRANDS and major in (b"mif1", b"miaf")):
        image_format = "AVIF" if brands & {b"avif", b"avis"} else "HEIF"
        return Sniffed("animation" if major in _MOVING_BRANDS else "image", image_format)
    if major in (b"M4A ", b"M4B ", b"M4P "):
        return Sniffed("sound", "mov")
    for kind, start, end in _boxes(data):
        if kind == b"moov":
            handlers = {
                match[1] for match in re.finditer(rb"hdlr.{8}(vide|soun)", data[start:end], re.DOTALL)
            }
            return Sniffed("sound" if handlers == {b"soun"} else "video", "mov")
    return Sniffed("video", "mov")


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each top-level box; the last end lies beyond the data where the file is cut short."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1 and at + 16 <= len(data):
            size = struct.unpack_from(">Q", data, at + 8)[0]
        end = len(data) if size == 0 else at + size
        if end < at + 8:
            return
        yield kind, at, end
        at = end


def _png_moves(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            return length >= 4 and int.from_bytes(data[at + 8 : at + 12], "big") > 1
        if kind == b"IDAT":
            return False
        at += 12 + length
    return False


def _gif_moves(data: bytes) -> bool:
    """Whether a second picture begins, found by walking over the blocks."""
    if len(data) < 13:
        return False
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    pictures = 0
    while at + 10 < len(data):
        if data[at] == 0x2C:
            pictures += 1
            if pictures == 2:
                return True
            at += 11 + (3 << ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0)
        elif data[at] == 0x21:
            at += 2
        else:
            return False
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return False


def _segment_end(data: bytes) -> int:
    """Where a Matroska file's segment ends by its own length; 0 where that is unknown."""
    at = 0
    for element in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        if data[at : at + 4] != element or at + 5 > len(data):
            return len(data) + 1 if at + 5 > len(data) else 0
        first = data[at + 4]
        width = 9 - first.bit_length()
        if not first or at + 4 + width > len(data):
            return 0
        value = int.from_bytes(data[at + 4 : at + 4 + width], "big") & ((1 << (7 * width)) - 1)
        body = at + 4 + width
        if value == (1 << (7 * width)) - 1:
            return 0
        at = body + value
    return at
