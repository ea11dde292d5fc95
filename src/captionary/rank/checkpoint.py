"""A trained ranker on disk: config.json and model.safetensors, in a folder that appears complete."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from captionary.config import from_mapping, to_mapping
from captionary.errors import bad_value
from captionary.publish import atomic_folder
from captionary.rank.features import Schema
from captionary.rank.model import Ranker
from captionary.rank.settings import RankerConfig

__all__ = ["load_ranker", "save_ranker"]

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def save_ranker(model: Ranker, folder: Path) -> None:
    """Write the ranker; `folder` is seen whole or not at all.

    Raises:
        CaptionaryError: `folder` cannot be written, or holds files of another maker.
    """
    said = {"config": to_mapping(model.config), "schema": to_mapping(model.schema)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_folder(folder) as partial:
        (partial / _CONFIG).write_text(json.dumps(said, indent=1), encoding="utf-8")
        with (partial / _WEIGHTS).open("wb") as file:
            file.write(save(tensors))


def load_ranker(folder: Path) -> Ranker:
    """Read what `save_ranker` wrote, ready to predict.

    Raises:
        CaptionaryError: a file is missing or damaged, or the weights do not fit the config.
    """
    path = folder / _CONFIG
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        config = from_mapping(RankerConfig, said["config"], where=str(path))
        schema = from_mapping(Schema, said["schema"], where=str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise bad_value("ranker", str(path), "a config written by save_ranker", where=str(error)) from None
    model = Ranker(config, schema, seed=0)
    path = folder / _WEIGHTS
    try:
        model.load_state_dict(load(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        where = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad_value("ranker", str(path), "weights that fit config.json", where=where) from None
    torch.nn.Module.eval(model)
    return model
