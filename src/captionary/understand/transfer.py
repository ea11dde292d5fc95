"""Captions in and out of a store: Parquet or JSONL, one row per record, with vectors and signs beside it.

    captioner, media_digest, caption, status, reason, detail, prompt_tokens, output_tokens, latency_ms, created_at,
    source, hash (16 hexadecimal digits), grid (384), vectors (list of {encoder, vector})

What is exported and imported into an empty store leaves nothing to be captioned again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.errors import bad_value, nearest
from captionary.publish import atomic_file
from captionary.understand.similar import Sign
from captionary.understand.store import CaptionRecord, CaptionStore

__all__ = [
    "CONFLICTS",
    "SCHEMA",
    "ImportReport",
    "StoreStats",
    "export_captions",
    "import_captions",
    "stats_of",
]

SCHEMA = pa.schema(
    [
        ("captioner", pa.string()),
        ("media_digest", pa.string()),
        ("caption", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("latency_ms", pa.float64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
        ("hash", pa.string()),
        ("grid", pa.string()),
        ("vectors", pa.list_(pa.struct([("encoder", pa.string()), ("vector", pa.list_(pa.float32()))]))),
    ]
)
CONFLICTS: dict[str, str] = {
    "keep": "the store's record stays, except that a caption replaces a failure",
    "replace": "the file's record comes in, except that a failure never replaces a caption",
    "newest": "the newer of two captions stays",
    "error": "two different captions for one key stop the import before anything is written",
}
"""What happens where the store and the file both have a record of one media content under one captioner."""
_PAGE = 2000


class ImportReport(NamedTuple):
    """What an import did. added + replaced + kept are all the file's rows."""

    added: int
    """Rows of keys that the store did not have."""
    replaced: int
    """Rows that took the place of the store's record."""
    kept: int
    """Rows for which the store's record stayed, equal ones among them."""

    def to_string(self) -> str:
        """The counts as one line."""
        return f"imported: {self.added:,} added, {self.replaced:,} replaced, {self.kept:,} kept as they were"


class StoreStats(NamedTuple):
    """What one captioner has in the store."""

    captioner: str
    ok: int
    similar: int
    """Of `ok`, captions of near-duplicates."""
    failed: dict[str, int]
    """Records by reason."""
    output_tokens: int
    seconds: float
    """Spent in the captioner."""
    first: datetime
    last: datetime

    def to_string(self) -> str:
        """The counts as one line."""
        failed = ", ".join(f"{reason} {n:,}" for reason, n in sorted(self.failed.items()))
        return (
            f"{self.captioner}: {self.ok:,} captions ({self.similar:,} of near-duplicates), "
            f"{sum(self.failed.values()):,} failures{f' ({failed})' if failed else ''}, "
            f"{self.output_tokens:,} tokens, {self.seconds:,.1f} s, {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}"
        )


def stats_of(store: CaptionStore) -> list[StoreStats]:
    """Counts by captioner; refusals of media are listed under the fingerprint of the limits."""
    found = []
    for captioner, rows in groupby(store.rows(), key=lambda row: row[0]):
        failed: Counter[str] = Counter()
        ok = similar = tokens = 0
        latency = 0.0
        times: list[datetime] = []
        for _, record in rows:
            ok += record.status == "ok"
            similar += bool(record.source)
            failed[record.reason] += record.status != "ok"
            tokens += record.output_tokens
            latency += record.latency_ms
            times = [min([*times[:1], record.created_at]), max([*times[1:], record.created_at])]
        counted = {reason: n for reason, n in failed.items() if n}
        found.append(StoreStats(captioner, ok, similar, counted, tokens, latency / 1000, *times))
    return found


