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
from captionary.rank.attention import ProfileAttention
from captionary.rank.bags import Lists, gather, pool, pool_normalised
from captionary.rank.calibration import Calibration
from captionary.rank.features import Schema
from captionary.rank.hash_embedding import HashEmbedding
from captionary.rank.initial import linear, normal, pretrained
from captionary.rank.interaction import BlockLinear, Concatenation, CrossNetwork, DotInteraction
from captionary.rank.losses import to_prediction
from captionary.rank.settings import RankerConfig
from captionary.rank.towers import Experts
from captionary.represent.vectors import TokenVectors

__all__ = ["Batch", "Output", "Ranker", "slot"]


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
    """P distinct lists, of users and of times between which nothing happened."""
    vectors: Mapping[str, tuple[Tensor, Tensor]] = MappingProxyType({})
    """Key → (P distinct vectors [P, D], [B] which of them)."""
    profile_place: Tensor | None = None
    """[B, E] which of the P lists each event type's profile is."""


class Output(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor
    """[B, T]."""
    penalty: Tensor
    """Mean squared length of the rows' user and item vectors, both added."""


class Ranker(nn.Module):
    """A multi-task DLRM; `seed` and names decide all initial values.

    Args:
        config: sizes and initial scales.
        schema: sizes of the inputs.
        seed: seed of the initial values.
    """

    mean: Tensor
    scale: Tensor
    calibration: Calibration | None = None
    """Fitted on rows beyond those of training, where it was asked for; saved with the weights."""

    def __init__(self, config: RankerConfig, schema: Schema, seed: int) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        width, tasks = config.embedding_dim, len(schema.tasks)
        sizes = {"user": schema.users, "item": schema.items}
        sizes |= {f"context.{name}": rows for name, rows in schema.context.items()}
        sizes |= {f"item.{name}": rows for name, rows in schema.item_categories.items()}
        # names of parameters cannot hold dots; the order of the fields is that of the schema
        self.tables = nn.ParameterDict(
            {slot(name): _table(seed, name, rows, width, tasks, config) for name, rows in sizes.items()}
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
                slot(name): nn.Sequential(linear(seed, f"vector.{name}", size, width, gain=1.0), self._norm())
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
        if schema.events and config.profile_pooling == "attention":
            asked = tuple(name for name in ("item", "visual", "tokens") if name in schema.fields)
            self.attention = ProfileAttention(asked, schema.events, width, config.token_init)
        self.interaction = _interaction(seed, config, schema)
        if config.towers == "shared_bottom":
            self.top_in = BlockLinear(seed, "top", self.interaction.blocks, config.top[0])
            self.top = nn.ModuleList(
                linear(seed, f"top.{depth}", inputs, outputs)
                for depth, (inputs, outputs) in enumerate(pairwise(config.top))
            )
        else:
            layered = config.towers == "ple"
            self.experts = Experts(
                seed,
                self.interaction.blocks,
                schema.tasks,
                config.top,
                shared=config.experts,
                own=config.task_experts if layered else 0,
                levels=config.expert_levels if layered else 1,
                dropout=config.dropout,
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
            table = self.tables[slot(name)]
            sparse = self.training and len(table) > self.config.sparse_rows
            rows = F.embedding(index, table, sparse=True) if sparse else gather(table, index)
            fields.append(rows[:, :width])
            if self.config.biases:
                bias = rows[:, width:] if bias is None else bias + rows[:, width:]
            if name in ("user", "item") and self.config.embedding_decay:
                penalty = penalty + rows.square().sum() / len(index)
        if batch.visual is not None:
            fields.append(gather(self.visual_norm(self.visual(batch.visual)), batch.place))
        for name in schema.vectors:
            vectors, place = batch.vectors[name]
            fields.append(gather(self.vectors[slot(name)](vectors), place))
        if batch.tokens is not None:
            fields.append(gather(self._bags(batch.tokens, self.config.token_pooling), batch.place))
        logits = self._towers(self._cross(fields, batch))
        return Output(logits if bias is None else logits + bias, penalty)

    def _cross(self, fields: list[Tensor], batch: Batch) -> Tensor:
        """The interaction of all fields but profiles, each [B, D], and of the batch's profiles."""
        if batch.profiles is None or batch.profile_place is None:
            return self.interaction(torch.stack(fields, dim=1))  # type: ignore[no-any-return]
        if self.config.profile_pooling == "attention":
            fields += self._attended(dict(zip(self.schema.fields, fields, strict=False)), batch)
            return self.interaction(torch.stack(fields, dim=1))  # type: ignore[no-any-return]
        bags = self._bags(batch.profiles, self.config.profile_pooling)  # [P, D]
        if isinstance(self.interaction, DotInteraction) and self.interaction.crossed == len(fields):
            return self.interaction.shared(torch.stack(fields, dim=1), bags, batch.profile_place)
        fields += [gather(bags, place) for place in batch.profile_place.unbind(1)]
        return self.interaction(torch.stack(fields, dim=1))  # type: ignore[no-any-return]

    def predictions(self, logits: Tensor, *, calibrated: bool = False) -> Tensor:
        """Probabilities, or amounts in the unit of the label, from logits [B, T].

        Raises:
            CaptionaryError: `calibrated` without a calibration.
        """
        if not calibrated:
            return to_prediction(logits, self.schema.task_kinds)
        if self.calibration is None:
            raise bad_value("calibrated", True, "False", where="the ranker has no calibration")
        return self.calibration.apply(logits, self.schema.tasks, self.schema.task_kinds)

    def _towers(self, crossed: Tensor) -> Tensor:
        """The interaction's output [B, width of its blocks] → logits [B, T]."""
        tasks = len(self.schema.tasks)
        if self.config.towers == "shared_bottom":
            hidden = F.relu(self.top_in(crossed))
            hidden = F.dropout(hidden, self.config.dropout, self.training)
            for layer in self.top:
                hidden = F.relu(layer(hidden))
            towers = torch.addmm(self.tower_in_bias, hidden, self.tower_in).view(len(hidden), tasks, -1)
        else:
            weight = self.tower_in.view(-1, tasks, self.config.tower)  # [last, T, tower]
            towers = torch.einsum("bti,ith->bth", self.experts(crossed), weight)
            towers = towers + self.tower_in_bias.view(tasks, -1)
        logits: Tensor = (F.relu(towers) * self.tower_out).sum(
            -1
        ) + self.tower_out_bias  # [B, T, tower] → [B, T]
        return logits

    def _norm(self) -> nn.LayerNorm:
        norm = nn.LayerNorm(self.config.embedding_dim)
        nn.init.constant_(norm.weight, self.config.visual_scale / self.config.embedding_dim**0.5)
        return norm

    def _bags(self, lists: Lists, pooling: str) -> Tensor:
        lists = self._dropped(lists)
        if pooling == "sum":
            owner = torch.repeat_interleave(lists.offsets.diff())
            mass = lists.weights.new_zeros(len(lists.offsets) - 1).index_add(0, owner, lists.weights)
            louder = lists.offsets.diff() / torch.where(mass == 0, 1.0, mass)  # tokens ÷ weight of the list
            lists = lists._replace(weights=lists.weights * louder[owner])
        if self.config.token_table == "hash":
            pooled = self.token_hash(lists)
        else:
            sparse = self.training and len(self.token_table) > self.config.sparse_rows
            if pooling == "mean":
                return pool_normalised(self.token_table, lists, self._bag_scale, sparse=sparse)
            pooled = pool(self.token_table, lists, sparse=sparse)
        return pooled * self.config.bag_scale if pooling == "sum" else self._normalised(pooled)

    def _attended(self, fields: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, ...]:
        """The profile of each event type, as the items of the impressions see it: E times [B, D]."""
        assert batch.profiles is not None
        assert batch.profile_place is not None
        lists = self._dropped(batch.profiles)
        if self.config.token_table == "hash":
            used, place = torch.unique(lists.values, return_inverse=True)
            tokens = gather(self.token_hash.rows(used), place)
        else:
            tokens = gather(self.token_table, lists.values)
        item = torch.cat([fields[name] for name in self.attention.fields], dim=1)
        return self._normalised(self.attention(item, tokens, lists, batch.profile_place)).unbind(1)

    def _dropped(self, lists: Lists) -> Lists:
        if not (self.training and self.config.token_dropout):
            return lists
        return lists._replace(weights=F.dropout(lists.weights, self.config.token_dropout))

    def _normalised(self, pooled: Tensor) -> Tensor:
        scaled: Tensor = F.layer_norm(pooled, (self.config.embedding_dim,)) * self._bag_scale
        return scaled

    @property
    def _bag_scale(self) -> float:
        scale: float = self.config.bag_scale / self.config.embedding_dim**0.5
        return scale


def _interaction(
    seed: int, config: RankerConfig, schema: Schema
) -> DotInteraction | CrossNetwork | Concatenation:
    width, fields = config.embedding_dim, schema.fields
    if config.interaction == "dcnv2":
        return CrossNetwork(seed, fields, width, layers=config.cross_layers, rank=config.cross_rank)
    if config.interaction == "concat":
        return Concatenation(fields, width)
    meets = schema.item_fields if config.profile_fields == "meet" else ()
    return DotInteraction(fields, width, config.interaction, meets)


def slot(name: str) -> str:
    """The name of a field as that of a parameter, which cannot hold dots."""
    return name.replace(".", "/")


def _table(seed: int, name: str, rows: int, width: int, tasks: int, config: RankerConfig) -> nn.Parameter:
    vectors = normal(seed, f"table.{name}", (rows, width), config.id_init)
    biases = torch.zeros(rows, tasks if config.biases else 0)
    return nn.Parameter(torch.cat([vectors, biases], dim=1))  # [rows, D + T]
