"""The Q-Former's forward pass for many pictures: the same weights, what belongs together in one product.

`transformers`' Q-Former runs in float32; this one multiplies in whatever the processor or device is fastest at. What no
picture has a say in, the first layer's attention of the queries to each other, is computed once.

    grid [B, cells, E] ─▶ keys and values of all layers, one product ─┐
    queries, after the first self-attention ──▶ cross-attention, MLP ─▶ … ─projection─▶ [B, queries, D]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captionary.understand.device import CPU
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.products import Product

__all__ = ["QueryReader"]


class _Norm(NamedTuple):
    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class _Attention(NamedTuple):
    asks: Product
    """Queries, and where they look at each other keys and values too."""
    out: Product
    norm: _Norm


class _Layer(NamedTuple):
    own: _Attention
    cross: _Attention | None
    up: Product
    down: Product
    norm: _Norm


class QueryReader:
    """What the decoder is told of pictures, from what the encoder saw.

    Args:
        model: on the CPU; its weights are copied to `device` in `dtype`.
        dtype: float32, or bfloat16 where it is multiplied natively.
        device: any of torch's.
        fused: whether attention is one operation of torch; None: on all devices but the CPU, where small products in
            float32 are faster.
    """

    def __init__(
        self,
        model: MultimodalLLM,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
        *,
        fused: bool | None = None,
    ) -> None:
        def there(weight: Tensor) -> Tensor:
            return weight.detach().to(device, dtype)

        def linear(*parts: Any) -> Product:
            weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
            return Product(there(weight), there(bias))

        def norm(part: Any) -> _Norm:
            return _Norm(there(part.weight), there(part.bias), float(part.eps))

        def attention(part: Any, *asks: Any) -> _Attention:
            return _Attention(linear(*asks), linear(part.output.dense), norm(part.output.LayerNorm))

        self.dtype = dtype
        self._fused = device.type != "cpu" if fused is None else fused
        self._heads = int(model.qformer.config.num_attention_heads)
        blocks: list[Any] = list(model.qformer.encoder.layer)
        crossed = [block.crossattention for block in blocks if block.has_cross_attention]
        self._layers = []
        for block in blocks:
            own, cross = block.attention, block.crossattention if block.has_cross_attention else None
            self._layers.append(
                _Layer(
                    attention(own, own.attention.query, own.attention.key, own.attention.value),
                    None if cross is None else attention(cross, cross.attention.query),
                    linear(block.intermediate_query.dense),
                    linear(block.output_query.dense),
                    norm(block.output_query.LayerNorm),
                )
            )
        self._told = linear(
            *(part for each in crossed for part in (each.attention.key, each.attention.value))
        )
        self._projection = linear(model.language_projection)
        self._look: Any = None
        self._grid_norm = norm(model.grid_norm)
        if model.config.vision is None:
            self._look = linear(model.grid_projection)
            self._place = there(model.grid_position)
        with torch.inference_mode():
            queries: Tensor = model.qformer.layernorm(model.query.detach())  # [1, Q, Dq]
            self._start = self._among(self._layers[0].own, there(queries))

    def __call__(self, grid: Tensor) -> Tensor:
        """What the decoder sees of each picture: grid [B, cells, E] → [B, queries, decoder_width]."""
        with torch.inference_mode():
            return self._read(grid)

    def _read(self, grid: Tensor) -> Tensor:
        seen = grid.to(self.dtype)
        seen = (
            self._grid_norm(seen) if self._look is None else self._grid_norm(self._look(seen)) + self._place
        )
        width = self._start.shape[-1]
        told = iter(torch.split(self._told(seen), width, -1))  # keys, values, keys, … of [B, cells, Dq]
        x = self._start  # [1, Q, D]: until the queries have seen a picture, the same for all
        for number, layer in enumerate(self._layers):
            if number:
                x = self._among(layer.own, x)
            if layer.cross is not None:
                read = self._attend(layer.cross.asks(x), next(told), next(told))
                x = layer.cross.norm(layer.cross.out(read) + x)
            x = layer.norm(layer.down(nn.functional.gelu(layer.up(x))) + x)
        return self._projection(x)

    def _among(self, own: _Attention, x: Tensor) -> Tensor:
        return own.norm(own.out(self._attend(*own.asks(x).chunk(3, -1))) + x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, Q, D] or [1, Q, D] of queries over [B, S, D] of keys and values."""

        def split(x: Tensor) -> Tensor:
            return x.view(*x.shape[:-1], self._heads, -1).transpose(1, 2)

        q, k, v = split(q.expand(len(k), -1, -1)), split(k), split(v)
        if self._fused:
            return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        q, k, v = q.float(), k.float(), v.float()
        weights = torch.matmul(q, k.transpose(-1, -2)).mul_(q.shape[-1] ** -0.5).softmax(-1)
        return torch.matmul(weights, v).to(self.dtype).transpose(1, 2).flatten(2)
