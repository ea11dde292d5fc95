from __future__ import annotations

import builtins
import io
from pathlib import Path

import numpy as np
import pytest
from tests.understand.signals.films import RATE, animation, film, film_of_the_docs, recording, scenes, tone

from captionary.errors import CaptionaryError
from captionary.understand.media import MediaError
from captionary.understand.signals.descriptor import describe
from captionary.understand.signals.perceive import (
    Perception,
    SignalModels,
    caption_signals,
    perceive,
    title_signal,
)
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.signal import Signal, signals_from_json, signals_to_json

pytest.importorskip("av", reason="videos are made and read with PyAV")
pytest.importorskip("soundfile", reason="sounds are made with soundfile")

PICTURES = scenes(3, 4)


def still() -> bytes:
    buffer = io.BytesIO()
    PICTURES[0].save(buffer, "PNG")
    return buffer.getvalue()


def test_every_kind():
    whole = {
        "image": (still(), 1, False),
        "animation": (animation(PICTURES, "GIF"), 3, False),
        "video": (film([(p, 1.0) for p in PICTURES], sound=tone(3.0)), 3, True),
        "sound": (recording(tone(1.0)), 0, True),
    }
    for kind, (data, frames, has_sound) in whole.items():
        perception = perceive(data, size=100)
        assert perception.kind == kind
        assert len(perception.frames) == frames
        assert (perception.sound is not None) == has_sound
        assert all(f.image.size == (100, 100) for f in perception.frames)


def test_a_silent_film():
    perception = perceive(film([(PICTURES[0], 1.0)]))
    assert (perception.kind, len(perception.frames), perception.sound) == ("video", 1, None)


def test_sound_that_nobody_asks_for_is_not_decoded():
    data = film([(PICTURES[0], 1.0)], sound=tone(1.0))
    assert perceive(data, SignalsConfig(sounds="")).sound is None


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty_file"), (b"words", "not_media"), (b"%PDF-1.7", "not_media")]
)
def test_refusals(data, reason):
    with pytest.raises(MediaError) as caught:
        perceive(data, name="a.mp4")
    assert caught.value.reason == reason
    assert "a.mp4" in str(caught.value)


def test_a_still_picture_is_refused_as_it_always_was():
    with pytest.raises(MediaError) as caught:
        perceive(still()[:200])
    assert caught.value.reason == "truncated"


def test_without_pyav_the_error_says_what_to_install(monkeypatch):
    data = film([(PICTURES[0], 0.5)])
    load = builtins.__import__

    def absent(name, *rest, **more):
        if name == "av":
            raise ImportError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(CaptionaryError, match=r"pip install 'captionary\[video\]'"):
        perceive(data)
    assert perceive(still()).frames  # pictures need nothing


def test_captions_of_frames():
    perception = perceive(film([(p, 1.0) for p in PICTURES]))
    signals = caption_signals(perception, ["a dog", "", "a cat "], "fake 1")
    assert signals == [
        Signal("caption", "a dog", "fake 1", 1.0, 0.0, 0),
        Signal("caption", "a cat", "fake 1", 1.0, perception.frames[2].at_seconds, 2),
    ]
    with pytest.raises(CaptionaryError, match="captions == 1, must be 3, one a frame"):
        caption_signals(perception, ["a dog"], "fake 1")
    assert caption_signals(perceive(still()), ["a dog"], "f")[0].at_seconds is None


def test_title():
    assert title_signal(" My \n trip ") == [Signal("title", "My trip", "item")]
    assert title_signal(None) == title_signal("") == []


def test_the_film_of_the_docs():
    """docs/media.md shows the descriptor of this very film, and its signals."""
    pytest.importorskip("rapidocr", reason="text is read by rapidocr")
    pytest.importorskip("onnxruntime", reason="rapidocr runs on onnxruntime")
    data, captions = film_of_the_docs()
    config = SignalsConfig(screen_text=True, title=True)
    perception = perceive(data, config)
    models = SignalModels(config)
    models.load()
    signals = [
        *caption_signals(perception, captions, "import"),
        *title_signal("Our holiday"),
        *models.signals(perception),
    ]
    assert [s.kind for s in signals] == ["caption"] * 3 + ["title", "sound", "screen_text"]
    assert [s.at_seconds for s in signals] == pytest.approx([0, 2, 5, None, 1, 5], abs=0.3)
    line = describe(signals, config.max_characters)
    assert line == f"{captions[0]}. {captions[1]}. a sign. Our holiday. siren. SUMMER SALE"
    page = (Path(__file__).parents[3] / "docs" / "media.md").read_text(encoding="utf-8")
    assert line in page
    assert signals_from_json(signals_to_json(signals)) == signals


def test_a_config_with_a_mistake_fails_before_any_file_is_read(tmp_path):
    with pytest.raises(CaptionaryError, match="sounds == hf:"):
        SignalModels(SignalsConfig(sounds=f"hf:{tmp_path}")).load()


def test_no_models_no_signals():
    sound = recording(np.zeros(RATE, np.float32))
    assert SignalModels(SignalsConfig()).signals(perceive(sound)) == []
    assert SignalModels(SignalsConfig(sounds="")).signals(Perception("image", [], None)) == []
