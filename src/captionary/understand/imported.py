"""Captions made elsewhere, from a CSV, Parquet or JSONL file: looked up by item, no picture is opened."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from captionary.errors import bad_value
from captionary.understand.media import MediaError, MediaLimits, digest

__all__ = ["ImportedCaptions"]


class ImportedCaptions:
    """Captions from a file with a column `caption` and a column `item_id` or `media` (of both: item_id).

    A CSV file needs a header; a JSONL file has one object per line. Ids are compared as text, so 17 in the
    file is item 17 whether the data set holds integers or strings. An item without media can have a caption.

    Raises:
        CaptionaryError: no such file, another format, a missing column, or two captions for one item.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"import:{path.name}"
        try:
            self.fingerprint = "import-" + digest(path, MediaLimits(max_bytes=1 << 62))
        except MediaError as error:
            rule = "a readable file"
            raise bad_value("import", str(path), rule, where=error.detail or error.reason) from None
        self.key = ""
        """Which column identifies an item: item_id or media."""
        self._captions: dict[str, str] = {}
        for row, key, caption in _rows(path):
            self.key = self.key or ("item_id" if "item_id" in key else "media")
            name = key.get(self.key)
            if not name:
                raise bad_value(self.key, name, "given", where=f"{path}: row {row}")
            if self._captions.setdefault(name, caption) != caption:
                todo = "keep one caption per item"
                raise bad_value(self.key, name, "unique", where=f"{path}: row {row}", todo=todo)
        if not self._captions:
            raise bad_value("import", str(path), "a file with at least one row")

    def __len__(self) -> int:
        return len(self._captions)

    def lookup(self, item_id: object, media: str | None) -> str | None:
        """The item's caption ("" where the file has an empty one), or None where it names no such item."""
        name = str(item_id) if self.key == "item_id" else media
        return None if name is None else self._captions.get(name)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """(row number, {"item_id": …, "media": …} as far as present, caption) of any of the three formats."""
    readers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl}
    if path.suffix.lower() not in readers:
        raise bad_value("import", str(path), "a .csv, .parquet or .jsonl file")
    # Imported here: every user of the protocol would otherwise pay for Arrow.
    import pyarrow as pa

    try:
        for number, row in readers[path.suffix.lower()](path):
            keys: dict[str, str] = {name: _text(row[name]) for name in ("item_id", "media") if name in row}
            if "caption" not in row or not keys:
                found, rule = ", ".join(map(str, row)) or "(none)", "caption and item_id or media"
                raise bad_value("columns", found, rule, where=f"{path}: row {number}")
            yield number, keys, _text(row["caption"])
    except (pa.ArrowException, OSError, ValueError, RecursionError, csv.Error) as error:
        rule = f"a valid {path.suffix} file"
        raise bad_value("import", str(path), rule, where=" ".join(str(error).split())[:200]) from None


def _text(value: object) -> str:
    if isinstance(value, list):  # a contract's `media` column: its first entry is the one that is captioned
        value = value[0] if value else None
    if isinstance(value, float) and value.is_integer():  # pandas turns integer ids with gaps into floats
        value = int(value)
    return "" if value is None else str(value)


def _csv(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, strict=True), start=2):
            yield number, dict(row)


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in ("item_id", "media", "caption") if name in file.schema_arrow.names]
        number = 0
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                number += 1
                yield number, row
