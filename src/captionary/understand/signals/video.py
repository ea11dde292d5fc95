"""Key frames of a video and its sound, decoded by PyAV within limits of time, pixels and moments.

    bytes ──sniffed container──▶ moments, evenly spaced ──shots.py──▶ a few upright RGB frames
                           └──▶ sound, 16 kHz mono

A short video is decoded from its beginning; of a long one the key frames nearest to evenly spaced moments are sought.
What is kept depends on the bytes and the limits alone, never on how busy the machine is.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from captionary.errors import bad_value
from captionary.understand.media import MediaError
from captionary.understand.signals.kinds import is_cut_short, sniff
from captionary.understand.signals.reasons import StreamError
from captionary.understand.signals.settings import StreamLimits
from captionary.understand.signals.shots import Frame, key_moments, thumbnail

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["LONGEST_SIDE", "SAMPLE_RATE", "SIZE", "Sound", "read_frames", "read_sound"]

SAMPLE_RATE = 16_000
"""Of all sound, Hz: what speech recognisers and audio classifiers are trained on."""
SIZE = 448
"""Pixels of a frame's shorter side where the captioner names no size."""
_CLOSEST = 0.2
"""Seconds between two moments, at least."""
LONGEST_SIDE = 4
"""A frame's longer side is at most this many times its size."""


class Sound(NamedTuple):
    """A file's sound."""

    samples: npt.NDArray[np.float32]
    """[S], mono, -1 to 1, SAMPLE_RATE a second."""
    is_whole: bool
    """False where the file goes on after the limit of seconds."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def is_silent(self) -> bool:
        """Whether no sample is above -60 dB of full scale."""
        return not len(self.samples) or float(np.abs(self.samples).max()) < 1e-3


def read_frames(
    data: bytes,
    most: int,
    *,
    size: int | None = None,
    name: str = "(bytes)",
    limits: StreamLimits | None = None,
) -> list[Frame]:
    """Up to `most` frames of a video that differ from each other, upright, in the order of time.

    Args:
        data: the file's content.
        most: >= 1.
        size: pixels of a frame's shorter side, SIZE by default; frames are never enlarged.
        name: of the file, for messages.
        limits: refused, or read no further, above these.

    Raises:
        StreamError: and no other exception, whatever the file holds.
        CaptionaryError: PyAV is not installed.
    """
    limits = limits or StreamLimits()
    with _opened(data, name, limits) as (container, deadline):
        streams = [s for s in container.streams.video if not s.disposition & _attached_picture()]
        if not streams:
            raise StreamError("no_frames", name, "no picture track")
        stream = streams[0]
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > limits.frame_pixels:
            found = f"{stream.codec_context.width} × {stream.codec_context.height}"
            raise StreamError("too_many_pixels", name, found)
        reader = _Moments(container, stream, size or SIZE, name, limits, deadline)
        moments = reader.read(_stated_seconds(container, stream, name, limits))
        if not moments:
            broken = reader.errors > 0
            raise StreamError("corrupt" if broken else "no_frames", name, reader.last_error)
        if reader.errors > reader.decoded:
            raise StreamError("corrupt", name, f"{reader.errors} broken packets: {reader.last_error}")
        kept = key_moments([thumbnail(picture) for _, picture in moments], most)
        return [Frame(moments[at][1], round(moments[at][0], 3), i) for i, at in enumerate(kept)]


def read_sound(data: bytes, *, name: str = "(bytes)", limits: StreamLimits | None = None) -> Sound:
    """The beginning of a file's first sound track as 16 kHz mono.

    Raises:
        StreamError: `no_sound` where there is no track, or nothing in it; and no other exception.
        CaptionaryError: PyAV is not installed.
    """
    limits = limits or StreamLimits()
    with _opened(data, name, limits) as (container, deadline):
        if not container.streams.audio:
            raise StreamError("no_sound", name, "no sound track")
        stream = container.streams.audio[0]
        _stated_seconds(container, stream, name, limits)
        most = math.ceil(limits.sound_seconds * SAMPLE_RATE)
        pieces: list[npt.NDArray[np.float32]] = []
        length, last_error, goes_on = 0, "", False
        for piece in _samples(container, stream):
            if isinstance(piece, str):
                last_error = piece
            else:
                pieces.append(piece)
                length += len(piece)
            _check_time(deadline, name, limits)
            if length > most:
                goes_on = True
                break
        if not length:
            raise StreamError("corrupt" if last_error else "no_sound", name, last_error)
        samples = np.nan_to_num(np.concatenate(pieces)[:most], posinf=0.0, neginf=0.0)
        return Sound(np.clip(samples, -1.0, 1.0), not goes_on)


class _Moments:
    """Reads (seconds, picture) at up to `limits.candidates` evenly spaced moments of one stream."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        size: int,
        name: str,
        limits: StreamLimits,
        deadline: float,
    ) -> None:
        self.container, self.stream, self.size, self.name = container, stream, size, name
        self.limits, self.deadline = limits, deadline
        self.errors = self.decoded = self.pixels = 0
        self.last_error = ""
        self._began: float | None = None
        # One thread: files are read by several workers at once, and frames then come out the same everywhere.
        stream.codec_context.thread_count = 1

    def read(self, seconds: float | None) -> list[tuple[float, Image.Image]]:
        """Moments in the order of time; decodes everything where the limits allow it."""
        context = self.stream.codec_context
        rate = float(self.stream.average_rate or 25)
        cost = (seconds or 0.0) * rate * context.width * context.height
        if seconds is None or cost <= self.limits.decoded_pixels:
            return self._decode_through(seconds)
        return self._seek_through(seconds) or self._decode_through(seconds)

    def _decode_through(self, seconds: float | None) -> list[tuple[float, Image.Image]]:
        """Decode from the beginning. With no known length, moments are thinned out as they become too many."""
        most = self.limits.candidates
        spacing = max(_CLOSEST, (seconds or 0.0) / most)
        moments: list[tuple[float, Image.Image]] = []
        wanted = 0.0
        for at, frame in self._frames():
            if at + 1e-6 < wanted:
                continue
            moments.append((at, self._picture(frame)))
            wanted = (math.floor(at / spacing) + 1) * spacing
            if len(moments) > most:
                moments = moments[::2]
                spacing *= 2
                wanted = (math.floor(moments[-1][0] / spacing) + 1) * spacing
        return moments

    def _seek_through(self, seconds: float) -> list[tuple[float, Image.Image]]:
        """The key frame before each of evenly spaced moments."""
        base = float(self.stream.time_base or 0) or 1e-6
        start = self.stream.start_time or 0
        moments: list[tuple[float, Image.Image]] = []
        self.stream.codec_context.skip_frame = "NONKEY"
        for step in range(self.limits.candidates):
            try:
                offset = start + int(step * seconds / self.limits.candidates / base)
                self.container.seek(offset, stream=self.stream)
            except (OSError, ValueError):  # this container, or this one's index, cannot seek
                break
            for at, frame in self._frames():
                if not moments or at > moments[-1][0]:
                    moments.append((at, self._picture(frame)))
                break
        return moments

    def _frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """(seconds from the beginning, frame), until the file, the pixels or the time end."""
        import av

        for packet in self.container.demux(self.stream):
            _check_time(self.deadline, self.name, self.limits)
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self.errors += 1
                self.last_error = str(error)
                continue
            for frame in frames:
                if frame.width * frame.height > self.limits.frame_pixels:
                    raise StreamError("too_many_pixels", self.name, f"{frame.width} × {frame.height}")
                self.decoded += 1
                self.pixels += frame.width * frame.height
                when = frame.time if frame.time is not None else self.decoded / 25.0
                if self._began is None:
                    start, base = self.stream.start_time, self.stream.time_base
                    self._began = float(start * base) if start is not None and base else when
                yield max(0.0, float(when) - self._began), frame
            if self.pixels > self.limits.decoded_pixels:
                return

    def _picture(self, frame: VideoFrame) -> Image.Image:
        """Upright RGB with square pixels, shrunk to the size that is wanted."""
        aspect = float(self.stream.sample_aspect_ratio or 1) or 1.0
        if not 0.1 <= aspect <= 10:
            aspect = 1.0
        width, height = frame.width * max(1.0, aspect), frame.height / min(1.0, aspect)
        scale = min(1.0, self.size / min(width, height), LONGEST_SIDE * self.size / max(width, height))
        shrunk = frame.reformat(
            width=max(1, round(width * scale)),
            height=max(1, round(height * scale)),
            format="rgb24",
            interpolation="AREA",
        )
        picture = Image.fromarray(shrunk.to_ndarray())
        turn = round(frame.rotation / 90) * 90 % 360
        return picture.rotate(turn, expand=True) if turn else picture


