"""The fast Q-Former says what the model's own says."""

import dataclasses

import pytest
import torch
from tests.understand.tiny_mmllm import CONFIG, tiny_tokenizer

from captionary.understand.mmllm import MultimodalConfig, MultimodalLLM
from captionary.understand.querying import QueryReader

EFFICIENTNET = dataclasses.replace(CONFIG, encoder="efficientnet-lite0", vision=None)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("config", [EFFICIENTNET, CONFIG], ids=["efficientnet", "vit"])
def test_it_is_the_models_visual_prefix(config: MultimodalConfig, every: int) -> None:
    """Whichever layers look at the picture, and whichever encoder saw it."""
    torch.manual_seed(3)
    sizes = dataclasses.replace(config, qformer_layers=3, qformer_cross_every=every)
    model = MultimodalLLM(sizes, tiny_tokenizer()).eval()
    with torch.no_grad():  # new norms and biases are ones and zeros, which would hide one left out
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    grid = torch.randn(5, model.encoder.cells, model.encoder.width)
    with torch.inference_mode():
        expected = model.visual_prefix(grid)
    assert expected.std(0).mean() > 1e-3, "the pictures must matter"
    torch.testing.assert_close(QueryReader(model)(grid), expected, rtol=1e-4, atol=1e-5)
    as_on_devices = QueryReader(model, fused=True)
    torch.testing.assert_close(as_on_devices(grid), expected, rtol=1e-4, atol=1e-5)
    rough = QueryReader(model, torch.bfloat16)(grid)
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - expected).abs().mean()) < 0.03 * float(expected.abs().mean())
