"""What a captioner is trained on: pictures with reference captions, and cached features of the frozen encoder."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps
from tqdm import tqdm

from captionary.errors import bad_value
from captionary.understand.encoder import EfficientNetLite0, to_pixels

__all__ = ["CaptionSet", "clean", "encode_features", "photos", "scenes", "viewed"]


class CaptionSet(NamedTuple):
    """Pictures, drawn or opened on demand, with one or more reference captions each."""

    name: str
    rows: int
    picture: Callable[[int], Image.Image]
    captions: list[list[str]]


def scenes(n: int, seed: int, captions: int = 3) -> CaptionSet:
    """`n` scenes of the simulated world, uniform over all compositions; `seed` tells training from held-out ones."""
    from captionary.world.grammar import reference_captions
    from captionary.world.render import render
    from captionary.world.scenes import draw_scenes

    table = draw_scenes(np.random.default_rng(seed), n)
    words = [reference_captions(table, row, captions) for row in range(n)]
    return CaptionSet(f"scenes-{n}-{seed}", n, lambda row: render(table, row), words)


def photos(folder: Path, split: str, *, view: int = 0) -> CaptionSet:
    """Captioned photographs: ``captions.csv`` with columns image, caption, split, and the folder ``images``.

    Args:
        folder: the folder that holds both.
        split: the value of column ``split`` to keep.
        view: 0 as they are; 1 mirrored; from 2 on each a random crop of its own, the odd ones mirrored. Captions that
            say left or right are left out of mirrored views.

    Raises:
        CaptionaryError: ``captions.csv`` is missing, lacks a column, or has no row of that split.
    """
    path = folder / "captions.csv"
    if not path.is_file():
        raise bad_value(
            "photos", str(folder), "a folder with captions.csv and images/", where="captioner train"
        )
    words: dict[str, list[str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := {"image", "caption", "split"} - set(reader.fieldnames or ()):
            raise bad_value(
                "columns", sorted(reader.fieldnames or ()), f"with {sorted(missing)}", where=str(path)
            )
        for row in reader:
            said = clean(row["caption"])
            if row["split"] == split and not (view % 2 and {"left", "right"} & set(said.split())):
                words.setdefault(row["image"], []).append(said)
    if not words:
        raise bad_value("split", split, "a value of column split", where=str(path))
    names = sorted(words)

    def picture(row: int) -> Image.Image:
        with Image.open(folder / "images" / names[row]) as opened:
            return viewed(opened.convert("RGB"), view, row)

    name = f"{folder.name}-{split}-{view}"
    return CaptionSet(name, len(names), picture, [words[name] for name in names])


def encode_features(
    encoder: EfficientNetLite0, data: CaptionSet, cache: Path, *, batch_size: int = 32
) -> npt.NDArray[np.float16]:
    """`encoder.lower` of every picture, float16 [N, 112, 14, 14], computed once and kept in `cache` (memory-mapped).

    A killed run continues at the batch it was in.
    """
    path = cache / f"{data.name}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    cache.mkdir(parents=True, exist_ok=True)
    partial, done_path = path.with_suffix(".partial.npy"), path.with_suffix(".done")
    shape = (data.rows, *encoder.fine_shape)
    done = int(done_path.read_text()) if done_path.exists() and partial.exists() else 0
    mode = "r+" if done else "w+"
    features = np.lib.format.open_memmap(partial, mode=mode, dtype=np.float16, shape=shape)
    starts = range(done, data.rows, batch_size)
    with torch.inference_mode(), tqdm(total=data.rows, initial=done, desc=data.name, unit="img") as bar:
        for start, images in _prefetched(data, starts, batch_size):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                fine = encoder.lower(to_pixels(images)).float().numpy()
            features[start : start + len(images)] = fine
            bar.update(len(images))
            if (start // batch_size) % 20 == 0:
                features.flush()
                done_path.write_text(str(start + len(images)))
    features.flush()
    partial.replace(path)
    done_path.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _prefetched(
    data: CaptionSet, starts: Sequence[int], batch_size: int
) -> Iterator[tuple[int, list[Image.Image]]]:
    """Batches of pictures, the next one opened while the present one is encoded."""

    def load(start: int) -> list[Image.Image]:
        return [data.picture(row) for row in range(start, min(start + batch_size, data.rows))]

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(load, starts[0]) if starts else None
        for position, start in enumerate(starts):
            assert coming is not None
            images = coming.result()
            if position + 1 < len(starts):
                coming = pool.submit(load, starts[position + 1])
            yield start, images


def viewed(image: Image.Image, view: int, row: int) -> Image.Image:
    """Picture `row` under a view, numbered as in `photos`."""
    if view > 1:
        image = _crop(image, np.random.default_rng([view, row]))
    return ImageOps.mirror(image) if view % 2 else image


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A box of 50 to 95 % of the area with a side ratio up to 4:3 off the picture's, a little brighter or darker."""
    share, ratio = rng.uniform(0.5, 0.95), np.exp(rng.uniform(-0.2877, 0.2877))
    width = min(image.width, round(image.width * np.sqrt(share * ratio)))
    height = min(image.height, round(image.height * np.sqrt(share / ratio)))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    cropped = image.crop((left, top, left + width, top + height))
    return ImageEnhance.Brightness(cropped).enhance(float(rng.uniform(0.8, 1.2)))


def clean(caption: str) -> str:
    """Lower case, words only: the captioner's spelling."""
    kept = "".join(c if c.isalnum() or c in "'-" else " " for c in caption.lower())
    return " ".join(kept.split())
