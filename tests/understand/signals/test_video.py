from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from tests.understand.signals.films import RATE, distance, film, recording, scenes, tone

from captionary.understand.signals import reasons
from captionary.understand.signals.reasons import PERMANENT_STREAM_REASONS, STREAM_REASONS, StreamError
from captionary.understand.signals.settings import StreamLimits
from captionary.understand.signals.video import read_frames, read_sound

pytest.importorskip("av", reason="videos are made and read with PyAV")

PICTURES = scenes(4, 4)
BLACK = Image.new("RGB", (224, 224))


def refusal(data: bytes, reader=read_frames, **limits) -> str:
    more = (4,) if reader is read_frames else ()
    with pytest.raises(StreamError) as caught:
        reader(data, *more, limits=StreamLimits(**limits), name="clip.mp4")
    assert str(caught.value).startswith("media == clip.mp4, must be " + STREAM_REASONS[caught.value.reason])
    return caught.value.reason


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mp4", "libx264", 10),
        ("mp4", "mpeg4", 10),
        ("webm", "libvpx", 10),
        ("avi", "mpeg4", 10),
        ("mpegts", "libx264", 10),
        ("mpeg", "mpeg2video", 25),
    ],
)
def test_one_frame_of_each_shot(container, codec, rate):
    data = film([(p, 2.0) for p in PICTURES[:3]], container=container, codec=codec, rate=rate)
    frames = read_frames(data, 8)
    assert [f.index for f in frames] == [0, 1, 2]
    assert [f.at_seconds for f in frames] == pytest.approx([0, 2, 4], abs=0.25)
    for frame, picture in zip(frames, PICTURES, strict=False):
        assert frame.image.size == (224, 224)
        others = [distance(frame.image, other) for other in PICTURES if other is not picture]
        assert 2 * distance(frame.image, picture) < min(others)


def test_most_frames():
    data = film([(p, 1.0) for p in PICTURES])
    for most in (1, 2, 3, 4):
        frames = read_frames(data, most)
        assert len(frames) == most
        assert frames[0].at_seconds == 0


def test_black_is_passed_over():
    frames = read_frames(film([(BLACK, 1.0), (PICTURES[0], 1.0), (BLACK, 1.0)]), 4)
    assert len(frames) == 1
    assert distance(frames[0].image, PICTURES[0]) < 6
    assert len(read_frames(film([(BLACK, 1.0)]), 4)) == 1  # nothing else to show


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_upright_by_the_rotation_that_the_file_states(turn):
    wide = PICTURES[0].resize((320, 160))
    # A phone held upright: the sensor's picture lies on its side, the file says how to turn it.
    lying = wide.rotate(-turn, expand=True)
    (frame,) = read_frames(film([(lying, 0.5)], rotation=turn), 1)
    assert frame.image.size == (320, 160)
    assert distance(frame.image, wide) < 8


def test_pixels_that_are_not_square():
    (frame,) = read_frames(film([(PICTURES[0], 0.5)], aspect=Fraction(2, 1)), 1, size=100)
    assert frame.image.size == (200, 100)


def test_size_is_the_shorter_side():
    data = film([(PICTURES[0].resize((320, 160)), 0.5)])
    assert read_frames(data, 1, size=80)[0].image.size == (160, 80)
    assert read_frames(data, 1, size=500)[0].image.size == (320, 160)  # never enlarged


