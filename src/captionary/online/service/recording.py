"""The request log: how long every ranking request took, and some of them whole, for `captionary verify`.

every request ──▶ user_id, timestamp, latency_ms, error    requests/times/NAME.parquet    guardrails of experiments
some of them  ──▶ what decided the scores, and the scores  requests/NAME.jsonl            `captionary verify`
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.online.forgotten import Forgotten, alone_in
from captionary.online.packing import Id
from captionary.online.request_log import RequestLog, RequestRecord, erase_requests
from captionary.publish import atomic_file

__all__ = ["Recorder"]

_logger = logging.getLogger("captionary.service")
_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("latency_ms", pa.float32()),
        ("error", pa.bool_()),
    ]
)
_Row = tuple[str, int, float, bool]


class Recorder:
    """Writes both logs; for any number of threads. A log that cannot be written stops no request.

    Args:
        folder: of both.
        share: of the requests that are kept whole, 0 to 1.
        rows: times that wait in memory at most.
        seconds: that they wait at most, while requests come.

    Raises:
        CaptionaryError: a share that is none, a folder that cannot be made.
    """

    def __init__(
        self, folder: Path, *, share: float = 0.01, rows: int = 50_000, seconds: float = 60.0
    ) -> None:
        self.folder, self.times = folder, folder / "times"
        self.log = RequestLog(folder, share=share)
        self.times.mkdir(exist_ok=True)
        self._rows, self._seconds = rows, seconds
        self._lock = threading.Lock()
        self._waiting: list[_Row] = []
        self._since = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="captionary-requests")
        self._behind: Future[None] | None = None
        self._closed = False

    def timed(self, user: Id | None, seconds: float, *, error: bool) -> None:
        """Add a request's time."""
        row = ("" if user is None else str(user), time.time_ns() // 1000, seconds * 1e3, error)
        with self._lock:
            self._waiting.append(row)
            if len(self._waiting) < self._rows and time.monotonic() - self._since < self._seconds:
                return
            rows, self._waiting, self._since = self._waiting, [], time.monotonic()
            if self._behind is not None and not self._behind.done():
                _logger.warning("the request log is written too slowly: %d rows are lost", len(rows))
                return
            self._behind = self._writer.submit(self._write, rows)

    def wants(self) -> bool:
        """Whether the next request belongs to the sample."""
        return self.log.wants()

    def keep(self, record: RequestRecord) -> None:
        """Keep a request whole."""
        self.log.append(record)

    def forget(self, user: Id) -> int:
        """`erase` for one user, as of now."""
        return self.erase(Forgotten.now(user))

    def erase(self, forgotten: Forgotten) -> int:
        """Delete what was kept of people before they were forgotten; how many lines.

        Blocks, for as long as it takes to read all that is kept. What other replicas still write into is left to them.
        """
        if not forgotten.partings:
            return 0
        self._flush()
        self.log.close()
        found = erase_requests(self.folder, forgotten)
        with alone_in(self.times):
            for path in sorted(self.times.glob("*.parquet")):
                table = pq.read_table(path)
                gone = forgotten.of_names(pc.unique(table["user_id"]).to_pylist())
                if not gone:
                    continue
                kept = table.filter(_later(table, gone))
                if len(kept) < len(table):
                    found += len(table) - len(kept)
                    with atomic_file(path) as file:
                        pq.write_table(kept, file, compression="zstd")
        return found

    def close(self) -> None:
        """Write what waits; nothing is recorded from then on."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        self._writer.shutdown(wait=True)
        self.log.close()

    def _flush(self) -> None:
        with self._lock:
            rows, self._waiting = self._waiting, []
        self._writer.submit(self._write, rows).result()

    def _write(self, rows: list[_Row]) -> None:
        if not rows:
            return
        kinds = zip(zip(*rows, strict=True), _SCHEMA.types, strict=True)
        columns = [pa.array(column, kind) for column, kind in kinds]
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        try:
            with atomic_file(self.times / f"{stamp}-{uuid.uuid4().hex[:12]}.parquet") as file:
                pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), file, compression="zstd")
        except OSError:
            _logger.exception("the request log could not be written")


def _later(table: pa.Table, gone: dict[str, int]) -> pa.ChunkedArray:
    """Which rows are of others, or later than the moment of who is gone."""
    names = pa.array(list(gone), pa.string())
    moments = pa.array(list(gone.values()), pa.int64())
    until = pc.take(moments, pc.index_in(table["user_id"], value_set=names))
    return pc.fill_null(pc.greater(table["timestamp"].cast(pa.int64()), until), True)
