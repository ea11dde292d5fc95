"""The built-in captioner on a CUDA device that is none: every line of ours for devices, and what torch makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.rank.pretend_cuda import CUDA, Pretended, pretended
from tests.understand.tiny_mmllm import CONFIG, tiny_tokenizer

from captionary.understand import builtin
from captionary.understand.builtin import CHECKPOINT, BuiltinCaptioner
from captionary.understand.captioner import CaptionerConfig, load_captioner
from captionary.understand.device_decoding import DeviceDecoder
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.recipe import HELD_OUT_SEED
from captionary.understand.training_data import scenes


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pretended(monkeypatch):
        yield


def weights(captioner: BuiltinCaptioner) -> list[torch.Tensor]:
    reader = captioner._reader
    maps = (reader._told, reader._projection)
    parts = [reader._start, *(part for each in maps for part in (each.weight, each.bias))]
    parts += captioner._encoder.parameters()
    return parts + [tensor for layer in captioner._decoder.layers for tensor in layer]


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes in bfloat16 throughout, as a device does."""
    monkeypatch.setattr(builtin, "quantised_encoder", lambda encoder: None)


def test_the_shipped_checkpoint_says_there_what_it_says_here(card: None, unrounded: None) -> None:
    images = [scenes(12, HELD_OUT_SEED).picture(row).resize((90 + row, 70)) for row in range(12)]
    here = BuiltinCaptioner(threads=1, device="cpu")
    there = load_captioner(CaptionerConfig(batch_size=8, threads=1))  # auto
    assert isinstance(there, BuiltinCaptioner)
    assert there.device == CUDA
    assert there.lanes == 1
    assert isinstance(there._decoder, DeviceDecoder)
    assert all(isinstance(tensor, Pretended) for tensor in weights(there))
    assert {tensor.dtype for tensor in there._encoder.parameters()} == {torch.bfloat16}
    assert (there.fingerprint, there.encoder_fingerprint) == (here.fingerprint, here.encoder_fingerprint)
    (told, vectors), (expected, seen) = (each.caption_and_embed(images) for each in (there, here))
    assert (
        sum(one != other for one, other in zip(told, expected, strict=True)) <= 2
    )  # a tie may fall either way
    np.testing.assert_allclose(vectors, seen, rtol=0.05, atol=0.05)
    np.testing.assert_array_equal(there.embed(images[:8]), vectors[:8])
    assert there.caption_and_embed([])[0] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_true_card_says_what_the_cpu_says(unrounded: None) -> None:
    images = [scenes(32, HELD_OUT_SEED).picture(row) for row in range(32)]
    told, expected = (BuiltinCaptioner(device=name).caption_and_embed(images) for name in ("cuda", "cpu"))
    assert sum(one != other for one, other in zip(told[0], expected[0], strict=True)) <= 3
    np.testing.assert_allclose(told[1], expected[1], rtol=0.05, atol=0.05)


def test_a_composition_with_a_vision_transformer_too(card: None, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = MultimodalLLM(CONFIG, tiny_tokenizer())
    with torch.no_grad():  # so that pictures matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save(tmp_path, "")
    noise = np.random.default_rng(2).integers(0, 255, (5, 40, 30, 3), dtype=np.uint8)
    there = BuiltinCaptioner(batch_size=3, max_new_tokens=6, threads=1, checkpoint=tmp_path)
    told, vectors = there.caption_and_embed([Image.fromarray(each) for each in noise])
    assert len(told) == 5
    assert all(0 < caption.output_tokens <= 6 for caption in told)
    assert vectors.shape == (5, 16)
    assert np.isfinite(vectors).all()


def test_what_is_no_longer_needed_is_let_go() -> None:
    """Of a decoder of 1.5 B parameters, the float32 copy of the file would stay in memory."""
    captioner = BuiltinCaptioner(threads=1, device="cpu", checkpoint=CHECKPOINT)
    assert not any(name.startswith(("decoder.", "qformer.")) for name in captioner._model.state_dict())
