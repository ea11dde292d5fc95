"""What pages say of ingest and the caption store: what waits, what was given up and why, how fast, how fresh."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from captionary.errors import CaptionaryError, bad_value
from captionary.online.log import EVENTS, MEDIA, TOPICS, DeadLetter, EventMessage, MediaMessage
from captionary.online.packing import Id
from captionary.online.status import TopicStatus, WorkerStatus, ingest_status

if TYPE_CHECKING:
    from captionary.online.service.services import Services

__all__ = ["CaptionerView", "Captions", "IngestView", "LetterView", "Said", "ingest_view", "replay"]

_LETTERS = 20
_SAMPLE = 2000
_KEEP_SECONDS = 30.0
_ALIVE_SECONDS = 60.0


class LetterView(NamedTuple):
    """A dead letter."""

    topic: str
    position: int
    about: Id | None
    """The item of an upload, the user of an event; None where it cannot be read."""
    reason: str
    detail: str
    attempts: int
    died_at: int


class IngestView(NamedTuple):
    """What the page shows."""

    topics: tuple[TopicStatus, ...]
    workers: tuple[tuple[WorkerStatus, bool, float | None], ...]
    """With whether it said something within a minute, and uploads a second."""
    fresh: dict[str, float]
    """p50, p95, p99 in seconds, the worst of the workers that live."""
    letters: tuple[LetterView, ...]
    after: dict[str, int]
    """Topic → the position from which its next page goes on; absent: there is none."""


class CaptionerView(NamedTuple):
    """What the caption store holds of one captioner."""

    captioner: str
    records: int
    about: bool
    """Whether the number is an estimate."""
    failed: float
    """Share."""
    lent: float
    """Share of captions that came from a near-duplicate."""
    milliseconds: float | None
    """Of a picture, the median of those that were captioned themselves."""
    newest: datetime | None
    """Of the sample."""
    reasons: tuple[tuple[str, float], ...]
    """Why captions failed, with the share of all records."""


def ingest_view(services: Services, topic: str = "", after: int = 0) -> IngestView:
    """Backlogs, workers, freshness, and a page of dead letters. Blocks.

    Raises:
        CaptionaryError: a topic that is none.
    """
    if topic and topic not in TOPICS:
        raise bad_value("topic", topic, f"one of {', '.join(TOPICS)}")
    status, present = ingest_status(services.store, services.log), time.time_ns() // 1000
    letters, further = [], {}
    for name in (MEDIA, EVENTS):
        start = after if name == topic else 0
        found = services.log.dead(name, after=start, most=_LETTERS + 1)
        if len(found) > _LETTERS:
            further[name] = found[_LETTERS - 1].entry.position
        letters += [_letter(name, letter) for letter in found[:_LETTERS]]
    workers, fresh = [], dict[str, float]()
    for worker in status.workers:
        alive = present - worker.seen_at < _ALIVE_SECONDS * 1e6
        rate = 1 / worker.seconds_per_item if worker.seconds_per_item else None
        workers.append((worker, alive, rate))
        if alive:
            for name, seconds in worker.visible.items():
                fresh[name] = max(fresh.get(name, 0.0), seconds)
    return IngestView(status.topics, tuple(workers), fresh, tuple(letters), further)


def replay(services: Services, topic: str, position: int | None) -> int:
    """Put a dead letter, or all of a topic, back to be worked on; how many. Blocks.

    Raises:
        CaptionaryError: a topic that is none.
    """
    if topic not in TOPICS:
        raise bad_value("topic", topic, f"one of {', '.join(TOPICS)}")
    return services.log.revive(topic, None if position is None else [position])


class Said(NamedTuple):
    """A record of the caption store."""

    caption: str
    created_at: int
    """Microseconds since 1970."""
    milliseconds: float
    source: str
    """Digest of the near-duplicate whose caption this is; "": none."""


class Captions:
    """The caption store's figures, read again every half minute at most; for any number of threads.

    A store of many records is not gone through. Its keys are digests of content, so the first ones in their order are
    a sample of all, and how far apart these lie says how many there are (k-minimum values: within 1/√k).

    Args:
        path: the caption store's file; None: there is none to show.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._found: tuple[CaptionerView, ...] = ()
        self._until = 0.0

    def look(self) -> tuple[CaptionerView, ...]:
        """One entry for each captioner; none where there is no store. Blocks.

        Raises:
            CaptionaryError: the file cannot be read.
        """
        if self.path is None or not self.path.is_file():
            return ()
        with self._lock:
            if time.monotonic() < self._until:
                return self._found
            try:
                with _opened(self.path) as database:
                    self._found = tuple(_captioner(database, name) for name in _captioners(database))
            except sqlite3.Error as error:
                rule = "a caption store that can be read"
                raise bad_value("captions", str(self.path), rule, where=str(error)) from None
            self._until = time.monotonic() + _KEEP_SECONDS
            return self._found

    def said(self, captioner: str, digest: str) -> Said | None:
        """What a captioner said of one medium, and when; None where it is not in the store, or there is none.

        A descriptor may hold more than that: what a title, text in the picture or sounds added. Blocks.
        """
        if self.path is None or not self.path.is_file() or not digest:
            return None
        try:
            with _opened(self.path) as database:
                row = database.execute(
                    """SELECT caption, created_at, latency_ms, source FROM captions
                       WHERE captioner = ? AND media_digest = ?""",
                    (captioner, digest),
                ).fetchone()
        except sqlite3.Error:  # a page on an item has more to say than this
            return None
        return None if row is None else Said(*row)


