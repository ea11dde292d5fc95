"""A few users and items, and what the batch builder makes of them: what the online store is compared with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from captionary.online.items import ItemRecord
from captionary.online.log import EventMessage
from captionary.online.store import OnlineStore, open_store
from captionary.online.updates import ItemUpdate
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileConfig, ProfileList, build_profiles

DAY = 86_400_000_000
VOCABULARY = 50
CONFIG = ProfileConfig(event_types=("like", "share"), half_life_days=3.0, top_k=6)
IDF = np.random.default_rng(0).uniform(1, 3, VOCABULARY).astype(np.float32)


def opened(url: str, config: ProfileConfig = CONFIG) -> OnlineStore:
    return open_store(url, config, IDF)


def item_of(item_id: int | str, tokens: Sequence[int], **columns: object) -> ItemUpdate:
    """An item with a caption, and a row that can be told from others."""
    packed = np.array(tokens, "<i4").tobytes()
    record = ItemRecord(item_id=item_id, status="ok", tokens=packed, **columns)  # type: ignore[arg-type]
    return ItemUpdate(record, {"v1": np.array([len(tokens), *tokens[:2], 0, 0][:3], np.float32)})


def catalogue(count: int = 12, seed: int = 0) -> dict[int, list[int]]:
    draw = random.Random(seed)
    return {n: [draw.randrange(VOCABULARY) for _ in range(draw.randrange(1, 6))] for n in range(count)}


def events_of(
    count: int, *, users: int = 4, items: int = 14, seed: int = 0, days: int = 20
) -> list[EventMessage]:
    """Events in random order, some of them at one moment, some on items that nobody knows."""
    draw = random.Random(seed)
    return [
        EventMessage(
            user_id=f"user-{draw.randrange(users)}",
            item_id=draw.randrange(items),
            event=draw.choice(["like", "share", "view"]),
            timestamp=draw.randrange(days * 8) * DAY // 8,
            value=draw.choice([None, 0.0, 0.5, 1.0, 2.5]),
        )
        for _ in range(count)
    ]


def expected(
    events: Iterable[EventMessage],
    items: Mapping[int, Sequence[int]],
    moments: Sequence[tuple[str, int]],
    config: ProfileConfig = CONFIG,
) -> list[dict[str, ProfileList]]:
    """For each (user, moment) the lists of the batch builder."""
    rows = list(events)
    table = pa.table(
        {
            "user_id": pa.array([e.user_id for e in rows], pa.string()),
            "item_id": pa.array([e.item_id for e in rows], pa.int64()),
            "event": pa.array([e.event for e in rows], pa.string()),
            "timestamp": pa.array([e.timestamp for e in rows], pa.int64()),
            "value": pa.array([e.value for e in rows], pa.float64()),
        }
    )
    asked = pa.table(
        {
            "user_id": pa.array([user for user, _ in moments], pa.string()),
            "timestamp": pa.array([moment for _, moment in moments], pa.int64()),
        }
    )
    lists = Jagged.from_lists(items.values())
    ids = pa.array(list(items), pa.int64())
    built = build_profiles(table, asked, ids, lists, config, IDF, types=config.event_types)
    found = []
    for row in range(len(moments)):
        of_user = {}
        for event in config.event_types:
            made = built[event]
            piece = slice(made.lists.offsets[row], made.lists.offsets[row + 1])
            assert made.lists.weights is not None
            of_user[event] = ProfileList(
                made.lists.values[piece], made.lists.weights[piece], float(made.mass[row])
            )
        found.append(of_user)
    return found


def same(one: Mapping[str, ProfileList], other: Mapping[str, ProfileList]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(
        np.array_equal(one[e].token_ids, other[e].token_ids)
        and np.array_equal(one[e].weights, other[e].weights)
        and one[e].mass == other[e].mass
        for e in one
    )
