"""What a step of either training stage does, and how a killed run continues.

AdamW, warm-up and cosine, bf16 autocast over float32 weights, gradient accumulation; on a CPU, a GPU, or several
through `accelerate launch`. A step is a function of seed, step and process: order, captions and dropout are drawn anew
from these, so a killed run continues at its last checkpoint as if it had not been killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captionary.errors import bad_value
from captionary.publish import atomic_file
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.pretrain_data import Batch, Batches, Captions
from captionary.understand.pretrain_recipe import PretrainConfig
from captionary.understand.representation import RepresentationModel

__all__ = ["Log", "Loop", "Model", "Objective", "checkpoint", "freeze", "learning_rate", "resume"]

Model = RepresentationModel | MultimodalLLM


class Objective(nn.Module):
    """Batch → the stage's losses, as one forward pass: what `accelerate` spreads over processes."""

    def __init__(self, model: Model, *, cached: bool) -> None:
        super().__init__()
        self.model = model
        self.cached = cached

    def forward(self, pixels: Tensor, captions: Captions, smoothing: float) -> dict[str, Tensor]:
        """The losses by name; pixels as in `Batch`."""
        encoder = self.model.encoder
        with torch.no_grad():
            fine = pixels if self.cached else encoder.lower(pixels.to(next(encoder.parameters()).dtype))
        grid = encoder.upper(fine)
        if isinstance(self.model, MultimodalLLM):
            return {"generative": self.model.loss(grid, captions, smoothing=smoothing)}
        return self.model.losses(grid, [group[0] for group in captions])._asdict()


