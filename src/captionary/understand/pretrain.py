"""BLIP-2's two training stages for our composition: one loop, one recipe file each (paper §3.2; Li et al. 2023, §3).

    stage 1, representation    encoder (frozen) + Q-Former with text; three objectives, see `representation.py`
    stage 2, generative        encoder (frozen) + stage 1's Q-Former + LLaMA decoder, frozen or not; next token

`pretrain_step.py` tells what a step does and how a killed run continues.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from captionary.config import from_mapping, to_mapping
from captionary.errors import CaptionaryError, bad_value
from captionary.publish import atomic_file
from captionary.understand.architecture import MultimodalConfig
from captionary.understand.presets import generative_model, preset, representation_model
from captionary.understand.pretrain_data import Batches
from captionary.understand.pretrain_recipe import PretrainConfig
from captionary.understand.pretrain_step import (
    Log,
    Loop,
    Model,
    Objective,
    checkpoint,
    freeze,
    learning_rate,
    resume,
)
from captionary.understand.representation import RepresentationModel
from captionary.understand.retrieval import held_out_loss, retrieval
from captionary.understand.train import train_tokenizer
from captionary.understand.training_data import CaptionSet, photos, scenes

__all__ = ["PretrainResult", "pretrain"]

_HELD_OUT_SEED = 202
"""Seed of the scenes that a result is scored on."""


class PretrainResult(NamedTuple):
    """What a stage came to."""

    folder: Path
    """The model: for the next stage, for `captioner score`, for a run."""
    steps: int
    losses: dict[str, float]
    """Means over the last steps that were logged."""
    held_out: dict[str, float]
    """Of pictures not trained on: recall@1 of retrieval (stage 1), nats a token (stage 2); by source."""

    def to_string(self) -> str:
        """The figures, a line each."""
        lines = [f"model: {self.folder}", f"steps: {self.steps}"]
        lines += [f"loss: {name} {value:.4f}" for name, value in self.losses.items()]
        lines += [f"held out: {name} {value:.4f}" for name, value in self.held_out.items()]
        return "\n".join(lines)


def pretrain(config: PretrainConfig, sources: Sequence[Sequence[CaptionSet]] | None = None) -> PretrainResult:
    """Run a stage to its end, from its last checkpoint where there is one.

    Args:
        config: the recipe.
        sources: pictures in place of the recipe's `data`, each a list of views of the same.

    Raises:
        CaptionaryError: parts are missing or do not fit, the checkpoint is of another recipe, or the loss is no number.
    """
    accelerator = _accelerator(config)
    rank, processes = accelerator.process_index, accelerator.num_processes
    given = _sources(config) if sources is None else sources
    torch.manual_seed(config.seed)
    with accelerator.main_process_first():
        model = _model(config, given)
        longest = config.longest
        if config.stage == "representation":  # between its first token and its end
            longest = min(longest, model.config.text_length - 2)
        pictures = config.batch_size * config.accumulate * processes
        batches = Batches(
            given,
            model.tokenizer,
            model.encoder,
            pictures=pictures,
            captions=1 if config.stage == "representation" else config.captions,
            longest=longest,
            seed=config.seed,
            workers=config.workers,
            cache=config.out / "features" if config.data.cache else None,
        )
    freeze(model, config)
    objective = Objective(model, cached=config.data.cache).to(accelerator.device)
    loop = Loop(config, accelerator, objective, batches)
    step = resume(objective, loop.optimizer, config, pictures)
    log = Log(config.out / "log.jsonl", step, config.log_steps) if rank == 0 else None
    losses: dict[str, float] = {}
    for micros in loop.prefetched(step):
        losses = loop.step(step, micros)
        step += 1
        if not all(map(math.isfinite, losses.values())):
            raise CaptionaryError(f"loss == {losses} at step {step}, must be finite; lower learning_rate")
        if log is not None:
            log.add(step, losses, learning_rate(step - 1, config), pictures)
        if (step % config.checkpoint_steps == 0 or step == config.steps) and rank == 0:
            checkpoint(objective, loop.optimizer, config, pictures, step)
    batches.close()
    folder = config.out / "model"
    result = PretrainResult(folder, step, log.last if log is not None else losses, {})
    if rank == 0:
        model.eval()
        result = result._replace(held_out=_score(model, config) if sources is None else {})
        facts = {"recipe": config.identity, "steps": step, "held_out": result.held_out}
        model.save(folder, _card(config, result), facts)
    accelerator.wait_for_everyone()
    return result


def _accelerator(config: PretrainConfig) -> Any:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        todo = "pip install 'captionary[train]'"
        raise bad_value("accelerate", "(not installed)", "installed to pretrain", todo=todo) from None
    # Where an objective is left out, the last layer's part for it is not used.
    partly = config.stage == "representation" and not (
        config.contrastive and config.matching and config.generation
    )
    spread = DistributedDataParallelKwargs(find_unused_parameters=partly)
    # Autocast is the loop's: `accelerate`'s would hold for the rest of the process.
    return Accelerator(cpu=config.device == "cpu", mixed_precision="no", kwargs_handlers=[spread])


def _sources(config: PretrainConfig) -> list[list[CaptionSet]]:
    data, given = config.data, []
    if data.photos is not None:
        given.append([photos(data.photos, "train", view=view) for view in range(data.views)])
    if data.scenes:
        given.append([scenes(data.scenes, data.scene_seed)])
    return given


def _model(config: PretrainConfig, sources: Sequence[Sequence[CaptionSet]]) -> Model:
    """The stage's model, with whatever it starts from; weights that will not be trained in bfloat16."""
    sizes = preset(config.preset)
    if config.model:
        merged = {**to_mapping(sizes), **config.model}
        sizes = from_mapping(MultimodalConfig, merged, where="recipe: model")
    low = torch.bfloat16 if config.precision == "bf16" else torch.float32
    encoder_dtype = low if config.encoder_rate == 0 else torch.float32
    if config.stage == "representation":
        tokenizer = _tokenizer(config, sources, sizes.vocabulary_size)
        return representation_model(sizes, tokenizer, encoder=config.encoder, dtype=encoder_dtype)
    alone = config.start is None and config.decoder is None
    return generative_model(
        sizes,
        _tokenizer(config, sources, sizes.vocabulary_size) if alone else None,
        start=config.start,
        encoder=config.encoder,
        decoder=config.decoder,
        encoder_dtype=encoder_dtype,
        decoder_dtype=low if config.freeze_decoder else torch.float32,
    )


