"""The durable log between the service and its workers: what it acknowledges is done once, and never lost.

    service ──append──▶ topic ──take (a lease)──▶ worker ──effect, with the position, in one transaction──▶ store
                          │                          └──done(position, sequence)──▶ kept for `verify` until trimmed
                          └──after so many tries──▶ dead letters ──revive──▶ topic

At least once in: a producer that heard no answer appends again under the same key, and there is still one entry.
Exactly once out: an entry can be delivered twice, but the store knows the positions that it has applied.
Backlogs are bounded: beyond the limit `append` raises `LogFullError`, which the service answers with 503.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from captionary.errors import CaptionaryError, bad_value
from captionary.online.packing import Id, id_bytes

__all__ = [
    "EVENTS",
    "MEDIA",
    "DeadLetter",
    "Draft",
    "Entry",
    "EventLog",
    "EventMessage",
    "LogFullError",
    "LogUnavailableError",
    "MediaMessage",
    "Settled",
    "event_draft",
    "media_draft",
    "open_log",
]

MEDIA = "media"
"""Topic of `MediaMessage`: uploads to caption."""
EVENTS = "events"
"""Topic of `EventMessage`: what users did."""
TOPICS = (MEDIA, EVENTS)


class LogFullError(CaptionaryError):
    """The backlog of a topic is at its limit: nothing was appended. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LogUnavailableError(CaptionaryError):
    """The log cannot be reached or written (disk full, server away): nothing was acknowledged; try later."""


class EventMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a user, as the contract's `events` have it."""

    user_id: Id
    item_id: Id
    event: str
    timestamp: int
    """Microseconds since 1970, UTC."""
    value: float | None = None


class MediaMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An item's media, uploaded: the files lie in the spool under these names."""

    item_id: Id
    media: tuple[str, ...]
    """Names in the spool, see `spool.Spool.put`; a later upload of an item replaces the earlier one."""
    title: str | None = None
    columns: dict[str, str | int | float | bool | None] = {}
    """Further columns of the items table that the ranker reads."""
    received_at: int = 0
    """When the service took it, microseconds since 1970."""


class Draft(NamedTuple):
    """What a producer appends."""

    key: str
    """The producer's idempotency key, at most 200 characters: a second entry under it is not made."""
    subject: bytes
    """Whom it is about (`packing.id_bytes` of the user or item), for `erase`."""
    payload: bytes
    """A message as JSON."""


class Entry(NamedTuple):
    """What a worker is given."""

    position: int
    """Its place in the topic; later entries have greater ones."""
    key: str
    subject: bytes
    payload: bytes
    received_at: int
    """When it was appended, microseconds since 1970."""
    attempts: int
    """Deliveries so far, this one included; a worker that is killed has had one too."""
    failures: int = 0
    """How often it was given back because something was wrong with it."""


class Settled(NamedTuple):
    """An entry that had its effect."""

    entry: Entry
    sequence: int
    """The update of the online store with which it did, see `store.OnlineStore`."""


class DeadLetter(NamedTuple):
    """An entry that was given up."""

    entry: Entry
    reason: str
    """A slug, such as `corrupt`."""
    detail: str
    """For people."""
    died_at: int
    """Microseconds since 1970."""


class EventLog(Protocol):
    """A durable log of topics; one object may be used by several threads, one log by several processes.

    Every method raises `LogUnavailableError` where the log cannot do what is asked.
    """

    def append(self, topic: str, drafts: Sequence[Draft]) -> list[int]:
        """Add entries; their positions. On disk when it returns: this is the acknowledgement.

        A draft whose key the topic has seen (within the retention) is given its position again.

        Raises:
            LogFullError: the topic's backlog is at its limit; none was added.
        """
        ...

    def take(
        self, topic: str, consumer: str, *, most: int, wait_seconds: float = 0.0, lease_seconds: float = 60.0
    ) -> list[Entry]:
        """Up to `most` entries that nobody else holds, in order; they are this consumer's until the lease ends.

        Entries whose holder's lease has ended come first. Waits up to `wait_seconds` for the first.
        """
        ...

    def renew(self, topic: str, consumer: str, positions: Sequence[int], lease_seconds: float) -> None:
        """Hold entries for longer: a slow captioner is at work on them."""
        ...

    def done(self, topic: str, positions: Sequence[int], sequence: int) -> None:
        """The entries had their effect with this update of the store; they are not delivered again."""
        ...

    def retry(
        self, topic: str, positions: Sequence[int], delay_seconds: float = 0.0, *, failed: bool = True
    ) -> None:
        """Give entries back: they are delivered again after the delay (at most a lease).

        `failed`: for a fault of theirs, which is counted; false: the worker could not go on.
        """
        ...

    def bury(self, topic: str, position: int, reason: str, detail: str = "") -> None:
        """Give an entry up: into the dead letters."""
        ...

    def dead(self, topic: str, *, after: int = 0, most: int = 100) -> list[DeadLetter]:
        """Dead letters by position."""
        ...

    def revive(self, topic: str, positions: Sequence[int] | None = None) -> int:
        """Put dead letters (None: all) back into the topic as new deliveries; how many."""
        ...

    def backlog(self, topic: str) -> int:
        """Entries without an effect yet, dead letters aside."""
        ...

    def oldest_waiting(self, topic: str) -> int | None:
        """When the oldest entry of the backlog was appended, microseconds; None: no backlog."""
        ...

    def last(self, topic: str) -> int:
        """The greatest position given so far; 0: none."""
        ...

    def floor(self, topic: str) -> int:
        """No entry at or below this position will ever be delivered again, unless it is revived."""
        ...

    def settled(self, topic: str, *, after: int = 0) -> Iterator[Settled]:
        """Entries that had their effect, by position, as far as they have not been trimmed."""
        ...

    def erase(self, topic: str, subject: bytes) -> int:
        """Delete every entry about a subject, settled, waiting or dead; how many."""
        ...

    def trim(self, topic: str, before: int) -> int:
        """Delete settled entries appended before a moment (microseconds), and their keys; how many."""
        ...

    def close(self) -> None:
        """Let go of files or connections."""
        ...


def event_draft(message: EventMessage, key: str) -> Draft:
    """The draft of one event; `key` is the producer's (an `Idempotency-Key`, or a fresh uuid)."""
    id_bytes(message.item_id)
    return Draft(key, id_bytes(message.user_id), msgspec.json.encode(message))


def media_draft(message: MediaMessage, key: str) -> Draft:
    """The draft of one upload."""
    return Draft(key, id_bytes(message.item_id), msgspec.json.encode(message))


def open_log(url: str, *, most_waiting: int = 100_000) -> EventLog:
    """Open a log: a path or `sqlite:PATH` (embedded), or `redis://`, `rediss://`, `unix://` (fleets).

    Args:
        url: where it is; user, password and database as in Redis URLs.
        most_waiting: the backlog of a topic at which `append` refuses, >= 1.

    Raises:
        CaptionaryError: a scheme that is none of these; a file that is no log.
        LogUnavailableError: it cannot be reached.
    """
    if most_waiting < 1:
        raise bad_value("most_waiting", most_waiting, ">= 1 entries")
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss", "unix"):
        from captionary.online.log_redis import RedisLog

        return RedisLog(url, most_waiting=most_waiting)
    if scheme not in ("", "sqlite"):
        raise bad_value("log", scheme, "a path, sqlite:PATH, redis://, rediss:// or unix://")
    from captionary.online.log_sqlite import SqliteLog

    return SqliteLog(url.removeprefix("sqlite:"), most_waiting=most_waiting)