class Loop:
    """One optimiser step at a time."""

    def __init__(
        self,
        config: PretrainConfig,
        accelerator: Any,
        objective: Objective,
        batches: Batches,
    ) -> None:
        self.config, self.accelerator, self.batches = config, accelerator, batches
        self.model = objective.model
        self.optimizer = _optimizer(self.model, config)
        self.trained = [p for p in objective.parameters() if p.requires_grad]
        self.objective: nn.Module = accelerator.prepare_model(objective)

    def prefetched(self, first: int) -> Iterator[list[Callable[[], Batch]]]:
        """The micro-batches of each step from `first` on; the next step's pictures are opened meanwhile."""
        coming = self._open(first) if first < self.config.steps else []
        for step in range(first, self.config.steps):
            present, coming = coming, self._open(step + 1) if step + 1 < self.config.steps else []
            yield present

    def _open(self, step: int) -> list[Callable[[], Batch]]:
        """Micro-batch by micro-batch, processes beside each other: as one process with a larger batch would."""
        n, rank, processes = (
            self.config.batch_size,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        return [
            self.batches.open(step, (micro * processes + rank) * n, n)
            for micro in range(self.config.accumulate)
        ]

    def step(self, step: int, micros: Sequence[Callable[[], Batch]]) -> dict[str, float]:
        """Gradients of all micro-batches, one step; the mean losses of this process."""
        config, device = self.config, self.accelerator.device
        mixed = np.random.SeedSequence([config.seed, 2, step, self.accelerator.process_index])
        torch.manual_seed(int(mixed.generate_state(1)[0]))
        self._mode()
        rate = learning_rate(step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad(set_to_none=True)
        total = _tokens(self.batches.told(step))
        seen: dict[str, float] = {}
        for number, coming in enumerate(micros, 1):
            batch = coming()
            last = number == len(micros)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.objective):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    losses = self.objective(
                        batch.pixels.to(device, non_blocking=True), batch.captions, config.smoothing
                    )
                weights = self._weights(batch.captions, total, len(micros))
                self.accelerator.backward(sum(losses[name] * w for name, w in weights.items() if w))
            for name, value in losses.items():
                seen[name] = seen.get(name, 0.0) + float(value.detach()) / len(micros)
        self.accelerator.clip_grad_norm_(self.trained, config.clip)
        self.optimizer.step()
        if isinstance(self.model, RepresentationModel):
            self.model.clamp()
        return seen

    def _weights(self, captions: Captions, total: int, micros: int) -> dict[str, float]:
        """What each loss of a micro-batch counts.

        Losses of tokens are means over the tokens of the whole step, however these lie over micro-batches and
        processes. Gradients of processes are averaged, hence their number.
        """
        share = _tokens(captions) / total * self.accelerator.num_processes
        if self.config.stage == "generative":
            return {"generative": share}
        pairs = {name: getattr(self.config, name) / micros for name in ("contrastive", "matching")}
        return pairs | {"generation": self.config.generation * share}

    def _mode(self) -> None:
        self.objective.train()
        if self.config.encoder_rate == 0:
            self.model.encoder.eval()


class Log:
    """Lines of log.jsonl: means over the steps since the last one. Lines of steps that are done again are dropped."""

    def __init__(self, path: Path, step: int, every: int) -> None:
        self.path, self.every, self.last = path, every, {}
        self._sums: list[dict[str, float]] = []
        self._since = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
            path.write_text("".join(f"{line}\n" for line in kept))
            if kept:
                self.last = json.loads(kept[-1])["losses"]

    last: dict[str, float]

    def add(self, step: int, losses: dict[str, float], rate: float, pictures: int) -> None:
        """Count a step."""
        self._sums.append(losses)
        if step % self.every:
            return
        self.last = {name: sum(each[name] for each in self._sums) / len(self._sums) for name in losses}
        seconds = time.monotonic() - self._since
        speed = len(self._sums) * pictures / max(seconds, 1e-9)
        line = {"step": step, "losses": self.last, "learning_rate": rate, "pictures_per_second": speed}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._sums, self._since = [], time.monotonic()


def freeze(model: Model, config: PretrainConfig) -> None:
    """Choose what learns, and set dropout and gradient checkpointing.

    Raises:
        CaptionaryError: an encoder is to learn that has no part which may.
    """
    model.encoder.requires_grad_(False)
    if config.encoder_rate > 0:
        upper = list(model.encoder.upper_parameters())
        if not upper:
            raise bad_value(
                "encoder_rate", config.encoder_rate, "0 for a Vision Transformer, which is frozen"
            )
        for parameter in upper:
            parameter.requires_grad_(True)
    if isinstance(model, MultimodalLLM):
        model.decoder.requires_grad_(not config.freeze_decoder)
    else:
        heads = {
            "contrastive": (model.vision_projection, model.text_projection, model.temperature),
            "matching": (model.matching_head,),
            "generation": (model.telling_head, model.telling_bias),
        }
        for name, parts in heads.items():
            for part in parts if getattr(config, name) == 0 else ():
                part.requires_grad_(False)
    inner: Any
    for inner in model.qformer.modules():
        if isinstance(inner, nn.Dropout):
            inner.p = config.dropout
        if hasattr(inner, "attention_dropout"):
            inner.attention_dropout = config.dropout
    if config.gradient_checkpointing:
        model.checkpoint_gradients()


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine from `learning_rate` to its share `least_rate` at the last step."""
    progress = min(1.0, max(0, step - config.warmup) / max(1, config.steps - config.warmup))
    cosine = config.least_rate + (1 - config.least_rate) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup)) * cosine


def checkpoint(
    objective: Objective, optimizer: torch.optim.Optimizer, config: PretrainConfig, pictures: int, step: int
) -> None:
    """Write what the steps so far have changed; frozen weights are where they came from."""
    weights = {name: p.detach() for name, p in objective.model.named_parameters() if p.requires_grad}
    state = {"weights": weights, "optimizer": optimizer.state_dict(), "step": step}
    with atomic_file(config.out / "checkpoint.pt") as file:
        torch.save(state | {"recipe": _recipe(config, pictures)}, file)


def resume(
    objective: Objective, optimizer: torch.optim.Optimizer, config: PretrainConfig, pictures: int
) -> int:
    """Go back to the last checkpoint, if any; the steps that are done.

    Raises:
        CaptionaryError: it is of another recipe, or of another number of pictures a step.
    """
    path = config.out / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    was, now = json.loads(state["recipe"]), json.loads(_recipe(config, pictures))
    if other := sorted(key for key in was | now if was.get(key) != now.get(key)):
        rule, todo = (
            f"as in the checkpoint: {was.get(other[0])!r}",
            "choose another out, or delete the folder",
        )
        raise bad_value(other[0], now.get(other[0]), rule, where=str(path), todo=todo)
    objective.model.load_state_dict(state["weights"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _recipe(config: PretrainConfig, pictures: int) -> str:
    return json.dumps(config.identity | {"pictures a step": pictures})


def _tokens(captions: Captions) -> int:
    """Tokens to be told, ends included."""
    return sum(len(line) + 1 for group in captions for line in group)


def _optimizer(model: Model, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW over what learns: matrices with decay, the rest without, the encoder at its own rate."""
    upper = [p for p in model.encoder.parameters() if p.requires_grad]
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and not n.startswith("encoder.")]
    decayed = [p for n, p in named if _decays(n, p)]
    rest = [p for n, p in named if not _decays(n, p)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "share": 1.0},
        {"params": rest, "weight_decay": 0.0, "share": 1.0},
        {"params": upper, "weight_decay": 0.0, "share": config.encoder_rate},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=(0.9, config.beta2)
    )


def _decays(name: str, parameter: nn.Parameter) -> bool:
    free = ("embed", "query", "grid_position")
    return parameter.ndim >= 2 and not any(word in name and "qformer" not in name for word in free)
