"""What videos, animations and sounds come to in captions, known before anything is decoded.

    media entry ──sniff──▶ still picture                     one caption
                      ├──▶ sound                             none: it is listened to, no captioner is asked
                      └──▶ video, animation ──unfolded? ──▶ one a key frame, exactly
                                                   └ no ──▶ at most the key frames that are asked for

Decoding every video to count its key frames would cost more than the captions of most. What was unfolded before (by an
earlier run, or a job that was killed) lies in the folder of `Streams`, and is counted there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from captionary.understand.signals.kinds import MediaKind
from captionary.understand.streams import Streams

__all__ = ["KeyFrames", "Stream"]


class Stream(NamedTuple):
    """A media entry that is not a still picture."""

    kind: MediaKind
    """`video`, `animation` or `sound`."""
    frames: tuple[Path, ...] | None
    """The pictures that the captioner is asked about in its place; None: it was not unfolded yet."""


class KeyFrames:
    """Tells what of a catalogue is a stream, and what is known of its key frames.

    Args:
        streams: that the caption stage will unfold with; nothing is unfolded here.
    """

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self._fingerprints: dict[MediaKind, str] = {}

    @property
    def most(self) -> int:
        """Captions that a stream may come to."""
        return self.streams.config.frames

    def of(self, path: Path, digest: str) -> Stream | None:
        """The stream in a file with this content; None where it is captioned as one picture, or refused as one."""
        kind = self.streams._kind(
            path
        )  # from the same bytes as when it is unfolded, or the two would disagree
        if kind == "sound":
            return Stream(kind, ())
        if kind not in ("video", "animation"):
            return None
        return Stream(kind, self._unfolded(digest, kind))

    def _unfolded(self, digest: str, kind: MediaKind) -> tuple[Path, ...] | None:
        """Where `Streams` keeps the frames; none for a file that it refused for good. Not found means not known."""
        if kind not in self._fingerprints:  # which reads the weights of models
            self._fingerprints[kind] = self.streams.config.fingerprint(kind) or "plain"
        key = f"{digest}-{self._fingerprints[kind]}-{self.streams.size or 0}"
        folder = self.streams.folder / key[:2] / key
        try:
            kept = json.loads((folder / "perceived.json").read_text(encoding="utf-8"))
            frames = () if kept["reason"] else tuple(folder / name for name in kept["frames"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return frames if all(frame.is_file() for frame in frames) else None
