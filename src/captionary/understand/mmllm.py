"""The multimodal LLM of the paper's Figure 3: image encoder → Q-Former → LLaMA decoder.

    pictures ─encoder─▶ grid [B, 49, 1728] ─Q-Former, 32 queries─▶ [B, 32, Dq] ─projection─▶ [B, 32, D] ─┐
                                                                                                         ▼
                                          prompt and caption tokens [B, T, D] ─────────────────────▶ LLaMA ─▶ caption

The Q-Former is BLIP-2's (Li et al. 2023, paper ref. [10]), the decoder LLaMA-2's (ref. [5]), both from `transformers`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, LlamaConfig, LlamaForCausalLM

from captionary.config import from_mapping
from captionary.errors import CaptionaryError, bad_value
from captionary.understand.encoder import EfficientNetLite0

__all__ = ["BOS", "EOS", "PAD", "MultimodalConfig", "MultimodalLLM"]

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of the special tokens in every caption tokenizer of ours."""


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig:
    """Sizes of the composition. The defaults are those of the built-in captioner, about 11 M parameters."""

    vocabulary_size: int = 4096
    """Tokens of the decoder, special ones included."""
    queries: int = 32
    """Query tokens of the Q-Former: what the decoder sees of a picture."""
    qformer_width: int = 256
    qformer_layers: int = 3
    qformer_heads: int = 4
    decoder_width: int = 256
    decoder_layers: int = 4
    decoder_heads: int = 4
    decoder_mlp: int = 704
    """Inner width of the decoder's gated MLP."""
    max_length: int = 160
    """Positions of the decoder: queries, prompt and caption."""
    prompt: str = ""
    """Text put before each caption; part of the fingerprint."""

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "queries", "qformer_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        for part in ("qformer", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if heads < 1 or width % heads:
                raise bad_value(f"{part}_heads", heads, f"a divisor of {part}_width == {width}")


