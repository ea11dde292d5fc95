"""The embedded log: one SQLite file in WAL mode, any number of processes on one machine.

What changes anything for good is flushed to the disk before it returns: an append, which acknowledges, and `done`,
after which the store may let go of its mark. What only hands out work (take, renew, retry) is not: a power cut may
forget it, and the entry is delivered again.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captionary.errors import bad_value
from captionary.online.log import DeadLetter, Draft, Entry, LogFullError, LogUnavailableError, Settled
from captionary.sqlite import transaction

__all__ = ["SqliteLog"]

APPLICATION_ID = 0x4341504C  # "CAPL", in the header of the SQLite file
SCHEMA_VERSION = 1
_WAITING, _DONE, _DEAD = 0, 1, 2
_SCHEMA = (
    """CREATE TABLE entries (
        position INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key TEXT NOT NULL, subject BLOB NOT NULL,
        payload BLOB NOT NULL, received_at INTEGER NOT NULL, state INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0,
        holder TEXT NOT NULL DEFAULT '', sequence INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
        detail TEXT NOT NULL DEFAULT '', died_at INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, key))""",
    "CREATE INDEX waiting ON entries (topic, position) WHERE state = 0",
    "CREATE INDEX dead ON entries (topic, position) WHERE state = 2",
    "CREATE INDEX about ON entries (subject, topic)",
    "CREATE TABLE counts (topic TEXT PRIMARY KEY, waiting INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TRIGGER appended AFTER INSERT ON entries BEGIN
        INSERT INTO counts VALUES (new.topic, 1)
            ON CONFLICT (topic) DO UPDATE SET waiting = waiting + 1; END""",
    """CREATE TRIGGER changed AFTER UPDATE OF state ON entries WHEN (old.state = 0) <> (new.state = 0) BEGIN
        UPDATE counts SET waiting = waiting + (new.state = 0) - (old.state = 0) WHERE topic = new.topic; END""",
    """CREATE TRIGGER removed AFTER DELETE ON entries WHEN old.state = 0 BEGIN
        UPDATE counts SET waiting = waiting - 1 WHERE topic = old.topic; END""",
)
_ENTRY = "position, key, subject, payload, received_at, attempts, failures"
_POLL_SECONDS = 0.02
_PAGE = 5000


