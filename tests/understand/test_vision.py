import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.understand.tiny_mmllm import CLIP, VISION, clip_folder
from torch import nn
from transformers import (
    Blip2VisionConfig,
    Blip2VisionModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from captionary.errors import CaptionaryError
from captionary.understand.encoder import EfficientNetLite0, ImageEncoder
from captionary.understand.vision import VisionSettings, VisionTower, vision_from_folder

PICTURES = [Image.new("RGB", (40, 20), "red"), Image.new("RGB", (28, 28), "white")]


@pytest.mark.parametrize("encoder", [EfficientNetLite0(), VisionTower(VISION)], ids=["efficientnet", "vit"])
def test_every_encoder_offers_the_same(encoder: ImageEncoder) -> None:
    pixels = encoder.to_pixels(PICTURES)
    assert pixels.shape == (2, 3, encoder.size, encoder.size)
    with torch.inference_mode():
        fine = encoder.eval().lower(pixels)
        grid = encoder(pixels)
        torch.testing.assert_close(encoder.upper(fine), grid)
    assert fine.shape == (2, *encoder.fine_shape)
    assert grid.shape == (2, encoder.cells, encoder.width)
    assert encoder.pool(grid).shape == (2, encoder.head_width)


def test_pixels_are_the_bytes_less_the_mean_by_the_deviation() -> None:
    """To the last bit, wherever they are scaled: in float32 for one encoder, through float64 for the other."""
    noise = np.random.default_rng(3).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    small = torch.from_numpy(noise)
    expected = (noise.astype(np.float32) - 127.0) / 128.0
    assert torch.equal(EfficientNetLite0().scaled(small).permute(0, 2, 3, 1), torch.from_numpy(expected))
    settings = VisionSettings(model=VISION.model, size=28, mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3))
    exact = (noise.astype(np.float32) / 255.0 - np.array(settings.mean)) / np.array(settings.std)
    tower = VisionTower(settings)
    pixels = tower.to_pixels([Image.fromarray(each) for each in noise])
    assert torch.equal(pixels.permute(0, 2, 3, 1), torch.from_numpy(exact.astype(np.float32)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_fused_convolutions_are_the_modules_own(dtype: torch.dtype) -> None:
    """To the last bit of a sum, with more pictures than go through the first stages together; float64 is not fused."""
    torch.manual_seed(5)
    encoder = EfficientNetLite0().eval().to(dtype)
    pixels = torch.randn(9, 3, 64, 64).to(dtype)
    with torch.inference_mode():
        fused = encoder.lower(pixels)
    x = nn.functional.relu6(encoder.stem(pixels))
    for block in encoder.blocks[:11]:
        y = x if block.expand is None else nn.functional.relu6(block.expand(x))
        y = block.project(nn.functional.relu6(block.depthwise(y)))
        x = x + y if block.residual else y
    torch.testing.assert_close(fused, x.detach(), rtol=0, atol=1e-6)


def test_what_learns_has_gradients() -> None:
    encoder = EfficientNetLite0()
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    for parameter in encoder.upper_parameters():
        parameter.requires_grad_(True)
    encoder(torch.randn(1, 3, 224, 224)).mean().backward()
    assert all(parameter.grad is not None for parameter in encoder.upper_parameters())
    assert encoder.stem.weight.grad is None


def test_pixels_are_scaled_as_the_tower_learnt_them() -> None:
    settings = VisionSettings(model=VISION.model, size=28, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    pixels = VisionTower(settings).to_pixels(PICTURES)
    # red is (1, 0, 0), white (1, 1, 1)
    assert pixels[0, :, 5, 5].tolist() == [(1 - 0.5) / 0.25, (0 - 0.5) / 0.5, (0 - 0.5) / 1.0]
    assert pixels[1, :, 5, 5].tolist() == [(1 - 0.5) / 0.25, (1 - 0.5) / 0.5, (1 - 0.5) / 1.0]


def test_a_clip_folder_gives_the_states_before_its_last_layer(tmp_path: Path) -> None:
    tower = vision_from_folder(clip_folder(tmp_path))
    assert tower.settings.layer == -2
    assert tower.cells == 1 + (28 // 14) ** 2
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        states = CLIPVisionModel.from_pretrained(tmp_path)(
            pixel_values=pixels, output_hidden_states=True
        ).hidden_states
        torch.testing.assert_close(tower(pixels), states[-2])
        assert not torch.allclose(tower(pixels), states[-1])
    again = VisionTower(tower.settings)  # as a checkpoint rebuilds it
    again.load_state_dict(tower.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(again(pixels), tower(pixels))


def test_siglip_and_eva_towers_load_with_their_pixels(tmp_path: Path) -> None:
    sizes = {k: v for k, v in CLIP.items() if k != "num_hidden_layers"}
    SiglipVisionModel(SiglipVisionConfig(num_hidden_layers=1, **sizes)).save_pretrained(tmp_path / "siglip")
    (tmp_path / "siglip" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2})
    )
    siglip = vision_from_folder(tmp_path / "siglip")
    assert (siglip.cells, siglip.settings.layer) == (4, -1)  # no class token
    assert siglip.settings.mean == (0.5, 0.5, 0.5)
    assert siglip.settings.resample == "bilinear"
    Blip2VisionModel(Blip2VisionConfig(num_hidden_layers=1, **sizes)).save_pretrained(tmp_path / "eva")
    eva = vision_from_folder(tmp_path / "eva")
    pixels = torch.randn(1, 3, 28, 28)
    with torch.inference_mode():
        expected = Blip2VisionModel.from_pretrained(tmp_path / "eva")(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(eva(pixels), expected)


def test_the_tower_of_a_whole_clip_is_found(tmp_path: Path) -> None:
    text = CLIPTextConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    whole = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=CLIPVisionConfig(**CLIP).to_dict())
    )
    whole.save_pretrained(tmp_path)
    tower = vision_from_folder(tmp_path, layer=-1, dtype=torch.bfloat16)
    assert tower.tower.dtype == torch.bfloat16
    pixels = torch.randn(1, 3, 28, 28)
    with torch.inference_mode():
        expected = whole.eval().vision_model(pixel_values=pixels).last_hidden_state
        np.testing.assert_allclose(tower(pixels).float(), expected, atol=0.15)


def test_folders_that_are_no_tower_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match=r"must be a Hugging Face folder with config\.json"):
        vision_from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(CaptionaryError, match="must be a model that transformers knows"):
        vision_from_folder(tmp_path)
    clip_folder(tmp_path)
    with pytest.raises(CaptionaryError, match="the tower has no more"):
        vision_from_folder(tmp_path, layer=-9)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CaptionaryError, match="encoder == "):
        vision_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"model": {}}, "model_type"),
        ({"layer": 0}, r"vision\.layer"),
        ({"size": 0}, r"vision\.size"),
        ({"std": (0.0, 1.0, 1.0)}, r"vision\.std"),
    ],
)
def test_settings_refuse(settings: dict[str, object], match: str) -> None:
    with pytest.raises(CaptionaryError, match=match):
        VisionSettings(**({"model": VISION.model} | settings))  # type: ignore[arg-type]
