"""BLIP-2's first stage: the Q-Former learns to see what is relevant to the text (Li et al. 2023, §3.2, Figure 2).

Queries and text share the self-attention of one Q-Former; three objectives differ in who may see whom:

                       queries see    text sees                     objective
    unimodal           queries        text                          contrastive (ITC)
    bidirectional      all            all                           matching (ITM), with hard negatives
    causal             queries        queries and the text so far   image-grounded generation (ITG)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from captionary.understand.architecture import MultimodalConfig
from captionary.understand.encoder import ImageEncoder
from captionary.understand.qformer import PictureReader

__all__ = ["RepresentationLosses", "RepresentationModel", "attention_mask"]

MaskKind = Literal["unimodal", "bidirectional", "causal"]
_SMOOTHING = 0.1
"""Label smoothing of ITC and ITG, as in BLIP-2."""


class RepresentationLosses(NamedTuple):
    """The three objectives of a batch, each a mean."""

    contrastive: Tensor
    matching: Tensor
    generation: Tensor


class RepresentationModel(PictureReader):
    """Encoder and Q-Former with what the first stage needs besides: text embeddings and three heads.

    The text's vocabulary is the captions' tokenizer's and three more: [CLS] opens a text to be compared, [DEC] one to
    be told, [PAD] fills.
    """

    def __init__(
        self, config: MultimodalConfig, tokenizer: Tokenizer, *, encoder: ImageEncoder | None = None
    ) -> None:
        super().__init__(config, tokenizer, encoder=encoder, text=True)
        width, self.words = config.qformer_width, config.vocabulary_size + 3
        self.cls_id, self.dec_id, self.fill_id = range(config.vocabulary_size, self.words)
        embeddings: Any = Blip2TextEmbeddings
        self.text: Any = embeddings(
            Blip2QFormerConfig(
                vocab_size=self.words,
                hidden_size=width,
                max_position_embeddings=config.text_length,
                pad_token_id=self.fill_id,
                num_attention_heads=config.qformer_heads,
            )
        )
        for table in (self.text.word_embeddings, self.text.position_embeddings):
            nn.init.normal_(table.weight, std=0.02)
        self.vision_projection = nn.Linear(width, config.contrast_width)
        self.text_projection = nn.Linear(width, config.contrast_width)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.matching_head = nn.Linear(width, 2)
        self.telling_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.telling_bias = nn.Parameter(torch.zeros(self.words))

    def read(self, captions: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """Token ids, [CLS] … end, cut at `text_length` and filled: [B, T]; T is `length` where given."""
        cut = self.config.text_length - 2
        lines = [[self.cls_id, *words[:cut], self.config.eos_id] for words in captions]
        length = length or max(map(len, lines))
        filled = [line + [self.fill_id] * (length - len(line)) for line in lines]
        return torch.tensor(filled, device=self.query.device)

    def joint(self, grid: Tensor, ids: Tensor, kind: MaskKind) -> tuple[Tensor, Tensor]:
        """Queries and text through one pass, under one of the three masks: [B, queries, Dq] and [B, T, Dq]."""
        n = self.config.queries
        together = self.text(input_ids=ids, query_embeds=self.query.expand(len(ids), -1, -1))
        hidden = self.qformer(
            query_embeds=together,
            query_length=n,
            attention_mask=attention_mask(kind, ids != self.fill_id, n),
            encoder_hidden_states=self.seen(grid),
        ).last_hidden_state
        return hidden[:, :n], hidden[:, n:]

    def image_features(self, grid: Tensor) -> Tensor:
        """What pictures are compared by: grid [B, cells, E] → unit vectors [B, queries, F]."""
        return _unit(self.vision_projection(self.answers(grid)))

    def text_features(self, ids: Tensor) -> Tensor:
        """What texts are compared by: ids of `read` [B, T] → unit vectors [B, F]."""
        real = (ids != self.fill_id)[:, None, None, :].expand(-1, -1, ids.shape[1], -1)
        hidden = self.qformer(
            query_embeds=self.text(input_ids=ids), query_length=0, attention_mask=real
        ).last_hidden_state
        return _unit(self.text_projection(hidden[:, 0]))

    def tell(self, grid: Tensor, ids: Tensor) -> Tensor:
        """Logits of the token after each of ids [B, T], which open with [DEC]: [B, T, vocabulary + 3]."""
        return self._told(self.joint(grid, ids, "causal")[1])

    def losses(self, grid: Tensor, captions: Sequence[Sequence[int]]) -> RepresentationLosses:
        """The three objectives over pairs of a picture and its caption.

        In several processes, pictures and texts of all of them are each other's negatives, with their gradients.

        Args:
            grid: encoder features, [B, cells, E].
            captions: one a picture, token ids without special tokens.
        """
        ids = self.read(captions, self.config.text_length if _processes() > 1 else None)
        queries, words = self.joint(grid, ids, "unimodal")
        image, text = _unit(self.vision_projection(queries)), _unit(self.text_projection(words[:, 0]))
        all_ids = _gather(ids)
        same = (ids[:, None] == all_ids[None]).all(-1)  # [B, N]: whoever tells the same is no negative
        of_image = similarities(image, _gather(text)) / self.temperature  # [B, N]
        of_text = similarities(_gather(image), text).T / self.temperature  # [B, N]
        target = same.float() / same.sum(1, keepdim=True)
        contrastive = (_soft(of_image, target) + _soft(of_text, target)) / 2
        with torch.no_grad():
            hard_text, hard_image = hard_negatives(of_image, same), hard_negatives(of_text, same)
        matching = self._matching(grid, ids, _gather(grid)[hard_image], all_ids[hard_text], ~same.all(1))
        opened = torch.cat([torch.full_like(ids[:, :1], self.dec_id), ids[:, 1:]], 1)
        following = opened[:, 1:]
        told = following != self.fill_id
        logits = self._told(self.joint(grid, opened, "causal")[1][:, :-1][told])
        generation = nn.functional.cross_entropy(logits.float(), following[told], label_smoothing=_SMOOTHING)
        return RepresentationLosses(contrastive, matching, generation)

    def _matching(
        self, grid: Tensor, ids: Tensor, other_grid: Tensor, other_ids: Tensor, possible: Tensor
    ) -> Tensor:
        """Pairs that belong together against those with another picture or another text; two of these a pair."""
        shown = torch.cat([grid, other_grid[possible], grid[possible]])
        read = torch.cat([ids, ids[possible], other_ids[possible]])
        answered, _ = self.joint(shown, read, "bidirectional")
        logits = self.matching_head(answered).mean(1)  # [B + 2P, 2]
        labels = (torch.arange(len(logits), device=logits.device) < len(ids)).long()
        return nn.functional.cross_entropy(logits.float(), labels)

    def _told(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(
            self.telling_head(hidden), self.text.word_embeddings.weight, self.telling_bias
        )

    def clamp(self) -> None:
        """Keep the temperature where a step may not take it out of: [0.001, 0.5]."""
        with torch.no_grad():
            self.temperature.clamp_(0.001, 0.5)


def attention_mask(kind: MaskKind, real: Tensor, queries: int) -> Tensor:
    """Who sees whom: bool [B, 1, Q + T, Q + T], row by column.

    Args:
        kind: see the head of this file.
        real: which text positions are not filling, [B, T]; filling is seen by nobody.
        queries: Q; they come first.
    """
    n = queries + real.shape[1]
    position = torch.arange(n, device=real.device)
    query = position < queries
    if kind == "unimodal":
        sees = query[:, None] == query[None, :]
    elif kind == "bidirectional":
        sees = torch.ones(n, n, dtype=torch.bool, device=real.device)
    else:
        so_far = position[None, :] <= position[:, None]
        sees = query[None, :] | (~query[:, None] & so_far)
    there = torch.cat([real.new_ones(len(real), queries), real], 1)
    return (sees[None] & there[:, None, :])[:, None]


def similarities(image: Tensor, text: Tensor) -> Tensor:
    """Cosine of each picture's nearest query with each text: [B, Q, F] × [N, F] → [B, N]."""
    return torch.einsum("bqf,nf->bnq", image.float(), text.float()).amax(-1)


def hard_negatives(logits: Tensor, same: Tensor) -> Tensor:
    """For each row a column that is none of its own, drawn by softmax of the similarity: [B, N] → [B].

    A row all of whose columns are its own gets any; its `same.all(1)` tells.
    """
    weights = logits.float().softmax(1) + 1e-6  # none is impossible where the softmax underflows
    weights = weights.masked_fill(same, 0.0)
    weights[same.all(1)] = 1.0
    return weights.multinomial(1)[:, 0]


def _soft(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, target, label_smoothing=_SMOOTHING)


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors.float(), dim=-1)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllGather(torch.autograd.Function):
    """Rows of all processes; on the way back, each gets the sum of what all say of its own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        first = dist.get_rank() * ctx.rows
        return summed[first : first + ctx.rows]


def _gather(rows: Tensor) -> Tensor:
    """[B, …] of each process → [B × processes, …]; all must have as many rows."""
    if _processes() == 1:
        return rows
    gather: Any = _AllGather
    gathered: Tensor = gather.apply(rows)
    return gathered
