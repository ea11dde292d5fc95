from __future__ import annotations

import hashlib
import os
import pickle
import resource
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from tests.understand.corpus import chunk, documents, encode, noise, oriented, pictures, png, recordings

from captionary.errors import CaptionaryError
from captionary.understand import formats, media
from captionary.understand.media import MediaError, MediaLimits, decode, digest, frames, locate, open_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


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
MORE_FORMATS = [
    ("PPM", {}),
    ("SGI", {}),
    ("PCX", {}),
    ("TGA", {"compression": "tga_rle"}),
    ("ICO", {}),
    ("QOI", {}),
]
MORE_FORMATS += [("DDS", {})]
MORE_FORMATS += [("JPEG2000", {}), ("JPEG2000", {"no_jp2": True})] if features.check("jpg_2000") else []
MORE_FORMATS += [("AVIF", {})] if features.check("avif") else []


@pytest.mark.parametrize(("image_format", "options"), FORMATS + MORE_FORMATS)
def test_formats_are_known_by_their_content(tmp_path, image_format, options):
    path = tmp_path / "picture.txt"
    path.write_bytes(encode(Image.new("RGB", (60, 40), RED), image_format, **options))
    image = open_image(path)
    expected = (
        (32, 21) if image_format == "ICO" else (60, 40)
    )  # the largest of the usual squares that fits in
    assert image.mode == "RGB"
    assert image.size == expected
    assert near(image, RED, (15, 10))


def test_heif(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIF needs pillow-heif")
    upright = Image.new("RGB", (64, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))
    for orientation, stored in ((1, upright), (6, upright.transpose(Image.Transpose.ROTATE_90))):
        with open(tmp_path / "a.jpg", "wb") as file:
            pillow_heif.encode(
                "RGB", stored.size, stored.tobytes(), file, quality=90, exif=oriented(orientation).tobytes()
            )
        image = open_image(tmp_path / "a.jpg")
        assert image.size == (64, 32)
        assert max(abs(a - b) for a, b in zip(image.getpixel((4, 4)), RED, strict=True)) < 20
        for corner in ((63, 0), (63, 31), (0, 31)):
            assert max(abs(a - b) for a, b in zip(image.getpixel(corner), WHITE, strict=True)) < 20


def test_a_format_without_its_decoder(monkeypatch):
    monkeypatch.setitem(formats._PLUGINS, "PNG", ("no_such_module:Thing",))
    with pytest.raises(MediaError, match="pip install") as caught:
        decode(encode(noise(), "PNG"))
    assert caught.value.reason == "no_decoder"
    assert caught.value.reason not in media.PERMANENT_REASONS  # tried again once it is installed


def test_brands_tell_avif_from_heif_and_films():
    assert formats.sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(20), "x") == "AVIF"
    assert formats.sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + bytes(20), "x") == "HEIF"
    assert formats.sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1avif" + bytes(20), "x") == "HEIF"
    with pytest.raises(MediaError, match="a video"):
        formats.sniff(b"\0\0\0\x18ftypmp42\0\0\0\0mp42avif" + bytes(20), "x")


def test_digest_is_of_content(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == media.digest_bytes(b"same")
    assert digest(tmp_path / "a") == hashlib.blake2b(b"same", digest_size=16).hexdigest()
    assert media.digest_bytes(b"other") != media.digest_bytes(b"same")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
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
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = encode(
        stored,
        image_format,
        exif=oriented(orientation),
        **({"quality": 100} if image_format == "AVIF" else {}),
    )
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
        assert decode(encode(noise(60, 40).convert(mode), image_format)).size == (60, 40)


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
        b"PK\x03\x04" + bytes(40),
        b"Rar!\x1a\x07\0" + bytes(40),
        b"\x1f\x8b\x08" + bytes(40),
        b"/* XPM */ static char *a[] = {",  # Pillow would read it
        b"#define a_width 8\n#define a_height 8\nstatic char a[] = {0};",  # XBM: likewise
        b"BM is how this text begins, and it is long enough to hold a header",
        bytes(100),
        *recordings().values(),
    ],
)
def test_other_files_whatever_the_name_says(tmp_path, content):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    assert refusal(path) == "not_an_image"


