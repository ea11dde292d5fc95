"""Columns of a ranker's inputs by name, and rows of them permuted: what feature importance is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from captionary.errors import bad_value
from captionary.rank.data import Ints, RankingData
from captionary.rank.features import FeatureSet

__all__ = ["by_row", "columns_of", "groups_of", "permuted"]


def by_row(data: RankingData, rows: Ints, features: FeatureSet) -> RankingData:
    """`rows` as evaluation rows of their own, each with an item of its own, so that any column can be permuted by row.

    Ids keep their indices, so a ranker trained on `data` accepts it. One training row is added at the end, as ranking
    data without any is none. Lists and vectors that `features` do not name are left out.

    Args:
        data: of N impressions.
        rows: [M] of them.
        features: what the ranker sees.
    """
    features.check(data)
    kept = np.append(rows, data.train[0])
    items = data.item[kept]
    tokens = {features.tokens: data.item_tokens[features.tokens].take(items)} if features.tokens else {}
    profiles = {}
    if features.profiles:
        built = data.profiles[features.profiles]
        profiles = {features.profiles: {event: lists.take(kept) for event, lists in built.items()}}
    return RankingData(
        tasks=data.tasks,
        user=data.user[kept],
        item=np.arange(len(kept)),
        item_id=data.item_id[items],
        labels=data.labels[kept],
        train=np.array([len(rows)]),
        eval=np.arange(len(rows)),
        context_categorical=_take(data.context_categorical, kept),
        context_numeric=_take(data.context_numeric, kept),
        item_categorical=_take(data.item_categorical, items),
        item_numeric=_take(data.item_numeric, items),
        events=data.events,
        activity=None if data.activity is None else data.activity[kept],
        visual=data.visual[items] if features.visual and data.visual is not None else None,
        item_tokens=tokens,
        profiles=profiles,
    )


def columns_of(data: RankingData, features: FeatureSet) -> tuple[str, ...]:
    """Names of all that the ranker sees: ids, context, item columns, activity, visual vector, tokens, profiles."""
    context = (*data.context_categorical, *data.context_numeric)
    item = (*data.item_categorical, *data.item_numeric)
    return (
        *("user id", "item id"),
        *(f"context.{name}" for name in context),
        *(f"item.{name}" for name in item),
        *(f"activity.{event}" for event in data.events),
        *(("visual",) if features.visual else ()),
        *(("item tokens",) if features.tokens else ()),
        *(f"profile.{event}" for event in (data.profiles[features.profiles] if features.profiles else ())),
    )


def groups_of(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group → the columns that are shuffled together, two and more; what another group holds is no group again."""
    wanted = {
        "ids": [name for name in columns if name in ("user id", "item id")],
        "context": [name for name in columns if name.startswith("context.")],
        "item columns": [name for name in columns if name.startswith("item.")],
        "activity": [name for name in columns if name.startswith("activity.")],
        "profiles": [name for name in columns if name.startswith("profile.")],
        "captions": [name for name in columns if name == "item tokens" or name.startswith("profile.")],
    }
    found: dict[str, tuple[str, ...]] = {}
    for group, members in wanted.items():
        if len(members) > 1 and tuple(members) not in found.values():
            found[group] = tuple(members)
    return found


def permuted(data: RankingData, columns: Sequence[str], order: Ints) -> RankingData:
    """The data of `by_row` with some columns taken from other rows: row r shows those of row ``order[r]``.

    Args:
        data: of M rows and the training row at the end, which stays.
        columns: names as of `columns_of`; all of them by the same order, so what they say together stays together.
        order: [M].

    Raises:
        CaptionaryError: an unknown column.
    """
    whole = np.append(order, len(order))
    changed: dict[str, Any] = {}

    def now(name: str) -> Any:
        return changed.get(name, getattr(data, name))

    for name in columns:
        part, _, column = name.partition(".")
        if name == "user id":
            changed["user"] = data.user[whole]
        elif name == "item id":
            changed["item_id"] = data.item_id[whole]
        elif name == "visual" and data.visual is not None:
            changed["visual"] = data.visual[whole]
        elif name == "item tokens":
            changed["item_tokens"] = {key: lists.take(whole) for key, lists in data.item_tokens.items()}
        elif part in ("context", "item") and column:
            found = False
            for kind in ("categorical", "numeric"):
                columns_now = now(f"{part}_{kind}")
                if column in columns_now:
                    changed[f"{part}_{kind}"] = {**columns_now, column: columns_now[column][whole]}
                    found = True
            if not found:
                raise bad_value("column", name, "one that the data holds")
        elif part == "activity" and column in data.events and data.activity is not None:
            masses = np.array(now("activity"))
            masses[:, data.events.index(column)] = data.activity[whole, data.events.index(column)]
            changed["activity"] = masses
        elif part == "profile":
            held = now("profiles")
            if not any(column in built for built in held.values()):
                raise bad_value("column", name, "one that the data holds")
            changed["profiles"] = {
                key: {
                    event: lists.take(whole) if event == column else lists for event, lists in built.items()
                }
                for key, built in held.items()
            }
        else:
            raise bad_value("column", name, "one that the data holds")
    return replace(data, **changed)


def _take(columns: Mapping[str, Any], rows: Ints) -> dict[str, Any]:
    return {name: values[rows] for name, values in columns.items()}
