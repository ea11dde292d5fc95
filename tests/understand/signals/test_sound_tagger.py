from __future__ import annotations

import json

import numpy as np
import pytest
from tests.understand.signals.films import RATE, siren, tone

from captionary.errors import CaptionaryError
from captionary.understand.signals.sound_tagger import (
    CHECKPOINT,
    FEATURES,
    SoundTagger,
    log_mel,
    window_starts,
)


@pytest.fixture(scope="module")
def tagger() -> SoundTagger:
    return SoundTagger()


def test_log_mel_finds_a_tone():
    for hertz in (200.0, 1000.0, 5000.0):
        mel = log_mel(tone(1.0, hertz))
        assert mel.shape == (101, 128)  # every 10 ms, both ends
        band = int(mel[50].argmax())
        edges = 700 * (
            10 ** (np.linspace(*(2595 * np.log10(1 + f / 700) for f in (40, 8000)), 130) / 2595) - 1
        )
        assert edges[band] <= hertz <= edges[band + 2]
    np.testing.assert_allclose(
        log_mel(tone(1.0) * 0.01), log_mel(tone(1.0)), atol=1e-3
    )  # loudness plays no part


def test_probabilities_a_window(tagger):
    table = tagger.probabilities(tone(12.0))
    assert table.shape == (3, 50)
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(table[0], tagger.probabilities(tone(5.0))[0], atol=1e-5)
    # Half a second more is no window of its own; two seconds more are, and it ends with the sound.
    assert [window_starts(n, 10) for n in (3, 10, 11, 12, 20, 25)] == [
        [0],
        [0],
        [0],
        [0, 2],
        [0, 10],
        [0, 10, 15],
    ]
    assert tagger.encoder(log_mel(tone(5.0))).shape == (FEATURES,)


def test_it_tells_noise_from_clicks(tagger):
    rng = np.random.default_rng(0)
    noise = (0.3 * rng.normal(size=5 * RATE)).clip(-1, 1).astype(np.float32)
    clicks = np.zeros(5 * RATE, np.float32)
    for second in np.arange(0.1, 5, 1.0):
        at = int(second * RATE)
        clicks[at : at + 200] = 0.9 * np.exp(-np.arange(200) / 30) * rng.normal(size=200)
    hissing = {"rain", "vacuum cleaner", "washing machine", "sea waves", "wind", "airplane", "pouring water"}
    hissing |= {
        "toilet flush",
        "train",
        "helicopter",
        "engine",
        "crackling fire",
        "brushing teeth",
        "hand saw",
    }
    ticking = {"clock tick", "mouse click", "door wood knock", "footsteps", "keyboard typing", "can opening"}
    ticking |= {"water drops", "glass breaking", "clapping", "door wood creaks"}
    assert tagger.tag(noise, 0.0, 1)[0].label in hissing
    assert tagger.tag(siren(6.0), 0.5, 3)[0].label == "siren"
    assert tagger.tag(clicks, 0.0, 1)[0].label in ticking


def test_silence_has_no_tag(tagger):
    assert tagger.tag(np.zeros(RATE, np.float32), 0.0, 5) == []
    assert tagger.tag(np.zeros(0, np.float32), 0.0, 5) == []


def test_the_checkpoint_is_small_and_says_where_it_is_from():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 2_500_000
    card = (CHECKPOINT / "MODEL_CARD.md").read_text()
    assert "ESC-50" in card
    assert "CC BY-NC 3.0" in card
    assert len(json.loads((CHECKPOINT / "config.json").read_text())["labels"]) == 50


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CaptionaryError, match="must be a folder written by `captionary sounds train`"):
        SoundTagger(tmp_path)
