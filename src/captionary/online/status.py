"""What workers say of themselves, for `captionary ingest status` and the explorer's page."""

from __future__ import annotations

import time

import msgspec

from captionary.online.keyvalue import Reader, Transaction
from captionary.online.log import EVENTS, MEDIA, EventLog
from captionary.online.store import OnlineStore

__all__ = ["IngestStatus", "TopicStatus", "WorkerStatus", "ingest_status", "report_worker"]

_WORKERS = b"workers"
_GONE_SECONDS = 3600.0


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process."""

    name: str
    seen_at: int
    """When it said so last, microseconds."""
    started_at: int
    items: int = 0
    """Uploads made visible."""
    failed: int = 0
    """Uploads given up."""
    skipped: int = 0
    """Uploads that the gate held back."""
    captioned: int = 0
    """Pictures that the captioner was asked about."""
    events: int = 0
    """Events applied."""
    seconds_per_item: float | None = None
    """What an upload takes, smoothed."""
    batch: int = 0
    """Uploads that it takes at once now."""
    visible: dict[str, float] = {}
    """Seconds from upload to visible: p50, p95, p99 of the last thousand."""
    trouble: str = ""
    """Why it waits; empty where it works."""


class TopicStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of the log."""

    topic: str
    waiting: int
    oldest_seconds: float | None
    """How long the oldest entry has waited."""
    dead: int
    """Dead letters, up to 1,000."""


class IngestStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of ingest."""

    topics: tuple[TopicStatus, ...]
    workers: tuple[WorkerStatus, ...]

    def to_string(self) -> str:
        """For a terminal."""
        lines = []
        for topic in self.topics:
            age = "" if topic.oldest_seconds is None else f", the oldest for {topic.oldest_seconds:.1f} s"
            lines.append(f"{topic.topic}: {topic.waiting:,} waiting{age}; {topic.dead:,} dead letters")
        for worker in self.workers:
            visible = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in worker.visible.items())
            lines.append(
                f"worker {worker.name}: {worker.items:,} items, {worker.failed:,} failed, {worker.events:,} events"
                + (f"; visible after {visible}" if visible else "")
                + (f"; waits: {worker.trouble}" if worker.trouble else "")
            )
        return "\n".join(lines)


def report_worker(store: OnlineStore, status: WorkerStatus) -> None:
    """Keep what a worker says; those that have said nothing for an hour are forgotten."""

    def work(transaction: Transaction) -> None:
        there = _workers(transaction)
        there[status.name] = status
        oldest = status.seen_at - int(_GONE_SECONDS * 1e6)
        kept = [worker for worker in there.values() if worker.seen_at >= oldest]
        transaction.put(_WORKERS, msgspec.msgpack.encode(kept))

    store.engine.update(work)


def ingest_status(store: OnlineStore, log: EventLog) -> IngestStatus:
    """What waits, what was given up, who works."""
    present = time.time_ns() // 1000
    topics = []
    for name in (MEDIA, EVENTS):
        oldest = log.oldest_waiting(name)
        topics.append(
            TopicStatus(
                topic=name,
                waiting=log.backlog(name),
                oldest_seconds=None if oldest is None else max(0.0, (present - oldest) / 1e6),
                dead=len(log.dead(name, most=1000)),
            )
        )
    workers = store.engine.view(_workers)
    return IngestStatus(topics=tuple(topics), workers=tuple(workers[name] for name in sorted(workers)))


def _workers(reader: Reader) -> dict[str, WorkerStatus]:
    (packed,) = reader.get_many([_WORKERS])
    if packed is None:
        return {}
    return {worker.name: worker for worker in msgspec.msgpack.decode(packed, type=list[WorkerStatus])}
