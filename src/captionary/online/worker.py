"""The ingest worker: takes from the log, makes, writes into the store, and only then says that it is done.

    media    take ──▶ pipeline ──▶ rows ──▶ store (effect and positions in one update) ──▶ done
               ├── corrupt, empty …      ──▶ the item is known as failed ──▶ dead letter
               ├── captioner failed      ──▶ again later, after `most_failures` ──▶ dead letter
               └── captioner stopped, store or log away ──▶ given back; wait longer and longer
    events   take ──▶ stream update of profiles in the store ──▶ done

A worker may die at any moment: what it held is taken by another when its lease ends, and what it had written is
recognised by its position. Micro-batches are as large as the captioner works off in `target_seconds`, so that a slow
one leaves less in one worker's hands; the rest waits in the log, whose limit is the back-pressure.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from captionary.errors import CaptionaryError, bad_value
from captionary.online.ingest import Made, MediaPipeline
from captionary.online.log import (
    EVENTS,
    MEDIA,
    Entry,
    EventLog,
    EventMessage,
    LogUnavailableError,
    MediaMessage,
)
from captionary.online.status import WorkerStatus, report_worker
from captionary.online.store import OnlineStore
from captionary.online.updates import apply_events, checked_event, put_items, refold_pending, tidy
from captionary.online.visible import ItemColumns, Latencies, RowFolder, with_rows

__all__ = ["IngestWorker", "WorkerOptions"]

_logger = logging.getLogger("captionary.ingest")

_LONGEST_WAIT = 30.0
_REPORT_SECONDS = 10.0
_SUSPICIOUS = 3
"""Deliveries without a failure after which an upload is worked on alone: perhaps it kills its worker."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How a worker works."""

    batch_size: int = 32
    """Most uploads at once, >= 1."""
    target_seconds: float = 0.4
    """What a micro-batch of uploads may take, > 0: the batch shrinks where the captioner is slow."""
    gather_seconds: float = 0.05
    """How long to wait for more uploads after the first, >= 0."""
    events_at_once: int = 500
    """Most events in one update, >= 1."""
    lease_seconds: float = 20.0
    """After which what a dead worker held is another's, > 0; held for longer while it is worked on."""
    most_failures: int = 5
    """Tries of an upload whose fault may pass, >= 1."""
    most_deliveries: int = 50
    """Deliveries after which an upload that never came to an end is given up, > 3."""
    retry_seconds: float = 1.0
    """Before the second try, > 0; doubled with each."""
    retention_days: float = 30.0
    """How long entries that had their effect are kept for `captionary verify`, > 0."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "events_at_once", "most_failures"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        for name in ("target_seconds", "lease_seconds", "retry_seconds", "retention_days"):
            if not getattr(self, name) > 0:
                raise bad_value(name, getattr(self, name), "> 0")
        if self.gather_seconds < 0:
            raise bad_value("gather_seconds", self.gather_seconds, ">= 0")
        if self.most_deliveries <= _SUSPICIOUS:
            raise bad_value("most_deliveries", self.most_deliveries, f"> {_SUSPICIOUS}")


class IngestWorker:
    """Works off a log into a store, until it is told to stop.

    Args:
        log: taken from.
        store: written to.
        pipeline: captions and tokenises uploads; None: this worker takes events alone.
        folders: rankers whose rows are written for each item.
        columns: of items, that the rankers read.
        options: how it works.
        name: of this worker in the log; None: host, process and a random number.
    """

    def __init__(
        self,
        log: EventLog,
        store: OnlineStore,
        pipeline: MediaPipeline | None,
        *,
        folders: Sequence[RowFolder] = (),
        columns: ItemColumns = ItemColumns(),  # noqa: B008 - immutable
        options: WorkerOptions | None = None,
        name: str | None = None,
    ) -> None:
        self.log, self.store, self.pipeline = log, store, pipeline
        self.folders, self.columns = tuple(folders), columns
        self.options = options or WorkerOptions()
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.latencies = Latencies()
        self.items = self.failed = self.skipped = self.events = 0
        self.seconds_per_item: float | None = None
        self.trouble = ""
        self._started = time.time_ns() // 1000
        self._stop = threading.Event()
        self._tidied: dict[str, float] = {}

    @property
    def batch(self) -> int:
        """Uploads to take at once: what the captioner works off in `target_seconds`."""
        if not self.seconds_per_item:
            return min(4, self.options.batch_size)
        return max(1, min(self.options.batch_size, int(self.options.target_seconds / self.seconds_per_item)))

    def stop(self) -> None:
        """Have `run` return after what is in hand."""
        self._stop.set()

    def run(self, *, drain: bool = False) -> None:
        """Work until `stop`; with `drain`, until nothing waits that can be worked on.

        Uploads are worked on in this thread, events beside it, so that a slow captioner holds up no profile.

        Raises:
            CaptionaryError: with `drain`, what keeps it from going on for a minute; the rest is in the log.
        """
        crashes: list[BaseException] = []

        def events() -> None:
            try:
                self._loop(EVENTS, self.events_once, drain)
            except BaseException as error:
                crashes.append(error)
                self.stop()

        beside = threading.Thread(target=events, name="captionary-events", daemon=True)
        beside.start()
        try:
            if self.pipeline is not None:
                self._loop(MEDIA, self.media_once, drain)
            while beside.is_alive():
                beside.join(0.2)
        finally:
            self.stop()
            beside.join(10)
        if crashes:
            raise crashes[0]
        with suppress(CaptionaryError):
            self._report()

    def events_once(self, wait_seconds: float = 0.0) -> int:
        """Take and apply one batch of events; how many were taken."""
        entries = self._take(EVENTS, self.options.events_at_once, wait_seconds)
        with self._held(EVENTS, entries):
            self._apply(entries)
        while refold_pending(self.store):
            pass
        return len(entries)

    def media_once(self, wait_seconds: float = 0.0) -> int:
        """Take and work off one micro-batch of uploads; how many were taken."""
        most = self.batch
        entries = self._take(MEDIA, most, wait_seconds)
        until = time.monotonic() + self.options.gather_seconds
        while entries and len(entries) < most and (left := until - time.monotonic()) > 0:
            more = self._take(MEDIA, most - len(entries), left)
            if not more:
                break
            entries += more
        with self._held(MEDIA, entries):
            suspects = [e for e in entries if e.attempts - e.failures > _SUSPICIOUS]
            rest = [entry for entry in entries if entry not in suspects]
            for group in [rest, *([suspect] for suspect in suspects)]:
                if group:
                    self._work(group)
        return len(entries)

    def _loop(self, topic: str, once: Callable[[float], int], drain: bool) -> None:
        wait = 0.05
        while not self._stop.is_set():
            try:
                done = once(0.0 if drain else 0.5)
                wait, self.trouble = 0.05, ""
                self._housekeeping(topic)
                if drain and not done and not self.log.backlog(topic):
                    return
                if drain and not done:
                    self._stop.wait(0.02)
            except CaptionaryError as error:
                # Store, log or caption store are away or full, or the captioner has stopped. Nothing is lost: it is in
                # the log, and this worker's or the next one's when it can be done.
                self.trouble = str(error)
                if drain and wait >= _LONGEST_WAIT:
                    raise
                _logger.warning("%s: waits %.1f s: %s", topic, wait, error)
                self._stop.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT)

    def _take(self, topic: str, most: int, wait_seconds: float) -> list[Entry]:
        return self.log.take(
            topic, self.name, most=most, wait_seconds=wait_seconds, lease_seconds=self.options.lease_seconds
        )

    @contextmanager
    def _held(self, topic: str, entries: Sequence[Entry]) -> Any:
        """Hold entries for as long as the block takes; give them back where it cannot go on."""
        if not entries:
            yield
            return
        positions, ended = [entry.position for entry in entries], threading.Event()

        def renew() -> None:
            while not ended.wait(self.options.lease_seconds / 3):
                with suppress(LogUnavailableError):
                    self.log.renew(topic, self.name, positions, self.options.lease_seconds)

        keeper = threading.Thread(target=renew, daemon=True)
        keeper.start()
        try:
            yield
        except CaptionaryError:
            with suppress(CaptionaryError):
                self.log.retry(topic, positions, failed=False)
            raise
        finally:
            ended.set()

    def _apply(self, entries: Sequence[Entry]) -> None:
        messages, places = [], []
        for entry in entries:
            try:
                message = msgspec.json.decode(entry.payload, type=EventMessage)
                checked_event(self.store, message)
            except (msgspec.DecodeError, CaptionaryError) as error:
                self.log.bury(EVENTS, entry.position, "bad_event", str(error))
                continue
            messages.append(message)
            places.append(entry.position)
        if messages:
            self._settle(EVENTS, apply_events(self.store, messages, places))
            self.events += len(messages)

    def _work(self, entries: Sequence[Entry]) -> None:
        assert self.pipeline is not None
        messages, held = [], []
        for entry in entries:
            try:
                messages.append(msgspec.json.decode(entry.payload, type=MediaMessage))
                held.append(entry)
            except msgspec.DecodeError as error:
                self.log.bury(MEDIA, entry.position, "bad_message", str(error))
        began, asked = time.monotonic(), self.pipeline.captioned
        try:
            made = self.pipeline.make(messages)
        except CaptionaryError:  # the captioner or the caption store cannot go on: no upload's fault
            raise
        except Exception as error:  # a fault of one of them, or of code: find out which
            if len(held) > 1:
                for entry in held:
                    self._work([entry])
            elif held:
                self._failed(held[0], "crashed", f"{type(error).__name__}: {error}")
            return
        self._pace(time.monotonic() - began, len(held), self.pipeline.captioned > asked)
        self._show(held, made)

    def _show(self, entries: Sequence[Entry], made: Sequence[Made]) -> None:
        """Make visible what came out, then say so; try again what may still succeed."""
        final, letters, passed = [], [], []
        for entry, one in zip(entries, made, strict=True):
            record = one.record
            if one.again and not self._last_try(entry):
                self.log.retry(MEDIA, [entry.position], self._delay(entry))
                continue
            if record.status == "failed":
                letters.append((entry, record.reason, record.detail))
            if record.status != "ok":
                old = self.store.item(record.item_id)
                if old is not None and old.status == "ok":  # what is known of the item is better than nothing
                    if record.status == "skipped":
                        passed.append(entry.position)
                    continue
            final.append((entry.position, record))
        updates, faults = with_rows([record for _, record in final], self.folders, self.columns)
        for fault in faults:
            _logger.warning("%s", fault)
        sequences = put_items(self.store, updates, [position for position, _ in final]) if final else {}
        present = time.time_ns() // 1000
        dead = {entry.position for entry, *_ in letters}
        for position, record in final:
            if position in dead:
                continue
            self.skipped += record.status == "skipped"
            self.items += record.status == "ok"
            if record.received_at:
                self.latencies.add(max(0.0, (present - record.received_at) / 1e6))
        self._settle(MEDIA, {p: sequence for p, sequence in sequences.items() if p not in dead})
        if passed:
            self.log.done(MEDIA, passed, self.store.sequence)
            self.skipped += len(passed)
        for entry, reason, detail in letters:
            self.log.bury(MEDIA, entry.position, reason, detail)
            self.failed += 1

    def _failed(self, entry: Entry, reason: str, detail: str) -> None:
        if self._last_try(entry):
            self.log.bury(MEDIA, entry.position, reason, detail)
            self.failed += 1
        else:
            self.log.retry(MEDIA, [entry.position], self._delay(entry))

    def _last_try(self, entry: Entry) -> bool:
        return (
            entry.failures + 1 >= self.options.most_failures or entry.attempts >= self.options.most_deliveries
        )

    def _delay(self, entry: Entry) -> float:
        return min(_LONGEST_WAIT, self.options.retry_seconds * 2.0**entry.failures)

    def _settle(self, topic: str, sequences: dict[int, int]) -> None:
        by_update: dict[int, list[int]] = {}
        for position, sequence in sequences.items():
            by_update.setdefault(sequence, []).append(position)
        for sequence, positions in by_update.items():
            self.log.done(topic, positions, sequence)

    def _pace(self, seconds: float, count: int, captioned: bool) -> None:
        """Smooth what an upload takes; batches that were all in the caption store say nothing of the captioner."""
        if count and captioned:
            each = seconds / count
            before = self.seconds_per_item
            self.seconds_per_item = each if before is None else 0.7 * before + 0.3 * each

    def _housekeeping(self, topic: str) -> None:
        present = time.monotonic()
        if present - self._tidied.get(topic, -_REPORT_SECONDS) < _REPORT_SECONDS:
            return
        self._tidied[topic] = present
        tidy(self.store, topic, self.log.floor(topic))
        self.log.trim(topic, time.time_ns() // 1000 - int(self.options.retention_days * 86_400e6))
        self._report()

    def _report(self) -> None:
        report_worker(
            self.store,
            WorkerStatus(
                name=self.name,
                seen_at=time.time_ns() // 1000,
                started_at=self._started,
                items=self.items,
                failed=self.failed,
                skipped=self.skipped,
                captioned=0 if self.pipeline is None else self.pipeline.captioned,
                events=self.events,
                seconds_per_item=self.seconds_per_item,
                batch=self.batch,
                visible=dict(self.latencies.quantiles()),
                trouble=self.trouble,
            ),
        )
