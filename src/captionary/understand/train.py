"""Train the built-in captioner: generative learning of Q-Former and decoder on a frozen encoder's cached features.

    captionary captioner train --photos DIR --out DIR [--minutes 100]

One core, bf16 autocast, AdamW with a cosine schedule over the wall-clock budget; checkpoints every few minutes, and a
killed run continues from the last. `docs/captioner.md` tells what the shipped checkpoint was trained on.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from captionary.errors import CaptionaryError, bad_value
from captionary.understand.encoder import pretrained_encoder
from captionary.understand.mmllm import MultimodalConfig, MultimodalLLM
from captionary.understand.training_data import CaptionSet, encode_features

_OPENING = re.compile(r"^(a picture of|there (is|are)) ")

__all__ = ["TrainingConfig", "train_captioner", "train_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the built-in captioner is trained."""

    model: MultimodalConfig = field(default_factory=MultimodalConfig)
    minutes: float = 100.0
    """Wall-clock budget; the cosine schedule ends with it, or with `steps`, whichever comes first."""
    steps: int = 100_000
    """Optimiser steps at most."""
    pictures: tuple[int, ...] = (20, 64)
    """Pictures a step from each set, photographs first."""
    captions: tuple[int, ...] = (5, 1)
    """Captions a picture, drawn anew each step."""
    learning_rate: float = 6e-4
    warmup: int = 200
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    dropout: float = 0.2
    """In Q-Former, decoder and on the grid, 0 to 1."""
    smoothing: float = 0.1
    """Label smoothing, 0 to 1."""
    seed: int = 0
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        for name in ("steps", "minutes", "warmup"):
            if getattr(self, name) <= 0:
                raise bad_value(name, getattr(self, name), "> 0")
        if len(self.pictures) != len(self.captions):
            raise bad_value("captions", self.captions, f"as many numbers as pictures == {self.pictures}")
        for name in ("dropout", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), "in [0, 1)")


def train_tokenizer(captions: Sequence[str], vocabulary_size: int) -> Tokenizer:
    """Byte-pair encoding over lower-cased words, with the special tokens where `mmllm` expects them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=["<pad>", "<s>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def train_captioner(
    sets: Sequence[CaptionSet], mirrored: Sequence[CaptionSet | None], out: Path, config: TrainingConfig
) -> MultimodalLLM:
    """Train on several sets of pictures at once and return the model; `out` holds cache, checkpoints and log.

    Args:
        sets: as many as ``config.pictures`` has numbers.
        mirrored: for each set, its mirror images, used in half of the draws, or None.
        out: a folder; a checkpoint in it is continued.
        config: see TrainingConfig.

    Raises:
        CaptionaryError: the loss is no longer a number.
    """
    random.seed(config.seed)
    torch.manual_seed(config.seed)
    encoder = pretrained_encoder().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = [_Views(encoder, data, twin, out / "features") for data, twin in zip(sets, mirrored, strict=True)]
    words = [line for data in sets for group in data.captions for line in group]
    tokenizer = train_tokenizer(words, config.model.vocabulary_size)
    model = MultimodalLLM(config.model, tokenizer)
    model.encoder = encoder
    encoder.requires_grad_(False)
    for view in views:
        view.encode(tokenizer)
    _set_dropout(model, config.dropout)
    optimizer = _optimizer(model, config)
    step, spent = _resume(model, optimizer, out / "checkpoint.pt")
    rng = np.random.default_rng([config.seed, step])
    losses: list[float] = []
    saved = began = time.monotonic() - spent
    model.train()
    encoder.eval()
    progress = max(
        step / config.steps, spent / (60 * config.minutes)
    )  # 1 where a finished run is called again
    while progress < 1:
        spent = time.monotonic() - began
        progress = max((step + 1) / config.steps, spent / (60 * config.minutes))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, min(progress, 1.0), config)
        losses.append(_step(model, optimizer, views, config, rng))
        step += 1
        if not math.isfinite(losses[-1]):
            raise CaptionaryError(f"loss == {losses[-1]} at step {step}, must be finite; lower learning_rate")
        if step % 50 == 0:
            with (out / "train.log").open("a") as log:
                log.write(f"step {step} loss {np.mean(losses[-50:]):.4f} seconds {spent:.0f}\n")
        if time.monotonic() - saved > 60 * config.checkpoint_minutes or progress >= 1:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            _write(state | {"seconds": time.monotonic() - began}, out / "checkpoint.pt")
            saved = time.monotonic()
    return model.eval()


class _Views:
    """One set's cached features, straight and mirrored, and its captions as token ids."""

    def __init__(self, encoder: Any, data: CaptionSet, twin: CaptionSet | None, cache: Path) -> None:
        pair = [data] if twin is None else [data, twin]
        self.words = [member.captions for member in pair]
        self.features: list[npt.NDArray[np.float16]] = [encode_features(encoder, d, cache) for d in pair]
        self.ids: list[list[list[list[int]]]] = []

    def encode(self, tokenizer: Tokenizer) -> None:
        """Captions as ids, without openings that say nothing of the picture (else greedy decoding falls into them)."""
        self.ids = [
            [[tokenizer.encode(_OPENING.sub("", line)).ids[:48] for line in group] for group in words]
            for words in self.words
        ]

    def draw(
        self, rng: np.random.Generator, pictures: int, captions: int
    ) -> tuple[Tensor, list[list[list[int]]]]:
        view = int(rng.integers(len(self.features)))
        rows = np.sort(rng.choice(len(self.features[view]), pictures, replace=False))
        groups = []
        for row in rows:
            known = self.ids[view][row]
            groups.append([known[i] for i in rng.permutation(len(known))[:captions]])
        return torch.from_numpy(self.features[view][rows].astype(np.float32)), groups


def _step(
    model: MultimodalLLM,
    optimizer: torch.optim.Optimizer,
    views: Sequence[_Views],
    config: TrainingConfig,
    rng: np.random.Generator,
) -> float:
    """One optimiser step over a draw from every set; sets are run apart because their caption lengths differ."""
    optimizer.zero_grad(set_to_none=True)
    draws = [view.draw(rng, n, c) for view, n, c in zip(views, config.pictures, config.captions, strict=True)]
    counts = [sum(len(line) + 1 for group in groups for line in group) for _, groups in draws]
    total = 0.0
    for (grid, groups), count in zip(draws, counts, strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            grid = nn.functional.dropout1d(grid, config.dropout / 2)  # whole cells
            loss = model.loss(grid, groups, smoothing=config.smoothing)
        (loss * count / sum(counts)).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach()) * count / sum(counts)
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return total


def _set_dropout(model: MultimodalLLM, rate: float) -> None:
    """LLaMA has no residual dropout of its own; small data needs it, on each block's two outputs."""

    def drop(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        return nn.functional.dropout(output, rate, module.training)

    for layer in model.decoder.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)
    model.decoder.model.embed_tokens.register_forward_hook(drop)
    for module in model.qformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate / 2


def _optimizer(model: MultimodalLLM, config: TrainingConfig) -> torch.optim.Optimizer:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if p.ndim >= 2 and "embed" not in name]
    rest = [p for name, p in trained if not (p.ndim >= 2 and "embed" not in name)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def _schedule(step: int, progress: float, config: TrainingConfig) -> float:
    """Share of the learning rate: linear warm-up by steps, then a cosine over progress in [0, 1]."""
    return min(1.0, (step + 1) / config.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _write(state: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _resume(model: MultimodalLLM, optimizer: torch.optim.Optimizer, path: Path) -> tuple[int, float]:
    """Steps done and seconds spent so far."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])