class SqliteLog:
    """See `log.EventLog`.

    Args:
        path: the SQLite file; made, with its folder, where absent.
        most_waiting: the backlog of a topic at which `append` refuses.
        busy_seconds: how long to wait for another process's write.

    Raises:
        CaptionaryError: the file is another program's, or of a newer version.
        LogUnavailableError: it cannot be opened.
    """

    def __init__(self, path: str | Path, *, most_waiting: int = 100_000, busy_seconds: float = 30.0) -> None:
        self.path, self.most_waiting = Path(path), most_waiting
        self._lock = threading.RLock()
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self.path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
            self._prepare(busy_seconds)

    def append(self, topic: str, drafts: Sequence[Draft]) -> list[int]:
        """See `log.EventLog.append`."""
        present = time.time_ns() // 1000
        positions = []
        with self._write():
            new = 0
            for draft in drafts:
                found = self._db.execute(
                    "SELECT position FROM entries WHERE topic = ? AND key = ?", (topic, draft.key)
                ).fetchone()
                if found is None:
                    new += 1
                    if self._waiting(topic) >= self.most_waiting:
                        raise self._full(topic)
                    columns = "topic, key, subject, payload, received_at"
                    insert = f"INSERT INTO entries ({columns}) VALUES (?, ?, ?, ?, ?)"
                    row = (topic, draft.key, draft.subject, draft.payload, present)
                    found = (self._db.execute(insert, row).lastrowid,)
                positions.append(int(found[0]))
        return positions

    def take(
        self, topic: str, consumer: str, *, most: int, wait_seconds: float = 0.0, lease_seconds: float = 60.0
    ) -> list[Entry]:
        """See `log.EventLog.take`."""
        ready = f"topic = ? AND state = {_WAITING} AND due <= ?"
        until = time.monotonic() + wait_seconds
        while True:
            present = time.time()
            with self._errors(), self._lock:
                query = f"SELECT 1 FROM entries INDEXED BY waiting WHERE {ready} LIMIT 1"
                any_ready = self._db.execute(query, (topic, present)).fetchone()
            if any_ready:
                with self._write(durable=False):
                    rows = self._db.execute(
                        f"SELECT {_ENTRY} FROM entries INDEXED BY waiting WHERE {ready} ORDER BY position LIMIT ?",
                        (topic, present, most),
                    ).fetchall()
                    self._db.executemany(
                        "UPDATE entries SET holder = ?, due = ?, attempts = attempts + 1 WHERE position = ?",
                        [(consumer, present + lease_seconds, row[0]) for row in rows],
                    )
                if rows:
                    return [Entry(*row)._replace(attempts=row[5] + 1) for row in rows]
            if time.monotonic() >= until:
                return []
            time.sleep(min(_POLL_SECONDS, max(0.0, until - time.monotonic())))

    def renew(self, topic: str, consumer: str, positions: Sequence[int], lease_seconds: float) -> None:
        """See `log.EventLog.renew`."""
        due = time.time() + lease_seconds
        self._change(
            "due = ?", [(due, p, topic, consumer) for p in positions], " AND holder = ?", durable=False
        )

    def done(self, topic: str, positions: Sequence[int], sequence: int) -> None:
        """See `log.EventLog.done`."""
        change = f"state = {_DONE}, sequence = ?, holder = ''"
        self._change(change, [(sequence, p, topic) for p in positions])

    def retry(
        self, topic: str, positions: Sequence[int], delay_seconds: float = 0.0, *, failed: bool = True
    ) -> None:
        """See `log.EventLog.retry`."""
        due = time.time() + delay_seconds if delay_seconds > 0 else 0.0
        change = "due = ?, holder = '', failures = failures + ?"
        self._change(change, [(due, int(failed), p, topic) for p in positions], durable=False)

    def bury(self, topic: str, position: int, reason: str, detail: str = "") -> None:
        """See `log.EventLog.bury`."""
        change = f"state = {_DEAD}, reason = ?, detail = ?, died_at = ?, holder = ''"
        self._change(change, [(reason, detail[:2000], time.time_ns() // 1000, position, topic)])

    def dead(self, topic: str, *, after: int = 0, most: int = 100) -> list[DeadLetter]:
        """See `log.EventLog.dead`."""
        with self._errors(), self._lock:
            rows = self._db.execute(
                f"""SELECT {_ENTRY}, reason, detail, died_at FROM entries INDEXED BY dead
                    WHERE topic = ? AND state = {_DEAD} AND position > ? ORDER BY position LIMIT ?""",
                (topic, after, most),
            ).fetchall()
        return [DeadLetter(Entry(*row[:7]), *row[7:]) for row in rows]

    def revive(self, topic: str, positions: Sequence[int] | None = None) -> int:
        """See `log.EventLog.revive`."""
        change = f"""UPDATE entries SET state = {_WAITING}, attempts = 0, failures = 0, due = 0,
                     reason = '', detail = '' WHERE topic = ? AND state = {_DEAD}"""
        with self._write():
            if positions is None:
                return self._db.execute(change, (topic,)).rowcount
            return sum(self._db.execute(f"{change} AND position = ?", (topic, p)).rowcount for p in positions)

    def backlog(self, topic: str) -> int:
        """See `log.EventLog.backlog`."""
        with self._errors(), self._lock:
            return self._waiting(topic)

    def oldest_waiting(self, topic: str) -> int | None:
        """See `log.EventLog.oldest_waiting`."""
        query = f"""SELECT received_at FROM entries INDEXED BY waiting WHERE topic = ? AND state = {_WAITING}
                    ORDER BY position LIMIT 1"""
        return self._one(query, (topic,))

    def last(self, topic: str) -> int:
        """See `log.EventLog.last`."""
        # Topics have one numbering, which says more than a topic's own entries: those may have been erased.
        return self._one("SELECT seq FROM sqlite_sequence WHERE name = 'entries' AND ? <> ''", (topic,)) or 0

    def floor(self, topic: str) -> int:
        """See `log.EventLog.floor`."""
        query = f"""SELECT position - 1 FROM entries INDEXED BY waiting WHERE topic = ? AND state = {_WAITING}
                    ORDER BY position LIMIT 1"""
        with self._errors(), self._lock:
            self._db.execute("BEGIN")
            try:
                found = self._one(query, (topic,))
                return self.last(topic) if found is None else found
            finally:
                self._db.execute("COMMIT")

    def settled(self, topic: str, *, after: int = 0) -> Iterator[Settled]:
        """See `log.EventLog.settled`."""
        while True:
            with self._errors(), self._lock:
                rows = self._db.execute(
                    f"""SELECT {_ENTRY}, sequence FROM entries WHERE topic = ? AND state = {_DONE} AND position > ?
                        ORDER BY position LIMIT {_PAGE}""",
                    (topic, after),
                ).fetchall()
            yield from (Settled(Entry(*row[:7]), row[7]) for row in rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def erase(self, topic: str, subject: bytes) -> int:
        """See `log.EventLog.erase`."""
        with self._write():
            query = "DELETE FROM entries WHERE subject = ? AND topic = ?"
            return self._db.execute(query, (subject, topic)).rowcount

    def trim(self, topic: str, before: int) -> int:
        """See `log.EventLog.trim`."""
        with self._write():
            query = f"DELETE FROM entries WHERE topic = ? AND state = {_DONE} AND received_at < ?"
            return self._db.execute(query, (topic, before)).rowcount

    def close(self) -> None:
        """See `log.EventLog.close`."""
        with self._lock:
            self._db.close()

    def _change(
        self, change: str, rows: Sequence[tuple[Any, ...]], more: str = "", *, durable: bool = True
    ) -> None:
        """Change waiting entries; others are settled, dead or erased meanwhile, and stay so."""
        if rows:
            query = (
                f"UPDATE entries SET {change} WHERE position = ? AND topic = ? AND state = {_WAITING}{more}"
            )
            with self._write(durable=durable):
                self._db.executemany(query, rows)

    def _one(self, query: str, values: tuple[Any, ...]) -> int | None:
        with self._errors(), self._lock:
            row = self._db.execute(query, values).fetchone()
        return None if row is None else int(row[0])

    def _waiting(self, topic: str) -> int:
        row = self._db.execute("SELECT waiting FROM counts WHERE topic = ?", (topic,)).fetchone()
        return 0 if row is None else int(row[0])

    def _full(self, topic: str) -> LogFullError:
        where = f"the backlog of {topic} is at its limit"
        rule, todo = f"< {self.most_waiting:,} entries", "try again later, or run more workers"
        return LogFullError(str(bad_value("backlog", self._waiting(topic), rule, where=where, todo=todo)))

    def _prepare(self, busy_seconds: float) -> None:
        self._db.execute("BEGIN")  # both of one moment: another process may be making the tables
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        self._db.execute("COMMIT")
        if application != APPLICATION_ID and tables:
            where = "another program's SQLite file"
            raise bad_value("log", str(self.path), "a log of captionary", where=where)
        deadline = time.monotonic() + busy_seconds
        while True:  # SQLite does not wait by itself for the lock that switching to WAL takes
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        with self._write():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                rule, todo = f"<= {SCHEMA_VERSION}", "upgrade captionary or name another log"
                raise bad_value("log version", version, rule, where=str(self.path), todo=todo)
            if version == 0:  # none, or another process has made the tables meanwhile
                for statement in _SCHEMA:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _write(self, *, durable: bool = True) -> Iterator[None]:
        with self._errors(), self._lock:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with transaction(self._db):
                yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            rule, todo = {
                sqlite3.SQLITE_FULL: ("on a disk with space left", "free some space"),
                sqlite3.SQLITE_NOTADB: ("a log of captionary", "name another file"),
                sqlite3.SQLITE_BUSY: ("free", "another process holds it: wait for that, or stop it"),
            }.get(code, ("usable", None))
            message = bad_value("log", str(self.path), rule, where=f"SQLite: {error}", todo=todo)
            raise LogUnavailableError(str(message)) from None
