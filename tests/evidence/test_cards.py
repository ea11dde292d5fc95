"""Thumbnails: small whatever the picture is, and none where there is no picture."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionary.evidence.cards import THUMBNAIL_BYTES, thumbnail


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def opened(uri: str | None) -> Image.Image:
    assert uri is not None
    head, content = uri.split(",")
    assert head == "data:image/jpeg;base64"
    data = base64.b64decode(content)
    assert len(data) <= THUMBNAIL_BYTES
    return Image.open(io.BytesIO(data))


def test_even_noise_fits() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 900, 3)).astype(np.uint8)
    picture = opened(thumbnail(png(noise)))
    assert max(picture.size) <= 240
    assert picture.width / picture.height == pytest.approx(900 / 500, rel=0.05)


def test_transparency_lies_on_white() -> None:
    picture = opened(thumbnail(png(np.zeros((40, 40, 4), np.uint8))))
    assert picture.getpixel((20, 20)) == (255, 255, 255)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(np.full((30, 60, 3), 200, np.uint8)))
    assert opened(thumbnail(path)).size == (60, 30)


@pytest.mark.parametrize("content", [b"", b"no picture", png(np.zeros((64, 64, 3), np.uint8))[:60]])
def test_what_is_no_picture_has_no_thumbnail(content: bytes) -> None:
    assert thumbnail(content) is None


def test_no_file_has_no_thumbnail(tmp_path: Path) -> None:
    assert thumbnail(tmp_path / "missing.jpg") is None
    assert thumbnail(tmp_path) is None
    assert thumbnail(None) is None


def test_a_decompression_bomb_is_not_opened() -> None:
    """51 million pixels in a few kilobytes, one million above what is read."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 5_100)).save(buffer, "PNG")
    assert thumbnail(buffer.getvalue()) is None
