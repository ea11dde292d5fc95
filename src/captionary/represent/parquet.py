"""Profiles of a log that does not fit into memory: Parquet in, step by step in order of time, Parquet out.

    profiles/EVENT.parquet          impression_id, list int64, mass float32       a row per impression
    profiles/lists/EVENT.parquet    token_ids list<int32>, weights list<float32>  a row per list; row 0 is empty

Between two events of a user all impressions have one list, so it is written once. `tables.read_profiles` reads this
layout as well as the plain one. Memory is bounded by users (see `builder.py`), by the size of a step and by how far
row groups overlap in time: a log in any order gives the same lists, one in order of time gives them in little memory.
"""

from __future__ import annotations

import datetime
import math
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.errors import bad_value
from captionary.publish import atomic_folder
from captionary.represent.builder import ProfileBuilder
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import EventRows, IdCodes, Items, ids_of, micros
from captionary.represent.profiles import ProfileConfig, SharedProfiles

__all__ = ["Built", "build_parquet"]

_STEP = 2_000_000  # events and impressions together
_LISTS = 1 << 20  # of a batch, whose values Arrow's 32-bit offsets must be able to count
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Built(NamedTuple):
    """What `build_parquet` did."""

    folder: Path
    events: int
    """Events read, those of other types and of users without impressions included."""
    impressions: int
    lists: dict[str, int]
    """event type -> distinct lists written."""
    steps: int


def build_parquet(
    events: Sequence[Path],
    impressions: Sequence[Path],
    item_ids: pa.Array | npt.NDArray[Any] | Sequence[Any],
    item_tokens: Jagged,
    config: ProfileConfig,
    out: Path,
    idf: npt.NDArray[np.float32] | None = None,
    *,
    threads: int | None = None,
    step: int = _STEP,
) -> Built:
    """Point-in-time profiles for every impression, bit for bit those of `build_profiles`, written as a folder.

    Args:
        events: Parquet files with user_id, item_id, event, timestamp and maybe value.
        impressions: Parquet files with impression_id, user_id and timestamp.
        item_ids, item_tokens, config, idf, threads: as of `profiles.build_profiles`.
        out: the folder; visible only when it is complete.
        step: rows that are worth a step; more takes more memory.

    Raises:
        CaptionaryError: as `build_profiles`; files that cannot be read; a column that is missing.
    """
    items = Items.of(item_ids, item_tokens, idf)
    known = IdCodes(items.ids)
    wanted = ["user_id", "item_id", "event", "timestamp", "value"]
    log = _Rows(events, "events", wanted[:4], wanted[4:])
    reads = _Rows(impressions, "impressions", ["impression_id", "user_id", "timestamp"], [])
    types = config.types_among(sorted(log.words("event")))
    builder = ProfileBuilder(items, types, config, threads=threads)
    read_rows = event_rows = steps = 0
    with atomic_folder(out) as folder, ExitStack() as stack:
        writers = {name: stack.enter_context(_Writer(folder, name)) for name in types}
        pool = stack.enter_context(ThreadPoolExecutor(2))
        writing: list[Future[None]] = []
        for (event_part, read_part), until in _ahead(pool, _steps(log, reads, step)):
            rows = EventRows.of(event_part, types, known, config)
            users = ids_of(read_part["user_id"], "user_id of impressions")
            times = micros(read_part["timestamp"], "timestamp of impressions")
            built = builder.advance(rows, users, times, last=until is None)
            if until is not None:
                builder.prune(until)
            for done in writing:
                done.result()
            keys = read_part["impression_id"]
            writing = [pool.submit(writers[name].write, keys, shared) for name, shared in built.items()]
            event_rows, read_rows, steps = event_rows + len(event_part), read_rows + len(read_part), steps + 1
        for done in writing:
            done.result()
    return Built(out, event_rows, read_rows, {name: writers[name].lists for name in types}, steps)


class _Group(NamedTuple):
    """A row group of a file, and the earliest moment in it."""

    earliest: float
    path: Path
    number: int


