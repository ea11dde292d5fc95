"""The encoder's blocks in 8 bits: near the float ones, the same for any batch, and only where they belong."""

import numpy as np
import pytest
import torch
from torch import nn

from captionary.understand import products
from captionary.understand.builtin import CHECKPOINT, BuiltinCaptioner
from captionary.understand.encoder import EfficientNetLite0
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.products import round_to_steps
from captionary.understand.quantised import QuantisedEncoder, _Convolution, quantised_encoder
from captionary.understand.recipe import HELD_OUT_SEED
from captionary.understand.training_data import scenes

pytestmark = pytest.mark.skipif(
    not (torch.cpu._is_vnni_supported() and torch.cpu._is_avx512_bf16_supported()),
    reason="this processor multiplies no 8-bit integers, or no bfloat16",
)


@pytest.fixture(scope="module")
def looks() -> QuantisedEncoder:
    encoder = MultimodalLLM.load(CHECKPOINT).encoder
    made = quantised_encoder(encoder)
    assert made is not None
    encoder.to(torch.bfloat16, memory_format=torch.channels_last)
    return made


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    data = scenes(8, HELD_OUT_SEED)
    return EfficientNetLite0().to_pixels([data.picture(row) for row in range(8)])


def test_features_are_near_the_float_ones(looks: QuantisedEncoder, pixels: torch.Tensor) -> None:
    encoder = MultimodalLLM.load(CHECKPOINT).encoder
    with torch.inference_mode():
        expected = encoder.lower(pixels)
        found = looks.lower(pixels.bfloat16())
        assert found.dtype == torch.bfloat16
        assert found.shape == expected.shape
        error = (found.float() - expected).norm() / expected.norm()
        assert 0.001 < error < 0.12
        one, other = encoder.pool(encoder.upper(expected)), encoder.pool(looks.upper(found).float())
        assert nn.functional.cosine_similarity(one, other).min() > 0.985
        # Far nearer than to any other picture.
        assert nn.functional.cosine_similarity(one, other.roll(1, 0)).max() < 0.95


def test_a_picture_is_the_same_in_any_batch(looks: QuantisedEncoder, pixels: torch.Tensor) -> None:
    with torch.inference_mode():
        together = looks.upper(looks.lower(pixels.bfloat16()))
        alone = torch.cat([looks.upper(looks.lower(pixel[None].bfloat16())) for pixel in pixels])
    assert torch.equal(together, alone)


def test_values_are_rounded_to_the_nearest_step_and_cut_at_the_ends() -> None:
    values = torch.tensor([0.0, 0.49, 0.51, -0.51, 1.0, 126.0, 127.5, 300.0, -128.0, -300.0]).bfloat16()
    found = np.zeros(len(values), np.uint8)
    round_to_steps(values.view(torch.uint16).numpy(), np.float32(1), found)
    assert found.tolist() == [128, 128, 129, 127, 129, 254, 255, 255, 0, 0]
    round_to_steps(values.view(torch.uint16).numpy(), np.float32(0.5), found)
    assert found.tolist()[-4:] == [192, 255, 64, 0]


@pytest.mark.parametrize("zero", [0, 128])
def test_a_convolution_is_that_of_its_integers(zero: int) -> None:
    """To bfloat16, and to integers that end where ReLU6 does."""
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 8, 1)
    x = torch.randint(0, 256, (2, 16, 5, 5), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    step = 0.2
    weight_step = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    weight = (conv.weight.detach() / weight_step).round() * weight_step
    with torch.inference_mode():
        expected = nn.functional.conv2d((x.float() - zero) * step, weight, conv.bias.detach())
        plain = _Convolution(conv, step, zero, torch.bfloat16)(x)
        clipped = _Convolution(conv, step, zero, torch.uint8)(x)
    torch.testing.assert_close(plain.float(), expected, rtol=2**-7, atol=1e-3)
    assert (expected > 6).any()
    assert (expected < 0).any()
    torch.testing.assert_close(clipped.float() * 6 / 255, expected.clamp(0, 6), rtol=0, atol=0.52 * 6 / 255)


def test_other_weights_and_other_processors_stay_in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantised_encoder(EfficientNetLite0()) is None
    assert isinstance(BuiltinCaptioner(threads=1, device="cpu")._looks, QuantisedEncoder)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    plain = BuiltinCaptioner(threads=1, device="cpu")
    assert not isinstance(plain._looks, QuantisedEncoder)
    data = scenes(2, HELD_OUT_SEED)
    assert all(plain.caption([data.picture(row) for row in range(2)]))


def test_steps_are_wide_enough_for_drawn_scenes(
    monkeypatch: pytest.MonkeyPatch, looks: QuantisedEncoder, pixels
) -> None:
    """What is wider is cut: next to nothing may be."""
    cut = []

    def seen(x: np.ndarray, per_step: np.float32, out: np.ndarray) -> None:
        round_to_steps(x, per_step, out)
        cut.append(np.isin(out, (0, 255)).mean())

    monkeypatch.setattr(products, "round_to_steps", seen)
    with torch.inference_mode():
        looks.upper(looks.lower(pixels.bfloat16()))
    assert len(cut) == 15
    assert max(cut) < 1e-4