def test_a_long_video_is_sought_not_decoded_through():
    data = film([(p, 15.0) for p in PICTURES], rate=4)
    everything = 60 * 4 * 224 * 224
    limits = StreamLimits(decoded_pixels=everything // 4, candidates=24)
    frames = read_frames(data, 8, limits=limits)
    assert len(frames) == 4  # the last shot is found although a quarter of the pixels may be decoded
    for frame, picture in zip(frames, PICTURES, strict=True):
        assert distance(frame.image, picture) < 8


def test_a_file_that_does_not_state_its_length():
    data = film([(p, 2.0) for p in PICTURES], container="mpegts", codec="libx264")
    joined = data[: len(data) // 188 * 188]
    frames = read_frames(joined, 8, limits=StreamLimits(candidates=16))
    assert len(frames) == 4


def test_the_same_bytes_give_the_same_frames():
    data = film([(p, 1.0) for p in PICTURES])
    one, other = read_frames(data, 3), read_frames(data, 3)
    assert [(f.at_seconds, f.image.tobytes()) for f in one] == [
        (f.at_seconds, f.image.tobytes()) for f in other
    ]


def test_refusals():
    data = film([(p, 1.0) for p in PICTURES])
    assert refusal(b"") == "empty_file"
    assert refusal(b"words") == "not_media"
    assert refusal(data[: len(data) // 2]) == "truncated"
    assert refusal(data, longest_seconds=3.0) == "too_long"
    assert refusal(data, frame_pixels=224 * 224 - 1) == "too_many_pixels"
    assert refusal(data, wall_seconds=1e-9) == "too_slow"
    assert refusal(data, read_sound) == "no_sound"
    pytest.importorskip("soundfile", reason="sounds are made with soundfile")
    assert refusal(recording(tone(0.5))) == "no_frames"
    assert refusal(recording(tone(0.0)), read_sound) == "no_sound"


def test_corrupt():
    data = bytearray(film([(p, 1.0) for p in PICTURES], container="mpegts"))
    rng = np.random.default_rng(0)
    for at in range(0, len(data), 188):
        data[at + 4 : at + 188] = rng.integers(0, 256, 184, dtype=np.uint8).tobytes()
    assert refusal(bytes(data)) in ("corrupt", "no_frames")
    junk = film([(PICTURES[0], 1.0)])
    at = junk.index(b"stsd")
    assert refusal(junk[:at] + bytes(60) + junk[at + 60 :]) in ("corrupt", "no_frames")


def test_a_playlist_opens_nothing(tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(film([(PICTURES[0], 1.0)]))
    for text in (f"#EXTM3U\n#EXTINF:1,\n{secret}\n", f"ffconcat version 1.0\nfile '{secret}'\n"):
        assert refusal(text.encode()) == "not_media"


def test_reasons_are_listed():
    assert STREAM_REASONS.keys() > PERMANENT_STREAM_REASONS
    assert "too_slow" not in PERMANENT_STREAM_REASONS  # a machine that is less busy may read it
    assert "out_of_memory" not in PERMANENT_STREAM_REASONS
    assert issubclass(StreamError, reasons.MediaError)


def test_mutated_videos_raise_nothing_but_stream_errors():
    rng = np.random.default_rng(5)
    small = [p.resize((48, 32)) for p in PICTURES[:2]]
    voice = tone(0.5)
    seeds = [
        film([(p, 0.3) for p in small], container=c, sound=voice if c == "mp4" else None)
        for c in ("mp4", "matroska", "avi", "mpegts", "asf")
    ]
    limits = StreamLimits(frame_pixels=1_000_000, decoded_pixels=20_000_000, wall_seconds=4)
    read, found = 0, set()
    slowest = 0.0
    for number in range(250):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(int(rng.integers(1, 10))):
            data[int(rng.integers(4, len(data)))] = int(rng.integers(256))
        if number % 4 == 0:
            at = int(rng.integers(4, len(data)))
            del data[at : at + int(rng.integers(1, 60))]
        began = time.process_time()
        for reader in (lambda d: read_frames(d, 3, limits=limits), lambda d: read_sound(d, limits=limits)):
            try:
                reader(bytes(data))
            except StreamError as error:
                found.add(error.reason)
            else:
                read += 1
        slowest = max(slowest, time.process_time() - began)
    assert found <= STREAM_REASONS.keys()
    assert read > 50
    assert len(found) >= 3
    assert slowest < 5


def test_sound_of_a_video():
    sound = read_sound(film([(PICTURES[0], 2.0)], sound=tone(2.0)))
    assert sound.seconds == pytest.approx(2.0, abs=0.15)
    assert sound.is_whole
    assert not sound.is_silent
    spectrum = np.abs(np.fft.rfft(sound.samples[:RATE]))
    assert int(spectrum.argmax()) == 440  # one second: bin k is k Hz


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_sound_files_become_16_khz_mono(file_format):
    pytest.importorskip("soundfile", reason="sounds are made with soundfile")
    stereo = np.stack([tone(1.5, 300, 44_100), tone(1.5, 300, 44_100)], 1)
    sound = read_sound(recording(stereo, file_format, 44_100))
    assert sound.samples.dtype == np.float32
    assert sound.samples.ndim == 1
    assert sound.seconds == pytest.approx(1.5, abs=0.1)
    assert int(np.abs(np.fft.rfft(sound.samples[2000 : 2000 + RATE])).argmax()) == 300


def test_only_the_beginning_of_a_long_sound_is_read():
    pytest.importorskip("soundfile", reason="sounds are made with soundfile")
    sound = read_sound(recording(tone(5.0)), limits=StreamLimits(sound_seconds=2.0))
    assert (sound.seconds, sound.is_whole) == (2.0, False)
    exact = read_sound(recording(tone(2.0)), limits=StreamLimits(sound_seconds=2.0))
    assert (exact.seconds, exact.is_whole) == (2.0, True)
    assert refusal(recording(tone(5.0)), read_sound, longest_seconds=4.0) == "too_long"


def test_silence():
    pytest.importorskip("soundfile", reason="sounds are made with soundfile")
    assert read_sound(recording(np.zeros(RATE, np.float32))).is_silent
