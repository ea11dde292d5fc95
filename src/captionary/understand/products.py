"""Linear maps whose weights lie as this processor multiplies them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Product"]


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
