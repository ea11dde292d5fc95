"""Which signals are read from media, by which models, and what that may cost."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass, field
from pathlib import Path

from captionary.errors import bad_value
from captionary.understand.signals.kinds import MediaKind

__all__ = ["SignalsConfig", "StreamLimits", "weights_fingerprint"]

_VERSION = 1
"""Raise the number when a change of code may change a descriptor."""


@dataclass(frozen=True, kw_only=True)
class StreamLimits:
    """What a video, an animation or a sound may cost."""

    longest_seconds: float = 4 * 3600.0
    """A file that states more is refused, > 0."""
    sound_seconds: float = 120.0
    """Of sound that is read from the beginning, > 0; the rest is not decoded."""
    frame_pixels: int = 50_000_000
    """Width × height of a frame, >= 1; more is refused."""
    decoded_pixels: int = 4_000_000_000
    """Pixels decoded of one file, >= 1: 32 minutes of 1080p at one frame a second. Then reading stops."""
    candidates: int = 96
    """Moments of a file at which its picture is looked at, >= 4."""
    wall_seconds: float = 60.0
    """Wall clock of decoding one file, > 0; a file that takes longer is refused, and tried again by the next run."""

    def __post_init__(self) -> None:
        for name in ("longest_seconds", "sound_seconds", "wall_seconds"):
            if not getattr(self, name) > 0:
                raise bad_value(name, getattr(self, name), "> 0")
        for name, least in (("frame_pixels", 1), ("decoded_pixels", 1), ("candidates", 4)):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")


@dataclass(frozen=True, kw_only=True)
class SignalsConfig:
    """What is read from media besides a still picture's caption."""

    frames: int = 4
    """Most key frames of a video or an animation, each captioned, >= 1."""
    speech: str = ""
    """A faster-whisper model: a size (`small`), a Hub id or a local folder; empty for none."""
    language: str = ""
    """Of the speech, as `en`; empty: told by the model."""
    voice_activity: bool = True
    """Skip what holds no voice before speech is recognised (Silero VAD, ships with faster-whisper)."""
    no_speech: float = 0.6
    """Drop a segment whose probability of being no speech is above this, 0 to 1."""
    least_log_probability: float = -1.0
    """Drop a segment whose mean log-probability a token is below this, <= 0."""
    sounds: str = "builtin"
    """Sound events: `builtin`, or `hf:ID-or-folder` for an audio-classification model; empty for none."""
    sound_score: float = 0.5
    """Least probability of a sound event, 0 to 1."""
    sound_events: int = 3
    """Most events a file, >= 1."""
    screen_text: bool = False
    """Read the text in the frames (rapidocr)."""
    text_score: float = 0.8
    """Least score of an on-screen string, 0 to 1."""
    title: bool = False
    """Add the item's own title to the descriptor."""
    max_characters: int = 400
    """Of a descriptor, >= 40."""
    threads: int = 1
    """CPU threads of the models, >= 1."""
    limits: StreamLimits = field(default_factory=StreamLimits)
    """What a video, an animation or a sound may cost."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("sound_events", 1), ("max_characters", 40), ("threads", 1)):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")
        for name in ("no_speech", "sound_score", "text_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise bad_value(name, getattr(self, name), "0 to 1")
        if self.least_log_probability > 0:
            raise bad_value("least_log_probability", self.least_log_probability, "<= 0")
        if self.sounds not in ("", "builtin") and not (self.sounds.startswith("hf:") and self.sounds[3:]):
            raise bad_value("sounds", self.sounds, "builtin, hf:ID-or-folder or empty")

    def fingerprint(self, kind: MediaKind) -> str:
        """Names what decides a file's frames and signals; empty where only a still picture's caption counts.

        The title is not in it: it belongs to the item, not to the media, and joins the descriptor later. Nor are the
        threads. A model in a local folder is named by its content, one of the Hub by its name.

        Raises:
            CaptionaryError: a local model folder cannot be read.
        """
        names: dict[str, object] = {}
        if kind in ("video", "animation"):
            limits = dataclasses.asdict(self.limits)
            del limits["wall_seconds"], limits["sound_seconds"]
            names["frames"] = [self.frames, limits]
        if kind in ("video", "sound") and self.speech:
            names["speech"] = [
                weights_fingerprint(self.speech), self.language, self.voice_activity, self.no_speech,
                self.least_log_probability, self.limits.sound_seconds,
            ]  # fmt: skip
        if kind in ("video", "sound") and self.sounds:
            from captionary.understand.signals.sound_tagger import CHECKPOINT

            model = str(CHECKPOINT) if self.sounds == "builtin" else self.sounds[3:]
            names["sounds"] = [
                weights_fingerprint(model), self.sound_score, self.sound_events, self.limits.sound_seconds,
            ]  # fmt: skip
        if kind in ("video", "animation", "image") and self.screen_text:
            try:
                version = importlib.metadata.version("rapidocr")
            except importlib.metadata.PackageNotFoundError:
                version = "absent"
            names["screen_text"] = [version, self.text_score]
        if not names:
            return ""
        said = json.dumps([_VERSION, kind, self.max_characters, names], sort_keys=True)
        return "signals-" + hashlib.blake2b(said.encode(), digest_size=12).hexdigest()


def weights_fingerprint(model: str) -> str:
    """A model's identity: of a local folder its files' content, of a Hub model its name.

    Raises:
        CaptionaryError: the folder cannot be read.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    seen = hashlib.blake2b(digest_size=12)
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
                seen.update(f"{path.name}\0{content.hexdigest()}\n".encode())
    except OSError as error:
        raise bad_value("model", model, "a readable folder", where=str(error.strerror)) from None
    return seen.hexdigest()
