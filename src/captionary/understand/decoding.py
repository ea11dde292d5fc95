"""Greedy decoding of a LLaMA decoder with a static KV cache, many pictures at a time.

The eager `generate` loop of `transformers` spends most of a small model's step in bookkeeping; this reads the same
weights, fuses what belongs together, stops at the end token and drops finished rows. Rows do not see each other, so a
caption does not depend on the batch it came in (up to ties of the floating-point kind).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

__all__ = ["GreedyDecoder"]


class _Layer(NamedTuple):
    input_norm: Tensor
    qkv: Tensor
    """Fused projections, [(heads + 2 · kv_heads) · head_dim, D]."""
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    """Fused gate and up projections, [2 · F, D]."""
    down: Tensor


class GreedyDecoder:
    """The greedy path through one LLaMA decoder.

    Args:
        llama: any LLaMA-family model without biases; its weights are copied in `dtype`.
        dtype: float32, or bfloat16 where the processor multiplies it natively.
    """

    def __init__(self, llama: LlamaForCausalLM, dtype: torch.dtype = torch.float32) -> None:
        config = llama.config
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads or self.heads)
        self.head_dim = int(getattr(config, "head_dim", 0) or config.hidden_size // self.heads)
        self.epsilon = float(config.rms_norm_eps)
        self.dtype = dtype

        def own(weight: Any) -> Tensor:
            tensor: Tensor = weight.detach().to(dtype).contiguous()
            return tensor

        self.layers = [
            _Layer(
                own(block.input_layernorm.weight),
                own(torch.cat([getattr(block.self_attn, f"{part}_proj").weight for part in "qkv"])),
                own(block.self_attn.o_proj.weight),
                own(block.post_attention_layernorm.weight),
                own(torch.cat([block.mlp.gate_proj.weight, block.mlp.up_proj.weight])),
                own(block.mlp.down_proj.weight),
            )
            for block in llama.model.layers
        ]
        self.embedding = own(llama.get_input_embeddings().weight)
        self.norm = own(llama.model.norm.weight)
        self.head = own(llama.lm_head.weight)
        # The model's own rotary module, so that a scaled or long-context variant rotates as it was trained to.
        positions = torch.arange(int(config.max_position_embeddings))[None]
        cosine, sine = llama.model.rotary_emb(torch.zeros(1, 1, 1), positions)
        self.cosine, self.sine = cosine[0].to(dtype), sine[0].to(dtype)  # [P, head_dim]

    @torch.inference_mode()
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
        """Caption ids of each row, without the end token.

        Args:
            prefix: what comes before the prompt, [B, Q, D].
            prompt: ids that open every caption.
            end: id of the end token.
            max_new_tokens: at which a caption is cut, ≥ 1.
            temperature: 0 takes the likeliest token; above, tokens are drawn at that temperature, from `generator`.
        """

        def choose(logits: Tensor) -> Tensor:
            if temperature > 0:  # Gumbel's trick
                noise = torch.empty(logits.shape).exponential_(generator=generator)
                logits = logits.float() / temperature - noise.log()
            return logits.argmax(-1)

        rows = len(prefix)
        words = self.embedding[torch.tensor(prompt)].expand(rows, -1, -1)
        x = torch.cat([prefix.to(self.dtype), words], 1)  # [B, Q + P, D]
        start = x.shape[1]
        room = min(start + max_new_tokens, len(self.cosine))
        shape = (len(self.layers), 2, rows, self.kv_heads, room, self.head_dim)
        cache = torch.empty(shape, dtype=self.dtype)
        causal = torch.ones(start, start, dtype=torch.bool).tril()
        token = choose(self._advance(x, cache, 0, causal))
        captions: list[list[int]] = [[] for _ in range(rows)]
        alive = torch.arange(rows)
        for position in range(start, room):
            going = token != end
            for row, said in zip(alive[going].tolist(), token[going].tolist(), strict=True):
                captions[row].append(said)
            if position == room - 1 or not going.any():
                break
            if not going.all():  # drop finished rows
                alive, token, cache = alive[going], token[going], cache[:, :, going]
            token = choose(self._advance(self.embedding[token][:, None], cache, position, None))
        return captions

    def _advance(self, x: Tensor, cache: Tensor, position: int, mask: Tensor | None) -> Tensor:
        """Run tokens x [B, T, D] at `position`, extend the cache in place; logits of the next token [B, V]."""
        rows, length, _ = x.shape
        cosine = self.cosine[position : position + length]
        sine = self.sine[position : position + length]
        for layer, kept in zip(self.layers, cache, strict=True):
            normed = nn.functional.rms_norm(x, layer.input_norm.shape, layer.input_norm, self.epsilon)
            qkv = (
                nn.functional.linear(normed, layer.qkv).view(rows, length, -1, self.head_dim).transpose(1, 2)
            )
            q, k, v = torch.split(
                qkv, [self.heads, self.kv_heads, self.kv_heads], 1
            )  # [B, heads, T, head_dim]
            kept[0, :, :, position : position + length] = _rotate(k, cosine, sine)
            kept[1, :, :, position : position + length] = v
            seen = nn.functional.scaled_dot_product_attention(
                _rotate(q, cosine, sine),
                kept[0, :, :, : position + length],
                kept[1, :, :, : position + length],
                attn_mask=mask,
                enable_gqa=self.kv_heads != self.heads,
            )
            x = x + nn.functional.linear(seen.transpose(1, 2).reshape(rows, length, -1), layer.out)
            normed = nn.functional.rms_norm(x, layer.post_norm.shape, layer.post_norm, self.epsilon)
            gate, up = nn.functional.linear(normed, layer.gate_up).chunk(2, -1)
            x = x + nn.functional.linear(nn.functional.silu(gate) * up, layer.down)
        last = nn.functional.rms_norm(x[:, -1], self.norm.shape, self.norm, self.epsilon)
        return nn.functional.linear(last, self.head)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding, in LLaMA's half-split layout."""
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat([-right, left], -1) * sine