def _opened(path: Path) -> closing[sqlite3.Connection]:
    """Read-only: a page never makes, migrates or locks the file."""
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0))


def _captioners(database: sqlite3.Connection) -> list[str]:
    """One step in the index each, as `CaptionStore.captioners`."""
    found: list[str] = []
    query = "SELECT captioner FROM captions WHERE captioner > ? ORDER BY captioner LIMIT 1"
    while row := database.execute(query, (found[-1] if found else "",)).fetchone():
        found.append(row[0])
    return found


def _captioner(database: sqlite3.Connection, captioner: str) -> CaptionerView:
    rows = database.execute(
        """SELECT media_digest, status, reason, latency_ms, created_at, source FROM captions
           WHERE captioner = ? ORDER BY media_digest LIMIT ?""",
        (captioner, _SAMPLE),
    ).fetchall()
    about = len(rows) == _SAMPLE
    records = _estimate(rows[-1][0], len(rows)) if about else len(rows)
    reasons = Counter(row[2] for row in rows if row[1] != "ok")
    times = [row[3] for row in rows if row[1] == "ok" and not row[5] and row[3] > 0]
    total = max(len(rows), 1)
    return CaptionerView(
        captioner=captioner,
        records=records,
        about=about,
        failed=sum(reasons.values()) / total,
        lent=sum(1 for row in rows if row[5]) / total,
        milliseconds=median(times) if times else None,
        newest=datetime.fromtimestamp(max(row[4] for row in rows) / 1e6, UTC) if rows else None,
        reasons=tuple((reason, number / total) for reason, number in reasons.most_common(8)),
    )


def _estimate(digest: str, count: int) -> int:
    """How many digests there are, where so many are at or below this one; `count` for what is no digest."""
    try:
        part = int(digest, 16) / 16 ** len(digest)
    except ValueError:
        return count
    return max(count, round((count - 1) / part)) if part > 0 else count


def _letter(topic: str, letter: DeadLetter) -> LetterView:
    about: Id | None = None
    try:
        if topic == MEDIA:
            about = msgspec.json.decode(letter.entry.payload, type=MediaMessage).item_id
        else:
            about = msgspec.json.decode(letter.entry.payload, type=EventMessage).user_id
    except (msgspec.DecodeError, CaptionaryError):
        about = None
    return LetterView(
        topic,
        letter.entry.position,
        about,
        letter.reason,
        letter.detail,
        letter.entry.attempts,
        letter.died_at,
    )
