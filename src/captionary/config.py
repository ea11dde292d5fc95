"""Typed configs from YAML: frozen dataclasses in, unknown keys and wrong types refused with the nearest known name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from captionary.errors import CaptionaryError, bad_value, nearest

__all__ = ["from_mapping", "load_yaml", "to_mapping"]

C = TypeVar("C")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        CaptionaryError: the file is missing, is not YAML, or holds something else than a mapping.
    """
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise bad_value("config", str(path), "a readable file", where=str(error.strerror)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise bad_value("config", str(path), "valid YAML", where=" ".join(str(error).split())) from None
    if not isinstance(loaded, dict):
        raise bad_value("config", type(loaded).__name__, "a mapping of keys to values", where=str(path))
    return loaded


def from_mapping(cls: type[C], data: Mapping[str, Any], *, where: str) -> C:
    """Build the dataclass `cls` (and the dataclasses inside it) from plain YAML values.

    Raises:
        CaptionaryError: an unknown key (names the nearest), a missing key, or a value of another type;
            a CaptionaryError of the dataclass's own ``__post_init__`` gets `where` added.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise bad_value("key", str(key), nearest(str(key), fields), where=where)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise bad_value(name, "(absent)", "given", where=where)
    try:
        return cls(**values)
    except CaptionaryError as error:
        raise CaptionaryError(f"{error}; {where}") from None


def to_mapping(config: object) -> dict[str, Any]:
    """The plain values of a config, ready for YAML, JSON or a fingerprint."""
    return dataclasses.asdict(config)  # type: ignore[call-overload, no-any-return]


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        for option in options[:-1]:
            try:
                return _convert(option, value, where)
            except CaptionaryError:
                continue
        return _convert(options[-1], value, where)
    if hint is Any:
        return value
    if origin is typing.Literal:
        if value not in args:
            raise bad_value(
                where.rsplit(": ", 1)[-1], value, nearest(str(value), map(str, args)), where=where
            )
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a mapping")
        return from_mapping(typing.cast(type, hint), value, where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a mapping")
        inner = args[1] if args else Any
        return {str(key): _convert(inner, item, f"{where}: {key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise _wrong(where, value, f"of type {hint.__name__}")
    return value


def _wrong(where: str, value: object, rule: str) -> CaptionaryError:
    return bad_value(where.rsplit(": ", 1)[-1], value, rule, where=where)
