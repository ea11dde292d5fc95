"""The caption store: nothing is captioned twice. One SQLite file for all runs of a workspace.

    captions   (media_digest, captioner fingerprint)  ->  caption or failure, tokens, latency, when
    vectors    (media_digest, encoder fingerprint)    ->  float16 blob
    claims     (media_digest, captioner fingerprint)  ->  which process is at it, until when

Acknowledged means committed and flushed: after `put_many` returns, a `kill -9` or a power cut loses nothing.
Keys are digests of content, so a renamed file is found again and a changed one is not.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from captionary.errors import CaptionaryError, bad_value

__all__ = ["CaptionRecord", "CaptionStore", "now"]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x43415054  # "CAPT", in the header of the SQLite file
_TABLES = (
    """CREATE TABLE captions (
        media_digest TEXT NOT NULL, captioner TEXT NOT NULL, caption TEXT NOT NULL, status TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL, latency_ms REAL NOT NULL, created_at INTEGER NOT NULL,
        PRIMARY KEY (captioner, media_digest)) WITHOUT ROWID""",
    """CREATE TABLE vectors (
        media_digest TEXT NOT NULL, encoder TEXT NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (encoder, media_digest))""",
    """CREATE TABLE claims (
        media_digest TEXT NOT NULL, captioner TEXT NOT NULL, owner TEXT NOT NULL, expires_at REAL NOT NULL,
        PRIMARY KEY (captioner, media_digest)) WITHOUT ROWID""",
)
_CHUNK = 500
"""Keys per SELECT, below every build's limit of bound parameters."""


