"""Uploaded media on the disk, by content: what the log's entries name and the captioner reads.

For a fleet the folder is a volume that services and workers share.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

from captionary.errors import bad_value
from captionary.online.log import LogUnavailableError
from captionary.understand.media import digest_bytes

__all__ = ["Spool"]

_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}")


class Spool:
    """A folder of media.

    Args:
        folder: made where absent.

    Raises:
        LogUnavailableError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unavailable(folder, error) from None

    def put(self, data: bytes) -> str:
        """Keep media; their name. On disk when it returns; the same bytes have the same name.

        Raises:
            LogUnavailableError: no space left, or not writable; nothing is kept.
        """
        digest = digest_bytes(data)
        name = f"{digest[:2]}/{digest}"
        path = self.folder / name
        beside = path.with_name(f".{digest}.{uuid.uuid4().hex}.tmp")
        try:
            if path.is_file() and path.stat().st_size == len(data):
                return name
            path.parent.mkdir(exist_ok=True)
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            for folder in (path.parent, self.folder):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise _unavailable(self.folder, error) from None
        return name

    def path(self, name: str) -> Path:
        """Where media lie.

        Raises:
            CaptionaryError: a name that `put` never gave: no other file can be reached by it.
        """
        if not _NAME.fullmatch(name):
            raise bad_value("name of media", name, "one that the spool gave")
        return self.folder / name

    def remove(self, name: str) -> None:
        """Delete media, where they are there."""
        self.path(name).unlink(missing_ok=True)


def _unavailable(folder: Path, error: OSError) -> LogUnavailableError:
    full = error.errno == 28  # ENOSPC
    rule = "on a disk with space left" if full else "a folder that can be written"
    return LogUnavailableError(str(bad_value("spool", str(folder), rule, where=str(error.strerror))))
