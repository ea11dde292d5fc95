"""The caption store: nothing is captioned twice. One SQLite file for all runs of a workspace.

    captions   (media_digest, captioner fingerprint)  ->  caption or failure, tokens, latency, when, whose it was
    vectors    (media_digest, encoder fingerprint)    ->  float16 blob
    signs      (media_digest, captioner fingerprint)  ->  perceptual hash, colour grid of a picture that was captioned
    claims     (media_digest, captioner fingerprint)  ->  which process is at it, until when

Acknowledged means committed and flushed: after `put_many` returns, a `kill -9` or a power cut loses nothing.
Keys are digests of content, so a renamed file is found again and a changed one is not.
"""

from __future__ import annotations

import functools
import itertools
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
from captionary.sqlite import transaction
from captionary.understand.similar import Sign

__all__ = ["CaptionRecord", "CaptionStore", "now"]

SCHEMA_VERSION = 2
APPLICATION_ID = 0x43415054  # "CAPT", in the header of the SQLite file
_TABLES = (
    """CREATE TABLE captions (
        media_digest TEXT NOT NULL, captioner TEXT NOT NULL, caption TEXT NOT NULL, status TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL, latency_ms REAL NOT NULL, created_at INTEGER NOT NULL,
        source TEXT NOT NULL DEFAULT '', PRIMARY KEY (captioner, media_digest)) WITHOUT ROWID""",
    """CREATE TABLE vectors (
        media_digest TEXT NOT NULL, encoder TEXT NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (encoder, media_digest))""",
    """CREATE TABLE claims (
        media_digest TEXT NOT NULL, captioner TEXT NOT NULL, owner TEXT NOT NULL, expires_at REAL NOT NULL,
        PRIMARY KEY (captioner, media_digest)) WITHOUT ROWID""",
)
_SIGNS = """CREATE TABLE signs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, captioner TEXT NOT NULL, media_digest TEXT NOT NULL,
        hash INTEGER NOT NULL, grid BLOB NOT NULL, UNIQUE (captioner, media_digest))"""
# The hashes alone, so that reading a million of them does not pass over their grids.
_HASHES = "CREATE INDEX hashes ON signs (captioner, id, hash)"
_UPGRADES: dict[int, tuple[str, ...]] = {
    0: (*_TABLES, _SIGNS, _HASHES),
    1: ("ALTER TABLE captions ADD COLUMN source TEXT NOT NULL DEFAULT ''", _SIGNS, _HASHES),
}
"""What makes the present tables of a file of each older version; 0 is an empty file."""
_COLUMNS = """media_digest, caption, status, reason, detail, prompt_tokens, output_tokens, latency_ms,
              created_at, source"""
