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
from captionary.understand.bfloat import bits_of
from captionary.understand.decoding_kernels import attend, keep_rows, normalise
from captionary.understand.products import Product, QuantisedProduct, widest_behind

__all__ = ["WORTH_MOVING", "GreedyDecoder", "choose_token", "refuse_unread", "until_end"]


WORTH_MOVING = 0.75
"""Finished rows are dropped, which copies the cache, when at most this share of the rows goes on."""


_OPENED = 32
"""Rows whose first tokens are read together: more would not stay in the cache."""


class _Layer(NamedTuple):
    input_norm: npt.NDArray[np.float32]
    qkv: Product
    """To queries, keys and values, (heads + 2 · kv_heads) · head_dim."""
    out: Product
    post_norm: npt.NDArray[np.float32]
    gate_up: Product
    """To gate and up, 2 · F."""
    down: Product
    opening_qkv: Product | QuantisedProduct
    """For the tokens that a row begins with, which are many."""
    opening_gate_up: Product | QuantisedProduct


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
        llama: any LLaMA-family model without biases, on the CPU; its weights are copied in `dtype`.
        dtype: float32, or bfloat16 where the processor multiplies it natively.
        quantised: whether what a norm keeps in bounds is multiplied as 8-bit integers, for the tokens that a row begins
            with; for small models of our own, in bfloat16: large ones have single values far out.

    Raises:
        CaptionaryError: the model has biases, or another activation than SiLU.
    """

    def __init__(
        self, llama: LlamaForCausalLM, dtype: torch.dtype = torch.float32, *, quantised: bool = False
    ) -> None:
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

        def product(*parts: Any) -> Product:
            return Product(own(torch.cat([part.weight for part in parts])))

        def plain(weight: Any) -> npt.NDArray[np.float32]:
            values: npt.NDArray[np.float32] = weight.detach().float().numpy()
            return values

        def opening(made: Product, norm: Any, *parts: Any) -> Product | QuantisedProduct:
            if not quantised:
                return made
            return QuantisedProduct(torch.cat([part.weight for part in parts]), None, widest_behind(norm))

        self.layers = []
        for block in llama.model.layers:
            asks = [getattr(block.self_attn, f"{part}_proj") for part in "qkv"]
            rises = [block.mlp.gate_proj, block.mlp.up_proj]
            qkv, gate_up = product(*asks), product(*rises)
            self.layers.append(
                _Layer(
                    plain(block.input_layernorm.weight),
                    qkv,
                    product(block.self_attn.o_proj),
                    plain(block.post_attention_layernorm.weight),
                    gate_up,
                    product(block.mlp.down_proj),
                    opening(qkv, block.input_layernorm, *asks),
                    opening(gate_up, block.post_attention_layernorm, *rises),
                )
            )
        self.embedding = own(llama.get_input_embeddings().weight)
        self.norm = plain(llama.model.norm.weight)
        self.head = product(llama.lm_head)
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
        parts = range(0, rows, _OPENED)
        begun = [self._advance(x[at : at + _OPENED], cache[:, :, at : at + _OPENED], 0) for at in parts]
        token = choose(torch.cat(begun))
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
                for part in bits_of(cache.flatten(0, 1)):
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
            qkv = (layer.opening_qkv if length > 1 else layer.qkv)(normed)
            keys, values = bits_of(kept)
            if length > 1 and layer is self.layers[-1]:
                # Behind its keys and values, nothing but the last token matters.
                x, normed, read = (part[:, -1:].contiguous() for part in (x, normed, read))
            attend(bits_of(qkv), self.cosine, self.sine, position, keys, values, bits_of(read))
            added = layer.out(read)
            _normalise(x, added, layer.post_norm, self.epsilon, normed)
            gate, up = (layer.opening_gate_up if length > 1 else layer.gate_up)(normed).chunk(2, -1)
            added = layer.down(nn.functional.silu(gate).mul_(up))
        _normalise(x, added, self.norm, self.epsilon, normed)
        return self.head(normed[:, -1])


def _normalise(x: Tensor, added: Tensor, weight: Any, epsilon: float, out: Tensor) -> None:
    width = x.shape[-1]
    normalise(
        x.view(-1, width).numpy(),
        bits_of(added.view(-1, width)),
        weight,
        epsilon,
        bits_of(out.view(-1, width)),
    )
