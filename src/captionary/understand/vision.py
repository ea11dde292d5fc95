"""Vision Transformers as image encoders: CLIP, SigLIP, BLIP-2's EVA, or whatever `transformers` builds from a config.

    pixels [B, 3, size, size] ─tower─▶ one of its hidden states [B, cells, width]

`cells` counts the patches, and the class token where the tower has one. A tower is frozen, as in BLIP-2 (Li et al.
2023, §3.1): all of it is `lower`, nothing of it is `upper`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from captionary.errors import bad_value
from captionary.understand.encoder import ImageEncoder

__all__ = ["VisionSettings", "VisionTower", "own_settings", "vision_from_folder"]

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_INCIDENTAL = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True, kw_only=True)
class VisionSettings:
    """A Vision Transformer and how it wants its pixels. The defaults are CLIP's."""

    model: dict[str, Any] = field(default_factory=dict)
    """The tower's `transformers` config: `model_type` (clip_vision_model, siglip_vision_model, …) and its sizes."""
    size: int = 224
    """Pixels of a side, ≥ 1."""
    layer: int = -1
    """Which hidden state is read: -1 the model's output, -2 the one before its last layer (BLIP-2 on CLIP), …"""
    mean: tuple[float, ...] = _CLIP_MEAN
    """Of each channel, taken from pixels in [0, 1]."""
    std: tuple[float, ...] = _CLIP_STD
    """Of each channel, by which they are divided, > 0."""
    resample: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        if "model_type" not in self.model:
            raise bad_value("vision.model", sorted(self.model), "a transformers config with a model_type")
        if self.size < 1:
            raise bad_value("vision.size", self.size, ">= 1")
        if self.layer >= 0:
            raise bad_value("vision.layer", self.layer, "< 0: it is counted from the end")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise bad_value("vision.std", self.std, "three numbers > 0, beside three of mean")


