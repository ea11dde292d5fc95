"""Common randomness: what a parameter starts from depends on the seed and its own name, on nothing else."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

__all__ = ["linear", "normal", "pretrained", "seed_of"]


def seed_of(seed: int, name: str) -> int:
    """A 63-bit seed for the stream `name` of a training with `seed`."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Tensor:
    """Normal numbers of the stream `name`, float32 of `shape`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(seed, name))) * std


def pretrained(drawn: Tensor, vectors: Tensor, known: Tensor, std: float) -> Tensor:
    """An initial table from vectors learnt elsewhere: `drawn` [V, D], its `known` rows replaced.

    Their mean is taken off: learnt vectors share a large one (Mu and Viswanath 2018, "All-but-the-Top"), beside which
    pooled bags would all look the same. Wider vectors go to their D leading principal directions. All are scaled alike,
    so that the known rows have a root mean square of `std`, as drawn ones have.

    Args:
        drawn: what the table would start from, [V, D].
        vectors: [V, d], d >= D.
        known: bool [V], the rows of `vectors` that mean something.
        std: standard deviation of `drawn`.
    """
    width = drawn.shape[1]
    rows = vectors[known].double()
    rows = rows - rows.mean(0)
    if rows.shape[1] > width:
        directions = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -width:].flip(1)
        # an eigenvector's sign is arbitrary
        directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        rows = rows @ directions
    size = rows.square().mean().sqrt()
    table = drawn.clone()
    if len(rows) and size > 0:
        table[known] = (rows * (std / size)).to(table.dtype)
    return table


def linear(seed: int, name: str, inputs: int, outputs: int, gain: float = 2.0) -> nn.Linear:
    """A linear layer from the stream `name`: He initialisation for gain 2 (ReLU follows), zero bias."""
    # a layer that initialised itself would draw from the caller's stream of random numbers
    with warnings.catch_warnings():  # without numeric features a layer has no inputs, which torch warns of
        warnings.simplefilter("ignore", UserWarning)
        layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(normal(seed, name, (outputs, inputs), (gain / max(1, inputs)) ** 0.5))
        layer.bias.zero_()
    return layer
