"""Common randomness: what a parameter starts from depends on the seed and its own name, on nothing else."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

__all__ = ["linear", "normal", "seed_of"]


def seed_of(seed: int, name: str) -> int:
    """A 63-bit seed for the stream `name` of a training with `seed`."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Tensor:
    """Normal numbers of the stream `name`, float32 of `shape`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(seed, name))) * std


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
