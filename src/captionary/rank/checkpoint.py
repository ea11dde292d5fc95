"""A trained ranker on disk, in a folder that appears complete.

    config.json           the ranker's config and schema, and a digest of the weights
    model.safetensors     weights
    calibration.json      where the ranker has one
    vocabularies/*.parquet   how raw ids became rows of its tables, where given

Checkpoints of earlier versions load: what their config or schema does not say is as it was then. One whose writing
broke off is never seen under its name; one that was copied in part, or changed since, is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError, bad_value
from captionary.publish import atomic_folder
from captionary.rank.calibration import Calibration
from captionary.rank.features import Schema
from captionary.rank.model import Ranker
from captionary.rank.settings import RankerConfig
from captionary.rank.vocabulary import Vocabulary

__all__ = ["load_ranker", "load_vocabularies", "read_config", "save_ranker"]

_BEFORE = {"profile_fields": "all"}
"""How rankers were before a setting was there, where that is not its default now."""
_CONFIG, _WEIGHTS, _CALIBRATION, _VOCABULARIES = (
    "config.json", "model.safetensors", "calibration.json", "vocabularies",
)  # fmt: skip


def save_ranker(model: Ranker, folder: Path, vocabularies: Mapping[str, Vocabulary] | None = None) -> None:
    """Write the ranker with its calibration; `folder` is seen whole or not at all.

    Args:
        model: weights, config, schema and calibration.
        folder: where to; a ranker there is replaced.
        vocabularies: table → how raw ids became its rows, as of `RankingData.vocabularies`.

    Raises:
        CaptionaryError: `folder` cannot be written, its disk is full, or it holds files of another maker.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    written = save(tensors)
    said = {
        "config": to_mapping(model.config),
        "schema": to_mapping(model.schema),
        "weights": hashlib.blake2b(written, digest_size=16).hexdigest(),
    }
    try:
        with atomic_folder(folder) as partial:
            (partial / _CONFIG).write_text(json.dumps(said, indent=1), encoding="utf-8")
            with (partial / _WEIGHTS).open("wb") as file:
                file.write(written)
            if model.calibration is not None:
                text = json.dumps(to_mapping(model.calibration), indent=1)
                (partial / _CALIBRATION).write_text(text, encoding="utf-8")
            for name, vocabulary in (vocabularies or {}).items():
                vocabulary.save(partial / _VOCABULARIES / f"{quote(name, safe='')}.parquet")
    except OSError as error:
        todo = "make room, or choose another folder; what was there before is untouched"
        where = error.strerror or str(error)
        raise bad_value(
            "checkpoint", str(folder), "on a disk that takes it", where=where, todo=todo
        ) from None


def load_ranker(folder: Path) -> Ranker:
    """Read what `save_ranker` wrote, ready to predict.

    Raises:
        CaptionaryError: a file is missing or damaged, is of a later version, or the weights do not fit the config.
    """
    config, schema = read_config(folder)
    said = _read(folder / _CONFIG)
    model = Ranker(config, schema, seed=0)
    path = folder / _WEIGHTS
    try:
        written = path.read_bytes()
        if said.get("weights") not in (None, hashlib.blake2b(written, digest_size=16).hexdigest()):
            raise ValueError("they are not those that config.json was written with")
        model.load_state_dict(load(written))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise _damaged(path, "weights that fit config.json", error) from None
    if (folder / _CALIBRATION).exists():
        path = folder / _CALIBRATION
        model.calibration = from_mapping(Calibration, _read(path), where=str(path))
    torch.nn.Module.eval(model)
    return model


def read_config(folder: Path) -> tuple[RankerConfig, Schema]:
    """Config and schema of what `save_ranker` wrote.

    Raises:
        CaptionaryError: the file is missing or damaged, or of a later version.
    """
    path = folder / _CONFIG
    said = _read(path)
    try:
        config = from_mapping(RankerConfig, {**_BEFORE, **said["config"]}, where=str(path))
        schema = from_mapping(Schema, said["schema"], where=str(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "a config written by save_ranker", error) from None
    except CaptionaryError as error:
        raise CaptionaryError(f"{error}; or the ranker was saved by a later captionary") from None
    return config, schema


def load_vocabularies(folder: Path) -> dict[str, Vocabulary]:
    """The vocabularies saved with a ranker, by table; none where none were given.

    Raises:
        CaptionaryError: a file is damaged.
    """
    files = sorted((folder / _VOCABULARIES).glob("*.parquet"))
    return {unquote(path.stem): Vocabulary.load(path) for path in files}


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, "a file written by save_ranker", error) from None
    if not isinstance(said, dict):
        raise _damaged(path, "a file written by save_ranker", TypeError("no mapping"))
    return said


def _damaged(path: Path, rule: str, error: Exception) -> CaptionaryError:
    where = str(error).splitlines()[0] if str(error) else type(error).__name__
    return bad_value("ranker", str(path), rule, where=where)
