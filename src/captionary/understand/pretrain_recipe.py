"""Recipes of the two training stages: one YAML file each, typed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from captionary.config import from_mapping, load_yaml
from captionary.errors import bad_value, nearest

__all__ = ["RECIPES", "PretrainConfig", "PretrainData", "load_recipe"]

RECIPES = Path(__file__).parent / "recipes"
"""The shipped recipes; a name without a suffix is looked up here."""


@dataclass(frozen=True, kw_only=True)
class PretrainData:
    """Pictures with captions: photographs, scenes of the simulated world, or both."""

    photos: Path | None = None
    """Folder with captions.csv (columns image, caption, split) and images/."""
    views: int = 1
    """Views of each photograph, one an epoch: as it is, mirrored, and random crops; >= 1."""
    scenes: int = 0
    """World scenes, >= 0."""
    scene_seed: int = 101
    cache: bool = False
    """Whether features of the encoder's lower part are computed once and kept in the work folder."""
    held_out: int = 500
    """Pictures to score the result on, of the photographs' split val and of unseen scenes, each; 0: no score."""

    def __post_init__(self) -> None:
        if self.photos is None and self.scenes == 0:
            raise bad_value("data", "(empty)", "photos, scenes or both")
        for name, least in (("views", 1), ("scenes", 0), ("held_out", 0)):
            if getattr(self, name) < least:
                raise bad_value(name, getattr(self, name), f">= {least}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One stage of training. Its parts that are not trained are held in bfloat16 where `precision` is bf16."""

    stage: Literal["representation", "generative"]
    """First or second stage of BLIP-2."""
    out: Path
    """Work folder; a run killed there continues. The result is in its folder `model`."""
    data: PretrainData
    preset: str = "builtin"
    """Sizes; an entry of PRESETS."""
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of MultimodalConfig that are to differ from the preset's."""
    start: Path | None = None
    """Generative: the folder of a first stage's result, or of a captioner to go on from."""
    encoder: Path | None = None
    """Local Hugging Face folder with a vision tower (CLIP, SigLIP, BLIP-2's EVA, …), where `start` is none."""
    decoder: Path | None = None
    """Generative: local Hugging Face folder with a LLaMA-family decoder and its tokenizer."""
    freeze_decoder: bool = False
    """Generative: whether only the Q-Former and its projection learn, as in BLIP-2."""
    encoder_rate: float = 0.0
    """Learning rate of the encoder's upper part, as a share of the rest's; 0 keeps it as it is."""
    contrastive: float = 1.0
    """Representation: weight of image-text contrastive learning; 0 leaves it out of the loss."""
    matching: float = 1.0
    """Representation: weight of image-text matching with hard negatives."""
    generation: float = 1.0
    """Representation: weight of image-grounded text generation."""
    captions: int = 1
    """Generative: captions a picture, drawn anew each time, >= 1. The first stage always draws one."""
    smoothing: float = 0.0
    """Generative: label smoothing, 0 to 1."""
    longest: int = 48
    """Tokens at which captions are cut, >= 1."""
    dropout: float = 0.1
    """In the Q-Former, 0 to 1."""
    steps: int = 10_000
    """Optimiser steps, >= 1."""
    batch_size: int = 32
    """Pictures a process and micro-batch, >= 1; a contrastive batch is this times the processes."""
    accumulate: int = 1
    """Micro-batches a step, >= 1."""
    learning_rate: float = 1e-4
    """At the top of the schedule, > 0."""
    least_rate: float = 0.1
    """What the cosine falls to, as a share of `learning_rate`, 0 to 1."""
    warmup: int = 500
    """Steps of linear warm-up, >= 0."""
    weight_decay: float = 0.05
    """Of matrices; embeddings, biases and norms have none."""
    beta2: float = 0.98
    """AdamW's second momentum, in (0, 1)."""
    clip: float = 1.0
    """Longest gradient, > 0."""
    precision: Literal["bf16", "float32"] = "bf16"
    """Of the arithmetic; trained weights are float32 in any case."""
    gradient_checkpointing: bool = False
    """Less memory for activations, a third more time."""
    device: Literal["auto", "cpu"] = "auto"
    workers: int = 2
    """Threads that open pictures, >= 1."""
    seed: int = 0
    checkpoint_steps: int = 500
    """Steps between checkpoints, >= 1."""
    log_steps: int = 20
    """Steps between lines of log.jsonl, >= 1."""

    def __post_init__(self) -> None:
        positive = ("captions", "longest", "steps", "batch_size", "accumulate", "workers")
        for name in (*positive, "checkpoint_steps", "log_steps"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise bad_value(name, getattr(self, name), "> 0")
        for name in ("warmup", "weight_decay", "encoder_rate", "contrastive", "matching", "generation"):
            if getattr(self, name) < 0:
                raise bad_value(name, getattr(self, name), ">= 0")
        for name in ("dropout", "smoothing", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), "in [0, 1)")
        if not 0 <= self.least_rate <= 1:
            raise bad_value("least_rate", self.least_rate, "in [0, 1]")
        if self.stage == "representation":
            if self.contrastive + self.matching + self.generation == 0:
                raise bad_value("contrastive", 0, "> 0, or matching or generation")
            for name in ("start", "decoder", "freeze_decoder"):
                if getattr(self, name):
                    raise bad_value(name, str(getattr(self, name)), "absent where stage == representation")
        elif self.freeze_decoder and self.decoder is None and self.start is None:
            raise bad_value(
                "freeze_decoder", True, "false where neither decoder nor start gives a trained one"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be continued: all but how far it goes and how it is laid out."""
        free = (
            "out",
            "steps",
            "checkpoint_steps",
            "log_steps",
            "device",
            "workers",
            "batch_size",
            "accumulate",
        )
        told = {key: value for key, value in asdict(self).items() if key not in free}
        told["data"] = {key: value for key, value in told["data"].items() if key not in ("held_out", "cache")}
        plain: dict[str, Any] = _plain(told)
        return plain


def load_recipe(name: str, **other: Any) -> PretrainConfig:
    """Read a recipe.

    Args:
        name: a YAML file, or the name of a shipped recipe such as ``stage1``.
        other: keys that take the place of the file's; those of `data` as a mapping. None is no value.

    Raises:
        CaptionaryError: no such file or name, an unknown key, or a value out of its range.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(each.stem for each in RECIPES.glob("*.yaml"))
        if name not in known:
            raise bad_value("recipe", name, f"a .yaml file or {nearest(name, known)}")
        path = RECIPES / f"{name}.yaml"
    raw = load_yaml(path)
    for key, value in other.items():
        if isinstance(value, dict):
            given = {inner: each for inner, each in value.items() if each is not None}
            raw[key] = {**(raw.get(key) or {}), **given}
        elif value is not None:
            raw[key] = value
    return from_mapping(PretrainConfig, raw, where=str(path))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, Path) else value
