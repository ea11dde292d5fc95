"""Videos, animations and sounds on their way into the caption job: key frames as pictures, the rest as signals.

    media entry ─┬─ still picture ──────────────────────────────▶ a view
                 └─ video, animation, sound ──perceive──▶ frames ──▶ a view each
                                                 └─────────▶ speech, sounds, on-screen text ──▶ signals

A file is decoded and listened to once: frames (as PNG) and signals are kept under the digest of its bytes and the
fingerprint of what was asked. The frames' captions are then kept by the caption store like those of any picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from captionary.publish import atomic_folder
from captionary.understand.media import LIMITS, MediaError, MediaLimits, digest_bytes, read_bytes
from captionary.understand.signals.kinds import MediaKind, sniff
from captionary.understand.signals.perceive import SignalModels, perceive
from captionary.understand.signals.reasons import PERMANENT_STREAM_REASONS, STREAM_REASONS, StreamError
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.signal import Signal, signals_from_json, signals_to_json
from captionary.understand.views import Locate, View

__all__ = ["Streams", "Unfolded", "with_descriptors"]

_HEAD = 4096
"""Bytes that tell what a file is."""


class Unfolded(NamedTuple):
    """The views of each item after videos were replaced by their frames, and what else was perceived."""

    views: list[list[View]]
    signals: list[list[Signal]]
    """Per item: speech, sounds and on-screen text of its media, in their order."""
    refused: list[tuple[str, str] | None]
    """Per item: reason and detail of its first stream that could not be read."""
    streams: int
    """Media entries that were not still pictures."""


class Streams:
    """Reads what is not a still picture.

    Args:
        config: which signals are asked for.
        folder: where frames and signals are kept.
        size: pixels of a picture's shorter side that the captioner has use for, None for all.
        limits: of files.
    """

    def __init__(
        self, config: SignalsConfig, folder: Path, size: int | None = None, limits: MediaLimits = LIMITS
    ) -> None:
        self.config = config
        self.folder = folder.resolve()
        self.size = size
        self.limits = limits
        self._models = SignalModels(config)

    def unfold(self, views: Sequence[Sequence[View]], root: Path, locate: Locate) -> Unfolded:
        """Replace each view of a video or an animation by one view a key frame; the views of sounds by none."""
        found = Unfolded([], [], [], 0)
        streams = 0
        for of_item in views:
            unfolded: list[View] = []
            signals: list[Signal] = []
            refused = None
            for view in of_item:
                try:
                    path = locate(view.uri, root)
                    kind = self._kind(path)
                    if not self._asked(kind):
                        unfolded.append(view)
                        continue
                    streams += 1
                    more, said = self._perceived(path, kind, view.uri)
                except MediaError as error:
                    refused = refused or (error.reason, error.detail)
                    continue
                unfolded += more if kind != "image" else [view]
                signals += said
            found.views.append(unfolded)
            found.signals.append(signals)
            found.refused.append(refused)
        return found._replace(streams=streams)

    def _kind(self, path: Path) -> MediaKind:
        try:
            with path.open("rb") as file:
                found = sniff(file.read(_HEAD))
                if found.format != "GIF":
                    return found.kind
                file.seek(0)  # only the whole of a GIF tells whether it has a second picture
                return sniff(file.read(self.limits.max_bytes)).kind
        except OSError:
            return "image"  # the job finds out what is wrong with it

    def _asked(self, kind: MediaKind) -> bool:
        """Whether a file of this kind needs more than one caption of one picture."""
        return kind in ("video", "animation", "sound") or bool(
            kind == "image" and self.config.fingerprint(kind)
        )

    def _perceived(self, path: Path, kind: MediaKind, name: str) -> tuple[list[View], list[Signal]]:
        """Frames and signals of a file, from the folder where they are there already.

        Raises:
            MediaError: the file is refused.
        """
        data = read_bytes(path, self.limits)
        key = f"{digest_bytes(data)}-{self.config.fingerprint(kind) or 'plain'}-{self.size or 0}"
        folder = self.folder / key[:2] / key
        if not (folder / "perceived.json").exists():
            self._perceive(data, kind, name, folder)
        kept = json.loads((folder / "perceived.json").read_text(encoding="utf-8"))
        if kept["reason"]:
            raise _kept(kept["reason"], name, kept["detail"])
        return [View(str(folder / frame)) for frame in kept["frames"]], signals_from_json(kept["signals"])

    def _perceive(self, data: bytes, kind: MediaKind, name: str, folder: Path) -> None:
        try:
            seen = perceive(data, self.config, kind=kind, size=self.size, name=name, limits=self.limits)
            signals = self._models.signals(seen)
        except MediaError as error:
            if error.reason not in PERMANENT_STREAM_REASONS:
                raise
            kept = {"reason": error.reason, "detail": error.detail, "frames": [], "signals": "[]"}
            with atomic_folder(folder) as partial:
                (partial / "perceived.json").write_text(json.dumps(kept), encoding="utf-8")
            return
        with atomic_folder(folder) as partial:
            frames = []
            for frame in seen.frames if kind != "image" else []:
                frames.append(f"{frame.index}.png")
                frame.image.save(partial / frames[-1])
            kept = {"reason": "", "detail": "", "frames": frames, "signals": signals_to_json(signals)}
            (partial / "perceived.json").write_text(json.dumps(kept), encoding="utf-8")


def with_descriptors(
    captions: Sequence[str | None],
    signals: Sequence[Sequence[Signal]],
    titles: Sequence[str | None],
    *,
    captioner: str,
    describe: Callable[[Sequence[Signal]], str],
) -> tuple[list[str | None], list[str | None]]:
    """Each item's descriptor, and as JSON the signals that it was made of; both None where nothing was perceived.

    Args:
        captions: per item, None where it has none.
        signals: per item, besides the caption.
        titles: per item; None where the title is not to be used.
        captioner: name and fingerprint of what wrote the captions.
        describe: merges signals into one line.

    Returns:
        Descriptors, and the JSON of their signals where there is more than the caption.
    """
    descriptors: list[str | None] = []
    records: list[str | None] = []
    for caption, others, title in zip(captions, signals, titles, strict=True):
        told = [Signal("caption", caption, captioner)] if caption else []
        told += others
        if told and title:
            told.append(Signal("title", title, "item"))
        if len(told) == 1 and told[0].kind == "caption":
            descriptors.append(caption)
            records.append(None)
            continue
        descriptors.append(describe(told) or None)
        records.append(signals_to_json(told) if told else None)
    return descriptors, records


def _kept(reason: str, name: str, detail: str) -> MediaError:
    return StreamError(reason, name, detail) if reason in STREAM_REASONS else MediaError(reason, name, detail)
