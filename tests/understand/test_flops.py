"""The arithmetic of a caption is what torch counts when the captioner's own parts run."""

import dataclasses

import pytest
import torch
from tests.understand.tiny_mmllm import CLIP, CONFIG, tiny_tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from captionary.understand.device_decoding import DeviceDecoder
from captionary.understand.flops import caption_flops
from captionary.understand.mmllm import MultimodalConfig, MultimodalLLM
from captionary.understand.presets import preset
from captionary.understand.querying import QueryReader

OTHER = dataclasses.replace(
    CONFIG, encoder="efficientnet-lite0", vision=None, qformer_layers=3, qformer_cross_every=2, decoder_layers=3,
    decoder_heads=4, decoder_kv_heads=2, decoder_settings={"head_dim": 16},
)  # fmt: skip


@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["vit", "efficientnet"])
def test_parts_cost_what_torch_counts(config: MultimodalConfig) -> None:
    model = MultimodalLLM(config, tiny_tokenizer()).eval()
    expected = caption_flops(config, 9, prompt=2)
    read, decoder = QueryReader(model), DeviceDecoder(model.decoder, torch.float32)
    grid = torch.randn(1, model.encoder.cells, model.encoder.width)

    def counted(what, *given):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            found = what(*given)
        return found, counter.get_total_flops()

    prefix, qformer = counted(read, grid)
    assert qformer == expected.qformer
    assert counted(decoder.decode, prefix, [1, 9], -1, 1)[1] == expected.prefill
    assert counted(decoder.decode, prefix, [1, 9], -1, 9)[1] == expected.prefill + expected.decode


def test_a_vision_transformer_by_hand() -> None:
    cells, width, inner, layers = 5, CLIP["hidden_size"], CLIP["intermediate_size"], CLIP["num_hidden_layers"]
    patches = 2 * 4 * (3 * 14 * 14) * width
    layer = 8 * cells * width**2 + 4 * cells**2 * width + 4 * cells * width * inner
    assert caption_flops(CONFIG, 1).encoder == patches + layers * layer


def test_the_preset_of_the_paper() -> None:
    """A token costs twice the decoder's weights, its embeddings apart; 33 tokens are read, 19 follow the first."""
    flops = caption_flops(preset("llama2-1.5b"), 20)
    layers = 27 * (4 * 2048**2 + 3 * 2048 * 5504)
    assert flops.prefill == pytest.approx(2 * layers * 33, rel=0.05)
    assert flops.decode == pytest.approx(2 * 19 * (layers + 2048 * 32_000), rel=0.01)
    assert flops.encoder == pytest.approx(2 * 81e9, rel=0.02)  # of ViT-L/14 at 224 pixels, 81 G multiply-adds
    assert flops.total == sum(flops)
