"""A ranker with every weight away from where training starts, exported, and the requests behind the data's rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from captionary.rank.artefact import Artefact
from captionary.rank.data import RankingData
from captionary.rank.export import RawKeys, artefact_of
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.served import ScoringRequest
from captionary.rank.settings import RankerConfig
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileList

JOINT = FeatureSet(visual=True, tokens="A", profiles="A")
ROWS, USERS, ITEMS, TOKENS = 300, 40, 30, 12


@dataclasses.dataclass(frozen=True)
class Raw:
    """Raw columns and the data made of them."""

    data: RankingData
    keys: RawKeys
    context: dict[str, list[Any]]
    profiles: dict[str, list[ProfileList]]


def raw_data(*, item_numeric: bool = True, id_hash_rows: int = 0, seed: int = 0) -> Raw:
    """Users, contexts and profiles at random; every third item has no tokens, the last occur in no training row."""
    rng = np.random.default_rng(seed)
    users = [f"u{number}" for number in rng.integers(0, USERS, ROWS)]
    item = np.concatenate([rng.integers(0, ITEMS - 5, 200), rng.integers(0, ITEMS, ROWS - 200)])
    tab = rng.choice(["a", "b", "c"], ROWS).tolist()
    hour = rng.integers(0, 24, ROWS).astype(np.float64)
    genre = rng.choice(["jazz", "rock"], ITEMS).tolist()
    tokens = Jagged.from_lists(
        [rng.choice(TOKENS, 0 if k % 3 == 0 else 3, replace=False) for k in range(ITEMS)]
    )
    profiles: dict[str, list[ProfileList]] = {}
    for event in ("like", "share"):
        profiles[event] = []
        for row in range(ROWS):
            ids = rng.choice(TOKENS, 0 if row % 4 == 0 else 5, replace=False).astype(np.int32)
            weights = rng.random(len(ids)).astype(np.float32) + 0.1
            profiles[event].append(ProfileList(ids, weights / weights.sum(), float(rng.random() * 5)))
    mass = np.array([[profiles[event][row].mass for event in profiles] for row in range(ROWS)])
    data = RankingData.from_arrays(
        tasks=("like", "seconds"),
        task_kinds=("binary", "weighted_logistic"),
        users=users,
        item=item,
        items=ITEMS,
        item_keys=np.arange(ITEMS) + 1000,
        hash_rows=id_hash_rows,
        labels=rng.integers(0, 2, (ROWS, 2)).astype(np.float32),
        train=np.arange(200),
        eval=np.arange(200, ROWS),
        context_categorical={"tab": tab},
        context_numeric={"hour": hour},
        item_categorical={"genre": genre},
        item_numeric={"age": rng.random(ITEMS)} if item_numeric else {},
        events=("like", "share"),
        activity=np.log1p(mass).astype(np.float32),
        visual=rng.normal(size=(ITEMS, 6)).astype(np.float32),
        item_tokens={"A": tokens},
        profiles={"A": {event: _lists(lists) for event, lists in profiles.items()}},
    )
    keys = RawKeys(
        items=np.arange(ITEMS) + 1000, users=users, context={"tab": tab}, item_categories={"genre": genre}
    )
    return Raw(data, keys, {"tab": tab, "hour": hour.tolist()}, profiles)


def shaken(raw: Raw, features: FeatureSet = JOINT, seed: int = 0, **config: Any) -> Ranker:
    """A ranker, none of whose parameters is where another's are by chance of being zero."""
    sizes = {"embedding_dim": 8, "top": (24, 16), "tower": 6, "bottom": (10,), **config}
    model = Ranker(RankerConfig(**sizes), Schema.of(raw.data, features), seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    dense = raw.data.dense(raw.data.train)
    model.mean.copy_(torch.from_numpy(dense.mean(0)))
    model.scale.copy_(torch.from_numpy(dense.std(0)))
    return model.eval()


def artefact(raw: Raw, model: Ranker, features: FeatureSet = JOINT, **more: Any) -> Artefact:
    """What an export of `model` holds."""
    return artefact_of(model, raw.data, features, raw.keys, **more)


def request(raw: Raw, row: int, items: list[int] | None = None, **more: Any) -> ScoringRequest:
    """The request behind a row of the data, for its own item or for `items`, by their place."""
    places = [int(raw.data.item[row])] if items is None else items
    asked: dict[str, Any] = {
        "user": raw.keys.users[row],
        "items": [1000 + place for place in places],
        "context": {name: column[row] for name, column in raw.context.items()},
        "profiles": {event: lists[row] for event, lists in raw.profiles.items()},
    }
    return ScoringRequest(**(asked | more))


def as_rows(raw: Raw, row: int, items: list[int]) -> RankingData:
    """The data whose first rows show `items`, everything else being as in `row`."""
    data, count = raw.data, len(items)

    def same(column: Any) -> Any:
        return np.concatenate([np.repeat(column[row : row + 1], count, axis=0), column[count:]])

    def lists(jagged: Jagged) -> Jagged:
        return jagged.take(np.concatenate([np.full(count, row), np.arange(count, ROWS)]))

    return dataclasses.replace(
        data,
        user=same(data.user),
        item=np.concatenate([items, data.item[count:]]),
        context_categorical={name: same(index) for name, index in data.context_categorical.items()},
        context_numeric={name: same(column) for name, column in data.context_numeric.items()},
        activity=same(data.activity),
        profiles={key: {event: lists(one) for event, one in of.items()} for key, of in data.profiles.items()},
        vectors={
            name: v if v.row is None else v._replace(row=same(v.row)) for name, v in data.vectors.items()
        },
    )


def _lists(profiles: list[ProfileList]) -> Jagged:
    offsets = np.concatenate([[0], np.cumsum([len(one.token_ids) for one in profiles])])
    values = np.concatenate([one.token_ids for one in profiles])
    return Jagged(values, offsets.astype(np.int64), np.concatenate([one.weights for one in profiles]))


__all__ = ["JOINT", "Raw", "artefact", "as_rows", "raw_data", "request", "shaken"]
