from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from captionary.errors import CaptionaryError
from captionary.understand.similar import GRID, HashIndex, grids_agree, hamming, sign_of
from captionary.world.render import render
from captionary.world.scenes import draw_scenes


def scenes(n: int, seed: int = 5):
    table = draw_scenes(np.random.default_rng(seed), n)
    return [render(table, row) for row in range(n)]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def near(one: Image.Image, other: Image.Image, threshold: int = 4) -> bool:
    a, b = sign_of(one), sign_of(other)
    return (
        a is not None
        and b is not None
        and (a.hash ^ b.hash).bit_count() <= threshold
        and grids_agree(a.grid, b.grid)
    )


def test_a_sign_has_64_bits_half_of_them_set():
    for image in scenes(20):
        sign = sign_of(image)
        assert 0 <= sign.hash < 1 << 64
        assert sign.hash.bit_count() == 32  # above the median
        assert len(sign.grid) == 8 * 8 * 3


def test_edited_copies_are_near():
    images = scenes(40)
    edits = {
        "JPEG": lambda im: jpeg(im, 60),
        "half": lambda im: im.resize((112, 112), Image.Resampling.BICUBIC),
        "twice": lambda im: im.resize((448, 448), Image.Resampling.BICUBIC),
        "brighter": lambda im: im.point(lambda v: min(255, v + 5)),
    }
    for name, edit in edits.items():
        found = sum(near(image, edit(image)) for image in images)
        assert found >= 0.9 * len(images), name


def test_different_scenes_are_not_near():
    images = scenes(300, seed=6)
    signs = [sign_of(image) for image in images]
    index = HashIndex(4)
    index.extend(np.arange(300), np.array([sign.hash for sign in signs], np.uint64))
    taken = [
        (i, j)
        for i, sign in enumerate(signs)
        for j in index.near(sign.hash)
        if j < i and grids_agree(sign.grid, signs[j].grid)
    ]
    assert taken == []


def test_colour_tells_pictures_of_one_shape_apart():
    def shirt(colour):
        image = Image.new("RGB", (100, 120), "white")
        ImageDraw.Draw(image).polygon([(10, 20), (90, 20), (75, 110), (50, 60), (25, 110)], colour)
        return image

    red, green = shirt((200, 40, 40)), shirt((40, 121, 40))  # of the same brightness
    assert (sign_of(red).hash ^ sign_of(green).hash).bit_count() <= 4
    assert not near(red, green)
    assert near(red, jpeg(red, 75))


def test_where_the_colours_are_matters_too():
    def pair(left, right):
        image = Image.new("RGB", (120, 80), "white")
        ImageDraw.Draw(image).ellipse((5, 15, 55, 65), left)
        ImageDraw.Draw(image).ellipse((65, 15, 115, 65), right)
        return image

    red, green = (200, 40, 40), (40, 121, 40)  # of the same brightness: to the hash, and on average, the same
    one, other = pair(red, green), pair(green, red)
    assert (sign_of(one).hash ^ sign_of(other).hash).bit_count() <= 4
    assert not near(one, other)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (50, 50), "white"),
        Image.new("RGB", (50, 50), (3, 7, 200)),
        Image.new("RGB", (1, 1), "red"),
        Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))),
        Image.fromarray(np.random.default_rng(0).integers(100, 104, (90, 90, 3), dtype=np.uint8)),
    ],
    ids=["white", "blue", "dot", "gradient", "faint noise"],
)
def test_flat_pictures_have_no_sign(image):
    assert sign_of(image) is None


def test_grids_agree_up_to_the_limit():
    one = bytes([100] * 192)
    assert grids_agree(one, bytes([100 + GRID] + [100] * 191))
    assert not grids_agree(one, bytes([100 + GRID + 1] + [100] * 191))
    assert not grids_agree(bytes([0] * 192), bytes([255] * 192))


def test_hamming():
    hashes = np.array([0, 1, 0b1011, (1 << 64) - 1], np.uint64)
    assert hamming(hashes, 0).tolist() == [0, 1, 3, 64]
    assert hamming(hashes, 0b11).tolist() == [2, 1, 1, 62]
    assert hamming(hashes[:0], 0).tolist() == []


@pytest.mark.parametrize("threshold", [0, 1, 4, 7, 16])
def test_the_index_finds_what_a_scan_finds(threshold, monkeypatch):
    monkeypatch.setattr("captionary.understand.similar._TAIL", 100)
    rng = np.random.default_rng(threshold)
    hashes = rng.integers(0, 1 << 64, 1000, dtype=np.uint64)
    index = HashIndex(threshold)
    for start in range(0, 1000, 90):  # some in the index, the last in its tail
        index.extend(np.arange(start, min(1000, start + 90)) * 3, hashes[start : start + 90])
    assert len(index) == 1000
    for _ in range(200):
        flips = rng.choice(64, rng.integers(0, threshold + 3), replace=False)
        one = int(hashes[rng.integers(1000)]) ^ sum(1 << int(bit) for bit in flips)
        differ = [(int(each) ^ one).bit_count() for each in hashes]
        expected = sorted((d, 3 * i) for i, d in enumerate(differ) if d <= threshold)
        assert index.near(one) == [id_ for _, id_ in expected]


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=30), st.integers(0, (1 << 64) - 1))
def test_the_index_on_any_hashes(hashes, one):
    index = HashIndex(4)
    index.extend(np.arange(len(hashes)), np.array(hashes, np.uint64))
    expected = {i for i, each in enumerate(hashes) if (each ^ one).bit_count() <= 4}
    assert set(index.near(one)) == expected


@pytest.mark.parametrize("threshold", [-1, 17])
def test_bad_thresholds(threshold):
    with pytest.raises(CaptionaryError, match="must be 0 to 16 bits of 64"):
        HashIndex(threshold)
