"""The caption stage: a caption, or a reason why not, for every item of a catalogue (paper §3.1–3.2).

    items ──first media──▶ CaptionJob ──▶ store ──▶ captions table, vectors
       └────────────────▶ ImportedCaptions ───────▶ captions table

The same bytes are captioned once, in this run and in all later ones; one bad item never stops the job; what
was captioned before an interruption is kept. Statuses and reasons are listed in `docs/captions.md`.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from captionary.errors import bad_value
from captionary.understand.captioner import Captioner, ImportedCaptions
from captionary.understand.job import CaptionJob
from captionary.understand.media import LIMITS, MEDIA_REASONS, MediaLimits
from captionary.understand.store import CaptionRecord, CaptionStore

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
    """Media that the captioner captioned in this run."""
    reused: int
    """Further items with a caption: from the store, or with the same bytes as another item."""
    failed: dict[str, int]
    """Items by reason."""
    skipped: dict[str, int]
    """Items by reason."""
    media_unused: int
    """Media entries after an item's first, which is the only one that is captioned."""
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """The counts, ready for JSON."""
        left_out = ("captions", "vectors", "has_vector")
        return {name: value for name, value in self._asdict().items() if name not in left_out}

    def to_string(self) -> str:
        """The counts as one line."""
        parts = [f"{self.new:,} new", f"{self.reused:,} reused"]
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
) -> CaptionReport:
    """Caption the first media entry of every item.

    Args:
        items: needs the columns `item_id` and `media` (list of string).
        media_root: where relative media entries start.
        captioner: any captioner; imported captions are taken by item, without opening media or the store.
        store: read first, written after every batch.
        batch_size: pictures per call of the captioner, ≥ 1.
        progress: a bar on stderr: True, False, or None for "where stderr is a terminal".
        limits: files beyond these are refused.
        decode_threads: read ahead while the captioner works, at most 3 × batch_size pictures.

    Raises:
        CaptionaryError: a column is missing or of another type, or the store fails. No item raises.
        KeyboardInterrupt: passed on; all batches before it are in the store.
    """
    if batch_size < 1:
        raise bad_value("batch_size", batch_size, ">= 1")
    started = time.perf_counter()
    first, unused = _first_media(items)
    with tqdm(
        total=len(first),
        desc="caption",
        unit="item",
        file=sys.stderr,
        disable=not (sys.stderr.isatty() if progress is None else progress),
    ) as bar:
        if isinstance(captioner, ImportedCaptions):
            rows = _imported(items, first, captioner)
            vectors = np.zeros((len(first), 0), np.float32)
            new, has_vector = 0, np.zeros(len(first), np.bool_)
            bar.update(len(first))
        else:
            job = CaptionJob(Path(media_root), captioner, store, batch_size, limits, bar)
            with warnings.catch_warnings():  # Pillow's remarks on odd files; what matters becomes a reason
                warnings.filterwarnings("ignore", module=r"PIL\.")
                job.run(first, decode_threads)
            rows, vectors, has_vector = _read_back(job, first)
            new = job.new
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
    )


def _first_media(items: pa.Table) -> tuple[list[str | None], list[int]]:
    for column in ("item_id", "media"):
        if column not in items.column_names:
            rule = "with columns item_id and media"
            raise bad_value("items", ", ".join(items.column_names) or "(no columns)", rule)
    kind = items.schema.field("media").type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (pa.types.is_null(kind) or (lists and str(kind.value_type) in ("string", "large_string", "null"))):
        raise bad_value("items: media", str(kind), "of type list<string>")
    first: list[str | None] = []
    unused = []
    for entries in items["media"].to_pylist():
        uris = [uri for uri in entries or () if uri and uri.strip()]
        first.append(uris[0] if uris else None)
        unused.append(max(0, len(uris) - 1))
    return first, unused


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
    }
    for name, value in values.items():
        rows[name].append(value)


def _read_back(
    job: CaptionJob, first: Sequence[str | None]
) -> tuple[dict[str, list[object]], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Columns of the captions table, vectors [I, D] and their mask, as the store has them after the job.

    From the store and not from the job's memory: of two jobs at once, both report the same captions.
    """
    rows: dict[str, list[object]] = {name: [] for name in CAPTIONS_SCHEMA}
    vectors = np.zeros((len(first), job.vector_size), np.float32)
    has_vector = np.zeros(len(first), np.bool_)
    for start in range(0, len(first), _ROWS):
        uris = first[start : start + _ROWS]
        keys = [job.digests.get(uri or "") for uri in uris]
        known = [key for key in keys if key is not None]
        records = job.records(known)
        found = job.store.get_vectors(known, job.encoder) if job.vector_size else {}
        for i, (uri, key) in enumerate(zip(uris, keys, strict=True), start):
            _read_row(rows, job, uri, key, records.get(key or ""))
            if key in found and rows["status"][-1] == "ok":
                vectors[i], has_vector[i] = found[key], True
    return rows, vectors, has_vector


def _read_row(
    rows: dict[str, list[object]],
    job: CaptionJob,
    uri: str | None,
    key: str | None,
    record: CaptionRecord | None,
) -> None:
    name = job.captioner.fingerprint
    if uri is None:
        _add(rows, name, None, "skipped", "no_media")
    elif key is None:
        _add(rows, name, None, "failed", job.unread[uri].reason, job.unread[uri].detail)
    elif record is not None:
        _add(rows, name, record, record.status, record.reason or None, record.detail, key)
    else:
        _add(rows, name, None, "failed", *job.not_kept[key], key)
