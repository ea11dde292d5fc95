"""The encoder's blocks in 8-bit integers, on processors that multiply them (VNNI).

Activations behind a ReLU6 need no calibration: 255 steps span 0 to 6. Weights have a step by output channel. What runs
between the blocks is kept in bfloat16 and rounded where a block begins, in steps of the widest value seen there
(`_WIDEST`). The stem and the first block stay in bfloat16: rounding there is amplified by all that follows, and they
would gain nothing. So does the head, of which the visual vectors are made.

    pixels ─stem, block 0─▶ x ─┬─8 bits─▶ expand ─▶ depthwise ─▶ project ─bfloat16─▶ + ─▶ x     (blocks 1 to 15)
                               └─────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captionary.understand.encoder import EfficientNetLite0, ImageEncoder, weights_digest
from captionary.understand.products import STEPS, ZERO, in_steps, weight_in_steps

__all__ = ["QuantisedEncoder", "quantised_encoder"]

_LOWER_DIGEST = "cdef7bb5c76e56de"
"""Of the pretrained lower stages as float16, to which `_WIDEST` belongs; they are never trained."""
_WIDEST = (60.0, 88.0, 90.0, 56.0, 62.0, 50.0, 50.0, 50.0, 54.0, 52.0) + 5 * (75.0,)
"""Of |x| before blocks 1 to 15, in 2,000 photographs, posters, shop pictures and drawn scenes; what is wider is cut.
The last five may have been trained along with a captioner, which moves them little: the shipped one has 67 at most."""
_OPERATIONS = ("qconv_prepack", "qconv_pointwise", "qlinear_prepack", "qlinear_pointwise")
"""Of torch, here and in `QuantisedProduct`."""
_CLIPPED = 6.0 / 255
"""A step behind ReLU6."""


def quantised_encoder(encoder: ImageEncoder) -> QuantisedEncoder | None:
    """`encoder` in 8 bits; None where processor or torch have no such products, or other weights are in it."""
    known = all(hasattr(torch.ops.onednn, name) for name in _OPERATIONS)
    if not (known and torch.cpu._is_vnni_supported() and isinstance(encoder, EfficientNetLite0)):
        return None
    return QuantisedEncoder(encoder) if _digest(encoder) == _LOWER_DIGEST else None


class _Convolution:
    """A convolution of 8-bit integers; to such, behind ReLU6, or to bfloat16."""

    def __init__(self, conv: Any, step: float, zero: int, out: torch.dtype) -> None:
        rounded, self._steps = weight_in_steps(conv.weight, keep_sums=conv.groups > 1)
        self._zeros = torch.zeros(len(rounded), dtype=torch.int32)
        self._bias = conv.bias.detach().float()
        self._shape = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)
        self._seen = (step, zero)
        self._weight = torch.ops.onednn.qconv_prepack(rounded, self._steps, step, zero, *self._shape, None)
        # Integers end where ReLU6 does: at 0, and at 255 steps.
        self._made = (_CLIPPED, 0, out, "relu") if out == torch.uint8 else (1.0, 0, out, "none")

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, H, W] of 8-bit integers, channels last."""
        out: Tensor = torch.ops.onednn.qconv_pointwise(
            x,
            *self._seen,
            self._weight,
            self._steps,
            self._zeros,
            self._bias,
            *self._shape,
            *self._made,
            [],
            "",
        )
        return out


class _Block(NamedTuple):
    step: float
    """Of the integers that `expand` gets."""
    expand: _Convolution
    depthwise: _Convolution
    project: _Convolution
    residual: bool


class QuantisedEncoder:
    """`EfficientNetLite0`'s `lower` and `upper`, in bfloat16 at both ends of each; for few pictures at a time.

    Args:
        encoder: with the pretrained lower stages, in float32 on the CPU. Of what stays in bfloat16 its modules are
            used, which are to be in that type by the time they are.
    """

    def __init__(self, encoder: EfficientNetLite0) -> None:
        self._encoder = encoder
        self._lower = len(encoder.lower_blocks) - 1
        blocks: list[Any] = list(encoder.blocks)[1:]
        self._blocks = [
            _Block(
                widest / STEPS,
                _Convolution(block.expand, widest / STEPS, ZERO, torch.uint8),
                _Convolution(block.depthwise, _CLIPPED, 0, torch.uint8),
                _Convolution(block.project, _CLIPPED, 0, torch.bfloat16),
                block.residual,
            )
            for block, widest in zip(blocks, _WIDEST, strict=True)
        ]

    def lower(self, pixels: Tensor) -> Tensor:
        """[B, 3, 224, 224] → [B, 112, 14, 14]."""
        return _through(self._blocks[: self._lower], self._encoder.blocks[0](self._encoder.begin(pixels)))

    def upper(self, fine: Tensor) -> Tensor:
        """[B, 112, 14, 14], channels last → [B, 49, 1728]."""
        return self._encoder.finish(_through(self._blocks[self._lower :], fine), fine)


def _through(blocks: list[_Block], x: Tensor) -> Tensor:
    for block in blocks:
        # Channels are last in memory, where this copies nothing.
        rounded = in_steps(x.permute(0, 2, 3, 1), block.step).permute(0, 3, 1, 2)
        y = block.project(block.depthwise(block.expand(rounded)))
        x = x + y if block.residual else y
    return x


def _digest(encoder: EfficientNetLite0) -> str:
    lower = nn.ModuleDict({"stem": encoder.stem, "blocks": encoder.lower_blocks})
    return weights_digest({name: tensor.half() for name, tensor in lower.state_dict().items()}, 8)
