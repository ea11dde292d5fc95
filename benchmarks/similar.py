"""How often near-duplicates are found, and how often two pictures are taken for one.

    python benchmarks/similar.py --shared FOLDER [--quick]

FOLDER holds the collections of real pictures, `flickr8k/images` and `clothing/images`; beside them, scenes of the
simulated world. Found: each picture against its own edited copies. Mistaken: all pairs of different pictures, by the
hash alone and confirmed by the colour grid, at several thresholds. A scene's pair is mistaken where what is in the two
scenes differs; in a collection of photographs all pairs count, true copies among them included.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from result import write_result

from captionary.understand.media import open_image
from captionary.understand.similar import HashIndex, Sign, grids_agree, sign_of
from captionary.world.grammar import facts
from captionary.world.render import render
from captionary.world.scenes import draw_scenes

THRESHOLDS = (0, 2, 4, 6, 8, 10)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda im: im.resize((max(1, im.width // 2), max(1, im.height // 2))),
    "twice the size": lambda im: im.resize((im.width * 2, im.height * 2)),
    "JPEG quality 75": lambda im: _jpeg(im, 75),
    "JPEG quality 40": lambda im: _jpeg(im, 40),
    "half the size, JPEG quality 60": lambda im: _jpeg(im.resize((im.width // 2, im.height // 2)), 60),
    "5 % brighter": lambda im: im.point(lambda v: min(255, round(v * 1.05))),
}


def _photos(folder: Path, most: int) -> Iterator[tuple[Image.Image, str]]:
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    for path in paths[:most]:
        yield open_image(path), path.name


def _scenes(n: int) -> Iterator[tuple[Image.Image, str]]:
    table = draw_scenes(np.random.default_rng(9), n)
    for row in range(n):
        yield _jpeg(render(table, row), 88), str(facts(table, row))


def measure(pictures: Iterator[tuple[Image.Image, str]]) -> dict[str, Any]:
    """Flat pictures, edited copies found, pairs mistaken."""
    signs: list[Sign] = []
    names: list[str] = []
    seen, edited = 0, {name: dict.fromkeys(THRESHOLDS, 0) for name in EDITS}
    tried = 0
    for number, (picture, name) in enumerate(pictures):
        seen += 1
        sign = sign_of(picture)
        if sign is None:
            continue
        signs.append(sign)
        names.append(name)
        if number % 10 == 0:
            tried += 1
            for edit, change in EDITS.items():
                other = sign_of(change(picture))
                if other is not None and grids_agree(sign.grid, other.grid):
                    differ = (sign.hash ^ other.hash).bit_count()
                    for threshold in THRESHOLDS:
                        edited[edit][threshold] += differ <= threshold
    index = HashIndex(max(THRESHOLDS))
    hashes = np.array([sign.hash for sign in signs], np.uint64)
    index.extend(np.arange(len(signs)), hashes)
    hashed, confirmed = dict.fromkeys(THRESHOLDS, 0), dict.fromkeys(THRESHOLDS, 0)
    close: list[tuple[str, str, int]] = []
    for i, sign in enumerate(signs):
        for j in index.near(sign.hash):
            if j >= i or (names[i] == names[j] and names[i].startswith("{")):
                continue
            differ = (sign.hash ^ signs[j].hash).bit_count()
            same = grids_agree(sign.grid, signs[j].grid)
            if same:
                close.append((names[i], names[j], differ))
            for threshold in THRESHOLDS:
                hashed[threshold] += differ <= threshold
                confirmed[threshold] += same and differ <= threshold
    pairs = len(signs) * (len(signs) - 1) // 2
    return {
        "pictures": seen,
        "too flat to be known": seen - len(signs),
        "pairs": pairs,
        "pairs taken for one by the hash alone": hashed,
        "pairs taken for one": confirmed,
        "share of pictures' pairs per million": {
            t: round(1e6 * n / max(1, pairs), 4) for t, n in confirmed.items()
        },
        "edited copies found, share": {
            edit: {t: round(n / max(1, tried), 4) for t, n in found.items()} for edit, found in edited.items()
        },
        "closest pairs": close[:20],
    }


def one_fact_changed(n: int) -> dict[str, Any]:
    """Scenes that differ in one thing only, drawn with the same layout: the hardest pairs there are."""
    rng = np.random.default_rng(10)
    table, other = draw_scenes(rng, n), draw_scenes(rng, n)
    found: dict[str, Any] = {}
    for fact in ("subject", "time", "place", "extra"):
        changed = table._replace(**{fact: getattr(other, fact)})
        pairs = hashed = confirmed = 0
        for row in range(n):
            if facts(table, row) == facts(changed, row):
                continue
            one, two = sign_of(render(table, row)), sign_of(render(changed, row))
            pairs += 1
            if one is not None and two is not None and (one.hash ^ two.hash).bit_count() <= 4:
                hashed += 1
                confirmed += grids_agree(one.grid, two.grid)
        found[fact] = {"pairs": pairs, "taken for one by the hash alone": hashed, "taken for one": confirmed}
    return found


def main() -> None:
    """Measure all collections at hand and write benchmarks/results/similar.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, help="folder of the collections of real pictures")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    options = parser.parse_args()
    most = 1000 if options.quick else 10_000
    figures = {"scenes of the world": measure(_scenes(most))}
    figures["scenes with one fact changed, threshold 4"] = one_fact_changed(most // 10)
    for name in ("flickr8k", "clothing"):
        folder = options.shared / name / "images" if options.shared else None
        if folder is not None and folder.is_dir():
            figures[name] = measure(_photos(folder, most))
    for name, found in figures.items():
        print(name, found)
        found.pop("closest pairs", None)  # to look at; names of pictures are the collection's
    print(write_result("similar-quick" if options.quick else "similar", figures))


if __name__ == "__main__":
    main()
