"""LoRA on tiny models of several families, saved to disk and loaded for real."""

from pathlib import Path

import pytest
from PIL import Image
from tests.understand.tiny_models import save_tiny

from captionary.errors import CaptionaryError
from captionary.understand.adapt_lora import LoraSettings, _answered, adapt_lora
from captionary.understand.hf import HfCaptioner

pytest.importorskip("peft", reason="the extra `adapt` is not installed")


@pytest.mark.parametrize("family", ["smolvlm", "qwen2-vl"])
def test_an_adapted_model_answers_as_it_was_taught(family: str, tmp_path: Path) -> None:
    source = tmp_path / "model"
    save_tiny(family, source)
    captioner = HfCaptioner(str(source), threads=1)
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(path)
    settings = LoraSettings(rank=8, learning_rate=3e-2, steps=25, batch_size=1, dropout=0.0)
    losses = adapt_lora(captioner, source, [path], [["red in the blue"]], tmp_path / "out", settings)
    assert losses[-1] < 0.5 < losses[0]
    reloaded = HfCaptioner(str(tmp_path / "out"), threads=1)
    assert reloaded.caption([Image.open(path)])[0].text.startswith("red in the blue")
    assert reloaded.fingerprint != captioner.fingerprint


def test_only_the_answer_is_learnt(tmp_path: Path) -> None:
    save_tiny("llava", tmp_path / "model")
    captioner = HfCaptioner(str(tmp_path / "model"), threads=1)
    inputs = _answered(captioner, [Image.new("RGB", (32, 32))] * 2, ["red", "red in the blue"])
    ids, labels = inputs["input_ids"], inputs["labels"]
    end = captioner._tokenizer.eos_token_id
    for row, words in enumerate((["red"], ["red", "in", "the", "blue"])):
        expected = [*captioner._tokenizer.convert_tokens_to_ids(words), end]
        assert labels[row][labels[row] >= 0].tolist() == expected
        assert ids[row][labels[row] >= 0].tolist() == expected


def test_a_model_without_a_language_side_is_refused(tmp_path: Path) -> None:
    save_tiny("blip", tmp_path / "model")
    captioner = HfCaptioner(str(tmp_path / "model"), threads=1)
    with pytest.raises(CaptionaryError, match="must be a model with a language model"):
        adapt_lora(captioner, tmp_path / "model", [], [], tmp_path / "out", LoraSettings())
