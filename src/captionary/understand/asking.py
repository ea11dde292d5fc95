"""Asking a captioner, which is anybody's code: what it raises costs single pictures, and its answers are checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from captionary.understand.captioner import Caption, Captioner, StoppedError, embeds

__all__ = ["Answer", "Asker"]


class Answer(NamedTuple):
    """What a captioner said of a picture."""

    caption: Caption
    vector: npt.NDArray[np.float32] | None
    latency_ms: float
    """The picture's share of the time that the call took, or of what it took beyond the call before."""


class Asker:
    """Calls of one captioner, by one thread or, where it has lanes, by several.

    Attributes:
        stopped: set when the captioner said that it may not go on.
    """

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.stopped: StoppedError | None = None
        self._answered = 0.0  # when it last did

    def __call__(self, images: Sequence[Image]) -> list[Answer | str]:
        """An answer per picture, or what the captioner raised when it was asked about that picture alone."""
        started = time.perf_counter()
        try:
            captions, vectors = self._ask(images)
        except StoppedError as error:
            self.stopped = error  # what it had answered is kept, the rest is not asked again
            return [Answer(c, None, 0.0) if c else str(error) for c in error.answered or [None] * len(images)]
        except Exception as error:
            if len(images) == 1:
                return [" ".join(f"{type(error).__name__}: {error}".split())[:200]]
            return [answer for image in images for answer in self([image])]
        began, self._answered = max(started, self._answered), time.perf_counter()
        share = (self._answered - began) * 1000 / len(images)
        return [
            Answer(caption, vectors[i] if vectors is not None else None, share)
            for i, caption in enumerate(captions)
        ]

    def _ask(self, images: Sequence[Image]) -> tuple[list[Caption], npt.NDArray[np.float32] | None]:
        vectors = None
        if embeds(self.captioner):
            captions, vectors = self.captioner.caption_and_embed(images)
            expected = (len(images), self.captioner.vector_size)
            if vectors.shape != expected:
                raise ValueError(f"vectors of shape {vectors.shape}, not {expected}")
            if not np.isfinite(vectors.astype(np.float16)).all():
                raise ValueError("a vector that is not finite as float16")
        else:
            captions = self.captioner.caption(images)
        if len(captions) != len(images):
            raise ValueError(f"{len(captions)} captions for {len(images)} pictures")
        for caption in captions:
            if not isinstance(caption, Caption) or not isinstance(caption.text, str):
                raise TypeError(f"not a Caption: {caption!r:.80}")
        return captions, vectors
