"""A Feast repository over an exported folder: the files that `feast apply` reads. Feast itself is not needed here."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from captionary.errors import bad_value
from captionary.interchange.parquet import Metadata, profile_files, read_metadata
from captionary.publish import atomic_file

__all__ = ["Repository", "view_names", "write_repository"]

_MARK = "# Written by captionary export-features"
_TYPES = {pa.int64(): ("INT64", "Int64"), pa.string(): ("STRING", "String")}


class Repository(NamedTuple):
    """A Feast repository that was written."""

    folder: Path
    views: dict[str, str]
    """Feature view -> the event type of its profiles; "" for item_tokens."""
    start: datetime
    """What `feast materialize` is to be given: no row is earlier than `start`, nor as late as `end`."""
    end: datetime

    def to_string(self) -> str:
        """The two commands that fill the online store."""
        folder = f"feast -c {self.folder}"
        times = f"{self.start:%Y-%m-%dT%H:%M:%S} {self.end:%Y-%m-%dT%H:%M:%S}"
        return f"{folder} apply\n{folder} materialize {times}"


def write_repository(
    folder: Path, export: Path, *, project: str = "captionary", ttl_days: float = 30.0
) -> Repository:
    """Write feature_store.yaml (provider local, sqlite online, files offline) and feature_store.py.

    Feast's own registry and online store, which lie beneath `folder`, are left alone: after a new export into the same
    place, write, apply and materialize again.

    Args:
        folder: the repository; not within `export`, which is replaced as a whole by the next export.
        export: a folder that `export_features` wrote.
        project: Feast's name of the project, ASCII letters, digits and _.
        ttl_days: how old a profile may be to be joined to a row of a training table; 0: any age. An item's tokens
            hold for ever.

    Raises:
        CaptionaryError: no export there, a name that Feast refuses, or files of somebody else in `folder`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", project):
        raise bad_value("project", project, "ASCII letters, digits and _, beginning with no _")
    if not 0 <= ttl_days < math.inf:
        raise bad_value("ttl_days", ttl_days, ">= 0 and finite; 0: any age")
    folder, export = Path(folder).resolve(), Path(export).resolve()
    if folder.is_relative_to(export):
        rule = "outside the export, which is replaced as a whole"
        raise bad_value("folder of the Feast repository", str(folder), rule)
    files = profile_files(export)
    names = view_names(files)
    views = [_view("item_tokens", export / "item_tokens.parquet", folder, 0.0)]
    views += [_view(names[event], path, folder, ttl_days) for event, path in files.items()]
    if len({view["tags"]["tokenizer_fingerprint"] for view in views}) > 1:
        raise bad_value("tokenizer_fingerprint", "several", "one for all files", where=str(export))
    first, last = _span([export / "item_tokens.parquet", *files.values()])
    repository = Repository(folder, {"item_tokens": "", **{names[e]: e for e in files}}, first, last)
    loader = jinja2.PackageLoader("captionary.interchange")
    environment = jinja2.Environment(  # of Python, not HTML: every value goes through repr
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["repr"] = repr
    template = environment.get_template("feature_store.py.j2")
    text = template.render(mark=_MARK, views=views, entities=_entities(views))
    settings = {
        "project": project,
        "provider": "local",
        "registry": "data/registry.db",
        "online_store": {"type": "sqlite", "path": "data/online_store.db"},
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    written = {
        "feature_store.yaml": f"{_MARK}\n{yaml.safe_dump(settings, sort_keys=False)}",
        "feature_store.py": text,
    }
    for name in written:
        _refuse_foreign(folder / name)
    for name, content in written.items():
        with atomic_file(folder / name) as file:
            file.write(content.encode())
    return repository


def view_names(events: Mapping[str, Any]) -> dict[str, str]:
    """event type -> the name of its feature view: ``profile_`` and the type, in letters that Feast takes.

    Feast does not tell names apart by case; types that would come to one name are numbered.
    """
    names: dict[str, str] = {}
    for event in events:
        plain = "profile_" + re.sub(r"[^0-9A-Za-z_]+", "_", event)
        taken = {name.lower() for name in names.values()}
        numbered = (plain if n == 1 else f"{plain}_{n}" for n in range(1, len(taken) + 2))
        names[event] = next(name for name in numbered if name.lower() not in taken)
    return names


def _view(name: str, path: Path, folder: Path, ttl_days: float) -> dict[str, Any]:
    about, schema = read_metadata(path), pq.read_schema(path)
    key = schema.names[0]
    columns = [column for column in ("token_ids", "weights", "mass") if column in schema.names]
    dtypes = {"token_ids": "Array(Int32)", "weights": "Array(Float32)", "mass": "Float32"}
    return {
        "name": name,
        "entity": key.removesuffix("_id"),
        "key": key,
        "dtype": _type_of(schema, key, path)[1],
        "value_type": _type_of(schema, key, path)[0],
        # relative to the repository, so that both can be moved together
        "path": Path(os.path.relpath(path, folder)).as_posix(),
        "fields": {column: dtypes[column] for column in columns},
        "ttl_seconds": round(ttl_days * 86_400),
        "tags": _tags(about),
        "event": about.event or "",
    }


def _type_of(schema: pa.Schema, key: str, path: Path) -> tuple[str, str]:
    dtype = schema.field(key).type
    if dtype not in _TYPES:
        raise bad_value(f"type of {key}", str(dtype), "int64 or string", where=str(path))
    return _TYPES[dtype]


def _entities(views: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """entity -> one of its views; item alone where there are no profiles."""
    found: dict[str, dict[str, Any]] = {}
    for view in views:
        found.setdefault(view["entity"], view)
    return found


def _tags(about: Metadata) -> dict[str, str]:
    """What Feast's registry is to say of a view; it takes strings alone."""
    tags = {
        "tokenizer": about.tokenizer,
        "tokenizer_fingerprint": about.tokenizer_fingerprint,
        "vocabulary_size": str(about.vocabulary_size),
        "vocabulary_version": str(about.vocabulary_version),
    }
    if about.event is not None:
        days = math.inf if about.half_life_days is None else about.half_life_days
        tags |= {"event": about.event, "half_life_days": str(days), "as_of": about.as_of[-1]}
    return tags


def _span(paths: list[Path]) -> tuple[datetime, datetime]:
    """Whole seconds around all timestamps, as Feast's command line takes no smaller ones."""
    times = [pq.read_table(path, columns=["event_timestamp"], partitioning=None)[0] for path in paths]
    ends = [pc.min_max(column).as_py() for column in times if len(column)]
    stamps = [int(moment.timestamp()) for end in ends for moment in end.values()] or [0]
    return datetime.fromtimestamp(min(stamps), UTC), datetime.fromtimestamp(max(stamps) + 1, UTC)


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
        rule = "absent, or written by captionary export-features"
        raise bad_value("file", str(path), rule, todo="choose another folder")
