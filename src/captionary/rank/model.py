"""The multi-task DLRM of paper §3.2: ids, numbers, the visual vector and token bags in one interaction."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captionary.errors import bad_value
from captionary.rank.bags import Lists, pool
from captionary.rank.features import Schema
from captionary.rank.hash_embedding import HashEmbedding
from captionary.rank.initial import linear, normal, pretrained
from captionary.rank.interaction import BlockLinear, DotInteraction
from captionary.rank.settings import RankerConfig
from captionary.represent.vectors import TokenVectors

__all__ = ["Batch", "Output", "Ranker"]


class Batch(NamedTuple):
    """B impressions of M distinct items, whose content comes once an item (RecD, Zhao et al. 2023)."""

    dense: Tensor
    """[B, numeric] standardised."""
    ids: dict[str, Tensor]
    """`user`, `item` and each categorical field → [B]."""
    place: Tensor
    """[B] which of the M distinct items."""
    visual: Tensor | None
    """[M, D]."""
    tokens: Lists | None
    """M lists."""
    profiles: Lists | None
    """B x E lists, those of an impression side by side."""
    vectors: Mapping[str, tuple[Tensor, Tensor]] = MappingProxyType({})
    """Key → (P distinct vectors [P, D], [B] which of them)."""


class Output(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor
    """[B, T]."""
    penalty: Tensor
    """Mean squared length of the rows' user and item vectors, both added."""