@pytest.mark.parametrize("kind", sorted(documents()))
def test_documents_and_programs_are_refused(tmp_path, kind):
    path = tmp_path / "picture.jpg"
    path.write_bytes(documents()[kind])
    assert refusal(path) == "scriptable"


def test_frames_are_distinct_and_spread():
    colours = [RED, RED, (0, 160, 0), (0, 160, 0), (0, 0, 255), WHITE, (0, 0, 0), (0, 0, 0)]
    stills = [Image.new("RGB", (40, 20), colour) for colour in colours]
    distinct = [RED, (0, 160, 0), (0, 0, 255), WHITE, (0, 0, 0)]
    animated = ["GIF", "WEBP", "PNG", "TIFF", *(["AVIF"] if features.check("avif") else [])]
    for image_format in animated:
        data = encode(stills[0], image_format, save_all=True, append_images=stills[1:])
        for n, expected in ((1, distinct[:1]), (2, [RED, (0, 0, 0)]), (3, distinct[::2]), (9, distinct)):
            found = frames(data, n)
            assert len(found) == len(expected), (image_format, n)
            for image, colour in zip(found, expected, strict=True):
                assert max(abs(a - b) for a, b in zip(image.getpixel((20, 10)), colour, strict=True)) < 12
        assert [image.size for image in frames(data, 2, 10)] == [(20, 10)] * 2
    assert [image.size for image in frames(encode(noise(), "JPEG"), 5)] == [(24, 16)]


def test_a_damaged_later_frame_ends_the_list():
    data = encode(noise(), "GIF", save_all=True, append_images=[noise(seed=i) for i in range(1, 4)])
    cut = data[: int(len(data) * 0.6)]
    assert 1 <= len(frames(cut, 4)) < len(frames(data, 4)) == 4


def test_pages_have_sizes_and_limits_of_their_own():
    data = encode(noise(24, 16), "TIFF", save_all=True, append_images=[noise(60, 40)])
    assert [image.size for image in frames(data, 2)] == [(24, 16), (60, 40)]
    assert [image.size for image in frames(data, 2, limits=MediaLimits(max_pixels=24 * 16))] == [(24, 16)]


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
        "PNG": png(10_000, 10_000),
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
    data = encode(noise(60, 40), image_format, **options)
    with pytest.raises(MediaError) as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.reason == "truncated"


def test_corrupt_is_not_truncated():
    data = bytearray(encode(noise(60, 40), "PNG"))
    data[60:90] = bytes(30)
    with pytest.raises(MediaError) as caught:
        decode(bytes(data))
    assert caught.value.reason == "corrupt"


def test_a_decoder_out_of_memory(monkeypatch):
    def fail(image):
        raise MemoryError

    monkeypatch.setattr(media, "_to_colour", fail)
    with pytest.raises(MediaError) as caught:
        decode(encode(noise(60, 40), "BMP"))
    assert caught.value.reason == "out_of_memory"


def test_a_large_float_picture_in_little_memory():
    values = np.zeros((1500, 2000), np.float32)
    values[0, 0], values[0, 1] = np.float32(3.0e38), np.float32(-3.0e38)  # the range itself overflows
    data = encode(Image.fromarray(values), "TIFF")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = decode(data, 64)
    assert near(image, (127, 127, 127), (40, 40))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 14 * 1500 * 2000 / 1024 * 4


def test_text_chunks_that_inflate_are_refused():
    body = b"a\0\0" + zlib.compress(bytes(20_000_000))
    with pytest.raises(MediaError) as caught:
        decode(png(4, 4, chunk(b"zTXt", body), pixels=bytes(52)))
    assert caught.value.reason == "corrupt"


def test_what_a_decoder_says_is_printable():
    error = MediaError("corrupt", "a\x1b[2J\nb.jpg", "found \x1b]0;x\x07 \u202e here\nand there")
    assert str(error).isprintable()
    assert error.detail.isprintable()


def test_a_refusal_travels_between_processes():
    error = MediaError("corrupt", "a.jpg", "why")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.reason, again.detail) == (MediaError, str(error), "corrupt", "why")


def test_every_seed_is_a_picture():
    for name, data in pictures().items():
        assert decode(data).mode == "RGB", name


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