def export_captions(
    store: CaptionStore, path: Path, *, captioner: str | None = None, vectors: bool = True
) -> int:
    """Write the store's records to a .parquet or .jsonl file, complete or not at all; returns how many.

    Args:
        store: may be written by other processes meanwhile.
        path: replaced where it exists.
        captioner: only records under this fingerprint; None for all.
        vectors: with the visual vectors of every encoder.

    Raises:
        CaptionaryError: another kind of file, an unknown captioner, or the folder is not writable.
    """
    kind = _kind(path)
    if captioner is not None and captioner not in (known := store.captioners()):
        raise bad_value("captioner", captioner, nearest(captioner, known), where=str(store.path))
    written = 0
    try:
        with atomic_file(path) as file:
            writer = pq.ParquetWriter(file, SCHEMA, compression="zstd") if kind == "parquet" else None
            for page in _pages(_exported(store, captioner, vectors)):
                written += len(page)
                if writer is not None:
                    writer.write_table(pa.Table.from_pylist(page, schema=SCHEMA))
                else:
                    file.write("".join(json.dumps(_plain(row)) + "\n" for row in page).encode())
            if writer is not None:
                writer.close()
    except OSError as error:
        raise bad_value("file", str(path), "in a writable folder", where=str(error.strerror)) from None
    return written


def import_captions(
    store: CaptionStore, path: Path, *, conflict: str = "keep", dry_run: bool = False
) -> ImportReport:
    """Take the records of a file that `export_captions` wrote, or one like it, into the store.

    Columns that are absent have their defaults; `captioner`, `media_digest` and `caption` must be there. An import
    that was interrupted can be repeated.

    Args:
        store: receives the records, 2,000 in a transaction.
        path: a .parquet or .jsonl file.
        conflict: a key of CONFLICTS.
        dry_run: counts only.

    Raises:
        CaptionaryError: no such file, not readable as one, a bad row, an unknown rule, or a conflict under `error`.
    """
    if conflict not in CONFLICTS:
        raise bad_value("conflict", conflict, nearest(conflict, CONFLICTS))
    if conflict == "error":
        for captioner, rows in _batches(path):
            known = store.get_many([record.media_digest for record, *_ in rows], captioner)
            for record, *_ in rows:
                mine = known.get(record.media_digest, record)
                if mine.status == record.status == "ok" and mine.caption != record.caption:
                    where, todo = f"{path}: {mine.media_digest}", "choose keep, replace or newest"
                    raise bad_value("caption", record.caption, mine.caption, where=where, todo=todo)
    counts = [0, 0, 0]
    for captioner, rows in _batches(path):
        known = store.get_many([record.media_digest for record, *_ in rows], captioner)
        coming, outcomes = [], []
        for row in rows:
            record, held = row[0], known.get(row[0].media_digest)
            wins = held is not None and record.status == "ok" and held != record
            if held is not None and held.status == "ok":
                wins &= conflict == "replace" or (
                    conflict == "newest" and record.created_at > held.created_at
                )
            outcomes.append(0 if held is None else 1 if wins else 2)
            if outcomes[-1] < 2:
                coming.append(row)
            known.setdefault(record.media_digest, record)
        counts = [count + outcomes.count(i) for i, count in enumerate(counts)]
        if dry_run:
            continue
        signs = {record.media_digest: sign for record, sign, _ in coming if sign is not None}
        store.put_many([record for record, *_ in coming], captioner, signs=signs, replace=True)
        by_encoder: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
        for record, _, vectors in rows:
            for encoder, vector in vectors.items():
                by_encoder.setdefault(encoder, {})[record.media_digest] = vector
        for encoder, found in by_encoder.items():
            store.put_many([], captioner, encoder=encoder, vectors=found)
    return ImportReport(*counts)


def _kind(path: Path) -> str:
    kind = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(path.suffix.lower())
    if kind is None:
        raise bad_value("file", str(path), "a .parquet or .jsonl file")
    return kind


