"""What the marketplace wrote down: impressions, the events that followed, and beside them the truth.

Day by day and chunk by chunk, so that memory is bounded by users and items and not by the length of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captionary.world.catalogue import Catalogue
from captionary.world.grammar import facts
from captionary.world.randomness import Stream, generator
from captionary.world.responses import Responses
from captionary.world.settings import WorldConfig
from captionary.world.tasks import EVENTS, TASKS, TIME_SPENT
from captionary.world.traffic import SURFACES, Visits
from captionary.world.users import DEVICES, Users

__all__ = ["START", "LogPart", "item_facts_table", "items_table", "log_part"]

START = np.datetime64("2025-01-06T00:00:00", "us")
"""Midnight, UTC, before the first day of every log: a Monday."""

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_DAY_US = 86_400_000_000
# From the impression to the event: a second, and on average this much more.
_DELAY_MS = {"like": 3_000.0, "comment": 25_000.0, "share": 8_000.0, "complete": 12_000.0}
_TITLED = 0.3


class LogPart(NamedTuple):
    """Some impressions of one day in order of time, with what belongs to them."""

    impressions: pa.Table
    events: pa.Table
    truth: pa.Table


def log_part(
    config: WorldConfig,
    users: Users,
    day: int,
    part: int,
    first: int,
    visits: Visits,
    item: npt.NDArray[np.int64],
    responses: Responses,
) -> LogPart:
    """The rows for what N visits saw and did; `first` is the id of the first impression."""
    n = len(item)
    ids = pa.array(np.arange(first, first + n, dtype=np.int64))
    begin = START + np.timedelta64(day * _DAY_US, "us")
    times = begin + (visits.millisecond * 1_000).astype("timedelta64[us]")
    columns = {
        "impression_id": ids,
        "user_id": pa.array(visits.user),
        "item_id": pa.array(item),
        "timestamp": pa.array(times, _TIMESTAMP),
    }
    for index, task in enumerate(TASKS):
        values = responses.seconds if index == TIME_SPENT else responses.labels[:, index]
        columns[task.name] = pa.array(values)
    columns["hour"] = pa.array(visits.hour)
    columns["surface"] = _words(visits.surface, SURFACES)
    columns["device"] = _words(users.device[visits.user], DEVICES)
    split = "eval" if day >= config.days - config.eval_days else "train"
    columns["split"] = _words(np.zeros(n, np.int8), (split,))
    truth = {"impression_id": ids}
    truth |= {task.name: pa.array(responses.probabilities[:, index]) for index, task in enumerate(TASKS)}
    events = _events(generator(config.seed, Stream.EVENTS, day, part), visits.user, item, times, responses)
    return LogPart(pa.table(columns), events, pa.table(truth))


def items_table(config: WorldConfig, catalogue: Catalogue, media: Sequence[str] | None) -> pa.Table:
    """The items of the contract. Titles say nothing, and mostly are not there."""
    titled = generator(config.seed, Stream.TITLES).random(catalogue.size) < _TITLED
    titles = [f"Post {row}" if titled[row] else None for row in range(catalogue.size)]
    lists = [[name] for name in media] if media else [[]] * catalogue.size
    created = START + np.rint(catalogue.created * _DAY_US).astype("timedelta64[us]")
    return pa.table(
        {
            "item_id": pa.array(np.arange(catalogue.size, dtype=np.int64)),
            "media": pa.array(lists, pa.list_(pa.string())),
            "title": pa.array(titles, pa.string()),
            "created_at": pa.array(created, _TIMESTAMP),
        }
    )


def item_facts_table(catalogue: Catalogue) -> pa.Table:
    """What each item shows, in words; part of the truth."""
    rows = [{"item_id": row} | facts(catalogue.scenes, row) for row in range(catalogue.size)]
    words = [pa.field(name, pa.int64() if name in ("item_id", "count") else pa.string()) for name in rows[0]]
    return pa.Table.from_pylist(rows, pa.schema(words))


def _events(
    rng: np.random.Generator,
    user: npt.NDArray[np.int64],
    item: npt.NDArray[np.int64],
    times: npt.NDArray[np.datetime64],
    responses: Responses,
) -> pa.Table:
    """A row per positive response that leaves an event, in order of time; its value is the share watched."""
    rows, stamps = [], []
    for index, task in enumerate(TASKS):
        if task.event is not None:
            done = np.flatnonzero(responses.labels[:, index])
            delay = 1_000 + rng.exponential(_DELAY_MS[task.event], len(done)).astype(np.int64)
            rows.append(done)
            stamps.append(times[done] + (delay * 1_000).astype("timedelta64[us]"))
    kind = np.repeat(np.arange(len(EVENTS), dtype=np.int8), [len(done) for done in rows])
    row, stamp = np.concatenate(rows), np.concatenate(stamps)
    order = np.argsort(stamp, kind="stable")
    row = row[order]
    return pa.table(
        {
            "user_id": pa.array(user[row]),
            "item_id": pa.array(item[row]),
            "event": _words(kind[order], EVENTS),
            "timestamp": pa.array(stamp[order], _TIMESTAMP),
            "value": pa.array(responses.watched[row].astype(np.float64)),
        }
    )


def _words(index: npt.NDArray[np.int8], words: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index), pa.array(words, pa.string()))
