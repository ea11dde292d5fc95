"""The caption stage: a caption, or a reason why not, for every item of a catalogue (paper §3.1–3.2).

    items ──views──▶ CaptionJob (here, or on Ray) ──▶ store ──merge──▶ captions table, vectors
       └───────────▶ ImportedCaptions ────────────────────────────────▶ captions table

The same bytes are captioned once, in this run and in all later ones; one bad item never stops the job; what
was captioned before an interruption is kept. Statuses and reasons are listed in `docs/captions.md`.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from captionary.errors import bad_value
from captionary.understand.captioner import Captioner, ImportedCaptions
from captionary.understand.job import CaptionJob, JobOptions
from captionary.understand.media import LIMITS, MEDIA_REASONS, MediaLimits, locate
from captionary.understand.store import CaptionRecord, CaptionStore
from captionary.understand.views import Locate, Merge, Reader, View, join_distinct, read_picture, views_of

if TYPE_CHECKING:
    from captionary.understand.engine_ray import RayEngine

__all__ = ["CAPTIONS_SCHEMA", "REASONS", "CaptionReport", "caption_items"]

REASONS: dict[str, str] = {
    "no_media": "an item with at least one media entry",
    "not_in_file": "an item that the imported file names",
    "empty_caption": "a caption with at least one visible character",
    "captioner_error": "a picture that the captioner can process",
    **MEDIA_REASONS,
}
"""Every reason of the captions table, with the rule that was broken."""

CAPTIONS_SCHEMA: dict[str, pa.DataType] = {
    "media_digest": pa.string(),
    "captioner": pa.string(),
    "caption": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "detail": pa.string(),
    "prompt_tokens": pa.int32(),
    "output_tokens": pa.int32(),
    "latency_ms": pa.float32(),
    "created_at": pa.timestamp("us", tz="UTC"),
    "reused_from": pa.string(),
    "views": pa.int32(),
    "media_unused": pa.int32(),
}
"""Columns of the captions table after `item_id`; null where there is nothing to say."""

_ROWS = 10_000
"""Items read back from the store together."""


class CaptionReport(NamedTuple):
    """What the stage made. new + reused + failed + skipped are all the items."""

    captions: pa.Table
    """One row per item, in the order of the items: item_id and the columns of CAPTIONS_SCHEMA."""
    vectors: npt.NDArray[np.float32]
    """Visual vectors [I, D] in the same order, zeros where there is none; D = 0 without an encoder."""
    has_vector: npt.NDArray[np.bool_]
    """[I], whether the row of `vectors` is one."""
    new: int
    """Items with a caption for which the captioner was called in this run."""
    reused: int
    """Further items with a caption: from the store, with the same bytes as another item, or near-duplicates."""
    failed: dict[str, int]
    """Items by reason."""
    skipped: dict[str, int]
    """Items by reason."""
    media_unused: int
    """Media entries that were left out: after an item's first, or beyond the most views of an item."""
    seconds: float
    pictures: int = 0
    """Pictures that the captioner captioned in this run."""
    similar: int = 0
    """Pictures that got a near-duplicate's caption in this run."""

    def to_dict(self) -> dict[str, object]:
        """The counts, ready for JSON."""
        left_out = ("captions", "vectors", "has_vector")
        return {name: value for name, value in self._asdict().items() if name not in left_out}

    def to_string(self) -> str:
        """The counts as one line."""
        alike = f" ({self.similar:,} near-duplicates)" if self.similar else ""
        parts = [f"{self.new:,} new", f"{self.reused:,} reused{alike}"]
        for name, counts in (("failed", self.failed), ("skipped", self.skipped)):
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
            parts.append(f"{sum(counts.values()):,} {name}" + (f" ({reasons})" if reasons else ""))
        return f"captions: {', '.join(parts)}; {self.seconds:.1f} s"


