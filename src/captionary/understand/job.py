"""Captioning what the store lacks: claims, reading ahead, batches, and giving up on single views only.

    views ──digest──▶ missing? ──▶ claim ──▶ decode (bounded queue) ──▶ near-duplicate? ──batch──▶ captioner ──▶ store
                                                                            └────────reused────────────────────▶

A batch is `batch_size` pictures for each of the captioner's lanes, up to 256. A captioner with lanes gets the next
batch before it is done with one, so that none of them waits. At most 5 batches of pictures are in memory; captions are
nowhere but in the store.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from tqdm import tqdm

from captionary.errors import bad_value
from captionary.understand.asking import Answer, Asker
from captionary.understand.captioner import Captioner, embeds
from captionary.understand.media import LIMITS, PERMANENT_REASONS, MediaError, MediaLimits, digest, locate
from captionary.understand.similar import MAX_THRESHOLD, HashIndex, Sign, grids_agree
from captionary.understand.store import CaptionRecord, CaptionStore, now
from captionary.understand.views import Locate, Reader, View, read_picture
from captionary.understand.workers import Decoded, DecodeTask, WorkerPool, automatic_processes, decode_task

__all__ = ["CaptionJob", "JobOptions"]

IMAGE_SIZE = 448
"""Shorter side in pixels for a captioner that names no `image_size`; bounds the memory of the queue."""
_MOST_A_CALL = 256
"""Pictures that lanes raise a batch to at most: what is captioned in one call is kept in one commit."""
_CALLS = 2
"""Calls of a captioner with lanes at a time: the second is there when the first one's last lanes finish."""
_WINDOW = 256
"""Files digested and looked up together."""
_POLL_SECONDS = 0.2
_CANDIDATES = 16
"""Near hashes whose grids are looked at, the nearest first."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How a job works; none of it changes what a captioner says of a picture."""

    batch_size: int = 32
    """Pictures per call of the captioner, ≥ 1; times what it takes side by side (`lanes`), up to 256 pictures."""
    limits: MediaLimits = LIMITS
    """Files beyond these are refused."""
    decode_threads: int = 2
    """Threads that read ahead where there are no worker processes, ≥ 1."""
    decode_processes: int | None = 0
    """Worker processes that read ahead; 0 for threads, None for the automatic choice."""
    reader: Reader = read_picture
    """Decodes a view."""
    locate: Locate = locate
    """Finds a media entry's file."""
    similar: int | None = None
    """Bits of 64 in which near-duplicates' hashes may differ, 0 to 16; None looks for none."""
    force: bool = False
    """Caption again what has a caption; the new one replaces it."""
    only_missing: bool = False
    """Leave alone what has a caption of any captioner, with or without a vector."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("decode_threads", 1), ("decode_processes", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise bad_value(name, value, f">= {least}")
        if self.similar is not None and not 0 <= self.similar <= MAX_THRESHOLD:
            raise bad_value("similar", self.similar, f"0 to {MAX_THRESHOLD} bits of 64, or off")
        if self.force and self.only_missing:
            raise bad_value("force and only_missing", "both", "one of them at most")


class _Work(NamedTuple):
    view: View
    path: Path
    digest: str
    """Of the file."""
    key: str
    """Of the view, in the store."""


class _Picture(NamedTuple):
    work: _Work
    image: Image
    sign: Sign | None


_Batch = list[_Picture]


class CaptionJob:
    """One run of a captioner over views of media.

    Args:
        root: where relative media entries start.
        captioner: names itself by its fingerprint, under which the store keeps what it says.
        store: read first, written after every batch.
        options: how it works.
        bar: advanced by the uses of each view as it is settled.

    Attributes:
        made: keys of the views captioned in this run.
        reused: keys of the views that got a near-duplicate's caption in this run.
        digests: content digest by media entry.
        unread: why there is none, by media entry.
        not_kept: (reason, detail) of failures by key that a later run shall try again.
        started: with `force`, what is older is made again.
    """

    def __init__(
        self, root: Path, captioner: Captioner, store: CaptionStore, options: JobOptions, bar: tqdm[Any]
    ) -> None:
        self.root, self.captioner, self.store, self.options, self.bar = root, captioner, store, options, bar
        self.image_size = int(getattr(captioner, "image_size", 0)) or IMAGE_SIZE
        self._lanes = int(getattr(captioner, "lanes", 1))
        self.batch_size = max(options.batch_size, min(options.batch_size * self._lanes, _MOST_A_CALL))
        self.encoder = captioner.encoder_fingerprint if embeds(captioner) else ""
        self.vector_size = captioner.vector_size if embeds(captioner) else 0
        self.made: set[str] = set()
        self.reused: set[str] = set()
        self.digests: dict[str, str] = {}
        self.unread: dict[str, MediaError] = {}
        self._asker = Asker(captioner)
        self.not_kept: dict[str, tuple[str, str]] = {}
        self.started = now()
        self._settled: Counter[str] = Counter()  # views by what became of them, for the bar
        self._uses: Counter[View] = Counter()
        self._refused: list[CaptionRecord] = []  # permanent failures on their way to the store
        self._deferred: list[_Work] = []  # what another process is captioning
        self._batch: _Batch = []  # on its way to the captioner
        self._asked: deque[tuple[_Batch, Future[list[Answer | str]]]] = deque()  # with the captioner
        self._callers: ThreadPoolExecutor | None = None  # that ask it, where it has lanes
        self._followers: list[_Picture] = []  # near-duplicates of what is in a batch
        self._copies: list[tuple[CaptionRecord, _Work, npt.NDArray[np.float32] | None]] = []
        self._index = None if options.similar is None else HashIndex(options.similar)
        # With `force`, what is to be made again is no source of a caption: only what this run makes is.
        self._last_sign = store.last_sign() if options.similar is not None and options.force else 0

    def run(self, views: Sequence[View]) -> None:
        """Caption all that the store lacks; a view that occurs several times, once."""
        self._uses.update(views)
        threads = self.options.decode_threads
        processes = self.options.decode_processes
        if processes is None:
            processes = automatic_processes(len(self._uses))
        workers = WorkerPool(processes) if processes else None
        decode: Callable[[DecodeTask], Decoded] = workers or decode_task
        pool = ThreadPoolExecutor(processes or threads, thread_name_prefix="captionary-media")
        # Digesting must not wait behind workers: it decides what they get next.
        reading = ThreadPoolExecutor(1, thread_name_prefix="captionary-digest") if workers else pool
        if self._lanes > 1:
            self._callers = ThreadPoolExecutor(_CALLS, thread_name_prefix="captionary-call")
        try:
            self._learn_signs()
            self._pass(self._digested(reading), pool, decode)
            while self._deferred:
                waiting, self._deferred = self._deferred, []
                self._pass(iter([waiting]), pool, decode)
                if len(self._deferred) == len(waiting):
                    time.sleep(_POLL_SECONDS)
        finally:
            if self._callers:
                self._callers.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)
            reading.shutdown(cancel_futures=True)
            if workers:
                workers.close()
            self.store.release()

    def key(self, view: View) -> str | None:
        """The view's key in the store; None where its file could not be read."""
        found = self.digests.get(view.uri)
        return None if found is None else view.key(found)

    def records(self, keys: Sequence[str]) -> dict[str, tuple[CaptionRecord, str]]:
        """What the store has by key, and under which fingerprint: this captioner's, else the media's refusal.

        Refusals are kept under the fingerprint of the limits, so that all captioners share them. With
        `only_missing`, the newest caption of any other captioner comes before a refusal or an own failure.
        """
        name, refusals = self.captioner.fingerprint, self.options.limits.fingerprint
        found = {key: (record, name) for key, record in self.store.get_many(keys, name).items()}
        if self.options.only_missing:
            rest = [key for key in keys if key not in found or found[key][0].status != "ok"]
            found |= self.store.newest(rest)
        rest = [key for key in keys if key not in found]
        return found | {key: (record, name) for key, record in self.store.get_many(rest, refusals).items()}

    def _pass(
        self,
        windows: Iterator[list[_Work]],
        pool: ThreadPoolExecutor,
        decode: Callable[[DecodeTask], Decoded],
    ) -> None:
        for work, future in self._decoded(self._granted(windows), pool, decode):
            try:
                image, sign = future.result()
            except MediaError as error:
                self._refuse(work, error)
                continue
            self._place(_Picture(work, image, sign))
            while max(len(self._batch), len(self._followers)) >= self.batch_size:
                self._caption()
        while self._batch or self._asked or self._followers:
            self._caption()
        self._keep_copies()
        self._keep_refused()

    def _digested(self, pool: ThreadPoolExecutor) -> Iterator[list[_Work]]:
        """Windows of views of new content; the next window is read while one is worked on."""
        frames: dict[str, list[View]] = {}
        for view in self._uses:
            frames.setdefault(view.uri, []).append(view)
        uris = list(frames)
        seen: set[str] = set()
        chunks = [uris[start : start + _WINDOW] for start in range(0, len(uris), _WINDOW)]
        ahead: deque[Future[list[tuple[str, Path, str | MediaError]]]] = deque()
        for i in range(len(chunks)):
            while len(ahead) < min(2, len(chunks) - i):
                ahead.append(pool.submit(self._digest_all, chunks[i + len(ahead)]))
            window = []
            for uri, path, found in ahead.popleft().result():
                if isinstance(found, MediaError):
                    self.unread[uri] = found
                else:
                    self.digests[uri] = found
                for view in frames[uri]:
                    if isinstance(found, MediaError):
                        self._done(view, "failed")
                    elif (key := view.key(found)) in seen:
                        self._done(view)
                    else:
                        seen.add(key)
                        window.append(_Work(view, path, found, key))
            yield window

    def _digest_all(self, uris: Sequence[str]) -> list[tuple[str, Path, str | MediaError]]:
        found: list[tuple[str, Path, str | MediaError]] = []
        for uri in uris:
            path = self.root
            try:
                path = self.options.locate(uri, self.root)
                found.append((uri, path, digest(path, self.options.limits)))
            except MediaError as error:
                found.append((uri, path, error))
        return found

    def _granted(self, windows: Iterator[list[_Work]]) -> Iterator[_Work]:
        """What the store lacks and this process may do; the rest is put off."""
        size = self.batch_size
        for window in windows:
            missing = self._missing(window)
            for start in range(0, len(missing), size):
                piece = missing[start : start + size]
                granted = self.store.claim([work.key for work in piece], self.captioner.fingerprint)
                self._deferred.extend(work for work in piece if work.key not in granted)
                # Another process may have finished one of them between the look-up and the claim.
                mine = [work for work in piece if work.key in granted]
                left = self._missing(mine)
                if len(left) < len(mine):
                    going = {work.key for work in left}
                    self.store.release([work.key for work in mine if work.key not in going])
                yield from left

    def _missing(self, works: Sequence[_Work]) -> list[_Work]:
        records = self.records([work.key for work in works])
        with_vector = set(records)
        if self.vector_size and not self.options.only_missing:
            with_vector = self.store.has_vectors(list(records), self.encoder)
        complete = {
            key
            for key, (record, _) in records.items()
            if (record.status != "ok" or key in with_vector) and not self._is_old(record)
        }
        for work in works:
            if work.key in complete:
                self._done(work.view, "reused" if records[work.key][0].status == "ok" else "failed")
        return [work for work in works if work.key not in complete]

    def _is_old(self, record: CaptionRecord) -> bool:
        """Whether `force` makes it again; what another forced job made since this one began stays."""
        refused = record.status == "failed" and record.reason in PERMANENT_REASONS
        return self.options.force and not refused and record.created_at < self.started

    def _decoded(
        self, works: Iterator[_Work], pool: ThreadPoolExecutor, decode: Callable[[DecodeTask], Decoded]
    ) -> Iterator[tuple[_Work, Future[Decoded]]]:
        """Pictures in order, two batches of them being decoded ahead of the captioner."""
        queue: deque[tuple[_Work, Future[Decoded]]] = deque()
        options, signs = self.options, self._index is not None
        for work in works:
            task = DecodeTask(
                work.path, work.digest, work.view, self.image_size, options.limits, options.reader, signs
            )
            queue.append((work, pool.submit(decode, task)))
            if len(queue) > 2 * self.batch_size:
                yield queue.popleft()
        while queue:
            yield queue.popleft()

    def _learn_signs(self) -> None:
        """Take the signs that were stored since the last time, by whatever process, into the index."""
        if self._index is not None:
            ids, hashes = self.store.signs_after(self._last_sign, self.captioner.fingerprint)
            self._index.extend(ids, hashes)
            self._last_sign = max(self._last_sign, int(ids[-1]) if len(ids) else 0)

    def _place(self, picture: _Picture) -> None:
        """Into the batch, or to the near-duplicates of what is stored or in the batch."""
        if self._index is None or picture.sign is None:
            self._batch.append(picture)
        elif (copy := self._copied(picture.work, picture.sign)) is not None:
            self._copies.append(copy)
            if len(self._copies) >= self.batch_size:
                self._keep_copies()
        elif any(self._is_near(picture.sign, other.sign) for other in self._unanswered()):
            self._followers.append(picture)
        else:
            self._batch.append(picture)

    def _copied(
        self, work: _Work, sign: Sign
    ) -> tuple[CaptionRecord, _Work, npt.NDArray[np.float32] | None] | None:
        """The nearest near-duplicate's caption and vector as this view's own, where the store has them."""
        assert self._index is not None
        for id_ in self._index.near(sign.hash)[:_CANDIDATES]:
            found = self.store.sign(id_)
            if found is None or found[0] == work.key or not self._is_near(sign, found[1]):
                continue
            source = found[0]
            record = self.store.get_many([source], self.captioner.fingerprint).get(source)
            if record is None or record.status != "ok" or self._is_old(record):
                continue
            vector = None
            if self.vector_size:
                vector = self.store.get_vectors([source], self.encoder).get(source)
                if vector is None:
                    continue
            copy = CaptionRecord(work.key, record.caption, created_at=now(), source=source)
            return copy, work, vector
        return None

    def _unanswered(self) -> Iterator[_Picture]:
        yield from self._batch
        for batch, _ in self._asked:
            yield from batch

    def _is_near(self, one: Sign, other: Sign | None) -> bool:
        most = self.options.similar
        if most is None or other is None or (one.hash ^ other.hash).bit_count() > most:
            return False
        return grids_agree(one.grid, other.grid)

    def _keep_copies(self) -> None:
        if not self._copies:
            return
        vectors = {record.media_digest: vector for record, _, vector in self._copies if vector is not None}
        copies, self._copies = self._copies, []
        self._put([record for record, _, _ in copies], vectors, {})
        for record, work, _ in copies:
            self.reused.add(record.media_digest)
            self._done(work.view, "similar")

    def _refuse(self, work: _Work, error: MediaError) -> None:
        if error.reason in PERMANENT_REASONS:
            record = CaptionRecord(
                work.key, status="failed", reason=error.reason, detail=error.detail, created_at=now()
            )
            self._refused.append(record)
            if len(self._refused) >= _WINDOW:
                self._keep_refused()
        else:
            self.not_kept[work.key] = (error.reason, error.detail)
            self.store.release([work.key])
        self._done(work.view, "failed")

    def _keep_refused(self) -> None:
        if self._refused:
            self.store.put_many(self._refused, self.options.limits.fingerprint)
            self.store.release([record.media_digest for record in self._refused])
            self._refused = []

    def _caption(self) -> None:
        """Caption the batch and store it; of a captioner with lanes, store the batch before meanwhile."""
        batch, self._batch = self._batch, []
        images = [picture.image for picture in batch]
        if self._callers is None:
            self._settle(batch, self._asker(images) if batch else [])
            return
        if batch and self._asker.stopped is None:
            self._asked.append((batch, self._callers.submit(self._asker, images)))
        while self._asked and (len(self._asked) == _CALLS or not batch or self._asker.stopped is not None):
            answers = self._asked[0][1].result()
            self._settle(self._asked.popleft()[0], answers)

    def _settle(self, batch: _Batch, answers: list[Answer | str]) -> None:
        """Store what the captioner said; near-duplicates then have a caption, or are in the next batch."""
        records, vectors, signs, given_up = [], {}, {}, []
        for (work, _, sign), answer in zip(batch, answers, strict=True):
            if isinstance(answer, str):
                self.not_kept[work.key] = ("captioner_error", answer)
                given_up.append(work.key)
                self._done(work.view, "failed")
                continue
            empty = not answer.caption.text.strip()
            records.append(
                CaptionRecord(
                    work.key,
                    caption="" if empty else answer.caption.text,
                    status="failed" if empty else "ok",
                    reason="empty_caption" if empty else "",
                    prompt_tokens=answer.caption.prompt_tokens,
                    output_tokens=answer.caption.output_tokens,
                    latency_ms=answer.latency_ms,
                    created_at=now(),
                )
            )
            if not empty:
                self.made.add(work.key)
                if answer.vector is not None:
                    vectors[work.key] = answer.vector
                if sign is not None:
                    signs[work.key] = sign
            self._done(work.view, "failed" if empty else "new")
        self._put(records, vectors, signs)
        if given_up:
            self.store.release(given_up)
        if self._asker.stopped is not None and not self._asked:
            raise self._asker.stopped
        self._learn_signs()
        followers, self._followers = self._followers, []
        for picture in followers:
            self._place(picture)

    def _put(
        self,
        records: list[CaptionRecord],
        vectors: dict[str, npt.NDArray[np.float32]],
        signs: dict[str, Sign],
    ) -> None:
        self.store.put_many(
            records,
            self.captioner.fingerprint,
            encoder=self.encoder,
            vectors=vectors,
            signs=signs,
            replace=self.options.force,
        )

    def _done(self, view: View, became: str | None = None) -> None:
        """Advance the bar; None for a copy of media that are counted elsewhere."""
        if became:
            self._settled[became] += 1
            self.bar.set_postfix(self._settled, refresh=False)
        self.bar.update(self._uses[view])
