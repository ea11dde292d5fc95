"""What was served: a sample of ranking requests with the features and scores that they met, for `captionary verify`.

    requests/20260101T120000-0a1b2c3d4e5f.jsonl    a record a line, in order of time; a new file when one is large

Lines are written without waiting for the disk: a crash may cost the last second of the sample, and at worst half a
line, which readers pass over.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from captionary.errors import CaptionaryError, bad_value
from captionary.online.forgotten import Forgotten, alone_in, hold, is_held
from captionary.online.packing import Id, id_bytes
from captionary.publish import atomic_file
from captionary.represent.profiles import ProfileList

__all__ = ["ListServed", "RequestLog", "RequestRecord", "erase_requests", "read_requests", "served"]


class ListServed(msgspec.Struct, frozen=True, array_like=True):
    """A profile as the ranker read it."""

    token_ids: list[int]
    weights: list[float]
    mass: float


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One ranking request and its answer."""

    request_id: str
    user_id: Id | None
    as_of: int
    """The moment that profiles were read as of, microseconds since 1970."""
    sequence: int
    """`store.Read.sequence`: the state of the store that was read."""
    version: str
    """Of the ranker."""
    item_ids: list[Id]
    scores: list[list[float]]
    """[C, T], as float32 came out of `ServingRanker.score`."""
    lists: dict[str, ListServed]
    """Event type → as `store.Read.lists`; see `served`."""
    present: list[bool] = []
    """[C] whether the item had a row; empty: all had."""
    context: dict[str, str | int | float | bool | None] = {}
    arm: str = ""
    """Of the experiment."""

    @property
    def profiles(self) -> dict[str, ProfileList]:
        """The lists as arrays, bit for bit as served."""
        return {
            event: ProfileList(
                np.array(kept.token_ids, np.int32), np.array(kept.weights, np.float32), kept.mass
            )
            for event, kept in self.lists.items()
        }


def served(lists: Mapping[str, ProfileList]) -> dict[str, ListServed]:
    """`store.Read.lists` as a record keeps them."""
    return {
        event: ListServed(found.token_ids.tolist(), found.weights.tolist(), float(found.mass))
        for event, found in lists.items()
    }


class RequestLog:
    """Appends to a folder; of several threads, and each process has files of its own, so that replicas may share one.

    Args:
        folder: made where absent.
        share: of the requests that are kept, 0 to 1.
        segment_bytes: after which a new file is begun.
        keep_days: older files of the folder are deleted, > 0.

    Raises:
        CaptionaryError: a share that is none, a folder that cannot be made.
    """

    def __init__(
        self, folder: Path, *, share: float = 0.01, segment_bytes: int = 64 << 20, keep_days: float = 30.0
    ) -> None:
        if not 0 <= share <= 1:
            raise bad_value("share of requests", share, "0 to 1")
        if not keep_days > 0:
            raise bad_value("keep_days", keep_days, "> 0")
        self.folder, self.share, self.segment_bytes, self.keep_days = folder, share, segment_bytes, keep_days
        self.lost = 0
        """Records that could not be written: the disk is full, and serving goes on."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise bad_value(
                "requests", str(folder), "in a writable folder", where=str(error.strerror)
            ) from None
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._size, self._flushed = 0, 0.0

    def wants(self) -> bool:
        """Whether the next request belongs to the sample: ask before a record is made."""
        return self.share > 0 and random.random() < self.share

    def append(self, record: RequestRecord) -> None:
        """Keep a record. What cannot be written is counted in `lost`, and raises nothing."""
        line = msgspec.json.encode(record) + b"\n"
        with self._lock:
            try:
                if self._file is None or self._size + len(line) > self.segment_bytes:
                    self._begin()
                assert self._file is not None
                self._file.write(line)
                self._size += len(line)
                if time.monotonic() - self._flushed > 1.0:
                    self._file.flush()
                    self._flushed = time.monotonic()
            except OSError:
                self.lost += 1

    def close(self) -> None:
        """Write what is left, and end."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _begin(self) -> None:
        if self._file is not None:
            self._file.close()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self.folder / f"{stamp}-{uuid.uuid4().hex[:12]}.jsonl"
        self._file, self._size = path.open("ab"), 0
        hold(self._file)
        oldest = time.time() - self.keep_days * 86_400
        for old in self.folder.glob("*.jsonl"):
            if old != path and old.stat().st_mtime < oldest:
                old.unlink(missing_ok=True)


def read_requests(folder: Path) -> Iterator[RequestRecord]:
    """The records of a folder, file by file.

    Raises:
        CaptionaryError: no such folder; a line that is no record, other than one that was cut short.
    """
    if not folder.is_dir():
        todo = "serve with a request log first"
        raise bad_value("requests", str(folder), "a folder of a request log", todo=todo)
    decode: Any = msgspec.json.Decoder(RequestRecord).decode
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    continue  # its writer was killed
                try:
                    yield decode(line)
                except msgspec.DecodeError as error:
                    where = f"{path.name}, line {number}: {error}"
                    raise bad_value(
                        "request", line[:60].decode(errors="replace"), "a record", where=where
                    ) from None


def erase_requests(folder: Path, forgotten: Forgotten) -> int:
    """Delete the requests of people who were forgotten since, from files that no process writes any more; how many.

    A service closes its own log before, so that it begins a new file; replicas on the same folder do the same when
    they learn of it.
    """
    if not folder.is_dir() or not forgotten.partings:
        return 0
    count = 0
    with alone_in(folder):
        for path in sorted(folder.glob("*.jsonl")):
            if is_held(path):
                continue
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not _is_of(line, forgotten)]
            if len(kept) < len(lines):
                count += len(lines) - len(kept)
                with atomic_file(path) as file:
                    file.write(b"".join(kept))
    return count


class _Asked(msgspec.Struct):
    user_id: Id | None = None
    sequence: int = 0


_asked = msgspec.json.Decoder(_Asked).decode


def _is_of(line: bytes, forgotten: Forgotten) -> bool:
    try:
        asked = _asked(line)
        parting = None if asked.user_id is None else forgotten.of_packed(id_bytes(asked.user_id))
    except (msgspec.DecodeError, CaptionaryError):
        return False
    return parting is not None and asked.sequence < parting.sequence
