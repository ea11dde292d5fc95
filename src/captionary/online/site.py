"""Where a run's live side is, and how it was made: what service, workers and replays open, so that all do the same."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.contract import Dataset, open_dataset
from captionary.errors import bad_value
from captionary.online.items import ItemRecord
from captionary.online.log import EventLog, EventMessage, open_log
from captionary.online.spool import Spool
from captionary.online.store import OnlineStore, open_store
from captionary.online.updates import apply_events, put_items, put_rows
from captionary.online.visible import ItemColumns, RowFolder
from captionary.represent.profiles import ProfileConfig
from captionary.represent.tables import read_item_tokens
from captionary.represent.tokenizers import Tokenizer, load_tokenizer
from captionary.settings import RunConfig

__all__ = ["Seeded", "Site", "add_rows", "messages_of", "seed"]

_ITEMS_AT_ONCE = 1000
_EVENTS_AT_ONCE = 20_000


class Seeded(NamedTuple):
    """What `seed` wrote."""

    items: int
    events: int

    def to_string(self) -> str:
        """For a terminal."""
        return f"{self.items:,} items, {self.events:,} events"


class Site:
    """The live side of a finished run.

    Args:
        config: of the run, whose stages up to tokens are done.
        store: URL of the online store; None: `online/store` in the run's folder (LMDB).
        log: URL of the log; None: `online/log.sqlite` there.
        spool: folder of uploads; None: `online/spool` there.

    Raises:
        CaptionaryError: the run has no event types, or its tokens are not made yet.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        store: str | None = None,
        log: str | None = None,
        spool: Path | None = None,
    ) -> None:
        self.config = config
        online = config.folder / "online"
        self.store_url, self.log_url = store or str(online / "store"), log or str(online / "log.sqlite")
        self.spool_folder = spool or online / "spool"
        self.requests_folder = online / "requests"
        """Where `request_log.RequestLog` keeps what was served."""
        self.dataset: Dataset = open_dataset(config.data.path or config.folder / "data" / "world")
        if not (config.profiles.event_types or self.dataset.spec.event_types):
            raise bad_value("event_types", "()", "given", where="dataset.yaml", todo="name the event types")
        self.letter = next(iter(config.tokenizers))
        self.tokenizer: Tokenizer = load_tokenizer(config.folder / "tokens" / self.letter)

    @property
    def store_url_shown(self) -> str:
        """Without a password."""
        return _shown(self.store_url)

    @property
    def log_url_shown(self) -> str:
        """Without a password."""
        return _shown(self.log_url)

    @property
    def profiles(self) -> ProfileConfig:
        """How events become profiles, as in the run."""
        types = self.config.profiles.event_types or self.dataset.spec.event_types
        return dataclasses.replace(self.config.profiles, event_types=tuple(types))

    @property
    def columns(self) -> ItemColumns:
        """The further columns of items that the ranker reads."""
        features = self.dataset.spec.item_features
        return ItemColumns(tuple(features.categorical), tuple(features.numeric))

    def open_store(self, *, readonly: bool = False) -> OnlineStore:
        """The online store, under the settings of the run."""
        return open_store(self.store_url, self.profiles, self.tokenizer.idf(), readonly=readonly)

    def open_log(self, *, most_waiting: int = 100_000) -> EventLog:
        """The log."""
        return open_log(self.log_url, most_waiting=most_waiting)

    def spool(self) -> Spool:
        """Where uploads are kept."""
        return Spool(self.spool_folder)

    def history(self) -> pa.Table:
        """The data set's own events of the types that have profiles, by time: what the store is seeded with."""
        events = self.dataset.events()
        chosen = events.filter(pc.is_in(events["event"], value_set=pa.array(self.profiles.event_types)))
        columns = [
            name
            for name in ("user_id", "item_id", "event", "timestamp", "value")
            if name in chosen.column_names
        ]
        return chosen.select(columns).sort_by("timestamp")


