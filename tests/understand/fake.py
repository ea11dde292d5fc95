"""A captioner without a model, and pictures for it: for tests whose subject is something else."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from captionary.understand.caption import CaptionReport
from captionary.understand.captioner import Caption

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
OBJECTS = ("dog", "cat", "sofa", "car", "apple", "tree", "boat", "chair", "bird", "cup")
RELATIONS = ("on", "under", "next to", "in front of")
PLACES = ("kitchen", "park", "beach", "street", "forest")


class FakeCaptioner:
    """Says something in the manner of "a red dog on a sofa in the park", decided by the pixels alone.

    Args:
        vector_size: D of its vectors, a function of the pixels too; 0 for none.
        image_size: shorter side to which the caption stage shrinks pictures.
        seconds: slept per picture.
        variant: another fingerprint and other captions.
        hook: called with each picture first; what it raises, `caption` raises; a string is the caption.

    Attributes:
        calls: the size of each batch it was given.
        images: how many pictures it was given in all.
    """

    def __init__(
        self,
        *,
        vector_size: int = 0,
        image_size: int = 32,
        seconds: float = 0.0,
        variant: str = "1",
        hook: Callable[[Image.Image], str | None] | None = None,
    ) -> None:
        self.name = "fake"
        self.fingerprint = f"fake-{variant}"
        self.encoder_fingerprint = f"fake-encoder-{vector_size}"
        self.vector_size = vector_size
        self.image_size = image_size
        self.seconds = seconds
        self.variant = variant
        self.hook = hook
        self.calls: list[int] = []

    @property
    def images(self) -> int:
        return sum(self.calls)

    def caption(self, images: Sequence[Image.Image]) -> list[Caption]:
        self.calls.append(len(images))
        time.sleep(self.seconds * len(images))
        return [self._caption(image) for image in images]

    def caption_and_embed(
        self, images: Sequence[Image.Image]
    ) -> tuple[list[Caption], npt.NDArray[np.float32]]:
        captions = self.caption(images)
        vectors = [np.random.default_rng(_seed(image)).normal(size=self.vector_size) for image in images]
        return captions, np.asarray(vectors, dtype=np.float32)

    def _caption(self, image: Image.Image) -> Caption:
        assert image.mode == "RGB"
        text = self.hook(image) if self.hook else None
        if text is None:
            rng = np.random.default_rng(_seed(image, self.variant))
            one, other = rng.choice(OBJECTS, size=2, replace=False)
            colour, relation, place = (rng.choice(words) for words in (COLOURS, RELATIONS, PLACES))
            text = f"a {colour} {one} {relation} a {other} in the {place}"
        return Caption(text, prompt_tokens=4, output_tokens=len(text.split()) + 1)


def _seed(image: Image.Image, salt: str = "") -> int:
    content = hashlib.blake2b(image.tobytes() + salt.encode(), digest_size=8)
    return int.from_bytes(content.digest(), "little")


def write_pictures(folder: Path, count: int, *, size: int = 8, seed: int = 0) -> list[str]:
    """Write `count` different PNG files; returns their names, media entries below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = []
    for i in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        names.append(f"{i:05d}.png")
        Image.fromarray(pixels).save(folder / names[-1], compress_level=0)
    return names


def items_of(media: list[list[str] | None]) -> pa.Table:
    """An items table with these media."""
    ids = [f"item {i}" for i in range(len(media))]
    return pa.table({"item_id": ids, "media": pa.array(media, pa.list_(pa.string()))})


def column(report: CaptionReport, name: str) -> list[object]:
    return report.captions[name].to_pylist()
