"""Greedy decoding of a LLaMA decoder with a static KV cache, many pictures at a time.

The eager `generate` loop of `transformers` spends most of a small model's step in bookkeeping; this reads the same
weights, fuses what belongs together, stops at the end token and drops finished rows. Rows do not see each other, so a
caption does not depend on the batch it came in (up to ties of the floating-point kind).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from captionary.errors import bad_value
from captionary.understand.decoding_kernels import attend, keep_rows, normalise

__all__ = ["WORTH_MOVING", "GreedyDecoder", "choose_token", "refuse_unread", "until_end"]


WORTH_MOVING = 0.75
"""Finished rows are dropped, which copies the cache, when at most this share of the rows goes on."""


class _Layer(NamedTuple):
    input_norm: npt.NDArray[np.float32]
    qkv: Tensor
    """Fused projections, [(heads + 2 · kv_heads) · head_dim, D]."""
    out: Tensor
    post_norm: npt.NDArray[np.float32]
    gate_up: Tensor
    """Fused gate and up projections, [2 · F, D]."""
    down: Tensor


def refuse_unread(config: Any) -> None:
    """Refuse a LlamaConfig with parts that the decoders here would leave out.

    Raises:
        CaptionaryError: the model has biases, or another activation than SiLU.
    """
    for name, only in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if getattr(config, name, only) != only:
            raise bad_value(f"decoder: {name}", getattr(config, name), f"{only} to be decoded fast")


def choose_token(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """The likeliest token of each row [B, V] → [B]; at a temperature above 0 one drawn from `generator`."""
    logits = logits.float()  # its argmax is four times as fast as bfloat16's on a CPU, and the same
    if temperature > 0:  # Gumbel's trick
        noise = torch.empty_like(logits).exponential_(generator=generator)
        logits = logits / temperature - noise.log()
    return logits.argmax(-1)


def until_end(said: Tensor, end: int) -> list[list[int]]:
    """The ids of each row [B, T] before its end token."""
    lines: list[list[int]] = said.tolist()
    return [line[: line.index(end)] if end in line else line for line in lines]


class GreedyDecoder:
    """The greedy path through one LLaMA decoder.

    Args:
        llama: any LLaMA-family model without biases, on the CPU; its weights are copied in `dtype`, those that have it
            already and are not fused with others are shared.
        dtype: float32, or bfloat16 where the processor multiplies it natively.

    Raises:
        CaptionaryError: the model has biases, or another activation than SiLU.
    """

    def __init__(self, llama: LlamaForCausalLM, dtype: torch.dtype = torch.float32) -> None:
        config = llama.config
        refuse_unread(config)
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads or self.heads)
        self.head_dim = int(getattr(config, "head_dim", 0) or config.hidden_size // self.heads)
        self.epsilon = float(config.rms_norm_eps)
        self.dtype = dtype

        def own(weight: Any) -> Tensor:
            tensor: Tensor = weight.detach().to(dtype).contiguous()
            return tensor

        def plain(weight: Any) -> npt.NDArray[np.float32]:
            values: npt.NDArray[np.float32] = weight.detach().float().numpy()
            return values

        self.layers = [
            _Layer(
                plain(block.input_layernorm.weight),
                own(torch.cat([getattr(block.self_attn, f"{part}_proj").weight for part in "qkv"])),
                own(block.self_attn.o_proj.weight),
                plain(block.post_attention_layernorm.weight),
                own(torch.cat([block.mlp.gate_proj.weight, block.mlp.up_proj.weight])),
                own(block.mlp.down_proj.weight),
            )
            for block in llama.model.layers
        ]
        self.embedding = own(llama.get_input_embeddings().weight)
        self.norm = plain(llama.model.norm.weight)
        self.head = own(llama.lm_head.weight)
        # The model's own rotary module, so that a scaled or long-context variant rotates as it was trained to.
        positions = torch.arange(int(config.max_position_embeddings))[None]
        cosine, sine = llama.model.rotary_emb(torch.zeros(1, 1, 1), positions)
        self.cosine, self.sine = plain(cosine[0]), plain(sine[0])  # [P, head_dim]

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

        choose = partial(choose_token, temperature=temperature, generator=generator)
        rows = len(prefix)
        words = self.embedding[torch.tensor(prompt, dtype=torch.long)].expand(rows, -1, -1)
        x = torch.cat([prefix.float(), words.float()], 1)  # [B, Q + P, D]
        start = x.shape[1]
        room = min(start + max_new_tokens, len(self.cosine))
        shape = (len(self.layers), 2, rows, self.kv_heads, room, self.head_dim)
        cache = torch.empty(shape, dtype=self.dtype)
        token = choose(self._advance(x, cache, 0))
        said = torch.full((rows, room - start), end)
        alive = torch.arange(rows)
        going = torch.ones(rows, dtype=torch.bool)
        for position in range(start, room):
            going &= token != end
            said[alive[going], position - start] = token[going]
            left = int(going.sum())
            if position == room - 1 or not left:
                break
            if left <= WORTH_MOVING * len(alive):  # drop finished rows
                kept = going.nonzero()[:, 0].numpy()
                for part in _numpy(cache.flatten(0, 1)):
                    keep_rows(part, kept, position)
                alive, token, going = alive[going], token[going], going[going]
            token = choose(self._advance(self.embedding[token][:, None].float(), cache, position))
        return until_end(said, end)

    def _advance(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """Run tokens x [B, T, D] at `position`, extend the cache in place; logits of the next token [B, V].

        x is float32 and changed in place; products are made in the decoder's type.
        """
        rows, length, width = x.shape
        normed = torch.empty(rows, length, width, dtype=self.dtype)
        read = torch.empty(rows, length, self.heads * self.head_dim, dtype=self.dtype)
        added = torch.zeros(rows, length, width, dtype=self.dtype)
        for layer, kept in zip(self.layers, cache, strict=True):
            _normalise(x, added, layer.input_norm, self.epsilon, normed)
            qkv = nn.functional.linear(normed, layer.qkv)
            if length == 1:
                keys, values = _numpy(kept)
                attend(_numpy(qkv[:, 0]), self.cosine, self.sine, keys, values, position, _numpy(read[:, 0]))
            elif layer is not self.layers[-1]:
                self._open(qkv, kept, read)
            else:  # behind the last keys and values, nothing but the last token matters
                x, normed, read = (part[:, -1:].contiguous() for part in (x, normed, read))
                self._open(qkv, kept, read)
            added = nn.functional.linear(read, layer.out)
            _normalise(x, added, layer.post_norm, self.epsilon, normed)
            gate, up = nn.functional.linear(normed, layer.gate_up).chunk(2, -1)
            added = nn.functional.linear(nn.functional.silu(gate).mul_(up), layer.down)
        _normalise(x, added, self.norm, self.epsilon, normed)
        return nn.functional.linear(normed[:, -1], self.head)

    def _open(self, qkv: Tensor, kept: Tensor, read: Tensor) -> None:
        """`attend` for the T tokens that a row begins with, [B, T, (H + 2 K) E], at positions 0 to T - 1.

        Args:
            qkv: queries, keys and values.
            kept: gets keys and values.
            read: gets what the last of the tokens read, as many as it has room for.
        """
        rows, length, _ = qkv.shape
        asking = read.shape[1]
        cosine, sine = torch.from_numpy(self.cosine[:length]), torch.from_numpy(self.sine[:length])
        heads = [self.heads, self.kv_heads, self.kv_heads]
        q, k, v = torch.split(
            qkv.view(rows, length, -1, self.head_dim).transpose(1, 2).float(), heads, 1
        )  # [B, heads, T, E]
        k = _rotate(k, cosine, sine)
        kept[0, :rows, :, :length], kept[1, :rows, :, :length] = k, v
        q = _rotate(q[:, :, -asking:], cosine[-asking:], sine[-asking:])
        # The queries of the heads that share a key are rows of one product; small ones are faster in float32.
        together = q.reshape(rows * self.kv_heads, -1, self.head_dim)
        scores = torch.bmm(together, k.flatten(0, 1).transpose(1, 2)).mul_(self.head_dim**-0.5)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)[-asking:]
        scores.view(len(scores), -1, asking, length).masked_fill_(later, -torch.inf)
        seen = torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(rows, self.heads, asking, self.head_dim)
        read.view(rows, asking, self.heads, self.head_dim).copy_(seen.transpose(1, 2))


def _normalise(x: Tensor, added: Tensor, weight: Any, epsilon: float, out: Tensor) -> None:
    width = x.shape[-1]
    normalise(
        x.view(-1, width).numpy(), _numpy(added.view(-1, width)), weight, epsilon, _numpy(out.view(-1, width))
    )


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding, in LLaMA's half-split layout."""
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat([-right, left], -1) * sine


def _numpy(tensor: Tensor) -> npt.NDArray[Any]:
    """The memory of a tensor: float32, or the bits of bfloat16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
