"""Item tokens and users' profiles as Parquet files that say what they are.

    OUT/item_tokens.parquet        item_id, event_timestamp, token_ids list<int32> [, weights list<float32>]
    OUT/profiles/EVENT.parquet     user_id, event_timestamp, token_ids, weights list<float32>, mass float32
    OUT/impressions/EVENT.parquet  impression_id, user_id, event_timestamp, token_ids, weights, mass
    OUT/vocabulary.parquet         token_id int32, token string, idf float32

Each file carries `Metadata` as JSON under the key ``captionary`` of its key-value metadata. See docs/interchange.md.
"""

from __future__ import annotations

import dataclasses
import json
import math
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.contract import TIMESTAMP, write_table
from captionary.errors import bad_value
from captionary.publish import atomic_folder
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import micros
from captionary.represent.profiles import ProfileConfig, build_profiles, snapshot
from captionary.represent.tokenizers import Tokenizer

if TYPE_CHECKING:
    from captionary.represent.profiles import Profiles

__all__ = ["FORMAT", "Export", "Metadata", "Source", "export_features", "profile_files", "read_metadata"]

FORMAT = 1
"""Raised whenever a column or a key of the metadata changes its meaning."""

_KEY = b"captionary"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS = 1 << 17  # of a batch, whose values Arrow's 32-bit offsets must be able to count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file is made of; two files whose `tokenizer_fingerprint` differs must not share a token table."""

    table: str
    """item_tokens, profiles, impressions or vocabulary."""
    tokenizer: str
    """Kind of the tokenizer, such as concepts."""
    tokenizer_fingerprint: str
    """Digest of everything that decides the token ids."""
    vocabulary_size: int
    """Rows that a token table needs: every token id is below it."""
    vocabulary_version: int
    """How often the vocabulary has grown; no token is renumbered by it."""
    event: str | None = None
    """The event type of a file of profiles."""
    half_life_days: float | None = None
    """Of the profiles, in days; None: no decay, or no profiles."""
    profiles: Mapping[str, Any] | None = None
    """The whole recipe of the profiles, as of `ProfileConfig`; an infinity is None."""
    as_of: tuple[str, ...] = ()
    """The moments of the snapshots, ISO 8601, UTC, rising; an event at or after a moment is not in its lists."""
    format: int = FORMAT

    def to_schema(self) -> dict[bytes, bytes]:
        """The key-value metadata of a Parquet file."""
        return {_KEY: json.dumps(dataclasses.asdict(self), allow_nan=False, ensure_ascii=False).encode()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported: a catalogue's tokens, and the log that profiles are made of."""

    item_ids: Any
    """I ids, unique: an Arrow array, int64 or string."""
    item_tokens: Jagged
    """The token list of each item."""
    tokenizer: Tokenizer
    """What made the lists."""
    created_at: Any = None
    """Arrow timestamps [I], null where not known: from when on an item's tokens hold; None: they always did."""
    events: pa.Table | None = None
    """user_id, item_id, event, timestamp and maybe value; None: items alone are exported."""
    profiles: ProfileConfig = dataclasses.field(default_factory=ProfileConfig)
    """Half-lives, caps and list length."""


class Export(NamedTuple):
    """What was written."""

    folder: Path
    rows: dict[str, int]
    """Rows of each file, by its name beneath the folder."""
    as_of: tuple[datetime, ...]
    """The moments of the snapshots; () without events."""

    def to_string(self) -> str:
        """One line a file."""
        width = max(len(name) for name in self.rows)
        return "\n".join(f"{name:<{width}}  {count:>12,} rows" for name, count in self.rows.items())


def export_features(
    out: Path,
    source: Source,
    *,
    as_of: Sequence[datetime] = (),
    impressions: pa.Table | None = None,
) -> Export:
    """Write item tokens, users' profiles and the vocabulary into a folder that appears whole or not at all.

    Args:
        out: a new folder, or one that an earlier export wrote.
        source: catalogue, tokenizer and log.
        as_of: moments of the snapshots of all users, with a time zone; (): one, right after the last event. A user
            has a row from the first moment on that an event of the type counts.
        impressions: impression_id, user_id and timestamp, for point-in-time profiles to train on; None: none.

    Raises:
        CaptionaryError: ids, lists or a tokenizer that do not fit together; moments or impressions without events;
            and whatever `build_profiles` refuses.
    """
    ids = _whole(source.item_ids)
    size = len(source.tokenizer.vocabulary)
    if len(ids) != source.item_tokens.rows:
        raise bad_value(
            "item_tokens", f"{source.item_tokens.rows} lists", f"one for each of {len(ids)} items"
        )
    if len(pc.unique(ids)) != len(ids):
        raise bad_value("item_ids", "repeated ids", "unique")
    if len(source.item_tokens.values) and source.item_tokens.values.max() >= size:
        rule = f"below {size}, the vocabulary of tokenizer {source.tokenizer.name}"
        raise bad_value("token id", int(source.item_tokens.values.max()), rule)
    if source.events is None and (as_of or impressions is not None):
        raise bad_value("events", "(absent)", "given, as profiles are asked for")
    moments = _moments(source.events, as_of)
    rows: dict[str, int] = {}
    with atomic_folder(out) as folder:
        about = _about("item_tokens", source)
        extra = {"event_timestamp": _since(source.created_at, len(ids))}
        _write(folder / "item_tokens.parquet", about, _lists({"item_id": ids, **extra}, source.item_tokens))
        rows["item_tokens.parquet"] = len(ids)
        if source.events is not None:
            rows |= _snapshots(folder / "profiles", source, source.events, moments)
        if source.events is not None and impressions is not None:
            rows |= _impressions(folder / "impressions", source, source.events, impressions)
        words = pa.table(
            {
                "token_id": pa.array(np.arange(size, dtype=np.int32)),
                "token": pa.array(source.tokenizer.vocabulary, pa.string()),
                "idf": pa.array(source.tokenizer.idf(), pa.float32()),
            }
        )
        about = _about("vocabulary", source)
        _write(folder / "vocabulary.parquet", about, iter([words]))
        rows["vocabulary.parquet"] = size
    return Export(Path(out).resolve(), rows, moments)


def read_metadata(path: Path) -> Metadata:
    """What an exported file says of itself.

    Raises:
        CaptionaryError: not a Parquet file, one that `export_features` did not write, or of a newer format.
    """
    try:
        stored = (pq.read_schema(path).metadata or {}).get(_KEY)
    except (OSError, pa.ArrowException) as error:
        raise bad_value("file", str(path), "readable Parquet", where=str(error).splitlines()[0]) from None
    todo = "write it with captionary export-features"
    if stored is None:
        raise bad_value("metadata", "(absent)", "that of an export", where=str(path), todo=todo)
    found = json.loads(stored)
    if found.get("format") != FORMAT:
        raise bad_value("format", found.get("format"), str(FORMAT), where=str(path), todo=todo)
    return Metadata(**{**found, "as_of": tuple(found["as_of"])})


def profile_files(folder: Path) -> dict[str, Path]:
    """event type -> the file of its profiles, of an exported folder; {} where there are none."""
    return {urllib.parse.unquote(path.stem): path for path in sorted((folder / "profiles").glob("*.parquet"))}


def _snapshots(folder: Path, source: Source, events: pa.Table, moments: Sequence[datetime]) -> dict[str, int]:
    """One file for each event type, the snapshots one after the other; no more than one is held."""
    folder.mkdir()
    idf = source.tokenizer.idf()
    rows: dict[str, int] = {}
    known: dict[str, npt.NDArray[np.bool_]] = {}
    with ExitStack() as stack:
        files: dict[str, pq.ParquetWriter] = {}
        for moment in moments:
            users, profiles = snapshot(
                events, moment, source.item_ids, source.item_tokens, source.profiles, idf
            )
            for event, built in profiles.items():
                # A user whose events have all left the window stays: no older list may be taken for now's.
                counts = (built.mass > 0) | (built.lists.lengths > 0)  # a mass may have faded to nothing
                known[event] = counts | known.get(event, False)
                chosen = np.flatnonzero(known[event])
                keys = {
                    "user_id": users.take(pa.array(chosen)),
                    "event_timestamp": pa.repeat(pa.scalar(moment, TIMESTAMP), len(chosen)),
                }
                name = _file_name(event)
                about = _about("profiles", source, event, moments).to_schema()
                for table in _profile_rows(keys, built, chosen):
                    part = table.replace_schema_metadata(about)
                    if event not in files:
                        file = pq.ParquetWriter(folder / name, part.schema, compression="zstd")
                        files[event] = stack.enter_context(file)
                    files[event].write_table(part)
                    rows[f"profiles/{name}"] = rows.get(f"profiles/{name}", 0) + part.num_rows
    return rows


def _impressions(folder: Path, source: Source, events: pa.Table, impressions: pa.Table) -> dict[str, int]:
    """One file for each event type: the list of every impression, of strictly earlier events."""
    idf = source.tokenizer.idf()
    built = build_profiles(events, impressions, source.item_ids, source.item_tokens, source.profiles, idf)
    keys = {
        "impression_id": _whole(impressions["impression_id"]),
        "user_id": _whole(impressions["user_id"]),
        "event_timestamp": _whole(impressions["timestamp"]).cast(TIMESTAMP),
    }
    rows = {}
    for event, profiles in built.items():
        name = _file_name(event)
        every = np.arange(impressions.num_rows)
        about = _about("impressions", source, event)
        _write(folder / name, about, _profile_rows(keys, profiles, every))
        rows[f"impressions/{name}"] = len(every)
    return rows


def _profile_rows(
    keys: Mapping[str, pa.Array], profiles: Profiles, chosen: npt.NDArray[np.int64]
) -> Iterator[pa.Table]:
    """The profiles at `chosen` [n], whose keys are of n rows."""
    for first in range(0, max(len(chosen), 1), _ROWS):
        some = chosen[first : first + _ROWS]
        part = {name: column.slice(first, len(some)) for name, column in keys.items()}
        for table in _lists(part, profiles.lists.take(some)):
            yield table.append_column("mass", pa.array(profiles.mass[some], pa.float32()))


def _lists(keys: Mapping[str, pa.Array], lists: Jagged) -> Iterator[pa.Table]:
    """Tables of keys and their lists."""
    for first in range(0, max(lists.rows, 1), _ROWS):
        some = np.arange(first, min(first + _ROWS, lists.rows), dtype=np.int64)
        token_ids, weights = lists.take(some).to_arrow()
        part = {name: column.slice(first, len(some)) for name, column in keys.items()}
        yield pa.table(part | {"token_ids": token_ids} | ({} if weights is None else {"weights": weights}))


def _write(path: Path, about: Metadata, tables: Iterator[pa.Table]) -> None:
    write_table((table.replace_schema_metadata(about.to_schema()) for table in tables), path)


def _file_name(event: str) -> str:
    """An event type is a user's word: quoted, it can be a file name whatever it is."""
    return f"{urllib.parse.quote(event, safe=' ')}.parquet"


def _about(
    table: str, source: Source, event: str | None = None, moments: Sequence[datetime] = ()
) -> Metadata:
    days = math.inf if event is None else source.profiles.half_life_days_of.get(event)
    days = source.profiles.half_life_days if days is None else days
    recipe = None
    if event is not None:
        recipe = {name: _plain(value) for name, value in dataclasses.asdict(source.profiles).items()}
    return Metadata(
        table=table,
        tokenizer=source.tokenizer.kind,
        tokenizer_fingerprint=source.tokenizer.fingerprint(),
        vocabulary_size=len(source.tokenizer.vocabulary),
        vocabulary_version=len(source.tokenizer.sizes) - 1,
        event=event,
        half_life_days=_plain(days),
        profiles=recipe,
        as_of=tuple(moment.isoformat() for moment in moments),
    )


def _plain(value: Any) -> Any:
    """JSON has no infinity; a limit that is infinite is none."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isinf(value) else value


def _moments(events: pa.Table | None, as_of: Sequence[datetime]) -> tuple[datetime, ...]:
    """The moments asked for, in order; without any the first one that sees all events."""
    for moment in as_of:
        if moment.tzinfo is None:
            raise bad_value("as_of", moment.isoformat(), "a datetime with a time zone")
    if events is None:
        return ()
    if as_of:
        return tuple(sorted({moment.astimezone(UTC) for moment in as_of}))
    times = micros(events["timestamp"], "timestamp of events")
    if not len(times):
        raise bad_value("events", "0 rows", "at least one, or a moment given")
    return (_EPOCH + timedelta(microseconds=int(times.max()) + 1),)


def _since(created_at: Any, rows: int) -> pa.Array:
    """From when on the tokens of each item hold: 1970 where nobody knows."""
    if created_at is None:
        return pa.repeat(pa.scalar(_EPOCH, TIMESTAMP), rows)
    column = _whole(created_at)
    if len(column) != rows:
        raise bad_value("created_at", f"{len(column)} timestamps", f"one for each of {rows} items")
    return pc.fill_null(column.cast(TIMESTAMP), pa.scalar(_EPOCH, TIMESTAMP))


def _whole(column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return column if isinstance(column, pa.Array) else pa.array(column)
