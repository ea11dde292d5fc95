"""Nothing is visible before it is complete: write beside, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from captionary.errors import bad_value

__all__ = ["atomic_file", "atomic_folder"]

_MARKER = ".captionary.json"  # lists what atomic_folder wrote, so that nothing else is ever deleted


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write; it appears as `path` when the block ends well, and not at all when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, beside `out`; it becomes `out` when the block ends well, and vanishes when it fails.

    An `out` made here before is replaced. That takes two renames: a crash between them leaves the old folder
    beside, named `.NAME.*.old`.

    Raises:
        CaptionaryError: `out` is a file, cannot be made, or holds files that this function did not write.
    """
    out = Path(out).resolve()
    beside = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    old = beside.with_suffix(".old")
    _refuse_foreign(out)
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise bad_value("out", str(out), "a folder that can be written", where=str(error.strerror)) from None
    try:
        yield beside
        written = sorted(path.relative_to(beside).as_posix() for path in beside.rglob("*") if path.is_file())
        with atomic_file(beside / _MARKER) as file:
            file.write(json.dumps({"written_by": "captionary", "files": written}, indent=0).encode())
        _refuse_foreign(out)  # again: the block may have taken hours
        if out.exists():
            out.rename(old)
        try:
            beside.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        _sync_folder(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # a folder cannot be opened, hence not synced, elsewhere
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise bad_value("out", str(out), "a folder", where="a file of that name is there")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        known = {_MARKER, *json.loads((out / _MARKER).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    for path in sorted(out.rglob("*")):
        if not path.is_dir() and path.relative_to(out).as_posix() not in known:
            rule = "a new or empty folder, or one that captionary wrote and nobody added to"
            where = f"it holds {path.relative_to(out)}"
            raise bad_value("out", str(out), rule, where=where, todo="choose another folder")