@contextmanager
def _opened(data: bytes, name: str, limits: StreamLimits) -> Iterator[tuple[Any, float]]:
    """(container, deadline); everything that ffmpeg raises becomes a StreamError."""
    try:
        import av
    except ImportError:
        todo = "pip install 'captionary[video]'"
        raise bad_value("av", "(not installed)", "installed to read videos and sounds", todo=todo) from None
    if not data:
        raise StreamError("empty_file", name)
    kind, container_format = sniff(data)
    if kind not in ("video", "sound"):
        raise StreamError("not_media", name, f"the content is of kind {kind}")
    if is_cut_short(data, container_format):
        raise StreamError("truncated", name, f"{container_format}: {len(data):,} bytes")
    deadline = time.monotonic() + limits.wall_seconds
    av.logging.set_level(None)  # what matters becomes a reason
    try:
        # The sniffed format alone, from memory: no playlist can make ffmpeg open other files or addresses.
        with av.open(io.BytesIO(data), format=container_format, metadata_errors="replace") as container:
            yield container, deadline
    except MediaError:
        raise
    except MemoryError:
        raise StreamError("out_of_memory", name) from None
    except Exception as error:  # av.FFmpegError, and ValueError or RuntimeError of PyAV on hostile bytes
        found = f"{container_format}: {type(error).__name__}: {error}"
        raise StreamError("corrupt", name, found) from None


def _stated_seconds(container: Any, stream: Any, name: str, limits: StreamLimits) -> float | None:
    """The length that the file states; None where it states none.

    Raises:
        StreamError: `too_long`.
    """
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / 1_000_000
    else:
        return None
    if seconds > limits.longest_seconds:
        raise StreamError("too_long", name, f"{seconds:,.0f} s, limit {limits.longest_seconds:,.0f}")
    return max(0.0, seconds)


def _check_time(deadline: float, name: str, limits: StreamLimits) -> None:
    if time.monotonic() > deadline:
        raise StreamError("too_slow", name, f"more than {limits.wall_seconds:g} s")


def _attached_picture() -> Any:
    from av.stream import Disposition

    return Disposition.attached_pic


def _samples(container: Any, stream: Any) -> Iterator[npt.NDArray[np.float32] | str]:
    """Pieces of 16 kHz mono sound, and the message of every packet that cannot be decoded."""
    import av

    stream.codec_context.thread_count = 1
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            yield str(error)
            continue
        for frame in frames:
            frame.pts = None  # gaps and jumps in time stamps are not filled with silence
            for piece in resampler.resample(frame):
                yield piece.to_ndarray()[0]
    for piece in resampler.resample(None):
        yield piece.to_ndarray()[0]
