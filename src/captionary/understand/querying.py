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
from captionary.understand.products import Product, QuantisedProduct, widest_behind

__all__ = ["QueryReader"]


_CLIPPED = 6.0
"""Behind ReLU6; the finer features beside are divided to such a size."""


class _Norm(NamedTuple):
    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


_Map = Product | QuantisedProduct


class _Attention(NamedTuple):
    asks: _Map
    """Queries, and where they look at each other keys and values too."""
    out: Product
    norm: _Norm


class _Layer(NamedTuple):
    own: _Attention
    cross: _Attention | None
    up: _Map
    down: Product
    norm: _Norm


class QueryReader:
    """What the decoder is told of pictures, from what the encoder saw.

    Args:
        model: on the CPU; its weights are copied to `device` in `dtype`.
        dtype: float32, or bfloat16 where it is multiplied natively.
        device: any of torch's.
        quantised: whether what a norm (or ReLU6) keeps in bounds is multiplied as 8-bit integers; on a CPU, bfloat16.
        fused: whether attention is one operation of torch; None: on all devices but the CPU, where small products in
            float32 are faster.
    """

    def __init__(
        self,
        model: MultimodalLLM,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
        *,
        quantised: bool = False,
        fused: bool | None = None,
    ) -> None:
        def there(weight: Tensor) -> Tensor:
            return weight.detach().to(device, dtype)

        def joined(parts: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
            return torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])

        def linear(*parts: Any) -> Product:
            weight, bias = joined(parts)
            return Product(there(weight), there(bias))

        def bounded(widest: float, *parts: Any) -> _Map:
            return QuantisedProduct(*joined(parts), widest) if quantised else linear(*parts)

        def norm(part: Any) -> _Norm:
            return _Norm(there(part.weight), there(part.bias), float(part.eps))

        def attention(part: Any, before: Any, *asks: Any) -> _Attention:
            asked = bounded(widest_behind(before), *asks)
            return _Attention(asked, linear(part.output.dense), norm(part.output.LayerNorm))

        self.dtype = dtype
        self._fused = device.type != "cpu" if fused is None else fused
        self._heads = int(model.qformer.config.num_attention_heads)
        blocks: list[Any] = list(model.qformer.encoder.layer)
        crossed = [block.crossattention for block in blocks if block.has_cross_attention]
        self._layers = []
        before = model.qformer.layernorm
        for block in blocks:
            own, cross = block.attention, block.crossattention if block.has_cross_attention else None
            looked = (cross or own).output.LayerNorm
            self._layers.append(
                _Layer(
                    attention(own, before, own.attention.query, own.attention.key, own.attention.value),
                    None if cross is None else attention(cross, own.output.LayerNorm, cross.attention.query),
                    bounded(widest_behind(looked), block.intermediate_query.dense),
                    linear(block.output_query.dense),
                    norm(block.output_query.LayerNorm),
                )
            )
            before = block.output_query.LayerNorm
        placed = 0.0 if model.config.vision else float(model.grid_position.detach().abs().max())
        told = (part for each in crossed for part in (each.attention.key, each.attention.value))
        self._told = bounded(widest_behind(model.grid_norm) + placed, *told)
        self._projection = bounded(widest_behind(before), model.language_projection)
        self._look: Any = None
        self._grid_norm = norm(model.grid_norm)
        if model.config.vision is None:
            self._look = bounded(_CLIPPED, model.grid_projection)
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
