"""Dot interaction of field vectors (DLRM, Naumov et al. 2019), and a top layer seeded block by block."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from captionary.rank.initial import normal

__all__ = ["BlockLinear", "DotInteraction", "pair_name"]


def pair_name(a: str, b: str) -> str:
    """The name of a pair of fields, whichever comes first."""
    return "*".join(sorted((a, b)))


class DotInteraction(nn.Module):
    """Dot products of all pairs of fields, beside field vectors: the input of the top MLP."""

    pairs: Tensor

    def __init__(self, fields: tuple[str, ...], width: int, kind: Literal["dot+fields", "dot"]) -> None:
        super().__init__()
        count = len(fields)
        low, high = torch.tril_indices(count, count, offset=-1)
        self.register_buffer("pairs", low * count + high, persistent=False)
        self.kind = kind
        names = [pair_name(fields[i], fields[j]) for i, j in zip(low.tolist(), high.tolist(), strict=True)]
        kept = fields if kind == "dot+fields" else fields[:1]
        blocks = [*((name, 1) for name in names), *((name, width) for name in kept)]
        self.blocks: tuple[tuple[str, int], ...] = tuple(blocks)
        """(name, width) of each block of the output, in order."""

    def forward(self, fields: Tensor) -> Tensor:
        """[B, F, D] → [B, F (F - 1) / 2 + F D], or + D with the dense vector (field 0) alone."""
        dots = torch.bmm(fields, fields.transpose(1, 2)).flatten(1)[:, self.pairs]
        kept = fields.flatten(1) if self.kind == "dot+fields" else fields[:, 0]
        return torch.cat([dots, kept], dim=1)


class BlockLinear(nn.Module):
    """A linear layer whose rows start from their block's name, so that arms share what they have in common.

    The initial scale follows the outputs (He initialisation, fan-out): it must not depend on how many blocks
    an arm has.
    """

    def __init__(self, seed: int, name: str, blocks: tuple[tuple[str, int], ...], outputs: int) -> None:
        super().__init__()
        std = outputs**-0.5
        rows = [normal(seed, f"{name}.{block}", (width, outputs), std) for block, width in blocks]
        self.weight = nn.Parameter(torch.cat(rows))  # [inputs, outputs]
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.blocks = blocks

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, inputs] → [B, outputs]."""
        return torch.addmm(self.bias, inputs, self.weight)

    def block(self, name: str) -> Tensor:
        """The weights [width, outputs] of one block."""
        start = 0
        for block, width in self.blocks:
            if block == name:
                return self.weight[start : start + width]
            start += width
        raise KeyError(name)
