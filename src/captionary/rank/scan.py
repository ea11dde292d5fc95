"""One look at the ids and numbers of the training shards, before they are learnt from: vocabularies and base rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.rank.features import Schema
from captionary.rank.fit_settings import FitConfig
from captionary.rank.losses import LabelSums, label_sums
from captionary.rank.settings import RankerConfig
from captionary.rank.shards import ItemTable, Shards
from captionary.rank.stream import catalogue_rows, dense_of, labels_of
from captionary.rank.vocabulary import RowRules, Vocabulary

__all__ = ["Scan", "scan", "schema_of"]

Floats = npt.NDArray[np.float64]


class Scan(NamedTuple):
    """What is known of the training rows before the first step."""

    vocabularies: dict[str, Vocabulary]
    """`user`, `item`, `context.NAME` and `item.NAME`."""
    labels: LabelSums
    mean: Floats
    """[numeric] of what is not missing; 0 where all is."""
    scale: Floats
    """[numeric] standard deviation; 1 where there is none."""


def scan(
    shards: Shards,
    items: ItemTable,
    config: FitConfig,
    before: Mapping[str, Vocabulary] | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Scan:
    """Read the columns of ids, numbers and labels, a row group at a time.

    Args:
        shards: what will be trained on.
        items: its catalogue.
        config: how frequent an id or category must be, or to how many rows it is hashed.
        before: vocabularies of an earlier training, which grow: none of their ids changes its row.
        start, stop: the training rows that count.

    Raises:
        CaptionaryError: see `Shards.groups`, `Encoder.block` and `RowRules.renewed`.
    """
    schema = shards.schema
    names = ["user", "item", *(f"context.{name}" for name in schema.context_categorical)]
    names += [f"item.{name}" for name in schema.item_categorical]
    rules = _rules(config.ranker)
    found = {
        name: rules.renewed(name, before[name]) if before is not None else rules.empty(name) for name in names
    }
    catalogue = Vocabulary.fit(items.ids)
    shown = np.zeros(len(items.ids), np.int64)
    moments = _Moments(len(schema.numeric))
    labels = LabelSums(np.zeros(len(schema.tasks)), np.zeros(len(schema.tasks), np.int64))
    columns = [
        name for name in schema.columns if name != "timestamp" and not name.startswith(("list.", "vector."))
    ]
    for group in shards.groups("train", start, stop, columns=columns):
        table = group.table
        item = catalogue_rows(catalogue, group)
        shown += np.bincount(item, minlength=len(shown))
        found["user"] = found["user"].grow(table["user_id"])
        found["item"] = found["item"].grow(table["item_id"])
        for name in schema.context_categorical:
            found[f"context.{name}"] = found[f"context.{name}"].grow(table[f"context.{name}"])
        moments.add(dense_of(group, schema.context_numeric, schema.events, items, item))
        labels = labels.plus(label_sums(labels_of(group, schema), schema.task_kinds))
    for name in schema.item_categorical:
        found[f"item.{name}"] = found[f"item.{name}"].grow(items.categorical[name], times=shown)
    return Scan(found, labels, moments.mean, moments.scale)


def schema_of(shards: Shards, vocabularies: Mapping[str, Vocabulary], config: FitConfig) -> Schema:
    """The sizes of a ranker on these shards."""
    schema, features = shards.schema, config.features
    tokens, profiles = features.tokens and schema.tokens, features.profiles and schema.profiles
    return Schema(
        tasks=schema.tasks,
        task_kinds=schema.task_kinds,
        task_weights=schema.task_weights,
        users=vocabularies["user"].rows,
        items=vocabularies["item"].rows,
        numeric=schema.numeric,
        context={name: vocabularies[f"context.{name}"].rows for name in schema.context_categorical},
        item_categories={name: vocabularies[f"item.{name}"].rows for name in schema.item_categorical},
        visual=schema.visual if features.visual else 0,
        vectors={name: column.width for name, column in schema.vectors.items()} if features.vectors else {},
        tokens=tokens,
        events=schema.events if profiles else (),
        vocabulary=schema.vocabulary if tokens or profiles else 0,
    )


def _rules(ranker: RankerConfig) -> RowRules:
    return RowRules(
        id_min_rows=ranker.id_min_rows,
        id_hash_rows=ranker.id_hash_rows,
        category_min_rows=ranker.category_min_rows,
        category_hash_rows=ranker.category_hash_rows,
    )


class _Moments:
    """Mean and deviation of columns, chunk by chunk (Chan, Golub and LeVeque 1983); NaN is left out."""

    def __init__(self, columns: int) -> None:
        self._count = np.zeros(columns)
        self._mean = np.zeros(columns)
        self._squares = np.zeros(columns)

    def add(self, values: Floats) -> None:
        given = ~np.isnan(values)
        count = given.sum(axis=0).astype(np.float64)
        filled = np.where(given, values, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(given, values - mean, 0.0) ** 2).sum(axis=0)
        total = self._count + count
        apart = mean - self._mean
        self._squares += squares + apart**2 * self._count * count / np.maximum(total, 1)
        self._mean += apart * count / np.maximum(total, 1)
        self._count = total

    @property
    def mean(self) -> Floats:
        return self._mean

    @property
    def scale(self) -> Floats:
        spread = np.sqrt(self._squares / np.maximum(self._count, 1))
        return np.where(spread > 0, spread, 1.0)
