from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tests.understand.signals.films import animation, film, recording, scenes, tone

from captionary.understand.signals.kinds import Sniffed, is_cut_short, sniff

pytest.importorskip("av", reason="videos are made with PyAV")


def still(image_format: str) -> bytes:
    buffer = io.BytesIO()
    scenes(1)[0].save(buffer, image_format)
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_stills(image_format):
    assert sniff(still(image_format)) == Sniffed("image", image_format)


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "WEBP"])
def test_what_moves(image_format):
    assert sniff(animation(scenes(2), image_format)) == Sniffed("animation", image_format)


def test_avif_by_its_brands():
    if "AVIF" not in Image.SAVE and not Image.init() and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow writes no AVIF")
    assert sniff(still("AVIF")) == Sniffed("image", "AVIF")
    small = [picture.resize((32, 32)) for picture in scenes(2)]
    assert sniff(animation(small, "AVIF")) == Sniffed("animation", "AVIF")


def test_heif_by_its_brands():
    head = b"\0\0\0\x18ftyp%b\0\0\0\0mif1heic" + bytes(100)
    assert sniff(head % b"heic") == Sniffed("image", "HEIF")
    assert sniff(head % b"msf1") == Sniffed("animation", "HEIF")


@pytest.mark.parametrize(
    ("container", "codec", "expected"),
    [
        ("mp4", "mpeg4", "mov"),
        ("mov", "mpeg4", "mov"),
        ("matroska", "mpeg4", "matroska"),
        ("webm", "libvpx", "matroska"),
        ("avi", "mpeg4", "avi"),
        ("mpegts", "mpeg4", "mpegts"),
        ("flv", "flv1", "flv"),
        ("asf", "mpeg4", "asf"),
    ],
)
def test_videos(container, codec, expected):
    data = film([(scenes(1)[0], 0.5)], container=container, codec=codec)
    assert sniff(data) == Sniffed("video", expected)


@pytest.mark.parametrize(
    ("file_format", "expected"),
    [
        ("WAV", "wav"),
        ("FLAC", "flac"),
        ("OGG", "ogg"),
        ("MP3", "mp3"),
        ("AIFF", "aiff"),
        ("AU", "au"),
        ("CAF", "caf"),
    ],
)
def test_sounds(file_format, expected):
    pytest.importorskip("soundfile", reason="sounds are made with soundfile")
    assert sniff(recording(tone(0.5), file_format)) == Sniffed("sound", expected)


@pytest.mark.parametrize(
    ("container", "codec", "expected"), [("mp4", "aac", "mov"), ("matroska", "aac", "matroska")]
)
def test_a_film_without_pictures_is_a_sound(container, codec, expected):
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=16_000, layout="mono")
        samples = (tone(0.5) * 20_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert sniff(buffer.getvalue()) == Sniffed("sound", expected)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just some words",
        "words in another encoding".encode("utf-16"),
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"PK\x03\x04" + bytes(40),
        bytes(2000),
        b"G" * 100,
    ],
)
def test_everything_else(content):
    assert sniff(content) == Sniffed("other", "")


@pytest.mark.parametrize(("container", "codec"), [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4")])
def test_cut_short(container, codec):
    data = film([(scenes(1)[0], 1.0)], container=container, codec=codec)
    name = sniff(data).format
    assert not is_cut_short(data, name)
    for share in (0.2, 0.5, 0.9):
        assert is_cut_short(data[: int(share * len(data))], name), share


def test_a_recording_of_unknown_length_is_not_cut_short():
    data = bytearray(recording(tone(0.2), "WAV"))
    assert is_cut_short(bytes(data[:-1000]), "wav")
    data[4:8] = b"\xff\xff\xff\xff"
    assert not is_cut_short(bytes(data[:-1000]), "wav")


def test_mutated_heads_raise_nothing():
    rng = np.random.default_rng(0)
    seeds = [film([(scenes(1)[0], 0.3)], container=c) for c in ("mp4", "matroska", "avi")]
    seeds += [animation(scenes(2), f) for f in ("GIF", "PNG", "WEBP")]
    for number in range(3000):
        data = bytearray(seeds[number % len(seeds)][: int(rng.integers(1, 600))])
        for _ in range(4):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        kind, container = sniff(bytes(data))
        assert (kind == "other") == (container == "")
        is_cut_short(bytes(data), container)