def caption_items(
    items: pa.Table,
    media_root: Path,
    captioner: Captioner | ImportedCaptions,
    store: CaptionStore,
    *,
    batch_size: int = 32,
    progress: bool | None = None,
    limits: MediaLimits = LIMITS,
    decode_threads: int = 2,
    decode_processes: int | None = 0,
    entries: str = "first",
    most: int = 4,
    views: Sequence[Sequence[View]] | None = None,
    reader: Reader = read_picture,
    locate: Locate = locate,
    merge: Merge = join_distinct,
    similar: int | None = None,
    force: bool = False,
    only_missing: bool = False,
    engine: RayEngine | None = None,
) -> CaptionReport:
    """Caption the pictures of every item.

    Args:
        items: needs the columns `item_id` and `media` (list of string).
        media_root: where relative media entries start.
        captioner: any captioner; imported captions are taken by item, without opening media or the store.
        store: read first, written after every batch.
        batch_size: pictures per call of the captioner, ≥ 1; of one with `lanes` times as many, up to 256.
        progress: a bar on stderr: True, False, or None for "where stderr is a terminal".
        limits: files beyond these are refused.
        decode_threads: read ahead while the captioner works, at most 5 calls' pictures.
        decode_processes: worker processes that do so instead; 0 for threads, None for the automatic choice.
        entries: `first` or `all` of an item's media entries.
        most: views per item with `all`.
        views: of each item, instead of those that `entries` and `most` tell; needs a `reader` that knows its frames.
        reader: decodes a view; the default reads the one picture of an image file.
        locate: finds a media entry's file; the default knows local ones only.
        merge: makes an item's caption of its views' captions; asked only where there are several.
        similar: bits of 64 in which the hashes of near-duplicates may differ, 0 to 16 (4 is a good choice): the later
            one of them gets the earlier one's caption; None captions each.
        force: caption again what has a caption already.
        only_missing: caption only what has no caption of any captioner; others' captions are taken.
        engine: None for this process, or a `RayEngine`, on whose actors the same job then runs.

    Raises:
        CaptionaryError: a column is missing or of another type, a bad option, or the store fails. No item raises.
        KeyboardInterrupt: passed on; all batches before it are in the store.
    """
    options = JobOptions(
        batch_size=batch_size,
        limits=limits,
        decode_threads=decode_threads,
        decode_processes=decode_processes,
        reader=reader,
        locate=locate,
        similar=similar,
        force=force,
        only_missing=only_missing,
    )
    started = time.perf_counter()
    chosen, unused = views_of(items, entries=entries, most=most)
    if views is not None:
        chosen = _given_views(views, items)
    flat = [view for of_item in chosen for view in of_item]
    without = sum(not of_item for of_item in chosen)
    with tqdm(
        total=len(flat) + without,
        desc="caption",
        unit="item" if len(flat) + without == len(chosen) else "picture",
        file=sys.stderr,
        disable=not (sys.stderr.isatty() if progress is None else progress),
    ) as bar:
        bar.update(without)
        if isinstance(captioner, ImportedCaptions):
            first = [of_item[0].uri if of_item else None for of_item in chosen]
            rows = _imported(items, first, captioner)
            vectors = np.zeros((len(chosen), 0), np.float32)
            new, has_vector = 0, np.zeros(len(chosen), np.bool_)
            pictures = alike = 0
            bar.update(len(flat))
        else:
            job = CaptionJob(Path(media_root), captioner, store, options, bar)
            with warnings.catch_warnings():  # Pillow's remarks on odd files; what matters becomes a reason
                warnings.filterwarnings("ignore", module=r"PIL\.")
                if engine is None:
                    job.run(flat)
                else:
                    engine.run(job, flat)
            pictures, alike = len(job.made), len(job.reused)
            rows, vectors, has_vector, new = _read_back(job, chosen, merge)
    columns = {name: pa.array(rows[name], type_) for name, type_ in list(CAPTIONS_SCHEMA.items())[:-1]}
    captions = pa.table(
        {"item_id": items["item_id"], **columns, "media_unused": pa.array(unused, pa.int32())}
    )
    outcomes = Counter(zip(rows["status"], rows["reason"], strict=True))
    return CaptionReport(
        captions=captions,
        vectors=vectors,
        has_vector=has_vector,
        new=new,
        reused=outcomes["ok", None] - new,
        failed={str(reason): n for (status, reason), n in outcomes.items() if status == "failed"},
        skipped={str(reason): n for (status, reason), n in outcomes.items() if status == "skipped"},
        media_unused=sum(unused),
        seconds=time.perf_counter() - started,
        pictures=pictures,
        similar=alike,
    )


def _given_views(views: Sequence[Sequence[View]], items: pa.Table) -> list[list[View]]:
    if len(views) != items.num_rows:
        raise bad_value("views", f"of {len(views)} items", f"of {items.num_rows} items, one list an item")
    return [list(dict.fromkeys(of_item)) for of_item in views]


def _imported(
    items: pa.Table, first: Sequence[str | None], captioner: ImportedCaptions
) -> dict[str, list[object]]:
    rows: dict[str, list[object]] = {name: [] for name in CAPTIONS_SCHEMA}
    for item_id, uri in zip(items["item_id"].to_pylist(), first, strict=True):
        caption = captioner.lookup(item_id, uri)
        if caption is None:
            _add(rows, captioner.fingerprint, None, "skipped", "not_in_file")
        elif not caption.strip():
            _add(rows, captioner.fingerprint, None, "failed", "empty_caption")
        else:
            _add(rows, captioner.fingerprint, CaptionRecord("", caption), "ok")
    return rows


