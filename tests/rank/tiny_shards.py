"""A small folder of shards whose labels depend on user, item and tokens; what `days` of one world look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from captionary.publish import atomic_folder
from captionary.rank.shard_schema import VectorColumn
from captionary.rank.shard_writer import ShardWriter
from captionary.rank.shards import TOKEN_VECTORS, Shards, ShardSchema, open_shards
from captionary.represent.jagged import Jagged
from captionary.represent.vectors import TokenVectors

TOKENS, WIDTH = 20, 6
EVENTS = ("like", "share")
HOUR = 3_600_000_000
VECTORS = {
    "caption": VectorColumn(width=3, of="item", encoder="e", projection="p"),
    "user.text": VectorColumn(width=4, of="impression", encoder="e", projection="q"),
}
"""For `tiny_schema(vectors=VECTORS)`."""


def tiny_schema(**changes) -> ShardSchema:
    said = {
        "tasks": ("like", "seconds"),
        "task_kinds": ("binary", "huber_log"),
        "task_weights": (1.0, 0.5),
        "context_categorical": ("tab",),
        "context_numeric": ("hour",),
        "item_categorical": ("genre",),
        "item_numeric": ("age",),
        "events": EVENTS,
        "visual": WIDTH,
        "tokens": True,
        "profiles": True,
        "vocabulary": TOKENS,
        "tokenizer": "words",
    }
    return ShardSchema(**said | changes)


def catalogue(items: int, schema: ShardSchema) -> pa.Table:
    rng = np.random.default_rng(1)
    columns = {
        "item_id": [f"i{number}" for number in range(items)],
        "item.genre": rng.choice(["news", "music", "games"], items),
        "item.age": rng.random(items),
    }
    tokens = Jagged.from_lists([rng.choice(TOKENS, rng.integers(0, 4), replace=False) for _ in range(items)])
    visual = rng.normal(size=items * WIDTH).astype(np.float32)
    if schema.tokens:
        drawn = np.random.default_rng(2).random(len(tokens.values)).astype(np.float32)
        columns["token_ids"], weights = tokens._replace(weights=drawn + np.float32(0.1)).to_arrow()
        if schema.token_weights:
            columns["token_weights"] = weights
    if schema.visual:
        columns["visual"] = pa.FixedSizeListArray.from_arrays(visual, WIDTH)
    for name in schema.vectors_of("item"):
        width = schema.vectors[name].width
        columns[f"vector.{name}"] = pa.FixedSizeListArray.from_arrays(
            rng.normal(size=items * width).astype(np.float32), width
        )
    return pa.table(columns)


def impressions(rows: int, users: range, items: range, *, seed: int = 0, begins: int = 0) -> pa.Table:
    """A user's lists and vector change now and then, every third user has no vector; one hour in twenty and one label
    in ten are not known."""
    rng = np.random.default_rng(seed)
    user, item = rng.choice(users, rows), rng.choice(items, rows)
    times = begins + np.sort(rng.integers(0, 24 * HOUR, rows))
    like = rng.random(rows) < 1 / (1 + np.exp(1 - np.sin(user) * 2 - np.cos(item)))
    version = times // (6 * HOUR)
    columns = {
        "user_id": user,
        "item_id": [f"i{number}" for number in item],
        "timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
        "context.tab": rng.choice(["home", "search"], rows),
        "context.hour": pa.array(rng.random(rows), mask=rng.random(rows) < 0.05),
        "label.like": pa.array(like.astype(np.float32)),
        "label.seconds": pa.array(rng.exponential(5, rows).astype(np.float32), mask=rng.random(rows) < 0.1),
    }
    for place, event in enumerate(EVENTS):
        columns[f"mass.{event}"] = rng.random(rows).astype(np.float32)
        lists = [
            [(u + v + place) % TOKENS, (u * 3) % TOKENS][: u % 3] for u, v in zip(user, version, strict=True)
        ]
        packed = Jagged.from_lists(lists)
        weights = np.repeat(1 / np.maximum(packed.lengths, 1), packed.lengths).astype(np.float32)
        columns[f"token_ids.{event}"], columns[f"weights.{event}"] = packed._replace(
            weights=weights
        ).to_arrow()
    said = np.stack([np.sin(user * k + version) for k in range(1, 5)], axis=1) * (user % 3 > 0)[:, None]
    columns["vector.user.text"] = pa.FixedSizeListArray.from_arrays(said.astype(np.float32).reshape(-1), 4)
    return pa.table(columns)


def write_shards(
    folder: Path,
    train: pa.Table,
    held: pa.Table | None = None,
    *,
    items: int = 60,
    schema: ShardSchema | None = None,
    token_vectors: TokenVectors | None = None,
    group_rows: int = 300,
    shard_rows: int = 900,
) -> Shards:
    schema = schema or tiny_schema()
    with (
        atomic_folder(folder) as partial,
        ShardWriter(partial, schema, {"test": 1}, group_rows=group_rows, shard_rows=shard_rows) as writer,
    ):
        writer.items([catalogue(items, schema)])
        writer.write("train", train)
        if held is not None:
            writer.write("eval", held)
        if token_vectors is not None:
            token_vectors.save(partial / TOKEN_VECTORS)
    return open_shards(folder)
