from __future__ import annotations

import numpy as np
import pytest
from tests.understand.signals.films import tone
from tests.understand.signals.tiny import audio_classifier

from captionary.errors import CaptionaryError
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.sound_events import SoundEvents
from captionary.understand.signals.video import Sound

LABELS = ["Dog_bark", "rain", "engine"]
HEARD = Sound(tone(12.0), True)


@pytest.mark.parametrize("family", ["ast", "wav2vec2"])
def test_any_audio_classification_model(tmp_path, family):
    model = audio_classifier(tmp_path, family, LABELS)
    events = SoundEvents(SignalsConfig(sounds=f"hf:{model}"))
    (event,) = events.recognize(HEARD)
    assert (event.kind, event.text, event.frame) == ("sound", "dog bark", None)
    # One logit is 4, two are near 0.
    assert event.score == pytest.approx(np.exp(4) / (np.exp(4) + 2), abs=0.02)
    assert event.origin.startswith(f"sounds tiny-{family} ")
    assert SoundEvents(SignalsConfig(sounds=f"hf:{model}", sound_score=0.99)).recognize(HEARD) == []


def test_several_labels_at_once(tmp_path):
    model = audio_classifier(tmp_path, "ast", LABELS, several=True)
    config = SignalsConfig(sounds=f"hf:{model}", sound_score=0.4, sound_events=2)
    scores = [event.score for event in SoundEvents(config).recognize(HEARD)]
    assert scores == pytest.approx([1 / (1 + np.exp(-4)), 1 / 2], abs=0.03)


def test_silence(tmp_path):
    model = audio_classifier(tmp_path, "ast", LABELS)
    assert (
        SoundEvents(SignalsConfig(sounds=f"hf:{model}")).recognize(Sound(np.zeros(9, np.float32), True)) == []
    )


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(CaptionaryError, match="must be builtin, or hf: and a folder"):
        SoundEvents(SignalsConfig(sounds=f"hf:{tmp_path}"))


def test_the_built_in_tagger():
    events = SoundEvents(SignalsConfig(sound_score=0.0, sound_events=50))
    found = events.recognize(HEARD)
    assert len(found) == 50
    scores = [event.score for event in found]
    assert scores == sorted(scores, reverse=True)
    assert {event.at_seconds for event in found} <= {0.0, 5.0, 12.0 - 5.0}
    assert events.origin.startswith("sounds builtin ")
