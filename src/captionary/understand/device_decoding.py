"""Greedy decoding of a LLaMA decoder with a static KV cache on any device, in operations of torch alone.

What `decoding.GreedyDecoder` does on a CPU with compiled loops, for accelerators: the same weights, the same float32
stream between layers, captions that are the same up to ties. Which rows have ended is asked, and they are dropped,
after every few tokens only, so that the processor stays ahead of the device; what a row says behind its end is cut off.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from captionary.understand.decoding import WORTH_MOVING, choose_token, refuse_unread, until_end
from captionary.understand.device import CPU

__all__ = ["DeviceDecoder"]

_LOOK = 4
"""Tokens from one look at which rows have ended to the next: each look waits for the device."""


class _Layer(NamedTuple):
    input_norm: Tensor
    qkv: Tensor
    """Fused projections, [(heads + 2 · kv_heads) · head_dim, D]."""
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    """Fused gate and up projections, [2 · F, D]."""
    down: Tensor


class DeviceDecoder:
    """The greedy path through one LLaMA decoder, on a device.

    Args:
        llama: any LLaMA-family model without biases, on the CPU; its weights are copied to the device.
        dtype: in which products are made and keys and values kept; the stream between layers is float32.
        device: any of torch's.

    Raises:
        CaptionaryError: the model has biases, or another activation than SiLU.
    """

    def __init__(
        self, llama: LlamaForCausalLM, dtype: torch.dtype = torch.bfloat16, device: torch.device = CPU
    ) -> None:
        config = llama.config
        refuse_unread(config)
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads or self.heads)
        self.head_dim = int(getattr(config, "head_dim", 0) or config.hidden_size // self.heads)
        self.epsilon = float(config.rms_norm_eps)
        self.dtype, self.device = dtype, device

        def own(*weights: Any, kept: torch.dtype = dtype) -> Tensor:
            return torch.cat([weight.detach() for weight in weights]).to(device, kept)

        def plain(weight: Any) -> Tensor:
            return own(weight, kept=torch.float32)

        self.layers = [
            _Layer(
                plain(block.input_layernorm.weight),
                own(*(getattr(block.self_attn, f"{part}_proj").weight for part in "qkv")),
                own(block.self_attn.o_proj.weight),
                plain(block.post_attention_layernorm.weight),
                own(block.mlp.gate_proj.weight, block.mlp.up_proj.weight),
                own(block.mlp.down_proj.weight),
            )
            for block in llama.model.layers
        ]
        self.embedding = own(llama.get_input_embeddings().weight)
        self.norm = plain(llama.model.norm.weight)
        tied = llama.lm_head.weight is llama.get_input_embeddings().weight
        self.head = self.embedding if tied else own(llama.lm_head.weight)
        # The model's own rotary module, so that a scaled or long-context variant rotates as it was trained to.
        positions = torch.arange(int(config.max_position_embeddings))[None]
        cosine, sine = llama.model.rotary_emb(torch.zeros(1, 1, 1), positions)
        sign = torch.ones(self.head_dim)
        sign[: self.head_dim // 2] = -1  # half-split layout: the left half gets the right one, negated
        self.cosine = plain(cosine[0])[:, None]  # [P, 1, head_dim]
        self.sine = plain(sine[0] * sign)[:, None]

    def decode(
        self,
        prefix: Tensor,
        prompt: list[int],
        end: int,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """Caption ids of each row, without the end token; see `GreedyDecoder.decode`.

        Args:
            prefix: what comes before the prompt, [B, Q, D], on the device.
            prompt: ids that open every caption.
            end: id of the end token.
            max_new_tokens: at which a caption is cut, ≥ 1.
            temperature: 0 takes the likeliest token; above, tokens are drawn at that temperature, from `generator`.
            generator: of the device.
        """

        choose = partial(choose_token, temperature=temperature, generator=generator)
        with torch.inference_mode():
            rows = len(prefix)
            opened = torch.tensor(prompt, dtype=torch.long, device=self.device)
            words = self.embedding[opened].float().expand(rows, -1, -1)
            x = torch.cat([prefix.float(), words], 1)  # [B, Q + P, D]
            start = x.shape[1]
            room = min(start + max_new_tokens, len(self.cosine))
            shape = (len(self.layers), 2, rows, self.kv_heads, room, self.head_dim)
            cache = torch.empty(shape, dtype=self.dtype, device=self.device)
            said = torch.full((rows, room - start), end, device=self.device)
            alive = torch.arange(rows, device=self.device)
            ended = torch.zeros(rows, dtype=torch.bool, device=self.device)
            token = choose(self._advance(x, cache, 0))
            for position in range(start, room):
                said[alive, position - start] = token
                ended |= token == end
                if position == room - 1:
                    break
                if (position - start) % _LOOK == _LOOK - 1:
                    going = (~ended).nonzero()[:, 0]
                    if not len(going):
                        break
                    if len(going) <= WORTH_MOVING * len(alive):  # drop finished rows
                        cache = cache[:, :, going]
                        alive, token, ended = alive[going], token[going], ended[going]
                token = choose(self._advance(self.embedding[token][:, None].float(), cache, position))
            return until_end(said.cpu(), end)

    def _advance(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """Run tokens x [B, T, D] at `position`, extend the cache in place; logits of the next token [B, V].

        x is float32 and changed in place; several tokens are those that a row begins with.
        """
        rows, length, _ = x.shape
        upto = position + length
        cosine, sine = self.cosine[position:upto], self.sine[position:upto]
        turning = self.heads + self.kv_heads
        shared = self.kv_heads < self.heads
        for number, layer in enumerate(self.layers):
            normed = self._normed(x, layer.input_norm)
            qkv = nn.functional.linear(normed, layer.qkv).view(rows, length, -1, self.head_dim)
            qk = qkv[:, :, :turning].float()
            qk = torch.addcmul(qk * cosine, qk.roll(self.head_dim // 2, -1), sine).to(self.dtype)
            keys, values = cache[number, 0, :, :, :upto], cache[number, 1, :, :, :upto]
            keys[:, :, position:] = qk[:, :, self.heads :].transpose(1, 2)
            values[:, :, position:] = qkv[:, :, turning:].transpose(1, 2)
            q = qk[:, :, : self.heads].transpose(1, 2)  # [B, heads, T, E]
            if length > 1 and number == len(self.layers) - 1:
                # Behind the last keys and values, nothing but the last token matters.
                q, x, length = q[:, :, -1:], x[:, -1:].contiguous(), 1
            read = nn.functional.scaled_dot_product_attention(
                q, keys, values, is_causal=length > 1, enable_gqa=shared
            )
            x += nn.functional.linear(read.transpose(1, 2).reshape(rows, length, -1), layer.out)
            gate, up = nn.functional.linear(self._normed(x, layer.post_norm), layer.gate_up).chunk(2, -1)
            x += nn.functional.linear(nn.functional.silu(gate) * up, layer.down)
        return nn.functional.linear(self._normed(x[:, -1], self.norm), self.head)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (x.shape[-1],), weight, self.epsilon).to(self.dtype)
