"""Llama 4's picture tiles with Pillow: `transformers` has them for torchvision alone.

    picture ──resize, pad──▶ canvas of h × w tiles ──split──▶ tiles, and the whole picture as one more tile

The arithmetic of canvas and scale is that of `transformers.models.llama4.image_processing_llama4`; only the
resampling is Pillow's, as in all `…ImageProcessorPil` classes, so pixel values differ in the last bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

__all__ = ["Llama4ImageProcessorPil", "best_canvas", "canvases", "scaled_size"]

Size = tuple[int, int]
"""(height, width)."""


@lru_cache(maxsize=16)
def canvases(max_tiles: int, side: int) -> tuple[Size, ...]:
    """All canvases of at most `max_tiles` square tiles, in pixels: `canvases(2, 10)` has 10×20, 20×10 and 10×10.

    In the order of the original, by aspect ratio as it first occurs, which settles ties of `best_canvas`.
    """
    by_ratio: dict[float, list[Size]] = {}
    for tiles in range(max_tiles, 0, -1):
        for rows in range(1, tiles + 1):
            if tiles % rows == 0:
                columns = tiles // rows
                by_ratio.setdefault(rows / columns, []).append((rows * side, columns * side))
    return tuple(size for sizes in by_ratio.values() for size in sizes)


def best_canvas(picture: Size, sizes: tuple[Size, ...], *, largest: bool = False) -> Size:
    """The canvas that the picture fills with the least change of scale, and of those the smallest.

    Enlarging is preferred to shrinking: the smallest scale ≥ 1 where there is one (`largest`: the greatest),
    else the greatest below 1.
    """
    # float32, as the original's tensors: two canvases tie there that would not in float64.
    height, width = np.float32(picture[0]), np.float32(picture[1])
    scales = [min(np.float32(size[0]) / height, np.float32(size[1]) / width) for size in sizes]
    up = [scale for scale in scales if scale >= 1]
    chosen = (max(up) if largest else min(up)) if up else max(scales)
    fitting = [size for size, scale in zip(sizes, scales, strict=True) if scale == chosen]
    return min(fitting, key=lambda size: size[0] * size[1])


def scaled_size(picture: Size, box: Size) -> Size:
    """The largest size of the picture's shape within the box, at least 1×1: 200×300 in 450×200 gives 133×200."""
    by_height, by_width = box[0] / picture[0], box[1] / picture[1]
    if by_width < by_height:
        height, width = min(int(picture[0] * by_width), box[0]), box[1]
    else:
        height, width = box[0], min(int(picture[1] * by_height), box[1])
    return max(height, 1), max(width, 1)


class Llama4ImageProcessorKwargs(ImagesKwargs, total=False):
    """What `preprocessor_config.json` may set beyond the usual."""

    max_patches: int
    resize_to_max_canvas: bool


class Llama4ImageProcessorPil(PilBackend):
    """Tiles of Llama 4: `pixel_values` float32 [tiles of all pictures, 3, side, side], `aspect_ratios` [B, 2]."""

    resample = PILImageResampling.BILINEAR
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    size = {"height": 336, "width": 336}  # noqa: RUF012 - the classes of transformers declare it so
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    max_patches = 16
    resize_to_max_canvas = False
    valid_kwargs = Llama4ImageProcessorKwargs

    def _preprocess(  # type: ignore[override]  # the parent's takes what all processors have, and more
        self,
        images: list[npt.NDArray[np.uint8]],
        size: SizeDict,
        resample: PILImageResampling | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: list[float],
        image_std: list[float],
        max_patches: int,
        resize_to_max_canvas: bool,
        **_: Any,
    ) -> BatchFeature:
        side = size.height or 0
        if not side or side != size.width:
            raise ValueError(f"tiles of {size.height}×{size.width} pixels, not square")

        def finished(picture: npt.NDArray[Any]) -> torch.Tensor:
            if do_rescale:
                picture = self.rescale(picture, rescale_factor)
            if do_normalize:
                picture = self.normalize(picture, image_mean, image_std)
            return torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32))

        tiles: list[torch.Tensor] = []
        ratios: list[Size] = []
        for image in images:  # [3, H, W]
            shape = (int(image.shape[-2]), int(image.shape[-1]))
            canvas = best_canvas(shape, canvases(max_patches, side), largest=resize_to_max_canvas)
            box = canvas
            if not resize_to_max_canvas:  # a small picture grows to one tile at most
                box = min(max(shape[0], side), canvas[0]), min(max(shape[1], side), canvas[1])
            height, width = scaled_size(shape, box)
            fitted = self.resize(image, SizeDict(height=height, width=width), resample=resample)
            padded = np.pad(fitted, ((0, 0), (0, canvas[0] - height), (0, canvas[1] - width)))
            rows, columns = canvas[0] // side, canvas[1] // side
            grid = finished(padded).reshape(3, rows, side, columns, side)
            tiles.append(grid.permute(1, 3, 0, 2, 4).reshape(rows * columns, 3, side, side))
            if rows * columns > 1:
                tiles.append(finished(self.resize(image, size, resample=resample))[None])
            ratios.append((rows, columns))
        return BatchFeature({"pixel_values": torch.cat(tiles), "aspect_ratios": torch.tensor(ratios)})
