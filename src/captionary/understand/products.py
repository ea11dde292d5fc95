"""Linear maps as this processor multiplies them: weights in its layout, and small integers where they suffice."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captionary.compiling import compiled
from captionary.understand.bfloat import as_float, bits_of

__all__ = [
    "STEPS",
    "ZERO",
    "Product",
    "QuantisedProduct",
    "in_steps",
    "round_to_steps",
    "weight_in_steps",
    "widest_behind",
]

ZERO, STEPS = 128, 127
"""The integer of 0 among 0 to 255, and steps on either side."""


def _packs() -> bool:
    here = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
    return here and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


_PACKS = _packs()
"""Whether torch lays out bfloat16 weights for oneDNN: a product of 32 rows takes four fifths of the time."""


class Product:
    """x W^T + b for many x [..., in] → [..., out].

    Args:
        weight: [out, in], on any device; bfloat16 ones on a CPU are copied in oneDNN's layout, others are kept.
        bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._packed = _PACKS and weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._packed else weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self._packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return out
        return nn.functional.linear(x, self.weight, self.bias)


class QuantisedProduct:
    """The same by 8-bit integers: twice as fast for hundreds of rows, no faster for a few.

    Args:
        weight: [out, in], on the CPU; each output has a step of its own.
        bias: [out].
        widest: of |x|; what is wider is cut.

    Raises:
        AttributeError: torch has no such product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, widest: float) -> None:
        self._step = widest / STEPS
        rounded, self._steps = weight_in_steps(weight)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        """bfloat16 [..., in] → [..., out]."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            in_steps(x, self._step), self._step, ZERO, self._weight, self._steps, self._zeros, self._bias,
            1.0, 0, torch.bfloat16, "none", [], "",
        )  # fmt: skip
        return out


def in_steps(x: Tensor, step: float) -> Tensor:
    """8-bit integers of bfloat16 [...], contiguous, in steps around `ZERO`; what is wider than `STEPS` is cut."""
    x = x.contiguous()
    rounded = torch.empty(x.shape, dtype=torch.uint8)
    round_to_steps(bits_of(x.view(-1)), np.float32(1 / step), bits_of(rounded.view(-1)))
    return rounded


def widest_behind(norm: Any) -> float:
    """Of the values behind a layer norm or an RMS norm: six of their deviations, which next to none of them leaves."""
    bias = getattr(norm, "bias", None)
    return 6.0 * float(norm.weight.detach().abs().max()) + (
        0.0 if bias is None else float(bias.detach().abs().max())
    )


def weight_in_steps(weight: Tensor, *, keep_sums: bool = False) -> tuple[Tensor, Tensor]:
    """8-bit integers of [out, ...], and the step of each output [out].

    Args:
        weight: of any type.
        keep_sums: round some weights away from the nearest, so that the sum of an output's keeps to half a step: where
            inputs are much alike, as beside each other in a picture, errors of one sign would add up.
    """
    weight = weight.detach().float()
    steps = weight.abs().flatten(1).amax(1).clamp_min(1e-8) / STEPS
    exact = weight.flatten(1) / steps[:, None]
    rounded = exact.round()
    if keep_sums:
        lacking = (exact.sum(1) - rounded.sum(1)).round()[:, None]
        gain = (exact - rounded) * lacking.sign()  # the more a weight lost, the sooner it is given a step
        place = gain.argsort(1, descending=True).argsort(1)
        rounded = (rounded + lacking.sign() * (place < lacking.abs())).clamp(-STEPS, STEPS)
    return rounded.to(torch.int8).view_as(weight), steps


@partial(compiled, fastmath={"contract"})
def round_to_steps(x: Any, per_step: Any, out: Any) -> None:
    """The nearest integer of each value, cut at 0 and 255: bits of bfloat16 [N] → uint8 [N]."""
    for i in range(len(x)):
        steps = np.floor(as_float(x[i]) * per_step + np.float32(ZERO + 0.5))
        out[i] = np.uint8(min(max(steps, np.float32(0)), np.float32(255)))