_CHUNK = 500
"""Keys per SELECT, below every build's limit of bound parameters."""
_PAGE = 10_000
"""Rows read together where a whole table is read."""
_LEASE_SECONDS = 600.0
_UNSIGNED = (1 << 64) - 1


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
    source: str = ""
    """The near-duplicate whose caption this is; "" for a picture that was captioned itself."""


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
        self._owner = f"{_machine()}|{pid}|{_started(pid)}|{uuid.uuid4().hex}"
        self._renewed = time.monotonic()
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
        query = f"SELECT {_COLUMNS} FROM captions WHERE captioner = ? AND media_digest IN"
        return {row[0]: _record(row) for row in self._select(query, captioner, digests)}

    def captioners(self) -> list[str]:
        """The fingerprints under which there are records, in alphabetical order."""
        found: list[str] = []
        with self._errors():  # one step in the index each: DISTINCT would read every key
            query = "SELECT captioner FROM captions WHERE captioner > ? ORDER BY captioner LIMIT 1"
            while row := self._db.execute(query, (found[-1] if found else "",)).fetchone():
                found.append(row[0])
        return found

    def encoders(self) -> list[str]:
        """The fingerprints under which there are vectors, in alphabetical order."""
        found: list[str] = []
        with self._errors():
            query = "SELECT encoder FROM vectors WHERE encoder > ? ORDER BY encoder LIMIT 1"
            while row := self._db.execute(query, (found[-1] if found else "",)).fetchone():
                found.append(row[0])
        return found

    def newest(self, digests: Sequence[str]) -> dict[str, tuple[CaptionRecord, str]]:
        """By digest the newest caption of any captioner, and that captioner's fingerprint; no failures."""
        found: dict[str, tuple[CaptionRecord, str]] = {}
        for captioner in self.captioners():
            for key, record in self.get_many(digests, captioner).items():
                if record.status == "ok" and (
                    key not in found or found[key][0].created_at < record.created_at
                ):
                    found[key] = (record, captioner)
        return found

    def rows(self, captioner: str | None = None) -> Iterator[tuple[str, CaptionRecord]]:
        """All records as (captioner, record), ordered by captioner and digest, without holding up a writer."""
        for name in self.captioners() if captioner is None else [captioner]:
            query = f"""SELECT {_COLUMNS} FROM captions WHERE captioner = ? AND media_digest > ?
                        ORDER BY media_digest LIMIT {_PAGE}"""
            last = ""
            while True:
                with self._errors():
                    page = self._db.execute(query, (name, last)).fetchall()
                yield from ((name, _record(row)) for row in page)
                if len(page) < _PAGE:
                    break
                last = page[-1][0]

    def get_vectors(self, digests: Iterable[str], encoder: str) -> dict[str, npt.NDArray[np.float32]]:
        """The visual vectors that exist, float32 [D] by digest, as rounded to float16 by `put_many`."""
        query = "SELECT media_digest, vector FROM vectors WHERE encoder = ? AND media_digest IN"
        rows = self._select(query, encoder, digests)
        return {key: np.frombuffer(blob, dtype="<f2").astype(np.float32) for key, blob in rows}

    def has_vectors(self, digests: Iterable[str], encoder: str) -> set[str]:
        """The digests that have a visual vector; `get_vectors` without reading them."""
        query = "SELECT media_digest FROM vectors WHERE encoder = ? AND media_digest IN"
        return {row[0] for row in self._select(query, encoder, digests)}

    def signs_after(self, last: int, captioner: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        """Ids above `last`, ascending [N], and perceptual hashes [N] of what this captioner captioned."""
        query = "SELECT id, hash FROM signs INDEXED BY hashes WHERE captioner = ? AND id > ? ORDER BY id"
        with self._errors():
            numbers = itertools.chain.from_iterable(self._db.execute(query, (captioner, last)))
            rows = np.fromiter(numbers, dtype=np.int64).reshape(-1, 2)
        return rows[:, 0].copy(), rows[:, 1].copy().view(np.uint64)

    def last_sign(self) -> int:
        """The highest id of a sign, 0 where there is none."""
        with self._errors():
            return int(self._db.execute("SELECT coalesce(max(id), 0) FROM signs").fetchone()[0])

    def sign(self, id_: int) -> tuple[str, Sign] | None:
        """The digest and the sign that have this id."""
        with self._errors():
            row = self._db.execute(
                "SELECT media_digest, hash, grid FROM signs WHERE id = ?", (id_,)
            ).fetchone()
        return None if row is None else (row[0], Sign(row[1] & _UNSIGNED, row[2]))

    def get_signs(self, digests: Iterable[str], captioner: str) -> dict[str, Sign]:
        """The signs that exist, by digest."""
        query = "SELECT media_digest, hash, grid FROM signs WHERE captioner = ? AND media_digest IN"
        rows = self._select(query, captioner, digests)
        return {key: Sign(number & _UNSIGNED, grid) for key, number, grid in rows}

    def put_many(
        self,
        records: Sequence[CaptionRecord],
        captioner: str,
        *,
        encoder: str = "",
        vectors: Mapping[str, npt.NDArray[np.float32]] | None = None,
        signs: Mapping[str, Sign] | None = None,
        replace: bool = False,
    ) -> None:
        """Add records, and vectors and signs by digest, in one transaction; it is on disk when this returns.

        The first record of a key stays, except that ok replaces failed; with `replace`, ok replaces ok as well,
        but a failure never takes a caption away. The keys' claims end, this store's others are renewed.
        """
        microseconds = [int(r.created_at.timestamp()) * 1_000_000 + r.created_at.microsecond for r in records]
        with self._write():
            self._db.executemany(
                f"""INSERT INTO captions ({_COLUMNS}, captioner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (captioner, media_digest) DO UPDATE SET
                       caption = excluded.caption, status = excluded.status, reason = excluded.reason,
                       detail = excluded.detail, prompt_tokens = excluded.prompt_tokens,
                       output_tokens = excluded.output_tokens, latency_ms = excluded.latency_ms,
                       created_at = excluded.created_at, source = excluded.source
                   WHERE excluded.status = 'ok' AND (captions.status = 'failed' OR {int(replace)})""",
                [
                    (r[0], *map(_sane, r[1:5]), *r[5:8], created, r.source, captioner)
                    for r, created in zip(records, microseconds, strict=True)
                ],
            )
            self._db.executemany(
                f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO vectors VALUES (?, ?, ?)",
                [(key, encoder, vector.astype("<f2").tobytes()) for key, vector in (vectors or {}).items()],
            )
            self._db.executemany(  # replaced under a new id, by which other processes see that it is new
                f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO signs VALUES (NULL, ?, ?, ?, ?)",
                [(captioner, key, _signed(sign.hash), sign.grid) for key, sign in (signs or {}).items()],
            )
            self._db.executemany(
                "DELETE FROM claims WHERE captioner = ? AND media_digest = ?",
                [(captioner, r.media_digest) for r in records],
            )
            if time.monotonic() - self._renewed > _LEASE_SECONDS / 4:
                self._renewed = time.monotonic()
                ends = time.time() + _LEASE_SECONDS
                renew = "UPDATE claims SET expires_at = max(expires_at, ?) WHERE owner = ?"
                self._db.execute(renew, (ends, self._owner))

    def forget(self, captioner: str, digests: Iterable[str] | None = None) -> int:
        """Delete a captioner's records, all or these, so that they will be captioned again; returns how many.

        Signs go with them; vectors stay, being the encoder's.
        """
        removed = 0
        chunks: Iterable[tuple[str, tuple[str, ...]]] = [("", ())]
        if digests is not None:
            keys = list(dict.fromkeys(digests))
            pieces = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
            chunks = [
                (f" AND media_digest IN ({','.join('?' * len(piece))})", tuple(piece)) for piece in pieces
            ]
        with self._write():
            for clause, piece in chunks:
                for table in ("signs", "captions"):
                    query = f"DELETE FROM {table} WHERE captioner = ?{clause}"
                    deleted = self._db.execute(query, (captioner, *piece)).rowcount
                removed += deleted
        return removed

    def claim(
        self, digests: Sequence[str], captioner: str, *, lease_seconds: float = _LEASE_SECONDS
    ) -> set[str]:
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
        old = self._version() < SCHEMA_VERSION  # first of all: another program's file must not be touched
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
        if old:
            with self._write():  # another process may have made the tables meanwhile
                for statement in _UPGRADES.get(self._version(), ()):
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
        with self._errors(), transaction(self._db):
            yield

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


def _record(row: Sequence[Any]) -> CaptionRecord:
    *values, created, source = row
    when = datetime.fromtimestamp(created // 1_000_000, UTC).replace(microsecond=created % 1_000_000)
    return CaptionRecord._make((*values, when, source))


def _signed(number: int) -> int:
    """64 unsigned bits as SQLite's signed integer; & _UNSIGNED is the way back."""
    return number - (1 << 64) if number >> 63 else number


def _sane(text: object) -> str:
    """Text that SQLite and Arrow can hold: half a surrogate pair becomes a question mark."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def _is_gone(owner: str) -> bool:
    """Whether a claim's process is known to have ended; of another machine's nothing is known."""
    machine, pid, started, _ = owner.split("|")
    if machine != _machine() or os.name == "nt":  # on Windows, signal 0 would end the process
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # A restarted container gives its processes the same ids again; their starting times differ.
    return _started(int(pid)) not in ("", started)


@functools.cache
def _machine() -> str:
    """Where a process id means something: this boot of this machine, and this container of it.

    Containers can share a host's name, and virtual machines be copies of each other; a process of another one would
    look gone here while it works.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts).replace("|", "/")


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return fields.rpartition(")")[2].split()[19]
