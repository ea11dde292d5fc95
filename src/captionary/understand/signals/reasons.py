"""Why a video, an animation or a sound was refused: the reasons beyond those of `media.py`."""

from __future__ import annotations

from captionary.errors import CaptionaryError, bad_value
from captionary.understand.media import MEDIA_REASONS, PERMANENT_REASONS, MediaError

__all__ = ["PERMANENT_STREAM_REASONS", "STREAM_REASONS", "StreamError"]

STREAM_REASONS: dict[str, str] = {
    "not_media": "an image, a video or a sound by its content",
    "no_frames": "a video with at least one frame that can be shown",
    "no_sound": "a sound with at least one sample",
    "too_long": "within the limit of seconds",
    "too_slow": "decoded within the time limit",
    "too_many_pixels": "within the limit of pixels a frame",
    "truncated": "a whole file",
    "corrupt": "a video or sound that can be decoded",
    "out_of_memory": "a video or sound that fits in memory",
    "empty_file": MEDIA_REASONS["empty_file"],
}
"""Every reason of a StreamError, with the rule that the media broke."""

PERMANENT_STREAM_REASONS = frozenset({"not_media", "no_frames", "no_sound", "too_long"}) | (
    PERMANENT_REASONS & STREAM_REASONS.keys()
)
"""Reasons that follow from the file's bytes and the limits alone: the same bytes are refused again."""


class StreamError(MediaError):
    """A video, an animation or a sound that was refused.

    Attributes:
        reason: a slug, one of STREAM_REASONS.
        detail: what was found, without the file's name.
    """

    def __init__(self, reason: str, name: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = " ".join(detail.split())[:200]
        message = bad_value("media", name, STREAM_REASONS[reason], where=self.detail or None)
        CaptionaryError.__init__(self, str(message))
