"""Train the built-in captioner on cached features of its encoder's frozen lower half.

    captionary captioner train --photos DIR --out DIR [--minutes 100] [--start CHECKPOINT]

Two phases share the wall-clock budget:

    generative       cross-entropy of human captions; Q-Former, decoder and the encoder's upper stages learn
    self-critical    captions are drawn from the model and weighted by how much more the human captions of their
                     picture agree with them (CIDEr-D) than with its other draws (Rennie et al. 2017; the mean of the
                     other draws as baseline, Luo 2020); for sets with several captions a picture

bf16 autocast, AdamW, a cosine schedule over each phase; checkpoints every few minutes, and a killed run continues from
the last. `docs/captioner.md` tells what the shipped checkpoint was trained on.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from captionary.errors import CaptionaryError, bad_value
from captionary.understand.cider import CiderD
from captionary.understand.decoding import GreedyDecoder
from captionary.understand.encoder import EfficientNetLite0, pretrained_encoder
from captionary.understand.mmllm import EOS, MultimodalConfig, MultimodalLLM
from captionary.understand.training_data import CaptionSet, encode_features

_OPENING = re.compile(r"^(a picture of|there (is|are)) ")
LEAD = " ‖ "
"""Ends the part of a caption that `TrainingConfig.lead` weighs; never learnt itself."""
_END = "</s>"
_LONGEST = 28
"""Tokens of a caption that is drawn."""

__all__ = ["LEAD", "TrainingConfig", "train_captioner", "train_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the built-in captioner is trained."""

    model: MultimodalConfig = field(default_factory=MultimodalConfig)
    minutes: float = 100.0
    """Wall-clock budget; the cosine schedule ends with it, or with `steps`, whichever comes first."""
    steps: int = 100_000
    """Optimiser steps at most."""
    pictures: tuple[int, ...] = (24, 40)
    """Pictures a step from each set, photographs first."""
    captions: tuple[int, ...] = (5, 1)
    """Captions a picture, drawn anew each step."""
    learning_rate: float = 4e-4
    encoder_rate: float = 0.15
    """Learning rate of the encoder's upper stages, as a share of the rest's; 0 keeps them as they are."""
    self_critical: float = 0.5
    """Share of the budget, at its end, for the self-critical phase, 0 to 1."""
    self_critical_rate: float = 0.15
    """Learning rate of that phase, as a share of `learning_rate`."""
    samples: int = 5
    """Captions drawn of each picture in that phase, ≥ 2."""
    likelihood: float = 0.1
    """Weight in that phase of one human caption a picture, where a drawn one weighs what it gains in CIDEr-D."""
    warmup: int = 200
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    lead: float = 1.0
    """Weight of a caption's tokens before its mark `LEAD`, where there is one, beside those after it."""
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
        if not 0 <= self.self_critical <= 1:
            raise bad_value("self_critical", self.self_critical, "in [0, 1]")
        if self.samples < 2:
            raise bad_value("samples", self.samples, ">= 2")


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
    sets: Sequence[Sequence[CaptionSet]],
    out: Path,
    config: TrainingConfig,
    start: MultimodalLLM | None = None,
) -> MultimodalLLM:
    """Train on several sets of pictures at once and return the model; `out` holds cache, checkpoints and log.

    Args:
        sets: as many as ``config.pictures`` has numbers; each a list of views of the same pictures (as they are,
            mirrored, cropped), of which every draw takes one.
        out: a folder; a checkpoint in it is continued.
        config: see TrainingConfig; its `model` is not looked at where `start` is given.
        start: weights and tokenizer to begin with.

    Raises:
        CaptionaryError: the loss is no longer a number.
    """
    random.seed(config.seed)
    torch.manual_seed(config.seed)
    if start is None:
        words = [line for views in sets for group in views[0].captions for line in group]
        model = MultimodalLLM(config.model, train_tokenizer(words, config.model.vocabulary_size))
        model.encoder = pretrained_encoder()
    else:
        model = start
    frozen = model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = [_Pictures(frozen, views, out / "features", model.tokenizer) for views in sets]
    _set_dropout(model, config.dropout)
    optimizer = _optimizer(model, config)
    step, spent = _resume(model, optimizer, out / "checkpoint.pt")
    rng = np.random.default_rng([config.seed, step])
    losses: list[float] = []
    rewards: list[float] = []
    saved = began = time.monotonic() - spent
    model.train()
    progress = max(
        step / config.steps, spent / (60 * config.minutes)
    )  # 1 where a finished run is called again
    turn = 1 - config.self_critical
    while progress < 1:
        spent = time.monotonic() - began
        progress = min(1.0, max((step + 1) / config.steps, spent / (60 * config.minutes)))
        critical = progress > turn
        phase = (progress - turn) / config.self_critical if critical else progress / turn
        rate = config.learning_rate * _schedule(step, phase, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"] * (config.self_critical_rate if critical else 1.0)
        lost, gained = _step(model, optimizer, pictures, config, rng, critical=critical)
        losses.append(lost)
        rewards.append(gained)
        step += 1
        if not math.isfinite(losses[-1]):
            raise CaptionaryError(f"loss == {losses[-1]} at step {step}, must be finite; lower learning_rate")
        if step % 50 == 0:
            with (out / "train.log").open("a") as log:
                reward = f" reward {np.mean(rewards[-50:]):.4f}" if critical else ""
                log.write(f"step {step} loss {np.mean(losses[-50:]):.4f} seconds {spent:.0f}{reward}\n")
        if time.monotonic() - saved > 60 * config.checkpoint_minutes or progress >= 1:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            _write(state | {"seconds": time.monotonic() - began}, out / "checkpoint.pt")
            saved = time.monotonic()
    return model.eval()


class _Pictures:
    """One set's cached features, a file a view, and its captions as token ids."""

    def __init__(
        self, encoder: EfficientNetLite0, views: Sequence[CaptionSet], cache: Path, tokenizer: Tokenizer
    ) -> None:
        self.features: list[npt.NDArray[np.float16]] = [encode_features(encoder, v, cache) for v in views]
        # Without openings that say nothing of the picture, into which greedy decoding falls when unsure.
        self.words = [[[_OPENING.sub("", line) for line in group] for group in v.captions] for v in views]
        parts = [
            [[[tokenizer.encode(part).ids for part in line.split(LEAD)] for line in group] for group in words]
            for words in self.words
        ]
        self.ids = [[[[*chain(*line)][:48] for line in group] for group in view] for view in parts]
        self.leads = [
            [[len(line[0]) if len(line) > 1 else 0 for line in group] for group in view] for view in parts
        ]
        self._consensus: dict[int, CiderD] = {}

    def draw(self, rng: np.random.Generator, pictures: int) -> tuple[Tensor, int, npt.NDArray[np.int64]]:
        """Lower features of some pictures under one view [B, 112, 14, 14], the view's number, and their rows."""
        view = int(rng.integers(len(self.features)))
        rows = np.sort(rng.choice(len(self.features[view]), pictures, replace=False))
        return torch.from_numpy(self.features[view][rows].astype(np.float32)), view, rows

    def told(
        self, rng: np.random.Generator, view: int, rows: npt.NDArray[np.int64], captions: int
    ) -> tuple[list[list[list[int]]], list[list[int]]]:
        """Some human captions of each picture, as ids, and how many tokens of each are its lead."""
        known = [self.ids[view][row] for row in rows]
        chosen = [rng.permutation(len(each))[:captions] for each in known]
        ids = [[each[i] for i in of_row] for each, of_row in zip(known, chosen, strict=True)]
        leads = [[self.leads[view][row][i] for i in of_row] for row, of_row in zip(rows, chosen, strict=True)]
        return ids, leads

    def consensus(self, view: int) -> CiderD:
        """The reward of a view's pictures; ends count as a word, or captions would stop in the middle of a phrase."""
        if view not in self._consensus:
            closed = [[f"{line} {_END}" for line in group] for group in self.words[view]]
            self._consensus[view] = CiderD(closed)
        return self._consensus[view]


def _step(
    model: MultimodalLLM,
    optimizer: torch.optim.Optimizer,
    sets: Sequence[_Pictures],
    config: TrainingConfig,
    rng: np.random.Generator,
    *,
    critical: bool,
) -> tuple[float, float]:
    """One optimiser step over a draw from every set; sets are run apart because their caption lengths differ.

    Returns:
        The loss, and the mean reward of drawn captions (0 in the generative phase).
    """
    optimizer.zero_grad(set_to_none=True)
    draws = [each.draw(rng, n) for each, n in zip(sets, config.pictures, strict=True)]
    told = [
        each.told(rng, view, rows, n)
        for each, (_, view, rows), n in zip(sets, draws, config.captions, strict=True)
    ]
    counts = [sum(len(line) + 1 for group in groups for line in group) for groups, _ in told]
    total, reward = 0.0, 0.0
    for each, (fine, view, rows), (groups, leads), count, n in zip(
        sets, draws, told, counts, config.captions, strict=True
    ):
        weights = _lead_weights(groups, leads, config.lead) if config.lead != 1 else None
        drawn_anew = critical and n > 1
        if drawn_anew:
            sampled, gains, reward = _criticise(model, each.consensus(view), fine, rows, config.samples)
            groups = [human[:1] + drawn for human, drawn in zip(groups, sampled, strict=True)]
            weights = torch.cat([torch.full((len(gains), 1), config.likelihood), gains], 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            grid = model.encoder.upper(fine.contiguous(memory_format=torch.channels_last))
            grid = nn.functional.dropout1d(grid, config.dropout / 2)  # whole cells
            loss = model.loss(grid, groups, smoothing=config.smoothing, weights=weights)
        share = 1.0 if drawn_anew else count / sum(counts)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach()) * share
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return total, reward


def _lead_weights(groups: list[list[list[int]]], leads: list[list[int]], lead: float) -> Tensor:
    """[B, captions, tokens and end]: `lead` on each caption's lead, 1 on the rest."""
    longest = max(len(line) for group in groups for line in group) + 1
    weights = torch.ones(len(groups), max(len(group) for group in groups), longest)
    for row, of_row in enumerate(leads):
        for number, count in enumerate(of_row):
            weights[row, number, :count] = lead
    return weights


@torch.no_grad()
def _criticise(
    model: MultimodalLLM, consensus: CiderD, fine: Tensor, rows: npt.NDArray[np.int64], samples: int
) -> tuple[list[list[list[int]]], Tensor, float]:
    """Draw captions of each picture; the ids, what each gains over its picture's others [B, samples], mean reward."""
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grid = model.encoder.upper(fine.contiguous(memory_format=torch.channels_last))
        prefix = model.visual_prefix(grid).repeat_interleave(samples, 0)
    decoder = GreedyDecoder(model.decoder, torch.bfloat16)
    lines = decoder.decode(prefix, model.prompt_ids, EOS, _LONGEST, temperature=1.0)
    model.train()
    texts = model.tokenizer.decode_batch(lines)
    rewards = torch.tensor(
        [
            consensus.score(
                f"{text} {_END}" if len(line) < _LONGEST else text, int(rows[position // samples])
            )
            for position, (line, text) in enumerate(zip(lines, texts, strict=True))
        ]
    ).view(len(rows), samples)
    others = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
    grouped = [lines[i : i + samples] for i in range(0, len(lines), samples)]
    return grouped, rewards - others, float(rewards.mean())


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
    model.encoder.requires_grad_(False)
    upper = list(model.encoder.upper_parameters()) if config.encoder_rate > 0 else []
    for parameter in upper:
        parameter.requires_grad_(True)
    trained = [
        (n, p) for n, p in model.named_parameters() if p.requires_grad and not n.startswith("encoder.")
    ]
    decayed = [p for name, p in trained if p.ndim >= 2 and "embed" not in name]
    rest = [p for name, p in trained if not (p.ndim >= 2 and "embed" not in name)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "share": 1.0},
        {"params": rest, "weight_decay": 0.0, "share": 1.0},
        {"params": upper, "weight_decay": 0.0, "share": config.encoder_rate},
    ]
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
