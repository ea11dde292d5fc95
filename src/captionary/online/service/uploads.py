"""Media from clients: read by the rules of `understand`, kept in the spool, and put on the log. Blocks."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any

from captionary.errors import bad_value
from captionary.online.log import MEDIA, EventLog, MediaMessage, media_draft
from captionary.online.packing import Id
from captionary.online.service.settings import UploadConfig
from captionary.online.service.telemetry import Telemetry
from captionary.online.spool import Spool
from captionary.understand.media import decode
from captionary.understand.refusals import MediaError, MediaLimits
from captionary.understand.remote import fetch, is_remote
from captionary.understand.signals.kinds import sniff
from captionary.understand.signals.perceive import perceive
from captionary.understand.signals.reasons import StreamError
from captionary.understand.signals.settings import SignalsConfig, StreamLimits

__all__ = ["Uploads"]

_LOOK = 32
"""Pixels of the shorter side at which a picture is decoded to see whether it is one."""
_LOOK_SECONDS = 10.0
"""For the first frame or second of a video or sound, which takes a fraction of one; the worker reads the rest."""


class Uploads:
    """Takes media; for any number of threads.

    Args:
        config: what is allowed.
        spool: where media are kept.
        log: where the worker learns of them.
        telemetry: where they are counted.
    """

    def __init__(self, config: UploadConfig, spool: Spool, log: EventLog, telemetry: Telemetry) -> None:
        self.config, self.spool, self.log, self.telemetry = config, spool, log, telemetry
        self._limits = MediaLimits(max_bytes=config.max_bytes, max_pixels=config.max_pixels)
        # A few frames that tell that there is a video; `sounds`, so that the track is decoded, and no model is asked.
        few = StreamLimits(
            sound_seconds=1.0,
            frame_pixels=config.max_pixels,
            decoded_pixels=1,
            candidates=4,
            wall_seconds=_LOOK_SECONDS,
        )
        self._streams = SignalsConfig(frames=1, limits=few)
        self._reads_streams = importlib.util.find_spec("av") is not None

    def fetched(self, uris: Sequence[str]) -> list[bytes]:
        """The content of URIs on the list of allowed places; `max_bytes` is that of all of them together.

        Raises:
            MediaError: not allowed, not there, too large.
        """
        self._count(len(uris))
        found, left = [], self.config.max_bytes
        for uri in uris:
            if not is_remote(uri):
                raise MediaError("remote_not_allowed", "(media)", "not a URI; send the file itself")
            data = fetch(uri, self.config.remote)
            left -= len(data)
            if left < 0:
                raise MediaError(
                    "too_large", "(media)", f"more than {self.config.max_bytes:,} bytes together"
                )
            found.append(data)
        return found

    def take(
        self,
        item: Id,
        media: Sequence[bytes],
        *,
        title: str | None = None,
        columns: Mapping[str, Any] | None = None,
        key: str,
    ) -> tuple[int, list[str]]:
        """Look at media, keep them and tell the worker; (position in the log, names in the spool).

        Every file is looked at before the first is kept: by its content, as no name or declared type counts.

        Args:
            item: whose media they are.
            media: contents of files.
            title: of the item.
            columns: further columns of the items table.
            key: idempotency key.

        Raises:
            MediaError: not a picture, animation, video or sound that is taken.
            LogFullError, LogUnavailableError: nothing was acknowledged.
        """
        self._count(len(media))
        for data in media:
            self._look(data)
        names = [self.spool.put(data) for data in media]
        message = MediaMessage(
            item_id=item,
            media=tuple(names),
            title=title,
            columns=dict(columns or {}),
            received_at=time.time_ns() // 1000,
        )
        (position,) = self.log.append(MEDIA, [media_draft(message, key)])
        self.telemetry.uploads.labels("queued").inc()
        return position, names

    def _look(self, data: bytes) -> None:
        kind = sniff(data).kind
        if kind not in ("video", "sound"):
            decode(data, _LOOK, name="(upload)", limits=self._limits)
            return
        if not self._reads_streams:
            taken = f"a {kind}; this service takes pictures and animations"
            raise StreamError("not_media", "(upload)", taken)
        perceive(data, self._streams, kind=kind, size=_LOOK, name="(upload)", limits=self._limits)

    def _count(self, files: int) -> None:
        if not 1 <= files <= self.config.files:
            raise bad_value("media", f"{files} files", f"1 to {self.config.files}")