class MultimodalLLM(nn.Module):
    """Image encoder, Q-Former, projection and decoder in one module with one pair of save and load."""

    def __init__(self, config: MultimodalConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.encoder = EfficientNetLite0()
        self.grid_projection = nn.Linear(self.encoder.width, config.qformer_width)
        self.grid_norm = nn.LayerNorm(config.qformer_width)
        self.grid_position = nn.Parameter(torch.randn(1, self.encoder.grid**2, config.qformer_width) * 0.02)
        self.query = nn.Parameter(torch.randn(1, config.queries, config.qformer_width) * 0.02)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.qformer_width,
                num_hidden_layers=config.qformer_layers,
                num_attention_heads=config.qformer_heads,
                intermediate_size=4 * config.qformer_width,
                encoder_hidden_size=config.qformer_width,
                cross_attention_frequency=1,
            )
        )
        self.language_projection = nn.Linear(config.qformer_width, config.decoder_width)
        self.decoder = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocabulary_size,
                hidden_size=config.decoder_width,
                intermediate_size=config.decoder_mlp,
                num_hidden_layers=config.decoder_layers,
                num_attention_heads=config.decoder_heads,
                max_position_embeddings=config.max_length,
                tie_word_embeddings=True,
                pad_token_id=PAD,
                bos_token_id=BOS,
                eos_token_id=EOS,
            )
        )
        self.decoder.set_attn_implementation(
            "eager"
        )  # a third faster than sdpa on CPU under the mask of `loss`

    @property
    def prompt_ids(self) -> list[int]:
        """The ids that open every caption: begin-of-sequence and the prompt's."""
        return [BOS, *self.tokenizer.encode(self.config.prompt, add_special_tokens=False).ids]

    def visual_prefix(self, grid: Tensor) -> Tensor:
        """What the decoder sees of each picture: grid [B, 49, 1728] → [B, queries, decoder_width]."""
        seen = self.grid_norm(self.grid_projection(grid)) + self.grid_position
        queries = self.query.expand(len(grid), -1, -1)
        answered = self.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        projected: Tensor = self.language_projection(answered)
        return projected

    def loss(
        self,
        grid: Tensor,
        captions: Sequence[Sequence[Sequence[int]]],
        *,
        smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the captions' tokens, given their pictures (BLIP-2's generative stage).

        The captions of one picture share its prefix in one sequence, each blind to the others:

            [q1 … q32][bos a dog eos][bos one dog eos][pad]

        Args:
            grid: encoder features, [B, 49, 1728].
            captions: per picture, its captions' token ids without special tokens.
            smoothing: label smoothing, 0 to 1.
            weights: one factor a caption, [B, captions a picture], on all of its tokens; negative ones make it rarer.
        """
        ids, targets, owner, positions, mask = _pack(
            captions, self.prompt_ids, self.config.queries, grid.device
        )
        prefix = self.visual_prefix(grid)  # [B, Q, D]
        words = self.decoder.get_input_embeddings()(ids)  # [B, T, D]
        hidden = self.decoder.model(
            inputs_embeds=torch.cat([prefix, words.to(prefix.dtype)], 1),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state[:, self.config.queries :]
        told = targets >= 0
        logits = self.decoder.lm_head(hidden[told])  # only where a token is to be told: [n, V]
        if weights is None:
            return nn.functional.cross_entropy(logits.float(), targets[told], label_smoothing=smoothing)
        lost = nn.functional.cross_entropy(logits.float(), targets[told], reduction="none")
        row = told.nonzero()[:, 0]
        return (lost * weights.to(lost.device)[row, owner[told]]).mean()

    def save(self, folder: Path, card: str, facts: dict[str, Any] | None = None) -> None:
        """Write config.json, model.safetensors (float16), tokenizer.json and the model card to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.detach().to("cpu", torch.float16).contiguous()
            for name, tensor in self.state_dict().items()
            if name != "decoder.lm_head.weight"  # tied to the embedding
        }
        partial = folder / "model.safetensors.partial"
        save_file(weights, partial, metadata={"format": "pt"})
        os.replace(partial, folder / "model.safetensors")
        (folder / "config.json").write_text(
            json.dumps(asdict(self.config) | {"facts": facts or {}}, indent=1)
        )
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "MODEL_CARD.md").write_text(card)

    @classmethod
    def load(cls, folder: Path) -> MultimodalLLM:
        """Read what `save` wrote, as float32 in evaluation mode.

        Raises:
            CaptionaryError: a file is missing, or the weights do not fit the config.
        """
        try:
            raw = json.loads((folder / "config.json").read_text())
            raw.pop("facts", None)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            weights = load_file(folder / "model.safetensors")
        except CaptionaryError:
            raise
        except Exception as error:  # tokenizers and safetensors raise bare Exceptions
            raise bad_value(
                "captioner", str(folder), "a folder saved by Captionary", where=str(error)
            ) from None
        model = cls(from_mapping(MultimodalConfig, raw, where=str(folder / "config.json")), tokenizer)
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
        wrong = [name for name in [*missing, *unexpected] if name != "decoder.lm_head.weight"]
        if wrong:
            raise bad_value(
                "weights", wrong[:3], "those of config.json", where=str(folder / "model.safetensors")
            )
        return model.eval()


def _pack(
    captions: Sequence[Sequence[Sequence[int]]], prompt: list[int], queries: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Lay each picture's captions behind one prefix.

    Returns:
        ids [B, T], targets [B, T] (-1: nothing to tell), the number of the caption that a token belongs to [B, T],
        positions [B, Q + T] (each caption restarts after the prefix), and the mask [B, 1, Q + T, Q + T]: 0 where a row may look, at the prefix
        and at its own caption so far, else the least float.
    """
    length = max(sum(len(prompt) + len(words) + 1 for words in group) for group in captions)
    ids = torch.full((len(captions), length), PAD)
    targets = torch.full((len(captions), length), -1)
    segment = torch.zeros(len(captions), queries + length, dtype=torch.long)  # 0: the prefix
    positions = torch.arange(queries + length).repeat(len(captions), 1)
    for row, group in enumerate(captions):
        at = 0
        for number, words in enumerate(group, 1):
            line = [*prompt, *words, EOS]
            ids[row, at : at + len(line)] = torch.tensor(line)
            first = at + len(prompt) - 1
            targets[row, first : at + len(line) - 1] = torch.tensor(line[len(prompt) :])
            segment[row, queries + at : queries + at + len(line)] = number
            positions[row, queries + at : queries + at + len(line)] = queries + torch.arange(len(line))
            at += len(line)
        segment[row, queries + at :] = -1
    causal = torch.ones(queries + length, queries + length, dtype=torch.bool).tril()
    own = (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
    # Additive, since eager attention would take a boolean mask for numbers.
    mask = torch.zeros(causal.shape).masked_fill(~(causal & own), torch.finfo(torch.float32).min)[:, None]
    owner = segment[:, queries:] - 1
    return ids.to(device), targets.to(device), owner.to(device), positions.to(device), mask.to(device)
