"""Where the events of an experiment are read from: a data set in the contract, or the service's own durable log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from captionary.errors import bad_value
from captionary.online.experiments.measures import Log

__all__ = ["dataset_log", "open_events", "service_log"]


def open_events(source: str, requests: Path | None = None) -> Log:
    """The log of a data set's folder, or of the durable log that `captionary serve` writes (a file or URL).

    Args:
        source: a folder; or what `serve` has as `log`.
        requests: folder or Parquet file of the service's request log, for guardrails on latency and errors.

    Raises:
        CaptionaryError: what cannot be read.
    """
    if "://" not in source and Path(source).is_dir():
        return dataset_log(Path(source), requests)
    if "://" not in source and not Path(source.removeprefix("sqlite:")).is_file():
        raise bad_value("log", source, "a data set's folder, or the durable log of the service")
    return service_log(source, requests)


def dataset_log(root: Path, requests: Path | None = None) -> Log:
    """The events of a data set in the contract, and its impressions where it has some.

    Raises:
        CaptionaryError: no such folder, or no events in it.
    """
    from captionary.contract import read_files, table_files

    root = Path(root)
    if not root.is_dir():
        raise bad_value("log", str(root), "a data set's folder")
    events = read_files(table_files(root, "events"), ["user_id", "event", "timestamp", "value"])
    impressions = None
    if (root / "impressions").is_dir() or (root / "impressions.parquet").is_file():
        impressions = read_files(table_files(root, "impressions"), ["user_id", "timestamp"])
    return Log(events, impressions, _requests(requests))


def service_log(url: str, requests: Path | None = None) -> Log:
    """The events that the service took and its worker has put into the online store, as far as they are kept.

    Raises:
        CaptionaryError: it is no log, or cannot be reached.
    """
    import msgspec

    from captionary.online.log import EVENTS, EventMessage, open_log

    decoder = msgspec.json.Decoder(EventMessage)
    log = open_log(url)
    try:
        rows = [
            (str(event.user_id), event.event, event.timestamp, event.value)
            for event in _messages(log.settled(EVENTS), decoder)
        ]
    finally:
        log.close()
    schema = {"user_id": pl.String, "event": pl.String, "time": pl.Int64, "value": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    stamp = pl.col("time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("timestamp")
    return Log(table.select("user_id", "event", stamp, "value"), None, _requests(requests))


def _messages(settled: Iterator[Any], decoder: Any) -> Iterator[Any]:
    for each in settled:
        yield decoder.decode(each.entry.payload)


def _requests(path: Path | None) -> pa.Table | None:
    from captionary.contract import read_files

    if path is None:
        return None
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise bad_value("requests", str(path), "a Parquet file or a folder of them")
    return read_files(files)
