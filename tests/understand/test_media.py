from __future__ import annotations

import hashlib
import io
import os
import resource
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionary.errors import CaptionaryError
from captionary.understand import media
from captionary.understand.media import MediaError, MediaLimits, decode, digest, locate, open_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that states its size and then holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def refusal(path: Path, **options: MediaLimits) -> str:
    with pytest.raises(MediaError) as caught:
        open_image(path, **options)
    assert str(caught.value).startswith("media == ")
    assert f"must be {media.MEDIA_REASONS[caught.value.reason]}" in str(caught.value)
    return caught.value.reason


def near(image: Image.Image, expected: tuple[int, int, int], at: tuple[int, int]) -> bool:
    return max(abs(a - b) for a, b in zip(image.getpixel(at), expected, strict=True)) <= 6


FORMATS = [
    ("JPEG", {}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]


@pytest.mark.parametrize(("image_format", "options"), FORMATS)
def test_formats_are_known_by_their_content(tmp_path, image_format, options):
    path = tmp_path / "picture.txt"
    path.write_bytes(encode(Image.new("RGB", (60, 40), RED), image_format, **options))
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert near(image, RED, (30, 20))


def test_digest_is_of_content(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == media.digest_bytes(b"same")
    assert digest(tmp_path / "a") == hashlib.blake2b(b"same", digest_size=16).hexdigest()
    assert media.digest_bytes(b"other") != media.digest_bytes(b"same")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(image_format, orientation):
    # A red block in the top left corner of a wide picture, stored as each orientation would store it.
    upright = Image.new("RGB", (64, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, image_format, exif=exif)
    for size, expected in ((None, (64, 32)), (16, (32, 16))):
        image = decode(data, size)
        assert image.size == expected
        right, bottom = expected[0] - 1, expected[1] - 1
        assert near(image, RED, (1, 1))
        for corner in ((right, 0), (0, bottom), (right, bottom)):
            assert near(image, WHITE, corner)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, (0, 0, 255))]
    for image_format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
        assert near(decode(data), RED, (10, 10)), image_format


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_transparent_is_white(image_format):
    picture = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (10, 0, 20, 10))
    image = decode(encode(picture, image_format, **({"lossless": True} if image_format == "WEBP" else {})))
    assert near(image, WHITE, (2, 5))
    assert near(image, RED, (17, 5))


