from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.understand.signals.films import animation, distance, scenes

from captionary.understand.signals.animation import read_animation
from captionary.understand.signals.reasons import STREAM_REASONS, StreamError
from captionary.understand.signals.settings import StreamLimits

PICTURES = scenes(3, 4)


def reason(data: bytes, **limits) -> str:
    with pytest.raises(StreamError) as caught:
        read_animation(data, 4, limits=StreamLimits(**limits))
    return caught.value.reason


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_distinct_frames(image_format):
    shown = [p for p in PICTURES for _ in range(3)]
    # A GIF writer merges equal frames, so that times are the only thing that formats need not share.
    frames = read_animation(animation(shown, image_format), 8)
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.at_seconds for f in frames] == pytest.approx([0, 3 * 0.2, 6 * 0.2])
    for frame, picture in zip(frames, PICTURES, strict=True):
        assert frame.image.mode == "RGB"
        assert distance(frame.image, picture) < 6
    assert len(read_animation(animation(shown, image_format), 2)) == 2


def test_transparent_is_white():
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    red = clear.copy()
    red.paste((255, 0, 0, 255), (0, 0, 20, 40))
    frames = read_animation(animation([red, clear], "WEBP"), 1)
    assert frames[0].image.getpixel((5, 5)) == (255, 0, 0)
    assert frames[0].image.getpixel((35, 5)) == (255, 255, 255)


def test_size():
    assert read_animation(animation(PICTURES, "GIF"), 1, size=50)[0].image.size == (50, 50)
    assert read_animation(animation(PICTURES, "GIF"), 1, size=500)[0].image.size == (224, 224)


def test_many_frames_are_thinned_out():
    shown = [p.resize((24, 24)) for p in PICTURES for _ in range(60)]
    shown = [p.point(lambda v, k=k % 2: v ^ k) for k, p in enumerate(shown)]  # no two neighbours are equal
    frames = read_animation(animation(shown, "PNG", 20), 8, limits=StreamLimits(candidates=10))
    assert len(frames) == 3


def test_refusals():
    data = animation(PICTURES, "GIF")
    assert reason(b"") == "empty_file"
    assert reason(b"words") == "not_media"
    assert reason(data, frame_pixels=224 * 224 - 1) == "too_many_pixels"
    assert reason(data, wall_seconds=1e-9) == "too_slow"
    assert reason(data[:20]) == "corrupt"


def test_the_frames_before_a_broken_end_are_kept():
    data = animation(PICTURES, "GIF")
    frames = read_animation(data[: int(len(data) * 0.8)], 4)
    assert len(frames) >= 1
    assert distance(frames[0].image, PICTURES[0]) < 6


def test_mutated_animations_raise_nothing_but_stream_errors():
    rng = np.random.default_rng(1)
    small = [p.resize((24, 16)) for p in PICTURES]
    seeds = [animation(small, f) for f in ("GIF", "WEBP", "PNG")]
    limits = StreamLimits(frame_pixels=1_000_000, decoded_pixels=5_000_000)
    read, found = 0, set()
    for number in range(300):
        data = bytearray(seeds[number % 3])
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(6, len(data) if number % 2 else 100))] = int(rng.integers(256))
        try:
            read_animation(bytes(data), 3, limits=limits)
        except StreamError as error:
            found.add(error.reason)
        else:
            read += 1
    assert found <= STREAM_REASONS.keys()
    assert 20 < read < 300