class Ranker(nn.Module):
    """A shared-bottom multi-task DLRM; `seed` and names decide all initial values.

    Args:
        config: sizes and initial scales.
        schema: sizes of the inputs.
        seed: seed of the initial values.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: RankerConfig, schema: Schema, seed: int) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        width, tasks = config.embedding_dim, len(schema.tasks)
        sizes = {"user": schema.users, "item": schema.items}
        sizes |= {f"context.{name}": rows for name, rows in schema.context.items()}
        sizes |= {f"item.{name}": rows for name, rows in schema.item_categories.items()}
        # names of parameters cannot hold dots; the order of the fields is that of the schema
        self.tables = nn.ParameterDict(
            {_slot(name): _table(seed, name, rows, width, tasks, config) for name, rows in sizes.items()}
        )
        self.register_buffer("mean", torch.zeros(len(schema.numeric), dtype=torch.float64))
        self.register_buffer("scale", torch.ones(len(schema.numeric), dtype=torch.float64))
        widths = (len(schema.numeric), *config.bottom)
        layers: list[nn.Module] = []
        for depth, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [linear(seed, f"bottom.{depth}", inputs, outputs), nn.ReLU()]
        self.bottom = nn.Sequential(*layers, linear(seed, "bottom.out", widths[-1], width))
        if schema.visual:
            self.visual = linear(seed, "visual", schema.visual, width, gain=1.0)
            self.visual_norm = self._norm()
        self.vectors = nn.ModuleDict(
            {
                _slot(name): nn.Sequential(
                    linear(seed, f"vector.{name}", size, width, gain=1.0), self._norm()
                )
                for name, size in schema.vectors.items()
            }
        )
        if schema.vocabulary and config.token_table == "hash":
            self.token_hash = HashEmbedding(
                seed,
                schema.vocabulary,
                width,
                std=config.token_init,
                components=config.hash_components,
                functions=config.hash_functions,
                importance=config.hash_importance,
                append=config.hash_append,
                sparse_rows=config.sparse_rows,
            )
        elif schema.vocabulary:
            tokens = normal(seed, "token", (schema.vocabulary, width), config.token_init)
            self.token_table = nn.Parameter(tokens)
        self.interaction = DotInteraction(schema.fields, width, config.interaction)
        self.top_in = BlockLinear(seed, "top", self.interaction.blocks, config.top[0])
        self.top = nn.ModuleList(
            linear(seed, f"top.{depth}", inputs, outputs)
            for depth, (inputs, outputs) in enumerate(pairwise(config.top))
        )
        last, hidden = config.top[-1], config.tower
        parts = [normal(seed, f"tower.{task}.in", (last, hidden), (2 / last) ** 0.5) for task in schema.tasks]
        outs = [normal(seed, f"tower.{task}.out", (hidden,), 0.3 * hidden**-0.5) for task in schema.tasks]
        self.tower_in = nn.Parameter(torch.cat(parts, dim=1))  # [last, T x hidden]
        self.tower_in_bias = nn.Parameter(torch.zeros(tasks * hidden))
        self.tower_out = nn.Parameter(torch.stack(outs))  # [T, hidden]
        self.tower_out_bias = nn.Parameter(torch.zeros(tasks))

    def embeddings(self) -> list[nn.Parameter]:
        """The tables, which Adagrad trains."""
        tables = list(self.tables.values())
        if not self.schema.vocabulary:
            return tables
        if self.config.token_table == "hash":
            return [*tables, *self.token_hash.parameters()]
        return [*tables, self.token_table]

    def layers(self) -> list[nn.Parameter]:
        """All other parameters, which AdamW trains."""
        tables = {id(table) for table in self.embeddings()}
        return [parameter for parameter in self.parameters() if id(parameter) not in tables]

    def start_tokens(self, learnt: TokenVectors) -> None:
        """Let the token table start from `learnt`; rows that it does not know stay as they were drawn.

        Raises:
            CaptionaryError: no table of tokens with a row each, or vectors of fewer tokens or dimensions.
        """
        if not self.schema.vocabulary or self.config.token_table != "plain":
            rule = "of a ranker with token_table == plain, and tokens"
            raise bad_value("token_vectors", learnt.vectors.shape, rule)
        rows, width = self.token_table.shape
        if learnt.vectors.shape[0] < rows or learnt.vectors.shape[1] < width:
            rule = f"of {rows} tokens or more, and of {width} dimensions or more (embedding_dim)"
            raise bad_value("shape of token_vectors", learnt.vectors.shape, rule)
        vectors, known = torch.from_numpy(learnt.vectors[:rows]), torch.from_numpy(learnt.known[:rows])
        with torch.no_grad():
            self.token_table.copy_(pretrained(self.token_table, vectors, known, self.config.token_init))

    def forward(self, batch: Batch) -> Output:
        """Logits of B impressions for T tasks."""
        width, schema = self.config.embedding_dim, self.schema
        fields = [self.bottom(batch.dense)]
        bias: Tensor | None = None
        penalty = fields[0].new_zeros(())
        for name, index in batch.ids.items():
            table = self.tables[_slot(name)]
            rows = F.embedding(index, table, sparse=self.training and len(table) > self.config.sparse_rows)
            fields.append(rows[:, :width])
            if self.config.biases:
                bias = rows[:, width:] if bias is None else bias + rows[:, width:]
            if name in ("user", "item") and self.config.embedding_decay:
                penalty = penalty + rows.square().sum() / len(index)
        if batch.visual is not None:
            fields.append(self.visual_norm(self.visual(batch.visual))[batch.place])
        for name in schema.vectors:
            vectors, place = batch.vectors[name]
            fields.append(self.vectors[_slot(name)](vectors)[place])
        if batch.tokens is not None:
            fields.append(self._bags(batch.tokens)[batch.place])
        if batch.profiles is not None:
            fields += self._bags(batch.profiles).view(len(batch.dense), len(schema.events), width).unbind(1)
        hidden = F.relu(self.top_in(self.interaction(torch.stack(fields, dim=1))))  # [B, F, D] → [B, H]
        hidden = F.dropout(hidden, self.config.dropout, self.training)
        for layer in self.top:
            hidden = F.relu(layer(hidden))
        towers = F.relu(torch.addmm(self.tower_in_bias, hidden, self.tower_in))
        towers = towers.view(len(hidden), len(schema.tasks), -1)  # [B, T, tower]
        logits = (towers * self.tower_out).sum(-1) + self.tower_out_bias
        return Output(logits if bias is None else logits + bias, penalty)

    def _norm(self) -> nn.LayerNorm:
        norm = nn.LayerNorm(self.config.embedding_dim)
        nn.init.constant_(norm.weight, self.config.visual_scale / self.config.embedding_dim**0.5)
        return norm

    def _bags(self, lists: Lists) -> Tensor:
        # a mean over many tokens is short: unless normalised, its dot products vanish beside those of ids
        width = self.config.embedding_dim
        if self.training and self.config.token_dropout:
            kept = F.dropout(lists.weights, self.config.token_dropout)
            lists = lists._replace(weights=kept)
        hashed = self.config.token_table == "hash"
        pooled = self.token_hash(lists) if hashed else pool(self.token_table, lists)
        normalised = F.layer_norm(pooled, (width,))
        scaled: Tensor = normalised * (self.config.bag_scale / width**0.5)
        return scaled


def _slot(name: str) -> str:
    return name.replace(".", "/")


def _table(seed: int, name: str, rows: int, width: int, tasks: int, config: RankerConfig) -> nn.Parameter:
    vectors = normal(seed, f"table.{name}", (rows, width), config.id_init)
    biases = torch.zeros(rows, tasks if config.biases else 0)
    return nn.Parameter(torch.cat([vectors, biases], dim=1))  # [rows, D + T]