def seed(site: Site, store: OnlineStore, folders: Sequence[RowFolder] = ()) -> Seeded:
    """Fill an empty store with the catalogue and the events of the run's data set.

    Rankers fold each item as ingest does. A seeding that was cut short is begun anew in an empty store: events count
    as often as they are applied.

    Raises:
        CaptionaryError: there is something in the store.
    """
    if store.item_ids(most=1) or store.user_ids(most=1):
        todo = "name an empty one, or delete this one first"
        raise bad_value("store", site.store_url_shown, "empty before it is seeded", todo=todo)
    from captionary.online.visible import with_rows

    items = 0
    for records in _records(site):
        updates, faults = with_rows(records, folders, site.columns)
        if faults:
            raise bad_value("ranker", faults[0], "able to fold the catalogue", where=f"{len(faults)} items")
        put_items(store, updates)
        items += len(records)
    history = site.history()
    for start in range(0, len(history), _EVENTS_AT_ONCE):
        apply_events(store, messages_of(history.slice(start, _EVENTS_AT_ONCE)))
    return Seeded(items, len(history))


def add_rows(site: Site, store: OnlineStore, folders: Sequence[RowFolder]) -> int:
    """Fold what the store knows for further rankers, which can then go live beside the others; how many items.

    What is uploaded meanwhile is folded by the workers that are given these rankers: begin those first.

    Raises:
        CaptionaryError: a ranker that cannot fold an item.
    """
    from captionary.online.visible import with_rows

    ids, count = store.item_ids(most=1 << 62), 0
    for start in range(0, len(ids), _ITEMS_AT_ONCE):
        records = [one for one in store.items(ids[start : start + _ITEMS_AT_ONCE]) if one is not None]
        updates, faults = with_rows(records, folders, site.columns)
        if faults:
            raise bad_value("ranker", faults[0], "able to fold the items", where=f"{len(faults)} items")
        count += put_rows(store, updates)
    return count


def messages_of(events: pa.Table) -> list[EventMessage]:
    """Rows of the contract's events as messages."""
    times = events["timestamp"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    values = events["value"].to_pylist() if "value" in events.column_names else itertools.repeat(None)
    columns = (events[name].to_pylist() for name in ("user_id", "item_id", "event"))
    return [
        EventMessage(user_id=user, item_id=item, event=event, timestamp=time, value=value)
        for user, item, event, time, value in zip(*columns, times, values, strict=False)
    ]


def _records(site: Site) -> Iterator[list[ItemRecord]]:
    """The catalogue as item records."""
    run = site.config.folder
    items = site.dataset.items()
    captions = pq.read_table(run / "captions" / "captions.parquet")
    _, tokens = read_item_tokens(run / "tokens" / site.letter / "item_tokens.parquet")
    with np.load(run / "captions" / "vectors.npz") as stored:
        vectors, present = stored["vectors"], stored["present"]
    names = [*site.columns.categorical, *site.columns.numeric]
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        page = items.slice(start, _ITEMS_AT_ONCE).to_pylist()
        said = captions.slice(start, _ITEMS_AT_ONCE).to_pylist()
        records = []
        for row, (item, told) in enumerate(zip(page, said, strict=True), start):
            ok = bool(told["normalized"])
            records.append(
                ItemRecord(
                    item_id=item["item_id"],
                    status="ok" if ok else "failed" if told["status"] == "failed" else "skipped",
                    tokens=tokens.row(row).astype("<i4").tobytes(),
                    caption=told["caption"] or "",
                    normalized=told["normalized"] or "",
                    title=item.get("title"),
                    columns={name: _plain(item[name]) for name in names},
                    media=tuple(item["media"] or ()),
                    media_digest=told["media_digest"] or "",
                    captioner=told["captioner"] or "",
                    reason="" if ok else told["reason"] or "",
                    detail="" if ok else told["detail"] or "",
                    vector=vectors[row].astype("<f4").tobytes() if present[row] else b"",
                )
            )
        yield records


def _plain(value: Any) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _shown(url: str) -> str:
    from captionary.online.redis_client import address_of

    return address_of(url) if "://" in url else url
