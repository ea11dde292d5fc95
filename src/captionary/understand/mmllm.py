"""The multimodal LLM of the paper's Figure 3: image encoder → Q-Former → LLaMA decoder.

    pictures ─encoder─▶ grid [B, cells, E] ─Q-Former, 32 queries─▶ [B, 32, Dq] ─projection─▶ [B, 32, D] ─┐
                                                                                                         ▼
                                          prompt and caption tokens [B, T, D] ─────────────────────▶ LLaMA ─▶ caption

The encoder is the built-in EfficientNet (49 cells of 1,728 features) or a Vision Transformer (`vision.py`). The
Q-Former is BLIP-2's (Li et al. 2023, paper ref. [10]), the decoder LLaMA-2's (ref. [5]), both from `transformers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from captionary.errors import bad_value
from captionary.understand.architecture import BOS, EOS, PAD, MultimodalConfig
from captionary.understand.encoder import ImageEncoder
from captionary.understand.qformer import PictureReader, keep_no_activations, read_folder

__all__ = ["BOS", "EOS", "PAD", "MultimodalConfig", "MultimodalLLM"]

_EAGER_WIDTH = 512
"""Decoders up to this width attend eagerly: a third faster than sdpa on CPU under the mask of `loss`."""


class MultimodalLLM(PictureReader):
    """Image encoder, Q-Former, projection and decoder in one module with one pair of save and load.

    Args:
        config: the sizes.
        tokenizer: of the decoder.
        encoder: ready weights; None: new ones.
        decoder: ready weights, of the sizes in `config`; None: new ones.

    Raises:
        CaptionaryError: the decoder has no position left for a caption behind queries and prompt.
    """

    def __init__(
        self,
        config: MultimodalConfig,
        tokenizer: Tokenizer,
        *,
        encoder: ImageEncoder | None = None,
        decoder: LlamaForCausalLM | None = None,
    ) -> None:
        super().__init__(config, tokenizer, encoder=encoder)
        read = config.queries + len(self.prompt_ids)
        if config.max_length <= read:
            rule = (
                f"> {read}: {config.queries} queries and {read - config.queries} tokens that open a caption"
            )
            raise bad_value("max_length", config.max_length, rule)
        self.language_projection = nn.Linear(config.qformer_width, config.decoder_width)
        self.decoder = decoder or LlamaForCausalLM(config.llama)
        self.decoder.set_attn_implementation("eager" if config.decoder_width <= _EAGER_WIDTH else "sdpa")

    @property
    def prompt_ids(self) -> list[int]:
        """The ids that open every caption: begin-of-sequence and the prompt's."""
        return [self.config.bos_id, *self.tokenizer.encode(self.config.prompt, add_special_tokens=False).ids]

    @property
    def end_id(self) -> int:
        """The id that ends a caption."""
        return self.config.eos_id

    def visual_prefix(self, grid: Tensor) -> Tensor:
        """What the decoder sees of each picture: grid [B, cells, E] → [B, queries, decoder_width]."""
        projected: Tensor = self.language_projection(self.answers(grid))
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
            grid: encoder features, [B, cells, E].
            captions: per picture, its captions' token ids without special tokens.
            smoothing: label smoothing, 0 to 1.
            weights: one factor a caption, [B, captions a picture], on all of its tokens, negative ones make it rarer;
                or one a token, [B, captions, tokens and end].
        """
        ids, targets, owner, positions, mask = _pack(
            captions,
            self.prompt_ids,
            self.config.queries,
            grid.device,
            pad=self.config.pad_id,
            end=self.config.eos_id,
        )
        if self.decoder.config._attn_implementation == "sdpa":
            mask = mask == 0  # a mask of numbers would have to be of the queries' type
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
        place: tuple[Tensor, ...] = (told.nonzero()[:, 0], owner[told])
        if weights.ndim == 3:
            first = (
                self.config.queries + len(self.prompt_ids) - 1
            )  # position that tells a caption's first token
            place = (*place, positions[:, self.config.queries :][told] - first)
        return (lost * weights.to(lost.device)[place]).mean()

    @torch.inference_mode()
    def describe(self, images: Sequence[Image], max_new_tokens: int = 32) -> list[str]:
        """A caption of each picture by `transformers`' own greedy loop, on whatever device the weights are.

        The plain way, for a look at a model in training; `BuiltinCaptioner` is the fast one.
        """
        weight = self.language_projection.weight
        pixels = self.encoder.to_pixels(images).to(weight.device, next(self.encoder.parameters()).dtype)
        prefix = self.visual_prefix(self.encoder(pixels).to(weight.dtype))
        table = self.decoder.get_input_embeddings()
        words = table(torch.tensor(self.prompt_ids, device=weight.device)).expand(len(prefix), -1, -1)
        decoder: Any = self.decoder
        told = decoder.generate(
            inputs_embeds=torch.cat([prefix.to(words.dtype), words], 1),
            attention_mask=torch.ones(len(prefix), prefix.shape[1] + words.shape[1], device=weight.device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.end_id,
            pad_token_id=self.end_id,
        ).tolist()
        ended = [line[: line.index(self.end_id)] if self.end_id in line else line for line in told]
        return [text.strip() for text in self.tokenizer.decode_batch(ended)]

    def adopt(self, folder: Path) -> None:
        """Take encoder and Q-Former over from the first training stage, whose text parts are left behind.

        Raises:
            CaptionaryError: the folder is none of it, or its sizes are others.
        """
        _, _, weights = read_folder(folder)
        own = {
            name for name in self.state_dict() if not name.startswith(("decoder.", "language_projection."))
        }
        if lost := sorted(own - set(weights)):
            raise bad_value("start", str(folder), "a folder of the first stage", where=f"missing {lost[:3]}")
        try:
            self.load_state_dict({name: weights[name] for name in own}, strict=False)
        except RuntimeError as error:
            rule = "of the same encoder and Q-Former"
            raise bad_value("start", str(folder), rule, where=" ".join(str(error).split())[:300]) from None

    def checkpoint_gradients(self) -> None:
        """As for the Q-Former, in the decoder too."""
        super().checkpoint_gradients()
        keep_no_activations(self.decoder)

    def _tied(self) -> frozenset[str]:
        return frozenset({"decoder.lm_head.weight"} if self.config.decoder_tied else ())


def _pack(
    captions: Sequence[Sequence[Sequence[int]]],
    prompt: list[int],
    queries: int,
    device: torch.device,
    *,
    pad: int = PAD,
    end: int = EOS,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Lay each picture's captions behind one prefix.

    Returns:
        ids [B, T], targets [B, T] (-1: nothing to tell), the number of the caption that a token belongs to [B, T],
        positions [B, Q + T] (each caption restarts after the prefix), and the mask [B, 1, Q + T, Q + T]: 0 where a row
        may look, at the prefix and at its own caption so far, else the least float.
    """
    length = max(sum(len(prompt) + len(words) + 1 for words in group) for group in captions)
    ids = torch.full((len(captions), length), pad)
    targets = torch.full((len(captions), length), -1)
    segment = torch.zeros(len(captions), queries + length, dtype=torch.long)  # 0: the prefix
    positions = torch.arange(queries + length).repeat(len(captions), 1)
    for row, group in enumerate(captions):
        at = 0
        for number, words in enumerate(group, 1):
            line = [*prompt, *words, end]
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