class CaptionRecord(NamedTuple):
    """What the store knows of one media content under one captioner."""

    media_digest: str
    caption: str = ""
    """Raw, "" where status is failed."""
    status: str = "ok"
    """ok or failed."""
    reason: str = ""
    """Slug of the failure, "" where status is ok."""
    detail: str = ""
    """For people: what was found."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    latency_ms: float = 0.0
    """The picture's share of its batch's wall time in the captioner."""
    created_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    """When it was captioned, with microseconds, UTC."""


def now() -> datetime:
    """The present, for `created_at`."""
    return datetime.now(UTC)


class CaptionStore:
    """An open caption store; of one thread, but any number of processes may have the same file open.

    Args:
        path: the SQLite file; made, with its folder, where absent.
        busy_seconds: how long to wait for another process's write before giving up.

    Raises:
        CaptionaryError: here and in every method: not a caption store, corrupt, of a newer version, not
            writable, disk full, or locked for longer than `busy_seconds`.
    """

    def __init__(self, path: Path, *, busy_seconds: float = 30.0) -> None:
        self.path = path
        # A claim's owner says where its process can be looked for, and which of its stores it is.
        pid = os.getpid()
        self._owner = f"{socket.gethostname()}|{pid}|{_started(pid)}|{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise bad_value("store", str(path), "in a writable folder", where=str(error.strerror)) from None
        with self._errors():
            self._db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        try:
            with self._errors():
                self._prepare(busy_seconds)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Caption records, failures included."""
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM captions").fetchone()[0])

    def close(self) -> None:
        """Give up this store's claims and close the file; a closed store cannot be used again."""
        with suppress(CaptionaryError):  # claims expire anyway, and what is closed need not be writable
            self.release()
        self._db.close()

    def get_many(self, digests: Iterable[str], captioner: str) -> dict[str, CaptionRecord]:
        """The records that exist, by digest."""
        found = {}
        query = """SELECT media_digest, caption, status, reason, detail, prompt_tokens, output_tokens,
                   latency_ms, created_at FROM captions WHERE captioner = ? AND media_digest IN"""
        for *values, created in self._select(query, captioner, digests):
            when = datetime.fromtimestamp(created // 1_000_000, UTC).replace(microsecond=created % 1_000_000)
            found[values[0]] = CaptionRecord._make((*values, when))
        return found

    def get_vectors(self, digests: Iterable[str], encoder: str) -> dict[str, npt.NDArray[np.float32]]:
        """The visual vectors that exist, float32 [D] by digest, as rounded to float16 by `put_many`."""
        query = "SELECT media_digest, vector FROM vectors WHERE encoder = ? AND media_digest IN"
        rows = self._select(query, encoder, digests)
        return {key: np.frombuffer(blob, dtype="<f2").astype(np.float32) for key, blob in rows}

    def has_vectors(self, digests: Iterable[str], encoder: str) -> set[str]:
        """The digests that have a visual vector; `get_vectors` without reading them."""
        query = "SELECT media_digest FROM vectors WHERE encoder = ? AND media_digest IN"
        return {row[0] for row in self._select(query, encoder, digests)}

    def put_many(
        self,
        records: Sequence[CaptionRecord],
        captioner: str,
        *,
        encoder: str = "",
        vectors: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> None:
        """Add records, and vectors by digest, in one transaction; it is on disk when this returns.

        The first record of a key stays, except that ok replaces failed. The keys' claims end.
        """
        microseconds = [int(r.created_at.timestamp()) * 1_000_000 + r.created_at.microsecond for r in records]
        with self._write():
            self._db.executemany(
                """INSERT INTO captions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (captioner, media_digest) DO UPDATE SET
                       caption = excluded.caption, status = excluded.status, reason = excluded.reason,
                       detail = excluded.detail, prompt_tokens = excluded.prompt_tokens,
                       output_tokens = excluded.output_tokens, latency_ms = excluded.latency_ms,
                       created_at = excluded.created_at
                   WHERE captions.status = 'failed' AND excluded.status = 'ok'""",
                [
                    (r[0], captioner, *map(_sane, r[1:5]), *r[5:8], created)
                    for r, created in zip(records, microseconds, strict=True)
                ],
            )
            self._db.executemany(
                "INSERT INTO vectors VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(key, encoder, vector.astype("<f2").tobytes()) for key, vector in (vectors or {}).items()],
            )
            self._db.executemany(
                "DELETE FROM claims WHERE captioner = ? AND media_digest = ?",
                [(captioner, r.media_digest) for r in records],
            )

    def claim(self, digests: Sequence[str], captioner: str, *, lease_seconds: float = 600.0) -> set[str]:
        """Reserve work for this store; returns what was granted.

        Not granted is what another live process holds. A claim ends with `put_many`, `release` or `close`,
        when its lease expires, or when its process is gone (found out at once on the same machine). What is
        granted may have been finished by another process a moment ago: look it up once more before doing it.
        """
        granted = set()
        present = time.time()
        query = "SELECT media_digest, owner, expires_at FROM claims WHERE captioner = ? AND media_digest IN"
        with self._write():
            held = {key: (owner, ends) for key, owner, ends in self._select(query, captioner, digests)}
            for key in digests:
                owner, ends = held.get(key, ("", 0.0))
                if owner in ("", self._owner) or ends <= present or _is_gone(owner):
                    granted.add(key)
            self._db.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                [(key, captioner, self._owner, present + lease_seconds) for key in granted],
            )
        return granted

    def release(self, digests: Sequence[str] | None = None) -> None:
        """Give up this store's claims on `digests`, or all of them."""
        with self._errors():
            mine = self._db.execute("SELECT 1 FROM claims WHERE owner = ? LIMIT 1", (self._owner,)).fetchone()
        if mine is None:
            return
        with self._write():
            if digests is None:
                self._db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
            else:
                self._db.executemany(
                    "DELETE FROM claims WHERE media_digest = ? AND owner = ?",
                    [(key, self._owner) for key in digests],
                )

    def _prepare(self, busy_seconds: float) -> None:
        fresh = self._version() == 0  # first of all: another program's file must not be touched
        deadline = time.monotonic() + busy_seconds
        while True:  # SQLite does not wait by itself for the lock that switching to WAL takes
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._db.execute("PRAGMA synchronous = FULL")
        if fresh:
            with self._write():
                if self._version() == 0:  # else another process made the tables meanwhile
                    for statement in _TABLES:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _version(self) -> int:
        """0 for an empty file."""
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION_ID and tables:
            raise bad_value("store", str(self.path), "a caption store", where="another program's SQLite file")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            rule, todo = f"<= {SCHEMA_VERSION}", "upgrade captionary or name another store"
            raise bad_value("store version", version, rule, where=str(self.path), todo=todo)
        return version

    def _select(self, query: str, first: str, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        unique = list(dict.fromkeys(keys))
        with self._errors():
            for start in range(0, len(unique), _CHUNK):
                chunk = unique[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                yield from self._db.execute(f"{query} ({marks})", (first, *chunk))

    @contextmanager
    def _write(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has already rolled it back
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte: extended codes add to it
            rule, todo = {
                sqlite3.SQLITE_NOTADB: ("a caption store", "name another file"),
                sqlite3.SQLITE_CORRUPT: (
                    "intact",
                    "move it away and run again, or try `sqlite3 FILE .recover`",
                ),
                sqlite3.SQLITE_FULL: ("on a disk with space left", "free some space and run again"),
                sqlite3.SQLITE_READONLY: ("writable", "mend its permissions or name another file"),
                sqlite3.SQLITE_CANTOPEN: (
                    "a file that can be opened",
                    "mend its permissions or name another",
                ),
                sqlite3.SQLITE_BUSY: ("free", "another process holds it: wait for that, or stop it"),
            }.get(code, ("usable", "name another file"))
            raise bad_value("store", str(self.path), rule, where=f"SQLite: {error}", todo=todo) from None


def _sane(text: object) -> str:
    """Text that SQLite and Arrow can hold: half a surrogate pair becomes a question mark."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def _is_gone(owner: str) -> bool:
    """Whether a claim's process is known to have ended; of another machine's nothing is known."""
    host, pid, started, _ = owner.split("|")
    if host != socket.gethostname() or os.name == "nt":  # on Windows, signal 0 would end the process
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # A restarted container gives its processes the same ids again; their starting times differ.
    return _started(int(pid)) not in ("", started)


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return fields.rpartition(")")[2].split()[19]