def _pages(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while page := list(islice(rows, _PAGE)):
        yield page


def _exported(store: CaptionStore, captioner: str | None, vectors: bool) -> Iterator[dict[str, Any]]:
    records = store.rows(captioner)
    encoders = store.encoders() if vectors else []
    while page := list(islice(records, _PAGE)):
        keys = [record.media_digest for _, record in page]
        signs = {name: store.get_signs(keys, name) for name in {name for name, _ in page}}
        found = {encoder: store.get_vectors(keys, encoder) for encoder in encoders}
        for name, record in page:
            sign = signs[name].get(record.media_digest)
            yield {
                "captioner": name,
                **record._asdict(),
                "hash": f"{sign.hash:016x}" if sign else None,
                "grid": sign.grid.hex() if sign else None,
                "vectors": [
                    {"encoder": encoder, "vector": of_key[record.media_digest].tolist()}
                    for encoder, of_key in found.items()
                    if record.media_digest in of_key
                ],
            }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"created_at": row["created_at"].isoformat()}


_Row = tuple[CaptionRecord, Sign | None, dict[str, npt.NDArray[np.float32]]]


def _batches(path: Path) -> Iterator[tuple[str, list[_Row]]]:
    """(captioner, rows) of at most 2,000 neighbouring rows."""
    for captioner, rows in groupby(_read(path), key=lambda row: row[0]):
        while page := [row for _, row in islice(rows, _PAGE)]:
            yield captioner, page


def _read(path: Path) -> Iterator[tuple[str, _Row]]:
    kind = _kind(path)
    try:
        for number, row in enumerate(_parquet(path) if kind == "parquet" else _jsonl(path), start=1):
            yield _parse(row, f"{path}: row {number}")
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        found = " ".join(str(error).split())[:200]
        raise bad_value("file", str(path), f"a readable .{kind} file", where=found) from None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_PAGE):
            yield from batch.to_pylist()


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line that is not an object")
                yield row


def _parse(row: dict[str, Any], where: str) -> tuple[str, _Row]:
    missing = [
        name for name in ("captioner", "media_digest", "caption") if not isinstance(row.get(name), str)
    ]
    if missing or not row["captioner"] or not row["media_digest"]:
        rule = "texts captioner, media_digest and caption"
        raise bad_value("columns", ", ".join(map(str, row)) or "(none)", rule, where=where)
    status = row.get("status") or "ok"
    if status not in ("ok", "failed"):
        raise bad_value("status", status, "ok or failed", where=where)
    if status == "ok" and not row["caption"].strip():
        raise bad_value("caption", row["caption"], "visible where status is ok", where=where)
    try:
        created = row.get("created_at") or datetime(1970, 1, 1, tzinfo=UTC)
        created = datetime.fromisoformat(created) if isinstance(created, str) else created
        record = CaptionRecord(
            row["media_digest"],
            row["caption"],
            status,
            str(row.get("reason") or ""),
            str(row.get("detail") or ""),
            int(row.get("prompt_tokens") or 0),
            int(row.get("output_tokens") or 0),
            float(row.get("latency_ms") or 0.0),
            created if created.tzinfo else created.replace(tzinfo=UTC),
            str(row.get("source") or ""),
        )
        sign = None
        if row.get("hash") and row.get("grid"):
            sign = Sign(int(row["hash"], 16), bytes.fromhex(row["grid"]))
            if sign.hash >> 64 or len(sign.grid) != 192:
                raise ValueError("hash and grid of 8 and 192 bytes")
        vectors = _vectors(row.get("vectors") or [])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise bad_value("row", str(error), "readable", where=where) from None
    return row["captioner"], (record, sign, vectors)


def _vectors(listed: Iterable[dict[str, Any]]) -> dict[str, npt.NDArray[np.float32]]:
    found = {str(each["encoder"]): np.asarray(each["vector"], dtype=np.float32) for each in listed}
    for vector in found.values():
        if vector.ndim != 1 or not np.isfinite(vector.astype(np.float16)).all():
            raise ValueError("a vector that is not a list of numbers within float16")
    return found
