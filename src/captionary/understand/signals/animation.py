"""A few distinct frames of an animated GIF, WebP, PNG or AVIF, read by Pillow within limits."""

from __future__ import annotations

import io
import math
import time

from PIL import Image, ImageFile

from captionary.understand.media import MediaError
from captionary.understand.signals.kinds import sniff
from captionary.understand.signals.reasons import StreamError
from captionary.understand.signals.settings import StreamLimits
from captionary.understand.signals.shots import Frame, key_moments, thumbnail
from captionary.understand.signals.video import LONGEST_SIDE, SIZE

__all__ = ["read_animation"]


def read_animation(
    data: bytes,
    most: int,
    *,
    size: int | None = None,
    name: str = "(bytes)",
    limits: StreamLimits | None = None,
) -> list[Frame]:
    """Up to `most` frames of an animation that differ from each other, on white, in the order of time.

    An animation whose end is missing or broken gives the frames before that; they are what a browser shows of it.

    Args:
        data: the file's content.
        most: >= 1.
        size: pixels of a frame's shorter side, SIZE of `video.py` by default; frames are never enlarged.
        name: of the file, for messages.
        limits: refused, or read no further, above these.

    Raises:
        StreamError: and no other exception, whatever the file holds.
    """
    limits = limits or StreamLimits()
    deadline = time.monotonic() + limits.wall_seconds
    moments: list[tuple[float, Image.Image]] = []
    try:
        with _opened(data, name) as image:
            width, height = image.size
            if width * height > limits.frame_pixels:
                raise StreamError("too_many_pixels", name, f"{width} × {height}")
            readable = max(1, limits.decoded_pixels // max(1, width * height))
            at = spacing = wanted = 0.0
            for number in range(readable):
                try:
                    image.seek(number)
                    image.load()
                except EOFError:
                    break
                except Exception:  # a broken frame: nothing after it can be trusted
                    if not moments:
                        raise
                    break
                if at >= wanted:
                    moments.append((at, _on_white(image, size or SIZE)))
                    wanted = at + spacing
                at += max(0.01, float(image.info.get("duration") or 100) / 1000)
                if len(moments) > limits.candidates:
                    moments = moments[::2]
                    spacing = max(2 * spacing, at / len(moments))
                    wanted = moments[-1][0] + spacing
                if time.monotonic() > deadline:
                    raise StreamError("too_slow", name, f"more than {limits.wall_seconds:g} s")
    except MediaError:
        raise
    except MemoryError:
        raise StreamError("out_of_memory", name) from None
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        raise StreamError("corrupt", name, f"{type(error).__name__}: {error}") from None
    if not moments:
        raise StreamError("no_frames", name)
    kept = key_moments([thumbnail(picture) for _, picture in moments], most)
    return [Frame(moments[at][1], round(moments[at][0], 3), i) for i, at in enumerate(kept)]


def _opened(data: bytes, name: str) -> ImageFile.ImageFile:
    """Through the plug-in itself: Image.open would print a warning about each bomb before it is refused."""
    if not data:
        raise StreamError("empty_file", name)
    kind, image_format = sniff(data)
    if kind not in ("animation", "image"):
        raise StreamError("not_media", name, f"the content is of kind {kind}")
    if image_format in ("GIF", "PNG", "WEBP", "AVIF"):
        Image.init()
        if image_format in Image.OPEN:
            opener: ImageFile.ImageFile = Image.OPEN[image_format][0](io.BytesIO(data), "")
            return opener
    raise StreamError("not_media", name, f"no decoder of moving {image_format} is installed")


def _on_white(image: Image.Image, size: int) -> Image.Image:
    colour = image.convert("RGBA" if image.has_transparency_data else "RGB")
    width, height = colour.size
    scale = min(1.0, size / max(1, min(width, height)), LONGEST_SIDE * size / max(1, width, height))
    target = (max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5)))
    if target != colour.size:
        colour = colour.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if colour.mode == "RGB":
        return colour
    white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colour).convert("RGB")
