from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from captionary.config import from_mapping
from captionary.errors import CaptionaryError
from captionary.understand.signals.reasons import STREAM_REASONS
from captionary.understand.signals.settings import SignalsConfig, StreamLimits, weights_fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frames", 0), ("sound_events", 0), ("max_characters", 39), ("threads", 0), ("no_speech", 1.1),
        ("sound_score", -0.1), ("text_score", 2.0), ("least_log_probability", 0.5),
        ("sounds", "yamnet"), ("sounds", "hf:"),
    ],
)  # fmt: skip
def test_bad_values(field, value):
    with pytest.raises(CaptionaryError, match=f"{field} == .*must be"):
        SignalsConfig(**{field: value})


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(StreamLimits)])
def test_limits_are_positive(field):
    with pytest.raises(CaptionaryError, match=f"{field} == 0, must be >"):
        StreamLimits(**{field: 0})


def test_from_yaml():
    config = from_mapping(SignalsConfig, {"frames": 2, "limits": {"sound_seconds": 30}}, where="a.yaml")
    assert (config.frames, config.limits.sound_seconds) == (2, 30.0)
    with pytest.raises(CaptionaryError, match="speech"):
        from_mapping(SignalsConfig, {"speach": "base"}, where="a.yaml")


def test_a_still_picture_costs_no_new_key():
    assert SignalsConfig().fingerprint("image") == ""
    assert SignalsConfig(speech="base", title=True, frames=9).fingerprint("image") == ""
    assert SignalsConfig(screen_text=True).fingerprint("image") != ""


def test_what_decides_a_descriptor_is_in_the_fingerprint():
    base = SignalsConfig(speech="base", screen_text=True)
    changed = {
        "frames": 5, "speech": "small", "language": "de", "voice_activity": False, "no_speech": 0.5,
        "least_log_probability": -2.0, "sounds": "", "sound_score": 0.3, "sound_events": 1, "screen_text": False,
        "text_score": 0.9, "max_characters": 300, "limits": StreamLimits(candidates=10),
    }  # fmt: skip
    left_out = {"title": True, "threads": 4}  # neither changes what is said of a medium
    assert {f.name for f in dataclasses.fields(SignalsConfig)} == changed.keys() | left_out.keys()
    seen = {base.fingerprint("video")}
    for name, value in changed.items():
        seen.add(dataclasses.replace(base, **{name: value}).fingerprint("video"))
    assert len(seen) == 1 + len(changed)
    for name, value in left_out.items():
        assert dataclasses.replace(base, **{name: value}).fingerprint("video") == base.fingerprint("video")
    patient = dataclasses.replace(base, limits=StreamLimits(wall_seconds=9))
    assert patient.fingerprint("video") == base.fingerprint("video")


def test_a_kind_depends_on_what_is_read_of_it_alone():
    base = SignalsConfig(screen_text=True)
    assert dataclasses.replace(base, frames=9).fingerprint("sound") == base.fingerprint("sound")
    assert dataclasses.replace(base, screen_text=False).fingerprint("sound") == base.fingerprint("sound")
    assert dataclasses.replace(base, sounds="").fingerprint("animation") == base.fingerprint("animation")


def test_a_model_in_a_folder_is_named_by_its_content(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"1")
    one = weights_fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("words")
    assert weights_fingerprint(str(tmp_path)) == one
    (tmp_path / "model.bin").write_bytes(b"2")
    assert weights_fingerprint(str(tmp_path)) != one
    assert weights_fingerprint("openai/whisper-tiny") == "openai/whisper-tiny"


def test_every_reason_and_default_is_on_its_page():
    page = (Path(__file__).parents[3] / "docs" / "media.md").read_text(encoding="utf-8")
    own = STREAM_REASONS.keys() - {"empty_file", "out_of_memory"}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == own
    limits, config = StreamLimits(), SignalsConfig()
    stated = re.sub(r"\s+", " ", page)
    assert f"{config.frames} frames; {limits.sound_seconds:.0f} s of sound" in stated
    assert f"more than {limits.longest_seconds / 3600:.0f} h refused" in stated
    assert (
        f"{limits.frame_pixels // 10**6} million pixels; {limits.decoded_pixels // 10**9} billion pixels"
        in stated
    )
    assert f"{limits.wall_seconds:.0f} s of wall clock" in stated
    assert f"up to {limits.candidates} evenly spaced" in stated
