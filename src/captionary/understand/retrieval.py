"""How well a trained stage does on pictures that it has not seen: retrieval, and the loss of a caption's token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.representation import RepresentationModel, similarities
from captionary.understand.training_data import CaptionSet

__all__ = ["Retrieval", "held_out_loss", "retrieval"]


class Retrieval(NamedTuple):
    """Share of queries whose nearest neighbour is right, by the contrastive similarity; 0 to 1."""

    text_of_image: float
    """Pictures whose nearest caption is their own, or has the same words."""
    image_of_text: float
    """Captions whose nearest picture is their own, or one with a caption of the same words."""


@torch.inference_mode()
def retrieval(model: RepresentationModel, data: CaptionSet, *, batch_size: int = 32) -> Retrieval:
    """Recall@1 between the pictures of a set and the first caption of each."""
    ids = model.read([_encode(model, group[0]) for group in data.captions], model.config.text_length)
    images = [model.image_features(grid) for grid in _grids(model, data, batch_size)]
    texts = [model.text_features(part) for part in torch.split(ids, batch_size)]
    scores = torch.cat([similarities(each, torch.cat(texts)) for each in images])  # [N, N]
    same = (ids[:, None] == ids[None]).all(-1)
    rows = torch.arange(len(ids), device=ids.device)
    return Retrieval(
        float(same[rows, scores.argmax(1)].float().mean()), float(same[scores.argmax(0), rows].float().mean())
    )


@torch.inference_mode()
def held_out_loss(model: MultimodalLLM, data: CaptionSet, *, batch_size: int = 32) -> float:
    """Nats a token of all captions, ends included."""
    lost, count, first = 0.0, 0, 0
    for grid in _grids(model, data, batch_size):
        told = [
            [_encode(model, line) for line in group] for group in data.captions[first : first + len(grid)]
        ]
        n = sum(len(line) + 1 for group in told for line in group)
        with _autocast(model):
            lost += float(model.loss(grid, told)) * n
        count, first = count + n, first + len(grid)
    return lost / count


def _grids(model: RepresentationModel | MultimodalLLM, data: CaptionSet, batch_size: int) -> list[Tensor]:
    weight = next(model.encoder.parameters())
    grids = []
    for first in range(0, data.rows, batch_size):
        images = [data.picture(row) for row in range(first, min(first + batch_size, data.rows))]
        pixels = model.encoder.to_pixels(images).to(weight.device, weight.dtype)
        grids.append(model.encoder(pixels).to(model.query.dtype))
    return grids


def _encode(model: RepresentationModel | MultimodalLLM, line: str) -> list[int]:
    ids: list[int] = model.tokenizer.encode(line, add_special_tokens=False).ids
    return ids


def _autocast(model: nn.Module) -> torch.autocast:
    """bf16 where a frozen part is held as such, so that parts of two types can be multiplied."""
    weight = next(model.parameters())
    mixed = any(p.dtype == torch.bfloat16 for p in model.parameters())
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=mixed)
