"""Which of an item's media are captioned, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from captionary.errors import bad_value
from captionary.understand.remote import RemoteConfig

__all__ = ["MediaConfig"]


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """How the media of a catalogue are read for captioning."""

    entries: Literal["first", "all"] = "first"
    """`first` or `all` of an item's media entries."""
    most: int = 4
    """Entries per item with `all`, >= 1."""
    similar: int | None = None
    """Bits of 64 in which the hashes of near-duplicates may differ, 0 to 16 (4 is a good choice): the later one of them
    gets the earlier one's caption. Empty: every picture is captioned."""
    decode_threads: int = 2
    """Threads that read ahead while the captioner works, >= 1."""
    decode_processes: int | None = 0
    """Processes that do so instead: 0 none, empty as many as the machine and the catalogue are worth."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """Which remote media may be fetched."""

    def __post_init__(self) -> None:
        for name in ("most", "decode_threads"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        if self.similar is not None and not 0 <= self.similar <= 16:
            raise bad_value("similar", self.similar, "0 to 16")
