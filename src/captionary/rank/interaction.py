"""How field vectors meet before the top MLP: dot products, cross layers, or not at all; a layer seeded by blocks.

dot+fields   dot products of all pairs of fields, beside all field vectors
dot          dot products, beside the dense vector alone: DLRM (Naumov et al. 2019)
             of both: profiles can be kept to their dot products with the item's fields, see `DotInteraction`
dcnv2        cross layers, x' = x0 * (W x + b) + x: DCN V2 (Wang et al. 2021, eq. 1), stacked under the top MLP
concat       the field vectors alone, as in Wide & Deep's deep part (Cheng et al. 2016)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from captionary.rank.bags import meet_lists
from captionary.rank.dot_kernels import dot_pairs
from captionary.rank.initial import normal

__all__ = ["BlockLinear", "Concatenation", "CrossNetwork", "DotInteraction", "pair_name"]

_CROSSED = 0.25  # of the initial crossed vectors: Glorot's scale for 16 fields, whatever their number


def pair_name(a: str, b: str) -> str:
    """The name of a pair of fields, whichever comes first."""
    return "*".join(sorted((a, b)))


class DotInteraction(nn.Module):
    """Dot products of pairs of fields, beside field vectors: the input of the top MLP.

    What a profile says of a user matters where it meets what the item is: with `meets`, the last fields, which are
    profiles, give their dot products with the item's fields and nothing else. Tokens of items and profiles share one
    table, so these are overlaps of two bags of words in a learnt measure.

    Args:
        fields: names of the fields, profiles last.
        width: D of a field.
        kind: dot or dot+fields.
        meets: names of the fields that profiles meet; () for profiles that are fields like any other.
    """

    pairs: Tensor
    columns: Tensor

    def __init__(
        self,
        fields: tuple[str, ...],
        width: int,
        kind: Literal["dot+fields", "dot"],
        meets: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        met = tuple(name for name in fields if name.startswith("profile.")) if meets else ()
        crossed = fields[: len(fields) - len(met)]
        self.crossed = len(crossed)
        """How many fields, the first, are in all pairs."""
        self.kind = kind
        low, high = torch.tril_indices(len(crossed), len(crossed), offset=-1)
        self.register_buffer("pairs", low * len(crossed) + high, persistent=False)
        columns = [place for place, name in enumerate(crossed) if name in meets]
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        names = [pair_name(crossed[i], crossed[j]) for i, j in zip(low.tolist(), high.tolist(), strict=True)]
        kept = crossed if kind == "dot+fields" else crossed[:1]
        meetings = [(pair_name(name, crossed[place]), 1) for name in met for place in columns]
        blocks = [*((name, 1) for name in names), *((name, width) for name in kept), *meetings]
        self.blocks: tuple[tuple[str, int], ...] = tuple(blocks)
        """(name, width) of each block of the output, in order."""

    def forward(self, fields: Tensor) -> Tensor:
        """[B, F, D] → [B, width of all blocks]."""
        crossed, met = fields[:, : self.crossed], fields[:, self.crossed :]
        if not met.shape[1]:
            return self._of(crossed)
        return self._of(crossed, torch.bmm(met, crossed[:, self.columns].transpose(1, 2)))

    def shared(self, crossed: Tensor, bags: Tensor, place: Tensor) -> Tensor:
        """The same where profiles are given once each.

        Args:
            crossed: [B, F - E, D] all other fields.
            bags: [P, D].
            place: [B, E] which of the P.
        """
        return self._of(crossed, meet_lists(bags, place, crossed, self.columns))

    def _of(self, crossed: Tensor, met: Tensor | None = None) -> Tensor:
        dots = dot_pairs(crossed, self.pairs)
        kept = crossed.flatten(1) if self.kind == "dot+fields" else crossed[:, 0]
        return torch.cat([dots, kept] if met is None else [dots, kept, met.flatten(1)], dim=1)


class Concatenation(nn.Module):
    """The field vectors, end to end."""

    def __init__(self, fields: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.blocks = tuple((name, width) for name in fields)
        """(name, width) of each block of the output, in order."""

    def forward(self, fields: Tensor) -> Tensor:
        """[B, F, D] → [B, F D]."""
        return fields.flatten(1)


class CrossNetwork(nn.Module):
    """Cross layers over the field vectors end to end; layer l crosses features up to degree l + 1.

    W is [F D, F D], or V U of rank r. Both are put together from blocks [D, D] of pairs of fields, or [D, r] of
    fields, each seeded by its own name: arms share the blocks of the fields that they share.

    Args:
        seed: seed of the initial values.
        fields: names of the fields.
        width: D.
        layers: cross layers, >= 1.
        rank: r; 0: full rank.
    """

    def __init__(self, seed: int, fields: tuple[str, ...], width: int, *, layers: int, rank: int) -> None:
        super().__init__()
        self.blocks = tuple((name, width) for name in fields)
        """(name, width) of each block of the output, in order."""
        self.rank = rank
        self.weight, self.project, self.expand = (nn.ParameterList() for _ in range(3))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(len(fields) * width)) for _ in range(layers))
        std = _CROSSED * width**-0.5
        for layer in range(layers):
            if rank:
                reads = [normal(seed, f"cross.{layer}.read.{one}", (width, rank), std) for one in fields]
                gives = [
                    normal(seed, f"cross.{layer}.give.{one}", (width, rank), rank**-0.5) for one in fields
                ]
                self.project.append(nn.Parameter(torch.cat(reads)))  # [F D, r]
                self.expand.append(nn.Parameter(torch.cat(gives).T.contiguous()))  # [r, F D]
            else:
                rows = [
                    torch.cat(
                        [
                            normal(seed, f"cross.{layer}.{one}>{other}", (width, width), std)
                            for other in fields
                        ],
                        1,
                    )
                    for one in fields
                ]
                self.weight.append(nn.Parameter(torch.cat(rows)))  # [F D read, F D given]

    def forward(self, fields: Tensor) -> Tensor:
        """[B, F, D] → [B, F D]."""
        first = crossed = fields.flatten(1)
        for layer, bias in enumerate(self.bias):
            if self.rank:
                mixed = torch.addmm(bias, crossed @ self.project[layer], self.expand[layer])
            else:
                mixed = torch.addmm(bias, crossed, self.weight[layer])
            crossed = torch.addcmul(crossed, first, mixed)
        return crossed


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
