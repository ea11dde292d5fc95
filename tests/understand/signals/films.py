"""Videos, animations and sounds made on the spot, for tests that read them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from captionary.world.grammar import reference_captions
from captionary.world.render import render
from captionary.world.scenes import draw_scenes

RATE = 16_000


def film_of_the_docs() -> tuple[bytes, list[str]]:
    """Two scenes, the first again, a sign, and a siren, as in docs/media.md; and captions of the key frames."""
    table = draw_scenes(np.random.default_rng(4), 2)
    one, other = (render(table, row).resize((448, 448)) for row in range(2))
    sign = letters([("SUMMER SALE", 60, 100)]).resize((448, 448), Image.Resampling.BICUBIC)
    shots = [(one, 2.0), (other, 2.0), (one, 1.0), (sign, 1.0)]
    captions = [reference_captions(table, row, 1)[0] for row in range(2)]
    return film(shots, sound=siren(6.0)), [*captions, "a sign"]


def scenes(count: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of the simulated world."""
    table = draw_scenes(np.random.default_rng(seed), count)
    return [render(table, row) for row in range(count)]


def film(
    shots: Sequence[tuple[Image.Image, float]],
    *,
    container: str = "mp4",
    codec: str = "mpeg4",
    rate: int = 10,
    rotation: int = 0,
    aspect: Fraction | None = None,
    sound: npt.NDArray[np.float32] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video that shows each picture for its seconds, and plays `sound` (16 kHz mono)."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate)
        stream.width, stream.height = shots[0][0].size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        voice: Any = out.add_stream("aac", rate=RATE, layout="mono") if sound is not None else None
        for picture, seconds in shots:
            for _ in range(round(seconds * rate)):
                out.mux(stream.encode(av.VideoFrame.from_image(picture)))
        out.mux(stream.encode())
        if voice is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = RATE
            out.mux(voice.encode(frame))
            out.mux(voice.encode())
    return buffer.getvalue()


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE) -> npt.NDArray[np.float32]:
    at = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def siren(seconds: float) -> npt.NDArray[np.float32]:
    """A tone with four harmonics that rises and falls."""
    at = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(700 + 250 * np.sin(2 * np.pi * 0.4 * at)) / RATE
    wave = sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def recording(samples: npt.NDArray[np.float32], file_format: str = "WAV", rate: int = RATE) -> bytes:
    """A sound file; `samples` [S] or [S, channels]."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=file_format)
    return buffer.getvalue()


def animation(pictures: Sequence[Image.Image], image_format: str, milliseconds: int = 200) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "duration": milliseconds}
    if image_format == "WEBP":
        options["lossless"] = True
    pictures[0].save(buffer, image_format, **options)
    return buffer.getvalue()


def letters(lines: Sequence[tuple[str, int, int]], size: tuple[int, int] = (480, 270)) -> Image.Image:
    """Black text on white: (text, x, y) each."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for text, x, y in lines:
        draw.text((x, y), text, fill="black", font=ImageFont.load_default(36))
    return picture


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures of any size, of 255."""
    a, b = (np.asarray(p.resize((32, 32), Image.Resampling.BOX), float) for p in (one, other))
    return float(np.abs(a - b).mean())
