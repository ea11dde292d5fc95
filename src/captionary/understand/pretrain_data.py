"""Which pictures and captions a training step sees: a function of seed and step, so that any step can be done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from captionary.errors import bad_value
from captionary.understand.encoder import EfficientNetLite0, ImageEncoder
from captionary.understand.training_data import CaptionSet, encode_features

__all__ = ["Batch", "Batches"]

Captions = list[list[list[int]]]
"""Token ids: picture × caption × token."""


class Batch(NamedTuple):
    """What one process sees in one micro-batch."""

    pixels: Tensor
    """[B, 3, size, size], or [B, *fine_shape] where features are cached."""
    captions: Captions


class Batches:
    """The batches of a run, by step.

    An epoch takes one view of each source and deals its pictures in a new order; what is left over at its end is
    dropped, so that no picture is twice in a batch.

    Args:
        sources: each a list of views of the same pictures.
        tokenizer: of the captions.
        encoder: how it wants its pixels; its lower part where `cache` is given.
        pictures: of a step, over all processes and micro-batches.
        captions: a picture, at most.
        longest: tokens at which captions are cut.
        seed: of order and choice.
        workers: threads that open pictures.
        cache: folder of cached features; None: pictures are opened each time.

    Raises:
        CaptionaryError: fewer pictures than a step takes.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[CaptionSet]],
        tokenizer: Tokenizer,
        encoder: ImageEncoder,
        *,
        pictures: int,
        captions: int,
        longest: int,
        seed: int,
        workers: int = 1,
        cache: Path | None = None,
    ) -> None:
        self.sources, self.pictures, self.captions, self.seed = sources, pictures, captions, seed
        self._to_pixels: Callable[[Sequence[Image.Image]], Tensor] = encoder.to_pixels
        self._ids = [[_ids(view, tokenizer, longest) for view in views] for views in sources]
        self._features: list[list[npt.NDArray[np.float16]]] = []
        if cache is not None:
            if not isinstance(encoder, EfficientNetLite0):
                rule = "false for a Vision Transformer: its features are larger than its pictures"
                raise bad_value("cache", True, rule)
            self._features = [[encode_features(encoder, view, cache) for view in views] for views in sources]
        fewest = sum(min(view.rows for view in views) for views in sources)
        if fewest < pictures:
            raise bad_value(
                "batch_size", pictures, f"at most the {fewest} pictures, over processes and micro-batches"
            )
        self._epoch = (-1, 0, np.zeros((0, 3), np.int64))
        self._threads = ThreadPoolExecutor(workers)

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """Source, view and row of each picture of a step: [pictures, 3]."""
        epoch, first, order = self._epoch
        if epoch < 0 or step < first:
            epoch, first, order = 0, 0, self._order(0)
        while step >= first + len(order) // self.pictures:
            first += len(order) // self.pictures
            epoch += 1
            order = self._order(epoch)
        self._epoch = epoch, first, order
        at = (step - first) * self.pictures
        return order[at : at + self.pictures]

    def told(self, step: int) -> Captions:
        """The captions of a step, picture by picture."""
        rng = np.random.default_rng([self.seed, 1, step])
        groups = [self._ids[source][view][row] for source, view, row in self.rows(step)]
        return [[group[i] for i in rng.permutation(len(group))[: self.captions]] for group in groups]

    def open(self, step: int, first: int, count: int) -> Callable[[], Batch]:
        """Begin to open pictures `first` to `first + count` of a step; call what comes back for the batch.

        Raises:
            CaptionaryError: (from that call) a picture cannot be opened.
        """
        rows, told = self.rows(step)[first : first + count], self.told(step)[first : first + count]
        if self._features:
            fine = [self._features[source][view][row].astype(np.float32) for source, view, row in rows]
            return lambda: Batch(torch.from_numpy(np.stack(fine)), told)
        coming = [self._threads.submit(self._picture, *map(int, row)) for row in rows]
        return lambda: Batch(self._to_pixels([each.result() for each in coming]), told)

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(cancel_futures=True)

    def _picture(self, source: int, view: int, row: int) -> Image.Image:
        data = self.sources[source][view]
        try:
            return data.picture(row)
        except OSError as error:
            raise bad_value("picture", row, "one that can be opened", where=f"{data.name}: {error}") from None

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        parts = []
        for source, views in enumerate(self.sources):
            view = epoch % len(views)
            rows = np.arange(views[view].rows)
            parts.append(np.stack([np.full_like(rows, source), np.full_like(rows, view), rows], 1))
        dealt = np.concatenate(parts)
        return dealt[np.random.default_rng([self.seed, 0, epoch]).permutation(len(dealt))]


def _ids(data: CaptionSet, tokenizer: Tokenizer, longest: int) -> Captions:
    flat = [line for group in data.captions for line in group]
    ids = iter(tokenizer.encode_batch(flat, add_special_tokens=False))
    return [[next(ids).ids[:longest] for _ in group] for group in data.captions]