class VisionTower(ImageEncoder):
    """A `transformers` vision model behind the interface of an image encoder.

    Args:
        settings: which model, and its pixels.
        tower: its weights; None: new ones.

    Raises:
        CaptionaryError: `transformers` knows no such model, or it has no such hidden state.
    """

    def __init__(self, settings: VisionSettings, tower: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.size = settings.size
        self.tower = _build(settings) if tower is None else tower
        with torch.device("meta"):
            cells = _hidden(_build(settings), torch.zeros(1, 3, self.size, self.size), settings.layer)
        _, self.cells, self.width = cells.shape
        self.head_width = self.width
        self.fine_shape = (self.cells, self.width)

    def squares(self, images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """RGB pictures of any size, resized without regard to their shape: [B, size, size, 3]."""
        square = (self.size, self.size)
        resample = _RESAMPLE[self.settings.resample]
        resized = [
            image.convert("RGB") if image.size == square else image.convert("RGB").resize(square, resample)
            for image in images
        ]
        return np.stack([np.asarray(image) for image in resized])

    def scaled(self, squares: Tensor) -> Tensor:
        """uint8 [B, size, size, 3] → float32 [B, 3, size, size], less mean, by std."""
        mean, std = (
            torch.tensor(each, dtype=torch.float64, device=squares.device)
            for each in (self.settings.mean, self.settings.std)
        )
        return ((squares.float() / 255.0 - mean) / std).float().permute(0, 3, 1, 2)

    def lower(self, pixels: Tensor) -> Tensor:
        """The tower: [B, 3, size, size] → [B, cells, width]."""
        return _hidden(self.tower, pixels.to(self.tower.dtype), self.settings.layer)

    def upper(self, fine: Tensor) -> Tensor:
        """What it is given."""
        return fine

    def upper_parameters(self) -> Iterator[nn.Parameter]:
        """None."""
        return iter(())

    def pool(self, grid: Tensor) -> Tensor:
        """The mean over the cells: [B, cells, width] → [B, width]."""
        return grid.mean(1)


def vision_from_folder(
    folder: Path, *, layer: int | None = None, dtype: torch.dtype = torch.float32
) -> VisionTower:
    """The vision tower of a local Hugging Face folder: one of its own, or that of a larger model (CLIP, BLIP-2, LLaVA).

    Args:
        folder: holds config.json and the weights; mean, std and resampling come from its preprocessor_config.json.
        layer: see VisionSettings; None: -2 for CLIP and -1 for others.
        dtype: of the weights.

    Raises:
        CaptionaryError: no such folder, no vision model in it, or weights are missing.
    """
    config = _config_of(folder)
    part = getattr(config, "vision_config", None)
    own = part or config
    if layer is None:
        layer = -2 if own.model_type == "clip_vision_model" else -1
    try:
        settings = VisionSettings(
            model=own_settings(own) | {"model_type": own.model_type}, layer=layer, **_pixels(folder, own)
        )
        kind = _class(own) if part is None else AutoModel
        loaded, report = kind.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
        )
        lost = sorted(report["missing_keys"])
        tower = loaded
        if part is not None:
            tower = _build(settings, dtype)
            found = getattr(loaded, "vision_model", None) or loaded.vision_tower
            tower.load_state_dict(found.state_dict())
            lost = [name for name in lost if name.startswith("vision_")]
    except (OSError, ValueError, AttributeError, RuntimeError) as error:
        rule = "a Hugging Face folder with a vision model"
        raise bad_value("encoder", str(folder), rule, where=" ".join(str(error).split())[:200]) from None
    if lost:
        raise bad_value("encoder", str(folder), "a folder with all weights", where=f"missing {lost[:3]}")
    return VisionTower(settings, tower)


def own_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """What tells a config from its class's defaults, without file names and versions."""
    return {k: v for k, v in config.to_diff_dict().items() if k not in _INCIDENTAL}


def _config_of(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise bad_value("encoder", str(folder), "a Hugging Face folder with config.json")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        return config
    except (OSError, ValueError, KeyError) as error:
        rule = "a model that transformers knows"
        raise bad_value("encoder", str(folder), rule, where=" ".join(str(error).split())[:200]) from None


def _pixels(folder: Path, config: PreTrainedConfig) -> dict[str, Any]:
    """size, and mean, std and resample where the folder's preprocessor tells them."""
    size = config.image_size
    told: dict[str, Any] = {"size": int(size if isinstance(size, int) else size[0])}
    path = folder / "preprocessor_config.json"
    if not path.is_file() and (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
    if path.is_file():
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw = raw.get("image_processor", raw)
        told |= {key: tuple(raw[f"image_{key}"]) for key in ("mean", "std") if f"image_{key}" in raw}
        if raw.get("resample") in (2, 3):
            told["resample"] = {2: "bilinear", 3: "bicubic"}[raw["resample"]]
    elif config.model_type.startswith("siglip"):
        told |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return told


def _class(config: PreTrainedConfig) -> Any:
    """The class of a vision config; `transformers` names it after the config, also where AutoModel knows it not."""
    return getattr(transformers, type(config).__name__.removesuffix("Config") + "Model", AutoModel)


def _build(settings: VisionSettings, dtype: torch.dtype | None = None) -> PreTrainedModel:
    sizes = {key: value for key, value in settings.model.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(settings.model["model_type"], **sizes)
        auto: Any = AutoModel
        kind = _class(config)
        built = auto.from_config(config) if kind is auto else kind(config)
        tower: PreTrainedModel = built.to(dtype or torch.get_default_dtype()).eval()
        return tower
    except (ValueError, KeyError, TypeError) as error:
        rule = "a transformers config of a vision model"
        raise bad_value(
            "vision.model", settings.model, rule, where=" ".join(str(error).split())[:200]
        ) from None


def _hidden(tower: PreTrainedModel, pixels: Tensor, layer: int) -> Tensor:
    """The chosen hidden state of each cell: [B, cells, width]."""
    out = tower(pixel_values=pixels, output_hidden_states=layer != -1)
    if layer == -1:
        last: Tensor = out.last_hidden_state
        return last
    if -layer > len(out.hidden_states):
        raise bad_value("vision.layer", layer, f">= {-len(out.hidden_states)}: the tower has no more")
    chosen: Tensor = out.hidden_states[layer]
    return chosen
