"""Read an item's image from its file: sniffed by content, bounded in bytes and pixels, refused with a reason.

    bytes ──sniff──▶ header ──limits──▶ one kind? ──▶ decode (JPEG: reduced) ──▶ shrink ──▶ on white ──▶ upright RGB

A catalogue holds whatever people uploaded, so every way in which a file can be bad ends in one exception,
`MediaError`, whose `reason` is a stable slug (see `docs/captions.md`; the rules are in `docs/security.md`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from captionary.understand.formats import icon_size, jpeg2000_size, plugin, sniff
from captionary.understand.polyglot import end_of, is_also
from captionary.understand.refusals import LIMITS, MEDIA_REASONS, PERMANENT_REASONS, MediaError, MediaLimits

__all__ = [
    "LIMITS",
    "MEDIA_REASONS",
    "PERMANENT_REASONS",
    "MediaError",
    "MediaLimits",
    "decode",
    "digest",
    "digest_bytes",
    "frames",
    "locate",
    "open_image",
    "read_bytes",
]

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
_SLOW_PIXELS = 2_000_000
"""For decoders that are written in Python (plain PPM, QOI, RLE in BMP): about 2 seconds of work."""
_SCAN_PIXELS = 10
"""Scans × pixels of a progressive JPEG, as a multiple of the limit of pixels: each scan visits every block."""
_MOST_FRAMES = 256
_DIFFERENT = 4.0
"""Mean difference of grey levels, 16 × 16 cells, from which two frames count as distinct."""


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
    with _opened(data, name, limits) as image:
        return _finished(image, size, name, limits, reduced=True)


def frames(
    data: bytes,
    n: int,
    size: int | None = None,
    *,
    name: str = "(bytes)",
    limits: MediaLimits = LIMITS,
) -> list[Image.Image]:
    """Up to `n` distinct pictures of an animation (or of a file of several pages), each as of `decode`, in order.

    The first is always there; the rest are spread over what differs from the picture before it. At most the first
    256 pictures, and four times the limit of pixels in all, are looked at. One that cannot be decoded ends the list.

    Raises:
        MediaError: the first picture is refused.
    """
    kept: list[tuple[Image.Image, npt.NDArray[np.int16]]] = []
    with _opened(data, name, limits) as image:
        first, budget = image.tell(), 4 * limits.max_pixels
        kept.append(_with_grid(_finished(image, size, name, limits, reduced=False)))
        if n > 1 and getattr(image, "is_animated", False):
            for index in range(_MOST_FRAMES):
                budget -= image.width * image.height
                if index == first or budget < 0:
                    continue
                try:
                    image.seek(index)
                    picture, grid = _with_grid(_finished(image, size, name, limits, reduced=False))
                except Exception:  # EOFError at the end; anything else where a later frame is damaged
                    break
                if np.abs(grid - kept[-1][1]).mean() >= _DIFFERENT:
                    kept.append((picture, grid))
                if len(kept) > 4 * n:
                    kept = kept[::2]
    chosen = np.unique(np.linspace(0, len(kept) - 1, max(1, min(n, len(kept)))).round().astype(int))
    return [kept[index][0] for index in chosen]


@contextlib.contextmanager
def _opened(data: bytes, name: str, limits: MediaLimits) -> Iterator[ImageFile]:
    """The undecoded image within its limits; whatever its decoder raises inside becomes a MediaError."""
    image_format = sniff(data, name)
    decoder = plugin(image_format, name)
    try:
        # Before the decoder sees them: those that allocate by what is inside, and not by what the header states.
        if image_format == "ICO":
            _within(icon_size(data), name, limits.max_pixels)
        elif image_format == "JPEG2000":
            width, height, components = jpeg2000_size(data)
            # The slowest of the decoders by far, and 8 bytes of memory for each pixel of each component.
            _within((width, height), name, limits.max_pixels // (components + 1))
        other = is_also(data, image_format)
        if other is not None:
            raise MediaError("polyglot", name, f"{image_format} and {other}")
        with decoder(io.BytesIO(data)) as image:
            most = limits.max_pixels
            if any(tile[0] in Image.DECODERS for tile in image.tile):
                most = min(most, _SLOW_PIXELS)
            elif image_format == "JPEG":
                most = min(most, _SCAN_PIXELS * most // max(1, data.count(b"\xff\xda")))
            _within(image.size, name, most)
            yield image
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


def _within(size: tuple[int, int], name: str, most: int) -> None:
    if size[0] * size[1] > most:
        raise MediaError("too_many_pixels", name, f"{size[0]} × {size[1]}, limit {most:,}")


def _finished(
    image: ImageFile, size: int | None, name: str, limits: MediaLimits, *, reduced: bool
) -> Image.Image:
    """The current picture decoded, shrunk, on white and upright."""
    _within(image.size, name, limits.max_pixels)  # each page of a TIFF has its own size
    target = _shrunk(*image.size, size)
    if reduced and target != image.size and image.format == "JPEG":
        # Twice the target, as Image.thumbnail does: the final resize then has enough to average over.
        image.draft(None, (2 * target[0], 2 * target[1]))
    image.load()
    if image.format != "JPEG":  # some loaders turn the picture upright, or correct its size, by themselves
        _within(image.size, name, limits.max_pixels)
        target = _shrunk(*image.size, size)
    upright = _UPRIGHT.get(_orientation(image))
    picture = _to_colour(image)
    if picture.size != target:
        picture = picture.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0)
    picture = _on_white(picture)
    return picture if upright is None else picture.transpose(upright)


def _with_grid(picture: Image.Image) -> tuple[Image.Image, npt.NDArray[np.int16]]:
    grid = picture.resize((16, 16), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    return picture, np.asarray(grid, dtype=np.int16)


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
        values = np.array(image, dtype=np.float32)  # in place: a large picture must not exist four times
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        low = values.min()
        span = float(values.max()) - float(low)
        with np.errstate(over="ignore"):
            values -= low
            values *= 255.0 / span if span > 0 else 0.0
        np.clip(np.nan_to_num(values, copy=False), 0.0, 255.0, out=values)
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
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
    if image_format in ("AVIF", "HEIF", "JPEG2000", "ICO"):
        try:
            return end_of(data, image_format) is None
        except ValueError:
            return False
    if image_format != "TIFF":
        return any(
            word in message.lower() for word in ("truncated", "not enough", "end of file", "eof", "buffer")
        )
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    directory = int.from_bytes(data[4:8], order)
    entries = int.from_bytes(data[directory : directory + 2], order)
    return directory + 2 + 12 * entries + 4 > len(data) or "truncated" in message.lower()