class _Rows:
    """The rows of some files by time: row groups in the order of their earliest moment, held until that is past."""

    def __init__(self, files: Sequence[Path], what: str, columns: list[str], optional: list[str]) -> None:
        self._what, self._columns = what, columns
        self._held: Any = None
        self._files = {}
        groups = []
        for path in files:
            try:
                names = pq.read_schema(path).names
                file = pq.ParquetFile(path, read_dictionary=[c for c in ("event",) if c in names])
            except (OSError, pa.ArrowException) as error:
                said = str(error).splitlines()[0]
                raise bad_value("file", str(path), "readable Parquet", where=said) from None
            for column in columns:
                if column not in file.schema_arrow.names:
                    found = ", ".join(file.schema_arrow.names)
                    raise bad_value("columns", found, f"with {column} among them", where=str(path))
            self._files[path] = file, [*columns, *(c for c in optional if c in file.schema_arrow.names)]
            groups += [
                _Group(_earliest(file, index, what), path, index) for index in range(file.num_row_groups)
            ]
        if not self._files:
            raise bad_value(what, "no files", "at least one Parquet file")
        self._groups = sorted(groups, key=lambda group: group.earliest, reverse=True)

    @property
    def watermark(self) -> float:
        """No row that has not been read is earlier; infinity where all have been."""
        return self._groups[-1].earliest if self._groups else math.inf

    @property
    def held(self) -> int:
        """Rows read and not yet taken."""
        return 0 if self._held is None else len(self._held)

    def words(self, column: str) -> set[str]:
        """The distinct values of a string column."""
        found: set[str] = set()
        for file, _ in self._files.values():
            for index in range(file.num_row_groups):
                read = file.read_row_group(index, [column])[column]
                found.update(pc.unique(read.combine_chunks()).drop_null().to_pylist())
        return found

    def read(self) -> None:
        """Read the next row group."""
        group = self._groups.pop()
        file, columns = self._files[group.path]
        part = file.read_row_group(group.number, columns)
        both = [part] if self._held is None else [self._held, part]
        self._held = pa.concat_tables(both, promote_options="permissive")

    def take(self, before: float) -> pa.Table:
        """The rows that are earlier, in the order of reading."""
        held = self._held
        if held is None:
            for file, columns in self._files.values():
                return file.schema_arrow.empty_table().select(columns)
        if math.isinf(before):
            self._held = None
            return held
        early = pa.array(micros(held["timestamp"], f"timestamp of {self._what}") < before)
        self._held = held.filter(pc.invert(early))
        return held.filter(early)


def _steps(log: _Rows, reads: _Rows, step: int) -> Iterator[tuple[tuple[pa.Table, pa.Table], int | None]]:
    """((events, impressions), the moment before which they all are; None: these are the last)."""
    taken = -math.inf
    while not math.isinf(until := min(log.watermark, reads.watermark)):
        if log.held + reads.held < step or until <= taken:
            (log if log.watermark <= reads.watermark else reads).read()
        else:
            yield (log.take(until), reads.take(until)), int(until)
            taken = until
    yield (log.take(math.inf), reads.take(math.inf)), None


def _ahead(pool: ThreadPoolExecutor, steps: Iterator[Any]) -> Iterator[Any]:
    """The same steps, each read while the one before it is worked on."""
    coming = pool.submit(next, steps, None)
    while (part := coming.result()) is not None:
        coming = pool.submit(next, steps, None)
        yield part


class _Writer:
    """The two files of one event type."""

    def __init__(self, folder: Path, event_type: str) -> None:
        name = f"{urllib.parse.quote(event_type, safe=' ')}.parquet"
        self._rows, self._lists = folder / name, folder / "lists" / name
        self._lists.parent.mkdir(exist_ok=True)
        self._files: dict[Path, pq.ParquetWriter] = {}
        self.lists = 1

    def __enter__(self) -> _Writer:
        empty = Jagged(np.empty(0, np.int32), np.zeros(2, np.int64), np.empty(0, np.float32))
        self._append(self._lists, _lists(empty))
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, keys: pa.ChunkedArray, shared: SharedProfiles) -> None:
        """Append a step: its lists but the empty one, which is there, and its impressions."""
        lists, base = shared.lists, self.lists - 1
        for first in range(1, lists.rows, _LISTS):
            offsets = lists.offsets[first : first + _LISTS + 1]
            self._append(self._lists, _lists(lists._replace(offsets=offsets)))
        self.lists += lists.rows - 1
        numbers = np.where(shared.list_of > 0, shared.list_of + base, 0)
        columns: Mapping[str, Any] = {"list": pa.array(numbers), "mass": pa.array(shared.mass)}
        self._append(self._rows, pa.table({"impression_id": keys, **columns}))

    def _append(self, path: Path, table: pa.Table) -> None:
        if path not in self._files:
            # Shares and numbers hardly repeat: dictionaries, statistics and compression cost time and save little.
            self._files[path] = pq.ParquetWriter(
                path, table.schema, compression="none", use_dictionary=False, write_statistics=False
            )
        self._files[path].write_table(table)


def _lists(lists: Jagged) -> pa.Table:
    assert lists.weights is not None
    first, last = lists.offsets[0], lists.offsets[-1]
    part = Jagged(lists.values[first:last], lists.offsets - first, lists.weights[first:last])
    token_ids, weights = part.to_arrow()
    return pa.table({"token_ids": token_ids, "weights": weights})


def _earliest(file: pq.ParquetFile, group: int, what: str) -> float:
    """The earliest moment of a row group, in microseconds: from its statistics, else from its rows."""
    column = file.schema_arrow.get_field_index("timestamp")
    stored = file.metadata.row_group(group).column(column).statistics
    least = stored.min if stored is not None and stored.has_min_max and not stored.null_count else None
    if type(least) is datetime.datetime:
        least = least if least.tzinfo is not None else least.replace(tzinfo=datetime.UTC)
        return (least - _EPOCH) // datetime.timedelta(microseconds=1)
    times = micros(file.read_row_group(group, ["timestamp"])["timestamp"], f"timestamp of {what}")
    return float(times.min()) if len(times) else math.inf
