"""Checkpoints of a training: a folder each, seen whole or not at all, and all that is needed to go on to the bit.

    OUT/checkpoints/step-00002000/ranker/                 weights, config, vocabularies, as of `save_ranker`
                                  optimizers.safetensors  accumulators and moments, see `Step.state_dict`
                                  state.json              Progress, configs, what was trained on

Random numbers are drawn anew from seed, epoch and step, so none of their generators has a state to keep.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError, bad_value
from captionary.publish import atomic_folder
from captionary.rank.checkpoint import load_ranker, load_vocabularies, save_ranker
from captionary.rank.fit_settings import FitConfig
from captionary.rank.model import Ranker
from captionary.rank.shards import ShardSchema
from captionary.rank.vocabulary import Vocabulary

__all__ = [
    "SHARDED",
    "Checkpoint",
    "Progress",
    "Said",
    "checkpoint_folder",
    "checkpoints",
    "clean",
    "is_sharded",
    "latest",
    "load_any",
    "load_checkpoint",
    "prune",
    "read_said",
    "save_checkpoint",
    "say_all",
    "sync_files",
]

SHARDED = "sharded"
"""Folder of a checkpoint of many processes, see `captionary.rank.sharded_state`."""

_FORMAT = 1
_TODO = "make room and give the same command again: it continues at the last checkpoint"
_NAME = re.compile(r"step-(\d+)")
_HIDDEN = re.compile(r"\.step-\d+\..*(tmp|old)")


class Progress(NamedTuple):
    """How far a training is."""

    steps: int
    """That it will have."""
    done: int
    """Steps done."""
    before: int
    """Steps of the trainings that it continues."""
    rows: int
    """Impressions learnt from, those of `before` not counted."""
    epoch: int
    """Pass over the shards, from 0."""
    batch: int
    """Batches of that pass that are done."""
    shard: str
    """Where the next batch's window is read from: for people."""
    row_group: int
    offset: int
    """Rows of that row group before it."""
    log_bytes: int
    """Length of log.jsonl."""
    log_loss: float
    """Sum of loss x rows since its last line."""
    log_rows: int
    """Rows since its last line."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= self.steps


class Checkpoint(NamedTuple):
    """A training, as it was at a step."""

    model: Ranker
    optimizers: dict[str, Tensor]
    vocabularies: dict[str, Vocabulary]
    progress: Progress
    config: FitConfig
    schema: ShardSchema
    identity: Mapping[str, Any]
    """What the training is of: shards, seed, and what it continues."""


class Said(NamedTuple):
    """What the state.json of a checkpoint says, of one process's training or of many's."""

    progress: Progress
    config: FitConfig
    schema: ShardSchema
    identity: Mapping[str, Any]

    @property
    def named(self) -> dict[str, Any]:
        """Which training it is of, and where in it: what one that begins with it keeps of it."""
        steps = self.progress.before + self.progress.done
        return {"shards": self.identity["shards"], "seed": self.identity["seed"], "steps": steps}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `folder`, whole or not at all; earlier checkpoints stay.

    Raises:
        CaptionaryError: it cannot be written, as on a full disk.
    """
    try:
        with atomic_folder(folder) as partial:
            home = partial / "ranker"
            try:
                save_ranker(checkpoint.model, home, checkpoint.vocabularies)
            except CaptionaryError as error:
                said_of = str(error).replace(str(home), str(folder)).split("; make room")[0]
                raise CaptionaryError(f"{said_of}; {_TODO}") from None
            tensors = {
                name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.optimizers.items()
            }
            save_file(tensors, partial / "optimizers.safetensors")
            (partial / "state.json").write_text(json.dumps(say_all(checkpoint), indent=1), encoding="utf-8")
            sync_files(partial)
    except (OSError, SafetensorError) as error:
        where = getattr(error, "strerror", None) or str(error)
        raise bad_value(
            "checkpoint", str(folder), "on a disk that takes it", where=where, todo=_TODO
        ) from None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        CaptionaryError: no checkpoint, or one that is damaged.
    """
    said = read_said(folder)
    try:
        optimizers = load_file(folder / "optimizers.safetensors")
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, "captionary fit", error) from None
    vocabularies = load_vocabularies(folder / "ranker")
    model = load_ranker(folder / "ranker")
    return Checkpoint(model, optimizers, vocabularies, *said)


def load_any(folder: Path) -> Checkpoint:
    """Read a checkpoint of one process or of many, all of it in memory.

    Raises:
        CaptionaryError: see `load_checkpoint` and `captionary.rank.sharded_state.load_sharded`.
    """
    if not is_sharded(folder):
        return load_checkpoint(folder)
    from captionary.rank.sharded_state import load_sharded  # imports torch.distributed, which few need

    return load_sharded(folder)


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint is one of many processes."""
    return (folder / SHARDED).is_dir()


def say_all(checkpoint: Checkpoint | Said) -> dict[str, Any]:
    """What `read_said` reads from a state.json."""
    return {
        "format": _FORMAT,
        "progress": checkpoint.progress._asdict(),
        "config": to_mapping(checkpoint.config),
        "schema": to_mapping(checkpoint.schema),
        "identity": dict(checkpoint.identity),
    }


def read_said(folder: Path) -> Said:
    """What a checkpoint says of its training, without weights and vocabularies.

    Raises:
        CaptionaryError: no checkpoint, or one that is damaged.
    """
    path = folder / "state.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != _FORMAT:
            raise bad_value("format", said["format"], str(_FORMAT), where=str(path))
        config = from_mapping(FitConfig, said["config"], where=str(path))
        schema = from_mapping(ShardSchema, said["schema"], where=str(path))
        return Said(Progress(**said["progress"]), config, schema, said["identity"])
    except CaptionaryError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, "captionary fit or train", error) from None


def latest(folder: Path) -> Path:
    """The last checkpoint of a training, or `folder` itself where it is one.

    Raises:
        CaptionaryError: there is none.
    """
    found = checkpoints(folder)
    if not found:
        raise bad_value("checkpoint", str(folder), "a checkpoint, or a folder that captionary fit wrote")
    return found[-1]


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return out / "checkpoints" / f"step-{step:08d}"


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a training, the latest last; `out` may also be one of them."""
    if (out / "state.json").is_file():
        return [out]
    found = [path for path in (out / "checkpoints").glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name[5:]))


def prune(out: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep`; what is being removed can no longer be loaded."""
    for path in checkpoints(out)[:-keep]:
        hidden = path.with_name(f".{path.name}.pruned.old")
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def clean(out: Path) -> None:
    """Remove what a killed training left half written or half removed."""
    for path in (out / "checkpoints").glob(".step-*"):
        if _HIDDEN.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def sync_files(folder: Path) -> None:
    """Wait until everything in `folder` is on the disk: one that is full may say so only now.

    Raises:
        OSError: it is.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _damaged(folder: Path, maker: str, error: Exception) -> CaptionaryError:
    where = str(error).splitlines()[0] if str(error) else type(error).__name__
    return bad_value("checkpoint", str(folder), f"a checkpoint of {maker}", where=where)
