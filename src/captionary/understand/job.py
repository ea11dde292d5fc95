"""Captioning what the store lacks: claims, reading ahead, batches, and giving up on single items only.

    media ──digest──▶ missing? ──▶ claim ──▶ decode (threads, bounded queue) ──batch──▶ captioner ──▶ store

At most 3 batches of pictures are in memory; captions are nowhere but in the store.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from tqdm import tqdm

from captionary.understand.captioner import Caption, Captioner, embeds
from captionary.understand.media import (
    PERMANENT_REASONS,
    MediaError,
    MediaLimits,
    decode,
    digest,
    digest_bytes,
    locate,
    read_bytes,
)
from captionary.understand.store import CaptionRecord, CaptionStore, now

__all__ = ["CaptionJob"]

IMAGE_SIZE = 448
"""Shorter side in pixels for a captioner that names no `image_size`; bounds the memory of the queue."""
_WINDOW = 256
"""Files digested and looked up together."""
_POLL_SECONDS = 0.2


class _Work(NamedTuple):
    uri: str
    path: Path
    digest: str


class _Answer(NamedTuple):
    caption: Caption
    vector: npt.NDArray[np.float32] | None
    latency_ms: float


class CaptionJob:
    """One run of a captioner over the media of a catalogue.

    Args:
        root: where relative media entries start.
        captioner: names itself by its fingerprint, under which the store keeps what it says.
        store: read first, written after every batch.
        batch_size: pictures per call of the captioner.
        limits: files beyond these are refused.
        bar: advanced by the items of each media entry as it is settled.

    Attributes:
        new: media captioned in this run.
        digests: content digest by media entry.
        unread: why there is none, by media entry.
        not_kept: (reason, detail) of failures by digest that a later run shall try again.
    """

    def __init__(
        self,
        root: Path,
        captioner: Captioner,
        store: CaptionStore,
        batch_size: int,
        limits: MediaLimits,
        bar: tqdm[Any],
    ) -> None:
        self.root, self.captioner, self.store = root, captioner, store
        self.batch_size, self.limits, self.bar = batch_size, limits, bar
        self.image_size = int(getattr(captioner, "image_size", 0)) or IMAGE_SIZE
        self.encoder = captioner.encoder_fingerprint if embeds(captioner) else ""
        self.vector_size = captioner.vector_size if embeds(captioner) else 0
        self.new = 0
        self._settled: Counter[str] = Counter()  # media by what became of them, for the bar
        self.digests: dict[str, str] = {}
        self.unread: dict[str, MediaError] = {}
        self.not_kept: dict[str, tuple[str, str]] = {}
        self._uses: Counter[str] = Counter()  # items per media entry
        self._refused: list[CaptionRecord] = []  # permanent failures on their way to the store
        self._deferred: list[_Work] = []  # what another process is captioning

    def run(self, first: Sequence[str | None], threads: int) -> None:
        """Caption all that the store lacks."""
        self._uses.update(uri for uri in first if uri is not None)
        self.bar.update(len(first) - self._uses.total())
        pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="captionary-media")
        try:
            self._pass(self._digested(pool), pool)
            while self._deferred:
                waiting, self._deferred = self._deferred, []
                self._pass(iter([waiting]), pool)
                if len(self._deferred) == len(waiting):
                    time.sleep(_POLL_SECONDS)
        finally:
            pool.shutdown(cancel_futures=True)
            self.store.release()

    def records(self, keys: Sequence[str]) -> dict[str, CaptionRecord]:
        """What the store has by digest: of this captioner, else the refusal of the media itself.

        Refusals are kept under the fingerprint of the limits, so that all captioners share them.
        """
        records = self.store.get_many(keys, self.captioner.fingerprint)
        rest = [key for key in keys if key not in records]
        return records | self.store.get_many(rest, self.limits.fingerprint)

    def _pass(self, windows: Iterator[list[_Work]], pool: ThreadPoolExecutor) -> None:
        batch: list[tuple[_Work, Image]] = []
        for work, future in self._decoded(self._granted(windows), pool):
            try:
                batch.append((work, future.result()))
            except MediaError as error:
                self._refuse(work, error)
            if len(batch) == self.batch_size:
                self._caption(batch)
                batch = []
        if batch:
            self._caption(batch)
        self._keep_refused()

    def _digested(self, pool: ThreadPoolExecutor) -> Iterator[list[_Work]]:
        """Windows of media of new content; the next window is read while one is worked on."""
        uris = list(self._uses)
        seen: set[str] = set()
        chunks = [uris[start : start + _WINDOW] for start in range(0, len(uris), _WINDOW)]
        ahead: deque[Future[list[tuple[str, Path, str | MediaError]]]] = deque()
        for i in range(len(chunks)):
            while len(ahead) < min(2, len(chunks) - i):
                ahead.append(pool.submit(self._digest_all, chunks[i + len(ahead)]))
            window = []
            for uri, path, key in ahead.popleft().result():
                if isinstance(key, MediaError):
                    self.unread[uri] = key
                    self._done(uri, "failed")
                    continue
                self.digests[uri] = key
                if key in seen:
                    self._done(uri)
                else:
                    seen.add(key)
                    window.append(_Work(uri, path, key))
            yield window

    def _digest_all(self, uris: Iterable[str]) -> list[tuple[str, Path, str | MediaError]]:
        found: list[tuple[str, Path, str | MediaError]] = []
        for uri in uris:
            path = self.root
            try:
                path = locate(uri, self.root)
                found.append((uri, path, digest(path, self.limits)))
            except MediaError as error:
                found.append((uri, path, error))
        return found

    def _granted(self, windows: Iterator[list[_Work]]) -> Iterator[_Work]:
        """What the store lacks and this process may do; the rest is put off."""
        for window in windows:
            missing = self._missing(window)
            for start in range(0, len(missing), self.batch_size):
                piece = missing[start : start + self.batch_size]
                granted = self.store.claim([work.digest for work in piece], self.captioner.fingerprint)
                self._deferred.extend(work for work in piece if work.digest not in granted)
                # Another process may have finished one of them between the look-up and the claim.
                mine = [work for work in piece if work.digest in granted]
                yield from self._missing(mine)

    def _missing(self, works: Sequence[_Work]) -> list[_Work]:
        keys = [work.digest for work in works]
        records = self.records(keys)
        complete = {key for key, record in records.items() if record.status != "ok"}
        if self.vector_size:
            complete |= self.store.has_vectors(list(records), self.encoder)
        else:
            complete |= records.keys()
        for work in works:
            if work.digest in complete:
                self._done(work.uri, "reused" if records[work.digest].status == "ok" else "failed")
        return [work for work in works if work.digest not in complete]

    def _decoded(
        self, works: Iterator[_Work], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[_Work, Future[Image]]]:
        """Pictures in order, two batches of them being decoded ahead of the captioner."""
        queue: deque[tuple[_Work, Future[Image]]] = deque()
        for work in works:
            queue.append((work, pool.submit(self._decode, work)))
            if len(queue) > 2 * self.batch_size:
                yield queue.popleft()
        while queue:
            yield queue.popleft()

    def _decode(self, work: _Work) -> Image:
        data = read_bytes(work.path, self.limits)
        if digest_bytes(data) != work.digest:  # its caption would be kept under the digest of other bytes
            raise MediaError("changed", str(work.path))
        return decode(data, self.image_size, name=str(work.path), limits=self.limits)

    def _refuse(self, work: _Work, error: MediaError) -> None:
        if error.reason in PERMANENT_REASONS:
            record = CaptionRecord(
                work.digest, status="failed", reason=error.reason, detail=error.detail, created_at=now()
            )
            self._refused.append(record)
            if len(self._refused) >= _WINDOW:
                self._keep_refused()
        else:
            self.not_kept[work.digest] = (error.reason, error.detail)
            self.store.release([work.digest])
        self._done(work.uri, "failed")

    def _keep_refused(self) -> None:
        if self._refused:
            self.store.put_many(self._refused, self.limits.fingerprint)
            self.store.release([record.media_digest for record in self._refused])
            self._refused = []

    def _caption(self, batch: Sequence[tuple[_Work, Image]]) -> None:
        records, vectors, given_up = [], {}, []
        for (work, _), answer in zip(batch, self._attempt([image for _, image in batch]), strict=True):
            if isinstance(answer, str):
                self.not_kept[work.digest] = ("captioner_error", answer)
                given_up.append(work.digest)
                self._done(work.uri, "failed")
                continue
            empty = not answer.caption.text.strip()
            records.append(
                CaptionRecord(
                    work.digest,
                    caption="" if empty else answer.caption.text,
                    status="failed" if empty else "ok",
                    reason="empty_caption" if empty else "",
                    prompt_tokens=answer.caption.prompt_tokens,
                    output_tokens=answer.caption.output_tokens,
                    latency_ms=answer.latency_ms,
                    created_at=now(),
                )
            )
            if answer.vector is not None and not empty:
                vectors[work.digest] = answer.vector
            self.new += not empty
            self._done(work.uri, "failed" if empty else "new")
        self.store.put_many(records, self.captioner.fingerprint, encoder=self.encoder, vectors=vectors)
        if given_up:
            self.store.release(given_up)

    def _attempt(self, images: Sequence[Image]) -> list[_Answer | str]:
        """An answer per picture, or what the captioner raised when it was asked about that picture alone."""
        started = time.perf_counter()
        try:
            captions, vectors = self._ask(images)
        except Exception as error:  # a captioner is anybody's code
            if len(images) == 1:
                return [" ".join(f"{type(error).__name__}: {error}".split())[:200]]
            return [answer for image in images for answer in self._attempt([image])]
        share = (time.perf_counter() - started) * 1000 / len(images)
        return [
            _Answer(caption, vectors[i] if vectors is not None else None, share)
            for i, caption in enumerate(captions)
        ]

    def _ask(self, images: Sequence[Image]) -> tuple[list[Caption], npt.NDArray[np.float32] | None]:
        vectors = None
        if embeds(self.captioner):
            captions, vectors = self.captioner.caption_and_embed(images)
            if vectors.shape != (len(images), self.vector_size):
                raise ValueError(f"vectors of shape {vectors.shape}, not {(len(images), self.vector_size)}")
            if not np.isfinite(vectors.astype(np.float16)).all():
                raise ValueError("a vector that is not finite as float16")
        else:
            captions = self.captioner.caption(images)
        if len(captions) != len(images):
            raise ValueError(f"{len(captions)} captions for {len(images)} pictures")
        for caption in captions:
            if not isinstance(caption, Caption) or not isinstance(caption.text, str):
                raise TypeError(f"not a Caption: {caption!r:.80}")
        return captions, vectors

    def _done(self, uri: str, became: str | None = None) -> None:
        """Advance the bar; None for a copy of media that are counted elsewhere."""
        if became:
            self._settled[became] += 1
            self.bar.set_postfix(self._settled, refresh=False)
        self.bar.update(self._uses[uri])
