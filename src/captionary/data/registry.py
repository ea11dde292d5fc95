"""The adapters by name, imported only when used."""

from __future__ import annotations

import importlib
from pathlib import Path

from captionary.errors import bad_value, nearest

__all__ = ["ADAPTERS", "convert"]

ADAPTERS: dict[str, str] = {
    "kuairand": "captionary.data.kuairand:convert",
    "movielens-posters": "captionary.data.movielens:convert",
    "oasis": "captionary.data.oasis:convert",
}


def convert(name: str, source: Path, out: Path) -> Path:
    """Turn the folder `source` into a dataset directory `out` with the adapter `name`; returns `out`.

    `out` appears only when complete. Media are named by their absolute paths unless they lie beneath `out`.

    Raises:
        CaptionaryError: no such adapter, a file or column is missing or wrong, or `out` is taken.
    """
    if name not in ADAPTERS:
        raise bad_value("adapter", name, nearest(name, ADAPTERS), where="captionary data")
    module, function = ADAPTERS[name].split(":")
    path: Path = getattr(importlib.import_module(module), function)(Path(source), Path(out))
    return path
