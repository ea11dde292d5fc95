"""A distributed training's checkpoint, by torch.distributed.checkpoint, and the way from and to that of one process.

    OUT/checkpoints/step-00002000/sharded/      what each process keeps: weights, accumulators, moments
                                  vocabularies/NAME.parquet
                                  state.json    as of `captionary.rank.state`, and the ranker's sizes

Names and shapes in `sharded/` are those of one process's checkpoint: `ranker.NAME` for what model.safetensors has under
NAME, `optimizers.NAME` for optimizers.safetensors. So any number of processes can load it, one too.
"""

from __future__ import annotations

import json
import logging
import urllib.parse
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError, bad_value
from captionary.publish import atomic_folder
from captionary.rank.features import Schema
from captionary.rank.model import Ranker
from captionary.rank.state import SHARDED, Checkpoint, read_said, save_checkpoint, say_all, sync_files
from captionary.rank.vocabulary import Vocabulary

__all__ = [
    "gather_checkpoint",
    "load_into",
    "load_sharded",
    "quiet",
    "read_about",
    "save_sharded",
    "scatter_checkpoint",
]

_RANKER, _OPTIMIZERS = "ranker.", "optimizers."


def save_sharded(folder: Path, state: Mapping[str, Any], about: Checkpoint, schema: Schema) -> None:
    """Write `folder`, whole or not at all; all processes call it.

    Args:
        folder: on a disk that all processes see.
        state: `ranker.NAME` and `optimizers.NAME` → a tensor, or this process's part of one.
        about: vocabularies, progress, configs, identity; its model and optimizers are not looked at.
        schema: sizes of the ranker.

    Raises:
        CaptionaryError: it cannot be written, as on a full disk.
    """
    group = dist.group.WORLD if dist.is_initialized() else None
    first = group is None or dist.get_rank() == 0
    try:
        if not first:
            _write(_told(None), state)
            _told(None)  # until the folder is in its place
            return
        with atomic_folder(folder) as partial:
            _told(str(partial))
            _write(str(partial), state)
            for name, vocabulary in about.vocabularies.items():
                vocabulary.save(partial / "vocabularies" / f"{urllib.parse.quote(name, safe='')}.parquet")
            said = say_all(about) | {"ranker": to_mapping(schema)}
            (partial / "state.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
            sync_files(partial)
        _told(str(folder))
    except (OSError, CheckpointException) as error:
        where = getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
        todo = "make room and give the same command again: it continues at the last checkpoint"
        raise bad_value(
            "checkpoint", str(folder), "on a disk with room for it", where=where, todo=todo
        ) from None


def read_about(folder: Path) -> tuple[dict[str, Any], Schema]:
    """(the fields of `Checkpoint` but model and optimizers, sizes of the ranker) of a checkpoint of `save_sharded`.

    Raises:
        CaptionaryError: no such checkpoint, or one that is damaged.
    """
    said = read_said(folder)
    path = folder / "state.json"
    try:
        schema = from_mapping(Schema, json.loads(path.read_text(encoding="utf-8"))["ranker"], where=str(path))
        vocabularies = {
            urllib.parse.unquote(file.stem): Vocabulary.load(file)
            for file in sorted((folder / "vocabularies").glob("*.parquet"))
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return {"vocabularies": vocabularies, **said._asdict()}, schema


def load_into(folder: Path, state: dict[str, Any]) -> None:
    """Fill the tensors of `state`, or this process's parts, in place; all processes call it.

    Raises:
        CaptionaryError: the checkpoint is damaged, or of a ranker of other shapes.
    """
    try:
        with quiet():
            load(state, storage_reader=FileSystemReader(folder / SHARDED), no_dist=not dist.is_initialized())
    except (OSError, CheckpointException, ValueError, RuntimeError, KeyError) as error:
        raise _damaged(folder, error) from None


def load_sharded(folder: Path) -> Checkpoint:
    """Read what `save_sharded` wrote as one process's checkpoint, all of it in memory.

    Raises:
        CaptionaryError: no such checkpoint, or one that is damaged.
    """
    about, schema = read_about(folder)
    model = Ranker(about["config"].ranker, schema, seed=0)
    try:
        known = FileSystemReader(folder / SHARDED).read_metadata().state_dict_metadata
    except (OSError, CheckpointException) as error:
        raise _damaged(folder, error) from None
    state: dict[str, Any] = {f"{_RANKER}{name}": tensor for name, tensor in model.state_dict().items()}
    for name, kept in known.items():
        if name.startswith(_OPTIMIZERS) and isinstance(kept, TensorStorageMetadata):
            state[name] = torch.zeros(kept.size, dtype=kept.properties.dtype)
    load_into(folder, state)
    model.load_state_dict({name: state[f"{_RANKER}{name}"] for name in model.state_dict()})
    torch.nn.Module.eval(model)
    optimizers = {
        name.removeprefix(_OPTIMIZERS): value for name, value in state.items() if name.startswith(_OPTIMIZERS)
    }
    return Checkpoint(model=model, optimizers=optimizers, **about)


def gather_checkpoint(folder: Path, out: Path) -> None:
    """A distributed training's checkpoint → one process's, which `captionary fit`, export and prediction load.

    Raises:
        CaptionaryError: see `load_sharded` and `captionary.rank.state.save_checkpoint`.
    """
    save_checkpoint(out, load_sharded(folder))


def scatter_checkpoint(checkpoint: Checkpoint, out: Path) -> None:
    """One process's checkpoint → one that a distributed training continues, with any number of processes.

    Raises:
        CaptionaryError: see `save_sharded`.
    """
    state: dict[str, Tensor] = {
        f"{_RANKER}{name}": value for name, value in checkpoint.model.state_dict().items()
    }
    state |= {f"{_OPTIMIZERS}{name}": value for name, value in checkpoint.optimizers.items()}
    save_sharded(out, state, checkpoint, checkpoint.model.schema)


def _write(folder: str, state: Mapping[str, Any]) -> None:
    with quiet():
        save(
            dict(state),
            storage_writer=FileSystemWriter(Path(folder) / SHARDED),
            no_dist=not dist.is_initialized(),
        )


def _told(word: str | None) -> str:
    """What the first process says; the others wait for it."""
    if not dist.is_initialized():
        return word or ""
    said = [word]
    dist.broadcast_object_list(said, src=0)
    return said[0] or ""


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's notices that ShardedTensor, which TorchRec's states are made of, has a successor."""
    log = logging.getLogger("torch.distributed.checkpoint")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=UserWarning)
            yield
    finally:
        log.setLevel(level)


def _damaged(folder: Path, error: BaseException) -> CaptionaryError:
    where = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    rule = "a whole checkpoint of captionary train --backend torchrec, of a ranker of these sizes"
    return bad_value("checkpoint", str(folder), rule, where=where)