def _add(
    rows: dict[str, list[object]],
    captioner: str,
    record: CaptionRecord | None,
    status: str,
    reason: str | None = None,
    detail: str | None = None,
    media_digest: str | None = None,
    views: int | None = None,
) -> None:
    """Append one row. A record without a digest was not made by us: when and at what cost is not known."""
    made = record if record is not None and record.media_digest else None
    values: dict[str, object] = {
        "media_digest": media_digest,
        "captioner": captioner,
        "caption": record.caption if record is not None and status == "ok" else None,
        "status": status,
        "reason": reason,
        "detail": detail or None,
        "prompt_tokens": made and made.prompt_tokens,
        "output_tokens": made and made.output_tokens,
        "latency_ms": made and made.latency_ms,
        "created_at": made and made.created_at,
        "reused_from": (made and made.source) or None,
        "views": views if status == "ok" else None,
    }
    for name, value in values.items():
        rows[name].append(value)


def _read_back(
    job: CaptionJob, views: Sequence[Sequence[View]], merge: Callable[[Sequence[str]], str]
) -> tuple[dict[str, list[object]], npt.NDArray[np.float32], npt.NDArray[np.bool_], int]:
    """Columns of the captions table, vectors [I, D] and their mask, as the store has them after the job; new items.

    From the store and not from the job's memory: of two jobs at once, both report the same captions. A picture that
    several items share makes the first of them new.
    """
    rows: dict[str, list[object]] = {name: [] for name in CAPTIONS_SCHEMA}
    vectors = np.zeros((len(views), job.vector_size), np.float32)
    has_vector = np.zeros(len(views), np.bool_)
    unseen, new = set(job.made), 0
    for start in range(0, len(views), _ROWS):
        page = views[start : start + _ROWS]
        known = [key for of_item in page for view in of_item if (key := job.key(view)) is not None]
        records = job.records(known)
        found = job.store.get_vectors(known, job.encoder) if job.vector_size else {}
        for i, of_item in enumerate(page, start):
            told = _read_item(rows, job, of_item, records, merge)
            mine = [found[key] for key in told if key in found]
            if mine:
                vectors[i], has_vector[i] = np.mean(mine, axis=0), True
            keys = {job.key(view) or "" for view in of_item}
            new += bool(told and keys & unseen)
            unseen -= keys
    return rows, vectors, has_vector, new


def _read_item(
    rows: dict[str, list[object]],
    job: CaptionJob,
    views: Sequence[View],
    records: dict[str, tuple[CaptionRecord, str]],
    merge: Callable[[Sequence[str]], str],
) -> list[str]:
    """Append an item's row; returns the keys of the views that have a caption."""
    name = job.captioner.fingerprint
    if not views:
        _add(rows, name, None, "skipped", "no_media")
        return []
    told: list[tuple[CaptionRecord, str]] = []
    failures: list[tuple[str | None, str | None, str | None, CaptionRecord | None]] = []
    for view in views:
        key = job.key(view)
        if key is None:
            unread = job.unread[view.uri]
            failures.append((None, unread.reason, unread.detail, None))
        elif key not in records:
            failures.append((key, *job.not_kept[key], None))
        elif (found := records[key])[0].status == "ok":
            told.append(found)
        else:
            failures.append((key, found[0].reason or None, found[0].detail, found[0]))
    if not told:
        key, reason, detail, record = failures[0]
        _add(rows, name, record, "failed", reason, detail, key)
        return []
    record, by = told[0]
    detail = None
    if len(told) > 1:
        record = CaptionRecord(
            record.media_digest,
            merge([each.caption for each, _ in told]),
            prompt_tokens=sum(each.prompt_tokens for each, _ in told),
            output_tokens=sum(each.output_tokens for each, _ in told),
            latency_ms=sum(each.latency_ms for each, _ in told),
            created_at=max(each.created_at for each, _ in told),
            source=record.source,
        )
    if failures:
        counted = Counter(str(reason) for _, reason, _, _ in failures)
        failed = ", ".join(f"{reason} {n}" for reason, n in counted.items())
        detail = f"{len(failures)} of {len(views)} pictures failed: {failed}"
    _add(rows, by, record, "ok", None, detail or record.detail, record.media_digest, len(told))
    return [each.media_digest for each, _ in told]
