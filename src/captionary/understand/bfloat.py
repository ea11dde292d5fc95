"""bfloat16 in numpy's arrays and in compiled loops: the upper half of a float32's bits, as uint16.

numpy has no such type. A kernel is written once: `as_float` and `as_held` do nothing to a float32.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import types
from numba.extending import overload

__all__ = ["as_float", "as_held", "bits_of"]


def bits_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The memory of a tensor on the CPU: the bits of bfloat16, of other types what they are."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_float(value: Any) -> Any:
    """What an array holds at a place, as float32."""
    raise NotImplementedError("for compiled loops")


@overload(as_float)
def _as_float(value):
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


def as_held(value: Any, array: Any) -> Any:
    """A float32 as `array` holds it, rounded to even where that is bfloat16."""
    raise NotImplementedError("for compiled loops")


@overload(as_held)
def _as_held(value, array):  # noqa: ARG001  # types, by which one of these is compiled
    return _same if isinstance(array.dtype, types.Float) else _rounded


def _same(value, array):  # noqa: ARG001
    return value


def _rounded(value, array):  # noqa: ARG001
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