def test_half_transparent_is_mixed_with_white():
    image = decode(encode(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG"))
    mixed = 0 * 128 / 255 + 255 * (1 - 128 / 255)
    assert near(image, (255, round(mixed), round(mixed)), (4, 4))


def test_palettes_and_their_transparency():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(0, (0, 0, 4, 8))
    assert near(decode(encode(palette, "PNG")), (0, 0, 0), (1, 1))
    for image_format in ("PNG", "GIF"):
        image = decode(encode(palette, image_format, transparency=0))
        assert near(image, WHITE, (1, 1))
        assert near(image, RED, (6, 6))


def test_transparent_colour_of_grey_and_rgb_png():
    grey = Image.new("L", (8, 8), 9)
    assert near(decode(encode(grey, "PNG", transparency=9)), WHITE, (4, 4))
    assert near(decode(encode(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED)), WHITE, (4, 4))


def test_other_modes():
    deep = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert near(decode(encode(deep, "PNG")), (128, 128, 128), (4, 4))
    real = np.zeros((8, 8), np.float32)
    real[:, 4:], real[0, 0] = 3.5, np.nan
    image = decode(encode(Image.fromarray(real), "TIFF"))
    assert near(image, (0, 0, 0), (1, 4))
    assert near(image, WHITE, (6, 4))
    for mode, image_format in (("CMYK", "JPEG"), ("1", "PNG"), ("LA", "PNG"), ("LAB", "TIFF")):
        assert decode(encode(noise(mode="RGB").convert(mode), image_format)).size == (60, 40)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_size_is_the_shorter_side(image_format):
    data = encode(Image.new("RGB", (640, 480)), image_format)
    assert decode(data, 120).size == (160, 120)
    assert decode(data, 481).size == (640, 480)  # never enlarged
    strip = encode(Image.new("RGB", (40_000, 2)), "PNG")
    assert decode(strip, 100).size == (16 * 100, 1)


def test_draft_mode_decodes_less_and_shows_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((1600, 1200))
    data = encode(smooth, "JPEG", quality=90)
    full = np.asarray(decode(data).resize((200, 150), Image.Resampling.BICUBIC), dtype=float)
    decoded = []
    to_colour = media._to_colour
    monkeypatch.setattr(media, "_to_colour", lambda image: decoded.append(image.size) or to_colour(image))
    small = np.asarray(decode(data, 150), dtype=float)
    assert decoded == [(1600 / 4, 1200 / 4)]  # the coarsest scale that still has twice the pixels wanted
    assert small.shape == full.shape
    assert np.abs(small - full).mean() < 1.0


def test_a_file_that_is_no_file(tmp_path):
    assert refusal(tmp_path / "none.jpg") == "missing"
    (tmp_path / "file").write_bytes(b"x")
    assert refusal(tmp_path / "file" / "below.jpg") == "missing"
    assert refusal(tmp_path) == "unreadable"
    assert refusal(tmp_path / ("x" * 5000)) == "unreadable"
    with pytest.raises(MediaError, match="null"):
        open_image(tmp_path / "a\0b")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refusal(tmp_path / "loop") == "unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = []
    thread = threading.Thread(target=lambda: reasons.append(refusal(tmp_path / "pipe.jpg")), daemon=True)
    thread.start()
    thread.join(5)
    assert reasons == ["unreadable"]


@pytest.mark.parametrize(
    "content",
    [
        b"just some words",
        b"%PDF-1.7\n1 0 obj",
        b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>",
        b"\xef\xbb\xbf<?xml version='1.0'?><svg/>",
        b"<!DOCTYPE html><img src=x>",
        b"PK\x03\x04" + bytes(40),
        b"\x00\x00\x00\x20ftypavif" + bytes(40),
        b"\x00\x00\x01\x00" + bytes(40),  # ICO: Pillow would read it
        b"8BPS\x00\x01" + bytes(40),  # PSD: likewise
        b"%!PS-Adobe-3.0 EPSF-3.0\n",  # EPS: Pillow would start Ghostscript
        b"P6 2 2 255\n" + bytes(12),
        b"BM is how this text begins, and it is long enough to hold a header",
        bytes(100),
    ],
)
def test_only_six_formats_whatever_the_name_says(tmp_path, content):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    assert refusal(path) == "not_an_image"


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    assert refusal(tmp_path / "a.png") == "empty_file"


def test_limits(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise(60, 40), "PNG"))
    length = path.stat().st_size
    assert open_image(path, limits=MediaLimits(max_bytes=length, max_pixels=60 * 40)).size == (60, 40)
    assert refusal(path, limits=MediaLimits(max_bytes=length - 1)) == "too_large"
    assert refusal(path, limits=MediaLimits(max_pixels=60 * 40 - 1)) == "too_many_pixels"
    with pytest.raises(MediaError) as caught:
        digest(path, MediaLimits(max_bytes=length - 1))
    assert caught.value.reason == "too_large"


def test_bombs_are_refused_by_their_header():
    bombs = {
        "PNG": png_header(10_000, 10_000),
        "PNG, real": encode(Image.new("1", (10_000, 10_000)), "PNG"),
        "GIF": b"GIF89a" + struct.pack("<HH", 50_000, 50_000) + bytes(3) + b";",
        "BMP": b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is printed about it either
        for name, data in bombs.items():
            with pytest.raises(MediaError) as caught:
                decode(data)
            assert caught.value.reason in ("too_many_pixels", "corrupt"), name
            if name.startswith("PNG"):
                assert caught.value.reason == "too_many_pixels"
                assert "10000 × 10000" in str(caught.value)
    assert time.process_time() - started < 0.5
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000  # KiB; decoded, one of them alone takes 100,000


@pytest.mark.parametrize(("image_format", "options"), FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(image_format, options, share):
    data = encode(noise(), image_format, **options)
    with pytest.raises(MediaError) as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.reason == "truncated"


def test_corrupt_is_not_truncated():
    data = bytearray(encode(noise(), "PNG"))
    data[60:90] = bytes(30)
    with pytest.raises(MediaError) as caught:
        decode(bytes(data))
    assert caught.value.reason == "corrupt"


def test_a_decoder_out_of_memory(monkeypatch):
    def fail(image):
        raise MemoryError

    monkeypatch.setattr(media, "_to_colour", fail)
    with pytest.raises(MediaError) as caught:
        decode(encode(noise(), "BMP"))
    assert caught.value.reason == "out_of_memory"


def test_mutated_files_raise_nothing_but_media_errors():
    rng = np.random.default_rng(7)
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [encode(noise(24, 16), name, **options) for name, options in FORMATS]
    seeds.append(encode(noise(24, 16), "JPEG", exif=exif, progressive=True))
    seeds.append(encode(noise(24, 16).convert("P"), "PNG", transparency=3))
    seeds.append(encode(noise(24, 16), "GIF", save_all=True, append_images=[noise(24, 16, "L")]))
    seeds.append(encode(noise(24, 16, "RGBA"), "WEBP", lossless=True))
    refused = read = 0
    reasons = set()
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(50 * len(seeds)):
            data = bytearray(seeds[number % len(seeds)])
            head = number % 3 > 0  # headers are where decoders go wrong
            for _ in range(rng.integers(1, 8)):
                at = int(rng.integers(4, min(len(data), 120 if head else len(data))))
                data[at] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(0, 256)]))
            if number % 5 == 0:
                start = int(rng.integers(4, len(data)))
                del data[start : start + int(rng.integers(1, 40))]
            try:
                image = decode(bytes(data), 8, limits=MediaLimits(max_pixels=1_000_000))
            except MediaError as error:
                reasons.add(error.reason)
                refused += 1
            else:
                read += 1
                assert image.mode == "RGB"
                assert min(image.size) >= 1
    assert refused + read == 600
    assert reasons <= media.PERMANENT_REASONS
    assert min(refused, read) > 60  # the mutations are neither all harmless nor all fatal
    assert time.process_time() - started < 5


def test_locate(tmp_path):
    assert locate("images/1.jpg", tmp_path) == tmp_path / "images/1.jpg"
    assert locate("/data/1.jpg", tmp_path) == Path("/data/1.jpg")
    assert locate("file:///data/a%20b.jpg", tmp_path) == Path("/data/a b.jpg")
    for uri in ("https://example.com/1.jpg", "s3://bucket/1.jpg", "HTTP://127.0.0.1/"):
        with pytest.raises(MediaError) as caught:
            locate(uri, tmp_path)
        assert caught.value.reason == "remote"


def test_media_errors_are_the_users(tmp_path):
    assert issubclass(MediaError, CaptionaryError)
    assert MediaLimits().fingerprint != MediaLimits(max_pixels=1).fingerprint
