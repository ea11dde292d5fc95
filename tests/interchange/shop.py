"""A shop of five items and three users, small enough to work its features out by hand."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from captionary.interchange.parquet import Source
from captionary.represent.profiles import ProfileConfig
from captionary.represent.tokenizers import TokenizerConfig, make_tokenizer

START = datetime(2025, 1, 1, tzinfo=UTC)
CAPTIONS = ["red sofa", "", "red dog", "blue dog", "blue sofa"]
ITEMS = ["i0", "i1", "i2", "i3", "i4"]
EVENTS = [  # user, item, event, days after START
    ("u1", "i0", "like", 0),
    ("u1", "i2", "like", 2),
    ("u2", "i3", "like", 2),
    ("u1", "i3", "add to cart", 3),
    ("u3", "i1", "like", 3),
    ("u2", "i4", "like", 5),
]


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def source(**changes: object) -> Source:
    tokenizer = make_tokenizer(TokenizerConfig(kind="concepts", min_df=1, max_df=1.0, phrases=False)).fit(
        [caption for caption in CAPTIONS if caption]
    )
    users, items, kinds, days = zip(*EVENTS, strict=True)
    events = pa.table(
        {
            "user_id": list(users),
            "item_id": list(items),
            "event": list(kinds),
            "timestamp": pa.array([day(n) for n in days], pa.timestamp("us", tz="UTC")),
        }
    )
    made = {
        "item_ids": pa.array(ITEMS),
        "item_tokens": tokenizer.encode(CAPTIONS),
        "tokenizer": tokenizer,
        "created_at": pa.array([day(-9), None, day(-8), day(-7), day(9)], pa.timestamp("us", tz="UTC")),
        "events": events,
        "profiles": ProfileConfig(half_life_days=2.0, half_life_days_of={"add to cart": float("inf")}),
    }
    return Source(**{**made, **changes})  # type: ignore[arg-type]


def impressions() -> pa.Table:
    return pa.table(
        {
            "impression_id": [10, 11, 12],
            "user_id": ["u1", "u2", "u9"],
            "timestamp": pa.array([day(2), day(6), day(6)], pa.timestamp("us", tz="UTC")),
        }
    )


def numbered(**changes: object) -> Source:
    """The same with integers for ids, and weights of the items' tokens."""
    made = source(**changes)
    assert made.events is not None
    whole = {
        name: pa.array([int(text[1:]) for text in made.events[name].to_pylist()])
        for name in ("user_id", "item_id")
    }
    lists = made.item_tokens
    weighted = {
        "item_ids": pa.array(range(5)),
        "item_tokens": lists._replace(weights=np.full(len(lists.values), 0.5, np.float32)),
        "events": pa.table({**{name: made.events[name] for name in ("event", "timestamp")}, **whole}),
    }
    return source(**{**changes, **weighted})
