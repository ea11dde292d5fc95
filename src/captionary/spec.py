"""dataset.yaml: what it may say, how it is read with all its mistakes at once, how it is written."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from captionary.config import from_mapping, load_yaml, to_mapping
from captionary.errors import CaptionaryError, bad_value, nearest
from captionary.publish import atomic_file

__all__ = ["Columns", "DatasetSpec", "Split", "Task", "TaskKind", "read_spec", "write_spec"]

TaskKind = Literal["binary", "weighted_logistic", "huber_log"]
"""What a label is and how it is learnt: 0 or 1; or seconds (or another amount >= 0), by weighted logistic regression
(Covington, Adams and Sargin 2016, §4.2) or by Huber's loss (1964) on log(1 + seconds)."""

_SAFE = re.compile(r"\w[\w .-]{0,63}")  # tasks, event types and splits become file names
_NEUTRAL: dict[str, Any] = {"name": "unnamed", "tasks": [], "splits": {}, "default_split": ""}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to predict for an impression."""

    name: str
    column: str = ""
    """Column of impressions: bool or 0/1, any number where `at` is given, a number >= 0 where `kind` is of an amount;
    null where nothing is known. Default: the task's name."""
    at: float | None = None
    """binary: the label is 1 where the column is >= this."""
    kind: TaskKind = "binary"
    """binary; or weighted_logistic or huber_log, whose labels are amounts such as seconds."""
    weight: float = 1.0
    """Of this task's loss beside the others', >= 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", self.column or self.name)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of one table that the ranker uses as features."""

    categorical: tuple[str, ...] = ()
    """Integers, bools or strings; null is a category of its own."""
    numeric: tuple[str, ...] = ()
    """Numbers, finite or null."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A division of the impressions into train and eval rows."""

    column: str
    """String column of impressions: train, eval, or null for rows that the split leaves out."""
    kind: Literal["time", "items"] = "time"
    """time: eval rows are later, of a user or of all; items: eval items never occur in train."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What dataset.yaml says."""

    name: str
    tasks: tuple[Task, ...]
    splits: Mapping[str, Split]
    default_split: str
    """Name of the split that is used where none is asked for."""
    event_types: tuple[str, ...] = ()
    """Values of events.event of which profiles are built."""
    context: Columns = Columns()
    """Features that impressions carry: demographics, place on the page, hour."""
    item_features: Columns = Columns()
    """Features that items carry."""
    text: tuple[str, ...] = ()
    """Columns of items that hold text (string or list<string>)."""
    clock: Literal["time", "rank", "none"] = "time"
    """time: timestamps are real; rank: ranks within a user, as days from an epoch; none: a random order."""
    time_zone: str = "UTC"
    """IANA name of the zone by whose days and hours these users live; timestamps are UTC in any case."""
    license: str = "not stated"
    source: str = ""


def read_spec(root: Path) -> tuple[DatasetSpec, list[str]]:
    """dataset.yaml as far as it can be read, and every violation in it."""
    if not (root / "dataset.yaml").is_file():
        missing = bad_value("dataset.yaml", "(absent)", "in the dataset directory", where=str(root))
        return from_mapping(DatasetSpec, _NEUTRAL, where=""), [str(missing)]
    try:
        data = load_yaml(root / "dataset.yaml")
    except CaptionaryError as error:
        return from_mapping(DatasetSpec, _NEUTRAL, where=""), [str(error)]
    good, found = dict(_NEUTRAL), []
    wrong = _NEUTRAL.keys() - data.keys()
    for key, messages in _key_errors(DatasetSpec, data, "dataset.yaml"):
        found += messages
        if messages:
            wrong.add(key)
        elif key in data:
            good[key] = data[key]
    spec = from_mapping(DatasetSpec, good, where="dataset.yaml")
    return spec, found + [str(error) for error in _rule_errors(spec, wrong)]


def write_spec(spec: DatasetSpec, root: Path) -> Path:
    """Write dataset.yaml into `root`."""
    import yaml

    with atomic_file(root / "dataset.yaml") as file:
        file.write(yaml.safe_dump(to_mapping(spec), sort_keys=False, allow_unicode=True).encode())
    return root / "dataset.yaml"


