from __future__ import annotations

import numpy as np
import pytest
from tests.understand.signals.films import tone
from tests.understand.signals.tiny import whisper

from captionary.errors import CaptionaryError
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.speech import SpeechRecognizer
from captionary.understand.signals.video import Sound

pytest.importorskip("faster_whisper", reason="speech is recognised by faster-whisper")

SPOKEN = Sound(tone(3.0), True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(whisper(tmp_path_factory.mktemp("whisper"), "apples"))


def recognizer(model: str, **fields) -> SpeechRecognizer:
    return SpeechRecognizer(SignalsConfig(speech=model, **{"voice_activity": False, **fields}))


def test_a_model_from_a_folder(model):
    speech = recognizer(model)
    (said,) = speech.recognize(SPOKEN)
    assert (said.kind, said.text, said.at_seconds, said.frame) == ("speech", "apples", 0.0, None)
    assert 0 < said.score <= 1
    assert said.origin == speech.origin
    assert said.origin.startswith("speech tiny-whisper ")
    assert speech.recognize(SPOKEN) == [said]


def test_silence_is_not_even_heard(model):
    assert recognizer(model).recognize(Sound(np.zeros(16_000, np.float32), True)) == []
    assert recognizer(model).recognize(Sound(np.zeros(0, np.float32), True)) == []


def test_voice_activity_skips_what_is_no_voice(model):
    # The model says its word whatever it hears; a detector of voices finds none in a tone.
    assert recognizer(model, voice_activity=True).recognize(SPOKEN) == []


def test_a_segment_that_is_rather_no_speech_is_dropped(tmp_path):
    folder = str(whisper(tmp_path, "apples", no_speech=True))
    assert recognizer(folder).recognize(SPOKEN) == []
    assert recognizer(folder, no_speech=1.0, least_log_probability=-9.0).recognize(SPOKEN)


def test_words_of_little_probability_are_dropped(tmp_path):
    folder = str(whisper(tmp_path, "abca", unsure=True))
    assert recognizer(folder).recognize(SPOKEN) == []
    (kept,) = recognizer(folder, least_log_probability=-5.0).recognize(SPOKEN)
    assert kept.score < np.exp(-1.0)


def test_language(model):
    assert recognizer(model, language="en").recognize(SPOKEN)
    with pytest.raises(CaptionaryError, match="language == xx, must be one of en"):
        recognizer(model, language="xx")


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(CaptionaryError, match="must be a faster-whisper size, a Hub id, or a folder"):
        recognizer(str(tmp_path))
