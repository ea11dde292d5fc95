"""From a file of any kind to frames that a captioner can caption and signals that stand beside the captions.

    bytes ──perceive──▶ Perception: frames, sound ──SignalModels──▶ speech, sounds, on-screen text ──┐
                            └──────────────────────captioner──▶ captions ──caption_signals───────────┴──▶ describe

`perceive` only decodes: it needs no model and may run in worker processes. The frames of many files can be captioned
in one batch; `SignalModels` loads each model when the first file needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from captionary.errors import bad_value
from captionary.understand.media import LIMITS, MediaLimits, decode
from captionary.understand.signals.animation import read_animation
from captionary.understand.signals.kinds import MediaKind, sniff
from captionary.understand.signals.reasons import StreamError
from captionary.understand.signals.screen_text import ScreenText
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.shots import Frame
from captionary.understand.signals.signal import Signal, clean
from captionary.understand.signals.sound_events import SoundEvents
from captionary.understand.signals.speech import SpeechRecognizer
from captionary.understand.signals.video import SIZE, Sound, read_frames, read_sound

__all__ = ["Perception", "SignalModels", "caption_signals", "perceive", "title_signal"]


class Perception(NamedTuple):
    """What a file shows and plays, decoded."""

    kind: MediaKind
    """`sound` for a video without a picture track."""
    frames: list[Frame]
    """Upright RGB, in the order of time; one for a still picture, none for a sound."""
    sound: Sound | None
    """None where there is none, or where no signal asks for it."""


def perceive(
    data: bytes,
    config: SignalsConfig | None = None,
    *,
    kind: MediaKind | None = None,
    size: int | None = None,
    name: str = "(bytes)",
    limits: MediaLimits = LIMITS,
) -> Perception:
    """Decode a file.

    Args:
        data: the file's content (see `media.read_bytes`).
        config: which signals are asked for, and limits for streams.
        kind: as `sniff` told it; sniffed here where it is not given.
        size: pixels of a picture's shorter side that the captioner has use for.
        name: of the file, for messages.
        limits: of still pictures.

    Raises:
        MediaError: the file is refused, with a reason of `media.py` or of `reasons.py`; and no other exception.
        CaptionaryError: PyAV is needed and not installed.
    """
    config = config or SignalsConfig()
    kind = kind or sniff(data).kind
    if kind == "image":
        return Perception(kind, [Frame(decode(data, size, name=name, limits=limits), 0.0, 0)], None)
    if kind == "animation":
        frames = read_animation(data, config.frames, size=size, name=name, limits=config.limits)
        return Perception(kind, frames, None)
    if kind == "sound":
        return Perception(kind, [], read_sound(data, name=name, limits=config.limits))
    if kind == "video":
        return _video(data, config, size or SIZE, name)
    if not data:
        raise StreamError("empty_file", name)
    raise StreamError("not_media", name)


def _video(data: bytes, config: SignalsConfig, size: int, name: str) -> Perception:
    sound = None
    if config.speech or config.sounds:
        try:
            sound = read_sound(data, name=name, limits=config.limits)
        except StreamError as error:  # a silent film, or a broken track beside good pictures
            if error.reason not in ("no_sound", "corrupt"):
                raise
    try:
        frames = read_frames(data, config.frames, size=size, name=name, limits=config.limits)
    except StreamError as error:
        if error.reason == "no_frames" and sound is not None:
            return Perception("sound", [], sound)
        raise
    return Perception("video", frames, sound)


class SignalModels:
    """The models that a config names, each loaded when it is first needed.

    Raises:
        CaptionaryError: from `signals` and `load`: a model or a package is missing.
    """

    def __init__(self, config: SignalsConfig) -> None:
        self.config = config

    def load(self) -> None:
        """Load every model now: a mistake in a config then shows before any file is read."""
        if self.config.speech:
            _ = self._speech
        if self.config.sounds:
            _ = self._sounds
        if self.config.screen_text:
            _ = self._screen_text

    def signals(self, perception: Perception) -> list[Signal]:
        """Everything but the captions: sounds, on-screen text, speech."""
        found: list[Signal] = []
        if perception.sound is not None and self.config.sounds:
            found += self._sounds.recognize(perception.sound)
        if perception.frames and self.config.screen_text:
            found += self._screen_text.read(perception.frames, still=perception.kind == "image")
        if perception.sound is not None and self.config.speech:
            found += self._speech.recognize(perception.sound)
        return found

    @cached_property
    def _speech(self) -> SpeechRecognizer:
        return SpeechRecognizer(self.config)

    @cached_property
    def _sounds(self) -> SoundEvents:
        return SoundEvents(self.config)

    @cached_property
    def _screen_text(self) -> ScreenText:
        return ScreenText(self.config)


def caption_signals(perception: Perception, captions: Sequence[str], origin: str) -> list[Signal]:
    """One signal a frame.

    Args:
        perception: whose frames were captioned.
        captions: as many as there are frames, in their order; an empty one gives no signal.
        origin: name and fingerprint of the captioner.

    Raises:
        CaptionaryError: there are more or fewer captions than frames.
    """
    if len(captions) != len(perception.frames):
        raise bad_value("captions", len(captions), f"{len(perception.frames)}, one a frame")
    still = perception.kind == "image"
    return [
        Signal("caption", clean(text), origin, 1.0, None if still else frame.at_seconds, frame.index)
        for frame, text in zip(perception.frames, captions, strict=True)
        if text.strip()
    ]


def title_signal(title: str | None) -> list[Signal]:
    """The item's own title, if it has one."""
    text = clean(title or "")
    return [Signal("title", text, "item")] if text else []
