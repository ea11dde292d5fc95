"""Everything that any arm may use, in memory: one validated record, and how raw ids become indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.rank.vocabulary import RowRules, Vocabulary
from captionary.represent.jagged import Jagged
from captionary.represent.vectors import TokenVectors
from captionary.spec import TaskKind

__all__ = ["DenseVectors", "RankingData", "check_labels", "factorize_ids"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


class DenseVectors(NamedTuple):
    """A dense feature that is a vector, of items or of whatever else impressions have one of: users as of a time."""

    values: npt.NDArray[np.float32]
    """[P, D]; zeros stand for none."""
    row: Ints | None = None
    """[N] which of the P an impression has; None: the vector of its item, P = I."""


def factorize_ids(keys: Any, train: Ints, *, min_rows: int = 1) -> tuple[Ints, int]:
    """Indices for ids or categories, known from the training rows alone.

        keys     [ada, bob, ada, cy, null]     train rows 0, 1, 2
        indices  [1,   2,   1,   0,  0]        rows of the table: 3

    Args:
        keys: integers, strings or an Arrow array, [N]; null and NaN are unseen.
        train: rows whose ids get an index of their own, [Ntr].
        min_rows: ids with fewer training rows than this share index 0 with the unseen.

    Returns:
        (indices [N], rows of the table, index 0 included).
    """
    vocabulary = Vocabulary.fit(keys, train, min_rows=min_rows)
    return vocabulary.index(keys), vocabulary.rows


@dataclass(frozen=True, kw_only=True)
class RankingData:
    """N impressions of I items with T tasks. Use `from_arrays` to start from raw ids.

    Raises:
        CaptionaryError: shapes that disagree, an index out of range, NaN or infinite numbers, labels outside
            their task's range, a task without labels, or evaluation rows that are training rows.
    """

    tasks: tuple[str, ...]
    """Names of the T tasks."""
    user: Ints
    """[N] row of the user table; 0: not in the training rows, or rare."""
    item: Ints
    """[N] row of the item arrays below, 0 to I - 1."""
    item_id: Ints
    """[I] row of the item table; 0: unseen in training, or rare. Cold items keep their content."""
    labels: npt.NDArray[np.float32]
    """[N, T] from 0 to 1 for binary tasks, >= 0 for others; NaN where missing."""
    train: Ints
    """[Ntr] training rows in time order."""
    eval: Ints
    """[Nev] evaluation rows."""
    context_categorical: Mapping[str, Ints] = field(default_factory=dict)
    """Column → [N] index, 0 unseen."""
    context_numeric: Mapping[str, Floats] = field(default_factory=dict)
    """Column → [N]."""
    item_categorical: Mapping[str, Ints] = field(default_factory=dict)
    """Column → [I] index, 0 unseen."""
    item_numeric: Mapping[str, Floats] = field(default_factory=dict)
    """Column → [I]."""
    events: tuple[str, ...] = ()
    """Event types, in the order of the columns of `activity`."""
    activity: npt.NDArray[np.float32] | None = None
    """[N, E] log1p of each profile's mass; every arm is given it, so that having a profile leaks nothing."""
    visual: npt.NDArray[np.float32] | None = None
    """[I, D]."""
    item_tokens: Mapping[str, Jagged] = field(default_factory=dict)
    """Key → I lists."""
    profiles: Mapping[str, Mapping[str, Jagged]] = field(default_factory=dict)
    """Key → event type → N weighted lists."""
    vectors: Mapping[str, DenseVectors] = field(default_factory=dict)
    """Key → dense vectors beside `visual`."""
    token_vectors: Mapping[str, TokenVectors] = field(default_factory=dict)
    """Key → vectors that a token table may start from."""
    task_kinds: tuple[TaskKind, ...] = ()
    """Of each task; (): all binary."""
    task_weights: tuple[float, ...] = ()
    """Of each task's loss; (): all 1."""
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)
    """Table (`user`, `item`, `context.NAME`, `item.NAME`) → how raw ids became its rows, where known."""

    def __post_init__(self) -> None:
        for name, default in (("task_kinds", "binary"), ("task_weights", 1.0)):
            given = getattr(self, name) or (default,) * len(self.tasks)
            if len(given) != len(self.tasks):
                raise bad_value(name, given, f"one for each of {len(self.tasks)} tasks")
            object.__setattr__(self, name, given)
        _check(self)

    @classmethod
    def from_arrays(
        cls,
        *,
        users: Any,
        item: Ints,
        items: int,
        train: Ints,
        context_categorical: Mapping[str, Any] | None = None,
        item_categorical: Mapping[str, Any] | None = None,
        item_keys: Any = None,
        min_rows: int = 1,
        hash_rows: int = 0,
        category_min_rows: int = 1,
        category_hash_rows: int = 0,
        **rest: Any,
    ) -> RankingData:
        """Factorise raw users, items and categories by the training rows; `rest` are the other fields, as they are.

        Args:
            users: raw user ids [N].
            item: row of each impression's item in the item arrays [N].
            items: I.
            train: training rows in time order [Ntr].
            context_categorical: column → raw values [N].
            item_categorical: column → raw values [I]; known are those of items with training rows.
            item_keys: raw item ids [I]; None: the rows 0 to I - 1.
            min_rows: users and items with fewer training rows count as unseen.
            hash_rows: users and items are hashed to this many rows each; 0: those frequent enough have their own.
            category_min_rows: categories with fewer training rows count as unseen; those of items have the rows of the
                items.
            category_hash_rows: the categories of each column are hashed to this many rows.

        Raises:
            CaptionaryError: see the class.
        """
        _check_indices("item", item, items)
        _check_indices("train", train, len(item))
        counts = np.bincount(item[train], minlength=items)
        context, columns = context_categorical or {}, item_categorical or {}
        raw_items = np.arange(items) if item_keys is None else item_keys
        rules = RowRules(
            id_min_rows=min_rows,
            id_hash_rows=hash_rows,
            category_min_rows=category_min_rows,
            category_hash_rows=category_hash_rows,
        )
        found = {"user": rules.empty("user").grow(users, train)}
        found["item"] = rules.empty("item").count(raw_items, counts)
        for name, raw in context.items():
            found[f"context.{name}"] = rules.empty(f"context.{name}").grow(raw, train)
        for name, raw in columns.items():
            found[f"item.{name}"] = rules.empty(f"item.{name}").grow(raw, times=counts)
        return cls(
            user=found["user"].index(users),
            item=item,
            item_id=found["item"].index(raw_items),
            train=train,
            context_categorical={name: found[f"context.{name}"].index(raw) for name, raw in context.items()},
            item_categorical={name: found[f"item.{name}"].index(raw) for name, raw in columns.items()},
            vocabularies=found,
            **rest,
        )

    @property
    def users(self) -> int:
        """Rows of the user table, index 0 included."""
        return self.rows_of("user", self.user)

    @property
    def item_ids(self) -> int:
        """Rows of the item id table, index 0 included."""
        return self.rows_of("item", self.item_id)

    def rows_of(self, table: str, index: Ints) -> int:
        """Rows of a table: those of its vocabulary, or as many as `index` needs."""
        known = self.vocabularies.get(table)
        return max(int(index.max(initial=0)) + 1, known.rows if known is not None else 0)

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the columns of `dense`."""
        return (
            *(f"context.{name}" for name in self.context_numeric),
            *(f"item.{name}" for name in self.item_numeric),
            *(f"activity.{event}" for event in self.events),
        )

    def dense(self, rows: Ints) -> npt.NDArray[np.float64]:
        """The numeric features of `rows`, [B, len(numeric)]."""
        columns = [values[rows] for values in self.context_numeric.values()]
        columns += [values[self.item[rows]] for values in self.item_numeric.values()]
        if self.activity is not None:
            columns += list(self.activity[rows].T)
        return np.stack(columns, axis=1).astype(np.float64) if columns else np.empty((len(rows), 0))

    def vocabulary(self, key: str) -> int:
        """Rows that a token table needs for the lists under `key`: the greatest id, plus one."""
        lists = [*self.profiles.get(key, {}).values()]
        lists += [self.item_tokens[key]] if key in self.item_tokens else []
        return max((int(each.values.max(initial=0)) for each in lists), default=0) + 1


def check_labels(
    labels: npt.NDArray[np.floating[Any]], tasks: Sequence[str], kinds: Sequence[TaskKind], *, where: str = ""
) -> None:
    """Refuse labels [N, T] outside their task's range: 0 to 1 if binary, else finite and >= 0; NaN is missing.

    Raises:
        CaptionaryError: names the first row and task; `where` says what the rows are of.
    """
    binary = np.array([kind == "binary" for kind in kinds])
    good = (labels >= 0) & np.where(binary, labels <= 1, np.isfinite(labels))
    bad = ~(good | np.isnan(labels))
    if bad.any():
        row, task = (int(place[0]) for place in np.nonzero(bad))
        place = f"row {row}, {tasks[task]}" + (f", {where}" if where else "")
        rule = "from 0 to 1" if binary[task] else "finite and >= 0"
        raise bad_value("label", float(labels[row, task]), rule, where=place)


def _check(data: RankingData) -> None:
    rows, items = len(data.item), len(data.item_id)
    if data.labels.shape != (rows, len(data.tasks)) or not data.tasks:
        raise _shape("labels", data.labels, (rows, len(data.tasks)))
    _check_indices("item", data.item, items)
    if len(data.user) != rows:
        raise _shape("user", data.user, (rows,))
    _check_indices("user", data.user, None)
    _check_indices("item_id", data.item_id, None)
    for name in ("train", "eval"):
        _check_indices(name, getattr(data, name), rows)
        if not len(getattr(data, name)):
            raise bad_value(f"{name} rows", 0, ">= 1")
    if len(np.intersect1d(data.train, data.eval)):
        both = int(np.intersect1d(data.train, data.eval)[0])
        raise bad_value("eval row", both, "outside the training rows", todo="keep each row in one split")
    check_labels(data.labels, data.tasks, data.task_kinds)
    for task, name in enumerate(data.tasks):
        if np.isnan(data.labels[data.train, task]).all():
            raise bad_value(f"training labels of {name}", 0, ">= 1", todo="leave the task out")
    for group, length in (("context", rows), ("item", items)):
        for name, index in getattr(data, f"{group}_categorical").items():
            if len(index) != length:
                raise _shape(f"{group} column {name}", index, (length,))
            _check_indices(f"{group} column {name}", index, None)
        for name, values in getattr(data, f"{group}_numeric").items():
            _check_finite(f"{group} column {name}", values, (length,))
    if (data.activity is None) != (not data.events):
        found = "absent" if data.activity is None else "given"
        raise bad_value("activity", found, "given exactly with events")
    if data.activity is not None:
        _check_finite("activity", data.activity, (rows, len(data.events)))
    if data.visual is not None:
        if data.visual.ndim != 2 or data.visual.shape[1] < 1:
            raise bad_value("shape of visual", data.visual.shape, f"({items}, D)")
        _check_finite("visual", data.visual, (items, data.visual.shape[1]))
    for key, (vectors, place) in data.vectors.items():
        if vectors.ndim != 2 or vectors.shape[1] < 1:
            raise bad_value(f"shape of vectors {key}", vectors.shape, "(P, D)")
        _check_finite(f"vectors {key}", vectors, (items if place is None else len(vectors), vectors.shape[1]))
        if place is not None:
            if len(place) != rows:
                raise _shape(f"rows of vectors {key}", place, (rows,))
            _check_indices(f"row of vectors {key}", place, len(vectors))
    for key, lists in data.item_tokens.items():
        _check_lists(f"item tokens {key}", lists, items)
    for key, profiles in data.profiles.items():
        for event, lists in profiles.items():
            if event not in data.events:
                raise bad_value(f"event of profiles {key}", event, nearest(event, data.events))
            _check_lists(f"profiles {key} of {event}", lists, rows)


def _check_indices(name: str, index: Any, size: int | None) -> None:
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise bad_value(f"{name}", f"{index.dtype} {index.shape}", "integers, one dimension")
    if len(index) and (index.min() < 0 or (size is not None and index.max() >= size)):
        worst = index.min() if index.min() < 0 else index.max()
        raise bad_value(name, int(worst), ">= 0" if size is None else f"from 0 to {size - 1}")


def _check_finite(name: str, values: Any, shape: Sequence[int]) -> None:
    if values.shape != tuple(shape):
        raise _shape(name, values, shape)
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~finite))
        todo = "fill missing values before ranking"
        raise bad_value(name, float(values[place]), "finite", where=f"row {place[0]}", todo=todo)


def _check_lists(name: str, lists: Jagged, rows: int) -> None:
    if lists.rows != rows:
        raise bad_value(f"lists of {name}", lists.rows, str(rows))
    if lists.offsets[0] != 0 or lists.offsets[-1] != len(lists.values) or (np.diff(lists.offsets) < 0).any():
        raise bad_value(f"offsets of {name}", "broken", f"rising from 0 to {len(lists.values)}")
    if len(lists.values) and lists.values.min() < 0:
        raise bad_value(f"token id of {name}", int(lists.values.min()), ">= 0")
    if lists.weights is not None:
        _check_finite(f"weights of {name}", lists.weights, (len(lists.values),))


def _shape(name: str, values: Any, expected: Sequence[int]) -> CaptionaryError:
    return bad_value(f"shape of {name}", tuple(values.shape), str(tuple(expected)))
