from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.understand.signals.films import RATE, recording, tone

from captionary.commands.sounds import sounds
from captionary.errors import CaptionaryError
from captionary.understand.signals import sound_training
from captionary.understand.signals.sound_tagger import FEATURES, SoundTagger, SpectrogramEncoder
from captionary.understand.signals.sound_training import Clips, evaluate, read_clips, save_tagger

pytest.importorskip("av", reason="sounds are read with PyAV")
pytest.importorskip("soundfile", reason="sounds are made with soundfile")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes, low tones and noise, six recordings each."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("sounds")
    (root / "audio").mkdir()
    lines = ["file,kind,label"]
    for k in range(6):
        made = {
            "low_hum": tone(1.0, 150 + 20 * k),
            "hiss": (0.3 * rng.normal(size=RATE)).clip(-1, 1).astype(np.float32),
        }
        for number, (label, samples) in enumerate(made.items()):
            name = f"1-{1000 * (10 * number + k)}-A-{number}.flac"
            (root / "audio" / name).write_bytes(recording(samples, "FLAC"))
            lines.append(f"{name},event,{label}")
    lines.append("talk.flac,speech,")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def encoder() -> SpectrogramEncoder:
    torch.manual_seed(0)
    return SpectrogramEncoder().half().float().eval()


def invented(label: list[int], recording: list[int], features: np.ndarray) -> Clips:
    names = tuple(f"label {k}" for k in range(max(label) + 1))
    return Clips(features[None], np.array(label), np.array(recording), names)


def test_from_clips_to_a_tagger(folder, encoder, tmp_path):
    clips = read_clips(folder, copies=2, encoder=encoder)
    assert clips.features.shape == (2, 12, FEATURES)
    assert clips.labels == ("hiss", "low hum")
    measured = evaluate(clips, "recording", repeats=1)
    assert measured.top1 == 1.0
    assert measured.chance == 6 / 12
    save_tagger(clips, encoder, tmp_path, measured)
    tagger = SoundTagger(tmp_path)
    assert tagger.tag(tone(1.0, 210), 0.0, 1)[0].label == "low hum"
    assert (
        tagger.tag(np.random.default_rng(9).normal(size=RATE).astype(np.float32), 0.0, 1)[0].label == "hiss"
    )
    # What is saved is what was fitted: float16 loses nothing that matters.
    weights, bias = sound_training._fit(clips, np.arange(12))
    np.testing.assert_allclose(tagger._map, weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tagger._bias, bias, rtol=1e-4, atol=1e-5)


def test_twins_are_never_on_both_sides():
    """Features that name the recording and nothing else: only a leak can make anything of them."""
    rng = np.random.default_rng(1)
    recording = np.repeat(np.arange(40) * 1000, 2)
    label = np.repeat(np.arange(40) % 4, 2)
    features = np.repeat(rng.normal(size=(40, FEATURES)), 2, axis=0) + 0.01 * rng.normal(size=(80, FEATURES))
    clips = invented(label.tolist(), recording.tolist(), features)
    assert evaluate(clips, "clip", repeats=1).top1 > 0.6
    assert evaluate(clips, "recording", repeats=1).top1 < 0.45
    # Neighbouring numbers are one session.
    near = clips._replace(recording=np.arange(80) * 60 // 60 * 60)
    assert len(set(sound_training._groups(near, "session"))) < len(
        set(sound_training._groups(near, "recording"))
    )


def test_folds_spread_each_class():
    label = np.repeat(np.arange(10), 5)
    fold = sound_training._folds(label, np.arange(50), np.random.default_rng(0))
    for k in range(10):
        assert sorted(fold[label == k]) == [0, 1, 2, 3, 4]


def test_a_folder_without_labels(tmp_path, encoder):
    with pytest.raises(CaptionaryError, match=re.escape("must be a folder with labels.csv")):
        read_clips(tmp_path, encoder=encoder)


def test_the_command_tags_a_file(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(recording(tone(1.0)))
    result = CliRunner().invoke(sounds, ["tag", str(path), "--most", "3"])
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"^ *[\d.]+%  [a-z ]+ +\(from 0 s\)$", result.output, re.MULTILINE)) == 3
    path.write_bytes(recording(np.zeros(RATE, np.float32)))
    assert CliRunner().invoke(sounds, ["tag", str(path)]).output == "silence\n"