def _key_errors(cls: type, data: Mapping[str, Any], where: str) -> Iterator[tuple[str, list[str]]]:
    """For each key given or required, the errors beneath it; from_mapping itself stops at the first."""
    hints = typing.get_type_hints(cls)
    for key, value in data.items():
        if key not in hints:
            yield key, [str(bad_value("key", str(key), nearest(str(key), hints), where=where))]
            continue
        path = f"{where}: {key}"
        inner: list[tuple[str, Any]] = [(path, value)]
        kind: Any = hints[key]
        if typing.get_origin(kind) is tuple and isinstance(value, list):
            kind, inner = typing.get_args(kind)[0], [(f"{path}[{i}]", v) for i, v in enumerate(value)]
        elif typing.get_origin(kind) is Mapping and isinstance(value, dict):
            kind, inner = typing.get_args(kind)[1], [(f"{path}: {k}", v) for k, v in value.items()]
        if dataclasses.is_dataclass(kind) and all(isinstance(v, dict) for _, v in inner):
            nested = (_key_errors(typing.cast(type, kind), v, p) for p, v in inner)
            yield key, [message for errors in nested for _, messages in errors for message in messages]
            continue
        alone = dataclasses.make_dataclass("Alone", [(key, hints[key])])
        try:
            from_mapping(alone, {key: value}, where=where)
            yield key, []
        except CaptionaryError as error:
            yield key, [str(error)]
    for field in dataclasses.fields(cls):
        if field.name not in data and field.default is field.default_factory is dataclasses.MISSING:
            yield field.name, [str(bad_value(field.name, "(absent)", "given", where=where))]


def _rule_errors(spec: DatasetSpec, wrong: set[str]) -> Iterator[CaptionaryError]:
    """What types cannot say; `wrong` are the keys of which this has been said."""
    for key, names in (
        ("tasks", [task.name for task in spec.tasks]),
        ("event_types", list(spec.event_types)),
        ("splits", list(spec.splits)),
    ):
        where = f"dataset.yaml: {key}"
        if not names and key not in wrong and key != "event_types":
            yield bad_value(key, "(empty)", "at least one", where="dataset.yaml")
        for name in names:
            if not _SAFE.fullmatch(name):
                rule = "1 to 64 letters, digits, spaces, _ . or -, led by a letter, a digit or _"
                yield bad_value("name", repr(name), rule, where=where)
        yield from _repeated(names, where)
    used = {"impression_id", "user_id", "item_id", "timestamp"}
    used |= {task.column for task in spec.tasks} | {split.column for split in spec.splits.values()}
    for key, columns, taken in (
        ("context", spec.context, used),
        ("item_features", spec.item_features, {"item_id", "media"}),
    ):
        where, names = f"dataset.yaml: {key}", [*columns.categorical, *columns.numeric]
        yield from _repeated(names, where)
        for name in sorted(taken.intersection(names)):
            yield bad_value("column", name, "no key, media, timestamp, task or split column", where=where)
    for task in spec.tasks:
        where = f"dataset.yaml: tasks: {task.name}"
        if task.at is not None and not math.isfinite(task.at):
            yield bad_value("at", task.at, "a finite number", where=where)
        if task.at is not None and task.kind != "binary":
            yield bad_value("at", task.at, f"absent where kind is {task.kind}", where=where)
        if not (math.isfinite(task.weight) and task.weight >= 0):
            yield bad_value("weight", task.weight, "a finite number >= 0", where=where)
    if spec.tasks and not any(task.weight for task in spec.tasks):
        yield bad_value("weight", 0, "> 0 for one task at least", where="dataset.yaml: tasks")
    if not {"default_split", "splits"} & wrong and spec.default_split not in spec.splits:
        rule = nearest(spec.default_split, spec.splits)
        yield bad_value("default_split", spec.default_split, rule, where="dataset.yaml")
    try:
        zoneinfo.ZoneInfo(spec.time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        rule = "an IANA time zone such as UTC or Europe/Paris"
        yield bad_value("time_zone", repr(spec.time_zone), rule, where="dataset.yaml")


def _repeated(names: Sequence[str], where: str) -> Iterator[CaptionaryError]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield bad_value("name", name, "given once", where=where)
