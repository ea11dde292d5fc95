"""Stages addressed by the fingerprint of inputs, config and code: done once, published whole, resumed when killed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from captionary.errors import bad_value
from captionary.publish import atomic_file, atomic_folder

__all__ = ["Stage", "code_version", "fingerprint", "locked", "read_stage", "run_stage", "stage_done"]

_MANIFEST = "stage.json"


class Stage(NamedTuple):
    """A finished stage: where it is, what it says of itself, and whether it had to be done now."""

    folder: Path
    facts: dict[str, Any]
    """What the stage's work returned: counts and figures for later stages and the report."""
    fingerprint: str
    fresh: bool
    """False where an earlier run had done it."""
    seconds: float
    """Wall-clock seconds of the run that did it."""
    made_at: str = ""
    """When it was done, ISO 8601 in UTC."""


def fingerprint(**parts: object) -> str:
    """Digest of plain values (configs, input fingerprints, code versions); the order of keys does not matter."""
    said = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(), digest_size=12).hexdigest()


def code_version(*parts: str) -> str:
    """Digest of the source of modules or subpackages of captionary, such as ``represent`` or ``rank/train.py``."""
    root = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        path = root / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix not in (".py", ".j2", ".css"):
                continue
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def stage_done(folder: Path, expected: str) -> Stage | None:
    """The finished stage in `folder` if its fingerprint is the expected one."""
    found = read_stage(folder)
    return found if found is not None and found.fingerprint == expected else None


def read_stage(folder: Path) -> Stage | None:
    """The finished stage in `folder`, whatever it was made of; None where it is absent or damaged: do it again."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        made = str(manifest["made_at"])
        return Stage(folder, manifest["facts"], manifest["fingerprint"], False, manifest["seconds"], made)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_stage(
    folder: Path,
    expected: str,
    work: Callable[[Path], Mapping[str, Any] | None],
    *,
    again: Callable[[Stage], bool] = lambda _: False,
) -> Stage:
    """Do `work` into a fresh folder and publish it as `folder`, unless that has been done.

    Args:
        folder: where the stage's output is visible once complete.
        expected: the fingerprint of everything that the output depends on.
        work: fills the folder that it is given, and returns facts (plain JSON values).
        again: whether a finished stage has something left that is worth another try.
    """
    if (done := stage_done(folder, expected)) and not again(done):
        return done
    began = time.monotonic()
    with atomic_folder(folder) as partial:
        facts = dict(work(partial) or {})
        seconds = time.monotonic() - began
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = {
            "fingerprint": expected,
            "facts": facts,
            "seconds": round(seconds, 3),
            "made_at": made_at,
        }
        with atomic_file(partial / _MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1).encode())
    return Stage(folder, facts, expected, True, seconds, made_at)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the lock goes with the process, however it ends.

    Raises:
        CaptionaryError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            todo = "wait for it, or give this run another name"
            raise bad_value("run", str(folder), "used by one process at a time", todo=todo) from None
        yield
