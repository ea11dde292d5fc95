"""Why a media file was refused, and what one may cost."""

from __future__ import annotations

from typing import NamedTuple

import PIL

from captionary.errors import CaptionaryError, bad_value

__all__ = ["LIMITS", "MEDIA_REASONS", "PERMANENT_REASONS", "MediaError", "MediaLimits"]

MEDIA_REASONS: dict[str, str] = {
    "remote": "a local path (or allow its host: see docs/security.md)",
    "remote_not_allowed": "on the list of allowed remote places",
    "private_address": "at a public address",
    "redirect_refused": "where it says it is, or at most three allowed redirects away",
    "timeout": "delivered within the time limit",
    "remote_error": "delivered whole by its server",
    "missing": "a file that exists",
    "unreadable": "a regular file that can be read",
    "too_large": "within the limit of bytes",
    "empty_file": "a file with content",
    "not_an_image": "a picture of a known format by its content",
    "scriptable": "a picture by its content, not a document or a program",
    "polyglot": "one kind of file, not two at once",
    "no_decoder": "of a format that has its decoder installed (HEIF: pip install 'captionary[heif]')",
    "too_many_pixels": "within the limit of pixels",
    "truncated": "a whole file",
    "corrupt": "an image that can be decoded",
    "out_of_memory": "an image that fits in memory",
    "changed": "left alone while it is read",
}
"""Every reason of a MediaError, with the rule that the media broke."""

PERMANENT_REASONS = frozenset(
    {"empty_file", "not_an_image", "scriptable", "polyglot", "too_many_pixels", "truncated", "corrupt"}
)
"""Reasons that follow from the file's bytes and the limits alone: the same bytes are refused again."""

_RULES = 2
"""Counts up with every change of what is refused: refusals that were stored under older rules are tried again."""


class MediaLimits(NamedTuple):
    """What a media file may cost before it is refused."""

    max_bytes: int = 64 * 1024 * 1024
    """Of the file."""
    max_pixels: int = 50_000_000
    """Width × height as the header states it; checked before anything is decoded."""

    @property
    def fingerprint(self) -> str:
        """Names what decides whether bytes are an image: the rules, the limits and the decoder's version."""
        return f"media{_RULES}-{self.max_bytes}-{self.max_pixels}-pillow-{PIL.__version__}"


LIMITS = MediaLimits()


class MediaError(CaptionaryError):
    """A media file that was refused.

    Attributes:
        reason: a slug, one of MEDIA_REASONS.
        detail: what was found, without the file's name.
    """

    def __init__(self, reason: str, name: str, detail: str = "") -> None:
        self.reason = reason
        # Decoders and servers put bytes of the file into their messages, and a message ends in a log.
        self.detail = " ".join("".join(c if c.isprintable() else " " for c in detail[:1000]).split())[:200]
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name[:1000])
        super().__init__(str(bad_value("media", shown, MEDIA_REASONS[reason], where=self.detail or None)))

    def __reduce__(self) -> tuple[object, ...]:
        """Exceptions are pickled by their message, from which this one could not be made again in another process."""
        return _again, (type(self), str(self), self.__dict__.copy())


def _again(kind: type[MediaError], message: str, state: dict[str, object]) -> MediaError:
    error = kind.__new__(kind, message)
    error.__dict__.update(state)
    return error