def _tokenizer(config: PretrainConfig, sources: Sequence[Sequence[CaptionSet]], size: int) -> Tokenizer:
    """Byte pairs of the captions; kept in the work folder, so that all processes and later calls have the same."""
    path = config.out / "tokenizer.json"
    if not path.exists():
        words = [line for views in sources for group in views[0].captions for line in group]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(train_tokenizer(words, size).to_str().encode())
    return Tokenizer.from_file(str(path))


def _score(model: Model, config: PretrainConfig) -> dict[str, float]:
    """On pictures that the stage did not see: recall of retrieval, or the loss of a caption's token."""
    n, sets = config.data.held_out, []
    if n and config.data.photos is not None and _has_split(config.data.photos, "val"):
        sets.append(("photographs", photos(config.data.photos, "val")))
    if n and config.data.scenes:
        sets.append(("scenes", scenes(n, _HELD_OUT_SEED)))
    scored: dict[str, float] = {}
    for name, data in sets:
        part = data._replace(rows=min(n, data.rows), captions=data.captions[:n])
        if isinstance(model, RepresentationModel):
            found = retrieval(model, part)
            scored |= {f"{name}: {key}": value for key, value in found._asdict().items()}
        else:
            scored[f"{name}: nats per token"] = held_out_loss(model, part)
    return scored


def _has_split(folder: Path, split: str) -> bool:
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        return any(row.get("split") == split for row in csv.DictReader(file))


def _card(config: PretrainConfig, result: PretrainResult) -> str:
    """What the model is and how it came about."""
    what = {
        "representation": "the first of BLIP-2's training stages: image encoder and Q-Former, no decoder",
        "generative": "the second of BLIP-2's training stages: a captioner",
    }[config.stage]
    figures = [*result.losses.items(), *result.held_out.items()]
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures)
    recipe = json.dumps(config.identity, indent=1)
    return (
        f"# A model of Captionary\n\nThe result of {what}; {result.steps:,} steps.\n\n"
        f"| figure | value |\n|---|---|\n{rows}\n\nThe recipe:\n\n```json\n{recipe}\n```\n"
    )
