"""What a caption costs in arithmetic: the products that an accelerator makes of one picture, two FLOP a multiply-add.

    encoder     its convolutions, products and attention, as torch counts them
    Q-Former    per layer of the queries Q, width q: 8 Q q² + 4 Q² q (to each other; once for all pictures in the first
                layer), 4 Q q² + 4 Q S q (to S cells, where it looks), 16 Q q² (MLP); 4 S e q a looking layer for keys
                and values of cells of width e; 2 Q q D to the decoder
    prefill     T = Q + prompt tokens, all of them up to the last layer's keys and values, then the last one alone
    decode      n - 1 tokens of n, the first being told by the prefill

A token costs a decoder layer of width D, MLP F, A = heads · head_dim and K = kv_heads · head_dim

    2 D (A + 2 K) + 2 A D + 6 D F,   and 4 A for every position that it looks at,

and 2 D V to be told. Norms, activations, softmax and everything else that moves memory rather than multiplies are left
out, as is usual for a share of peak. The T² of the prefill are counted in full, as torch counts them, and not halved
for their causal mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from captionary.understand.architecture import MultimodalConfig
from captionary.understand.encoder import EfficientNetLite0, ImageEncoder
from captionary.understand.vision import VisionTower

__all__ = ["CaptionFlops", "caption_flops"]


class CaptionFlops(NamedTuple):
    """FLOP of one picture's caption, by part."""

    encoder: int
    qformer: int
    prefill: int
    decode: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(self)


def caption_flops(config: MultimodalConfig, tokens: int, prompt: int = 1) -> CaptionFlops:
    """FLOP of one picture and a caption of that many tokens.

    Args:
        config: the sizes.
        tokens: that are written, the end token included, ≥ 1.
        prompt: tokens that open a caption, ≥ 1.
    """
    with torch.device("meta"):
        encoder: ImageEncoder = EfficientNetLite0() if config.vision is None else VisionTower(config.vision)
        pixels = torch.zeros(1, 3, encoder.size, encoder.size)
    return CaptionFlops(
        _counted(encoder, pixels),
        _qformer(config, encoder.cells, encoder.width),
        _prefill(config, config.queries + prompt),
        _decode(config, config.queries + prompt, tokens - 1),
    )


def _counted(encoder: ImageEncoder, pixels: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(pixels)
    return int(counter.get_total_flops())


def _qformer(config: MultimodalConfig, cells: int, seen: int) -> int:
    queries, width, layers = config.queries, config.qformer_width, config.qformer_layers
    looking = -(-layers // config.qformer_cross_every)
    projected = 0
    if config.vision is None:
        projected, seen = 2 * cells * seen * width, width
    told = looking * 2 * (2 * cells * seen * width)
    own = (layers - 1) * (8 * queries * width**2 + 4 * queries**2 * width)
    looks = looking * (4 * queries * width**2 + 4 * queries * cells * width)
    mlp = layers * 16 * queries * width**2
    return projected + told + own + looks + mlp + 2 * queries * width * config.decoder_width


def _layer(config: MultimodalConfig) -> tuple[int, int, int]:
    """Of a token in a decoder layer: queries, keys and values; all else that is linear; a position's attention."""
    width, head = config.decoder_width, _head(config)
    heads = config.decoder_heads * head
    kept = (config.decoder_kv_heads or config.decoder_heads) * head
    return 2 * width * (heads + 2 * kept), 2 * heads * width + 6 * width * config.decoder_mlp, 4 * heads


def _head(config: MultimodalConfig) -> int:
    return int(config.decoder_settings.get("head_dim") or config.decoder_width // config.decoder_heads)


def _prefill(config: MultimodalConfig, length: int) -> int:
    asked, rest, looked = _layer(config)
    whole = length * (asked + rest) + length**2 * looked
    last = length * asked + rest + length * looked
    return (config.decoder_layers - 1) * whole + last + _told(config)


def _decode(config: MultimodalConfig, length: int, steps: int) -> int:
    asked, rest, looked = _layer(config)
    positions = sum(length + step for step in range(1, steps + 1))
    linear = steps * (asked + rest)
    return config.decoder_layers * (linear + positions * looked) + steps * _told(config)


def _told(config: MultimodalConfig) -> int:
    return 2 * config.decoder_width * config.vocabulary_size
