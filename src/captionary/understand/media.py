"""Read an item's image from its file: sniffed by content, bounded in bytes and pixels, refused with a reason.

    bytes ──sniff──▶ header ──pixel limit──▶ decode (JPEG: reduced) ──▶ shrink ──▶ on white ──▶ upright RGB

A catalogue holds whatever people uploaded, so every way in which a file can be bad ends in one exception,
`MediaError`, whose `reason` is a stable slug (see `docs/captions.md`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import PIL
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from captionary.errors import CaptionaryError, bad_value

__all__ = [
    "LIMITS",
    "MEDIA_REASONS",
    "PERMANENT_REASONS",
    "MediaError",
    "MediaLimits",
    "decode",
    "digest",
    "digest_bytes",
    "locate",
    "open_image",
    "read_bytes",
]

MEDIA_REASONS: dict[str, str] = {
    "remote": "a local path (download remote media first)",
    "missing": "a file that exists",
    "unreadable": "a regular file that can be read",
    "too_large": "within the limit of bytes",
    "empty_file": "a file with content",
    "not_an_image": "a JPEG, PNG, WEBP, GIF, BMP or TIFF image by its content",
    "too_many_pixels": "within the limit of pixels",
    "truncated": "a whole file",
    "corrupt": "an image that can be decoded",
    "out_of_memory": "an image that fits in memory",
    "changed": "left alone while it is read",
}
"""Every reason of a MediaError, with the rule that the media broke."""

PERMANENT_REASONS = frozenset({"empty_file", "not_an_image", "too_many_pixels", "truncated", "corrupt"})
"""Reasons that follow from the file's bytes and the limits alone: the same bytes are refused again."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"BM.{12}[\x0c-\x80]\0\0\0", "BMP"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
)
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (rb"%PDF", "a PDF"),
    (rb"....ftyp", "an MP4, HEIC or AVIF file"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(\?xml|svg|!doctype|html|!--)", "SVG, XML or HTML"),
    (rb"[\t\r\n\x20-\x7e\x80-\xff]+$", "text"),
)
_PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LONGEST_SIDE = 16
"""A shrunk image's longer side is at most this many times `size`: a strip of 1 × 10⁷ pixels shrinks too."""


class MediaLimits(NamedTuple):
    """What a media file may cost before it is refused."""

    max_bytes: int = 64 * 1024 * 1024
    """Of the file."""
    max_pixels: int = 50_000_000
    """Width × height as the header states it; checked before anything is decoded."""

    @property
    def fingerprint(self) -> str:
        """Names what decides whether bytes are an image: the limits and the decoder's version."""
        return f"media-{self.max_bytes}-{self.max_pixels}-pillow-{PIL.__version__}"


LIMITS = MediaLimits()


