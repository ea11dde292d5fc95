"""Adapt a large captioner of `transformers` with LoRA (Hu et al. 2022): small matrices beside its language model's own.

    captionary captioner adapt DATASET --text genres --captioner hf:FOLDER --out DIR

The vision side stays as it is. After training the matrices are merged, so that the adapted captioner is a folder like
any other, `hf:DIR/checkpoint`, with its own fingerprint.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from captionary.errors import CaptionaryError, bad_value
from captionary.understand.hf import HfCaptioner
from captionary.understand.media import open_image

__all__ = ["LoraSettings", "adapt_lora"]

_LANGUAGE = r".*(language_model|text_model)\..*\.(q|k|v|o|gate|up|down)_proj"
"""Projections of the language model, in the names of LLaVA, Idefics3/SmolVLM, Qwen-VL and Llama 4."""
_WEIGHTS = {".safetensors", ".bin", ".pt", ".h5", ".msgpack", ".gguf"}


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """How a large captioner is adapted."""

    rank: int = 16
    """Of the added matrices, >= 1."""
    alpha: int = 32
    """Their scale is alpha / rank."""
    dropout: float = 0.05
    learning_rate: float = 2e-4
    batch_size: int = 8
    """Pictures a step, >= 1."""
    minutes: float = 60.0
    """Wall-clock budget."""
    steps: int = 100_000
    """Optimiser steps at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "batch_size", "steps"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")


def adapt_lora(
    captioner: HfCaptioner,
    source: Path,
    paths: Sequence[Path],
    lines: Sequence[Sequence[str]],
    out: Path,
    settings: LoraSettings,
) -> list[float]:
    """Fine-tune `captioner` to answer each picture with one of its lines; write the merged model to `out`.

    Args:
        captioner: a chat or completion model; it is changed.
        source: the folder it was loaded from, whose tokenizer, processor and templates go along.
        paths: one picture an item.
        lines: per item its texts, of which each step takes one.
        out: folder of the adapted model.
        settings: see LoraSettings.

    Returns:
        The loss of each step.

    Raises:
        CaptionaryError: `peft` is not installed, a model of the BLIP family, or a loss that is no number.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        todo = "pip install 'captionary[adapt]'"
        raise bad_value(
            "peft", "(not installed)", "installed to adapt a large captioner", todo=todo
        ) from None
    if captioner.family.startswith(("blip", "instructblip")):
        raise bad_value("captioner", captioner.name, "a model with a language model of its own to adapt")
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=_LANGUAGE
    )
    model: Any = get_peft_model(captioner._model, config).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate)
    losses: list[float] = []
    began = time.monotonic()
    while (progress := _progress(len(losses), began, settings)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        rows = rng.choice(len(paths), min(settings.batch_size, len(paths)), replace=False)
        images = [open_image(paths[row], captioner.image_size) for row in rows]
        said = [lines[row][int(rng.integers(len(lines[row])))] for row in rows]
        loss = model(**_answered(captioner, images, said)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise CaptionaryError(f"loss == {losses[-1]}, must be finite; lower learning_rate")
    merged = model.merge_and_unload().eval()
    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix not in _WEIGHTS and "index.json" not in path.name:
            shutil.copy2(path, out / path.name)
    merged.save_pretrained(out)
    captioner._model = merged
    return losses


def _progress(steps: int, began: float, settings: LoraSettings) -> float:
    return max(steps / settings.steps, (time.monotonic() - began) / (60 * settings.minutes))


def _answered(captioner: HfCaptioner, images: list[Image], said: list[str]) -> Any:
    """The inputs with the answers behind their prompts, and labels on the answers alone; padding is on the left."""
    tokenizer, processor = captioner._tokenizer, captioner._processor
    asked = captioner._asked(None)
    nested = hasattr(processor.image_processor, "do_image_splitting")
    pictures = [[image] for image in images] if nested else list(images)
    bos = tokenizer.bos_token
    options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    if bos and asked.startswith(bos):
        options["add_special_tokens"] = False
    end = tokenizer.eos_token or ""
    whole = processor(images=pictures, text=[f"{asked} {line}{end}" for line in said], **options)
    prompts = processor(images=pictures, text=[asked] * len(said), **options)["attention_mask"].sum(1)
    whole.pop("token_type_ids", None)
    labels = whole["input_ids"].clone()
    told = whole["attention_mask"].sum(1) - prompts  # tokens of each answer
    width = labels.shape[1]
    labels[torch.arange(width)[None] < (width - told)[:, None]] = -100
    inputs = whole.to(captioner._model.device)
    for key, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            inputs[key] = value.to(captioner._model.dtype)
    inputs["labels"] = labels.to(captioner._model.device)
    return inputs
