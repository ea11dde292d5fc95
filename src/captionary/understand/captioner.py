"""What a captioner is: anything that turns pictures into captions and can name exactly what it is.

    Captioner            caption(images) -> captions
    EmbeddingCaptioner   the same, and one visual vector per picture from the same encoder pass
    ImportedCaptions     captions made elsewhere, looked up by item: no picture is opened

`load_captioner` builds any of them from a `CaptionerConfig`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from captionary.errors import bad_value
from captionary.understand.media import MediaError, MediaLimits, digest

__all__ = [
    "Caption",
    "Captioner",
    "CaptionerConfig",
    "EmbeddingCaptioner",
    "ImportedCaptions",
    "NoCaptioner",
    "embeds",
    "fingerprint_of",
    "load_captioner",
]

SOURCES = "builtin or import:FILE"


class Caption(NamedTuple):
    """What a captioner says about one picture."""

    text: str
    """As the model gave it; normalising is a later stage's work. Empty means that it had nothing to say."""
    prompt_tokens: int = 0
    """Tokens that the language model read: the queries of the picture and the prompt."""
    output_tokens: int = 0
    """Tokens that it wrote, the end token included."""


class Captioner(Protocol):
    """Pictures in, captions out.

    A captioner may also have an attribute `image_size: int`: the pixels of the shorter side that it has use
    for. Pictures then arrive shrunk to it, which saves decoding time and memory.
    """

    @property
    def name(self) -> str:
        """For people: `builtin`, a Hub id, …"""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever a caption could: weights, prompt, decoding, preprocessing. Key of the store."""
        ...

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """One caption per picture, in order; it must not depend on which pictures share the batch.

        Args:
            images: upright RGB pictures of any size.

        Raises:
            Exception: any; the caption stage then retries picture by picture and gives up on the culprit.
        """
        ...


class EmbeddingCaptioner(Captioner, Protocol):
    """A captioner whose encoder pass also gives a pooled visual vector."""

    @property
    def encoder_fingerprint(self) -> str:
        """Changes whenever a vector could: encoder weights, pooling, preprocessing."""
        ...

    @property
    def vector_size(self) -> int:
        """D; 0 where there are no vectors after all."""
        ...

    def caption_and_embed(self, images: Sequence[Image]) -> tuple[list[Caption], npt.NDArray[np.float32]]:
        """`caption`, and vectors float32 [B, D], finite and within ±65,504 (they are stored as float16)."""
        ...


def embeds(captioner: Captioner) -> TypeGuard[EmbeddingCaptioner]:
    """Whether the captioner gives visual vectors too."""
    return int(getattr(captioner, "vector_size", 0)) > 0


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Which captioner to run and how."""

    source: str = "builtin"
    """`builtin`, or `import:FILE` for a CSV, Parquet or JSONL file of captions by item_id or media."""
    batch_size: int = 32
    """Pictures per call, ≥ 1."""
    max_new_tokens: int = 32
    """Longest caption in tokens, ≥ 1. Part of the captioner's fingerprint."""
    threads: int = 0
    """CPU threads of the model, 0 for all cores."""

    def __post_init__(self) -> None:
        kind, _, rest = self.source.partition(":")
        if not (self.source == "builtin" or (kind == "import" and rest)):
            raise bad_value("source", self.source, SOURCES)
        for name, least in (("batch_size", 1), ("max_new_tokens", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")


def fingerprint_of(config: CaptionerConfig, base: Path = Path()) -> str:
    """Names what `config` would build, without building it: the files that it reads, how it decodes.

    Raises:
        CaptionaryError: a file that it reads is missing.
    """
    kind, _, file = config.source.partition(":")
    folder = Path(__file__).parent / "checkpoints" / "builtin"
    paths = [base / file] if kind == "import" else sorted(folder.glob("*"))
    try:
        read = [digest(path, MediaLimits(max_bytes=1 << 62)) for path in paths]
    except MediaError as error:
        rule = "a readable file"
        raise bad_value(kind, file or str(folder), rule, where=error.detail or error.reason) from None
    return "-".join([kind, str(config.max_new_tokens), *read])


class NoCaptioner:
    """For a data set without media: names itself, and is never asked for a caption."""

    name = "none"
    fingerprint = "none"

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """Nothing is known of any picture."""
        return [Caption("") for _ in images]


def load_captioner(config: CaptionerConfig, base: Path = Path()) -> Captioner | ImportedCaptions:
    """Build the captioner that `config` names; a relative FILE of `import:FILE` is looked up in `base`.

    Raises:
        CaptionaryError: the import file is missing, unreadable or ambiguous.
    """
    if config.source.startswith("import:"):
        return ImportedCaptions(base / config.source.removeprefix("import:"))
    from captionary.understand.builtin import BuiltinCaptioner  # torch: seconds to import

    return BuiltinCaptioner(
        batch_size=config.batch_size, max_new_tokens=config.max_new_tokens, threads=config.threads
    )


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