class MediaError(CaptionaryError):
    """A media file that was refused.

    Attributes:
        reason: a slug, one of MEDIA_REASONS.
        detail: what was found, without the file's name.
    """

    def __init__(self, reason: str, name: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = " ".join(detail.split())[:200]
        super().__init__(str(bad_value("media", name, MEDIA_REASONS[reason], where=self.detail or None)))


def locate(uri: str, root: Path) -> Path:
    """The local path of a media entry: absolute, `file://`, or relative to `root`.

    Raises:
        MediaError: `remote` for any other scheme.
    """
    if scheme := _URI.match(uri):
        if scheme[1].lower() != "file":
            raise MediaError("remote", uri, f"scheme {scheme[1]}")
        return Path(unquote(urlsplit(uri).path))
    return root / uri


def digest(path: Path, limits: MediaLimits = LIMITS) -> str:
    """The identity of a file's content: 128-bit BLAKE2b in hexadecimal, as of `digest_bytes`.

    Raises:
        MediaError: `missing`, `unreadable` or `too_large`.
    """
    with _open(path, limits) as file:
        try:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise MediaError("unreadable", str(path), str(error.strerror)) from None


def digest_bytes(data: bytes) -> str:
    """The identity of media content that is already in memory."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_bytes(path: Path, limits: MediaLimits = LIMITS) -> bytes:
    """The whole file.

    Raises:
        MediaError: `missing`, `unreadable` or `too_large`.
    """
    with _open(path, limits) as file:
        try:
            data = file.read(limits.max_bytes + 1)
        except OSError as error:
            raise MediaError("unreadable", str(path), str(error.strerror)) from None
    if len(data) > limits.max_bytes:
        raise MediaError("too_large", str(path), f"more than {limits.max_bytes:,} bytes")
    return data


def open_image(path: Path, size: int | None = None, *, limits: MediaLimits = LIMITS) -> Image.Image:
    """Decode the (first) picture of a file as upright RGB on white.

    Args:
        path: any local file; its name plays no part in how it is read.
        size: where given, the image is shrunk (never enlarged) until its shorter side has `size` pixels;
            a JPEG is then decoded at a reduced scale, which is several times faster for photographs.
        limits: refused above these.

    Raises:
        MediaError: and no other exception, whatever the file holds.
    """
    return decode(read_bytes(path, limits), size, name=str(path), limits=limits)


def decode(
    data: bytes,
    size: int | None = None,
    *,
    name: str = "(bytes)",
    limits: MediaLimits = LIMITS,
) -> Image.Image:
    """`open_image` of a file's content.

    Raises:
        MediaError: and no other exception.
    """
    image_format = _sniff(data, name)
    try:
        # The plug-in itself, not Image.open: that would print a warning about each bomb before we refuse it.
        with _PLUGINS[image_format](io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise MediaError(
                    "too_many_pixels",
                    name,
                    f"{width} × {height}, limit {limits.max_pixels:,}",
                )
            target = _shrunk(width, height, size)
            if target != (width, height):
                # Twice the target, as Image.thumbnail does: the final resize then has enough to average over.
                image.draft(None, (2 * target[0], 2 * target[1]))
            image.load()
            if image_format != "JPEG":  # the loader of TIFF turns the picture upright by itself
                target = _shrunk(*image.size, size)
            upright = _UPRIGHT.get(_orientation(image))
            picture = _to_colour(image)
            if picture.size != target:
                picture = picture.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0)
            picture = _on_white(picture)
            return picture if upright is None else picture.transpose(upright)
    except MediaError:
        raise
    except MemoryError:
        raise MediaError("out_of_memory", name) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError("too_many_pixels", name, str(error)) from None
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        reason = "truncated" if _is_cut_short(data, image_format, str(error)) else "corrupt"
        found = f"{image_format}: {type(error).__name__}: {error}"
        raise MediaError(reason, name, found) from None


def _open(path: Path, limits: MediaLimits) -> io.BufferedReader:
    # Without O_NONBLOCK, opening a named pipe waits for a writer forever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError("missing", str(path)) from None
    except IsADirectoryError:
        raise MediaError("unreadable", str(path), "a directory") from None
    except OSError as error:
        raise MediaError("unreadable", str(path), str(error.strerror)) from None
    except ValueError as error:  # a null byte, or a character that the file system cannot name
        raise MediaError("unreadable", str(path), str(error)) from None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise MediaError("unreadable", str(path), "not a regular file")
    if status.st_size > limits.max_bytes:
        file.close()
        raise MediaError(
            "too_large",
            str(path),
            f"{status.st_size:,} bytes, limit {limits.max_bytes:,}",
        )
    return file


def _sniff(data: bytes, name: str) -> str:
    if not data:
        raise MediaError("empty_file", name)
    head = data[:512]
    for pattern, image_format in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return image_format
    for pattern, what in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            raise MediaError("not_an_image", name, f"the content is {what}")
    raise MediaError("not_an_image", name)


def _shrunk(width: int, height: int, size: int | None) -> tuple[int, int]:
    if size is None:
        return width, height
    short, long = min(width, height), max(width, height)
    scale = min(1.0, size / max(1, short), _LONGEST_SIDE * size / max(1, long))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _to_colour(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where the image has any transparency."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # no fixed range: stretch what is there
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        grey = (values - low) * (255.0 / (high - low if high > low else 1.0))
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _is_cut_short(data: bytes, image_format: str, message: str) -> bool:
    """Whether a file that could not be decoded lacks its end (rather than being whole and wrong)."""
    if image_format == "JPEG":
        return b"\xff\xd9" not in data[-1024:]
    if image_format == "PNG":
        return b"IEND" not in data[-1024:]
    if image_format == "GIF":
        return data.rstrip(b"\0")[-1:] != b";"
    if image_format == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if image_format == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    directory = int.from_bytes(data[4:8], order)
    entries = int.from_bytes(data[directory : directory + 2], order)
    return directory + 2 + 12 * entries + 4 > len(data) or "truncated" in message.lower()
