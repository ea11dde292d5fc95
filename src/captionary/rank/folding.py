"""Fold a ranker for serving: what depends on the item alone becomes one row, on the request alone one state.

The first hidden layer of a ranker with dot products is linear in them and in the field vectors. With request fields u
and item fields v, weights w of the pairs and W of the fields, its H inputs to the first ReLU are

    Σ_uu' <u, u'> w_uu'  +  Σ_u u W_u  +  bias           of the request alone: one vector `start` [H]
    Σ_vv' <v, v'> w_vv'  +  Σ_v v W_v                    of the item alone: H numbers of its row
    Σ_uv  <u, v> w_uv  =  Σ_v v · (Σ_u u ⊗ w_uv)         v: D numbers a field of its row; in brackets: `matrix`

    row of an item   [ v_1 … v_I, dimension by dimension | H constants | T biases | share of the dense MLP ]
                       I · D                               H             T          its first width, or 0

so that a candidate costs one look-up and one product of I · D by H numbers, however many fields the request has: a
profile costs nothing per candidate. Where there are few pairs, P, and wide vectors, the dot products themselves are
cheaper: one product of I · D by P numbers, with the request's fields, and one of P by H, with w_uv. The first layers of
experts (MMoE, PLE) and of their gates are one such layer side by side; what comes behind is the ranker's own. Numeric
columns of items go through the dense MLP together with the request's: its first layer is split likewise, and the dense
vector is then a field of the candidate.

`concat` has no pairs: its candidates cost an addition. Cross layers (dcnv2) and profiles pooled by attention to the
item do not split: there a row holds the item's field vectors, and the ranker's own modules run over all fields of each
candidate.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captionary.rank.bags import Lists
from captionary.rank.features import Schema
from captionary.rank.interaction import Concatenation, DotInteraction, pair_name
from captionary.rank.model import Batch, Ranker, slot

__all__ = ["ItemInputs", "RequestState", "Served", "Sides"]


_WORTH_TWO = 4
"""Two products for one of so many times the work; for less, more calls take what is saved."""


class Sides(NamedTuple):
    """Which fields, by their place in `Schema.fields`, are known from what alone; together they are all."""

    request: tuple[int, ...]
    item: tuple[int, ...]
    mixed: tuple[int, ...]
    """The dense vector where items have numeric columns; profiles where they are pooled by attention to the item."""

    @classmethod
    def of(cls, schema: Schema, item_vectors: frozenset[str], *, attention: bool = False) -> Sides:
        """Split the fields of a ranker, whose dense vectors `item_vectors` belong to items, others to requests."""
        of_items = {"item", "visual", "tokens", *(f"item.{name}" for name in schema.item_categories)}
        of_items |= {f"vector.{name}" for name in item_vectors}
        mixed = {"dense"} if any(name.startswith("item.") for name in schema.numeric) else set()
        mixed |= {f"profile.{event}" for event in schema.events} if attention else set()
        places = list(enumerate(schema.fields))
        return cls(
            request=tuple(place for place, name in places if name not in of_items | mixed),
            item=tuple(place for place, name in places if name in of_items),
            mixed=tuple(place for place, name in places if name in mixed),
        )


class ItemInputs(NamedTuple):
    """The content of n items as the ranker reads it; indices are rows of its tables."""

    ids: dict[str, Tensor]
    """`item` and each `item.COLUMN` → int64 [n]."""
    numeric: Tensor
    """[n, item columns] standardised."""
    visual: Tensor | None
    """[n, D]."""
    tokens: Lists | None
    """n lists."""
    vectors: dict[str, Tensor]
    """Key → [n, D], of those that belong to items."""


class RequestState(NamedTuple):
    """What all candidates of a request share."""

    fields: Tensor
    """[U, D] the request's field vectors, in the order of `Sides.request`."""
    bias: Tensor
    """[T] of ids, zeros without."""
    matrix: Tensor
    """Folded: [I D, H], or the request's fields where each meets the item's, [I D, P]; else empty."""
    start: Tensor
    """Folded: [H]; else empty."""
    dense: Tensor
    """The request's share of the dense MLP's first layer, its bias included; empty unless dense is mixed."""
    dense_matrix: Tensor
    """Folded: what the dense vector is multiplied by, [D, H]; empty unless dense is mixed."""
    profiles: Lists | None
    """E lists, where they are pooled by attention."""


class Served(nn.Module):
    """A trained ranker, split by what it knows when; wraps the ranker's own layers.

    Args:
        ranker: in evaluation mode.
        item_vectors: keys of `Schema.vectors` that belong to items.
    """

    def __init__(self, ranker: Ranker, item_vectors: frozenset[str]) -> None:
        super().__init__()
        self.ranker, self.schema = ranker, ranker.schema
        self.width, self.tasks = ranker.config.embedding_dim, len(ranker.schema.tasks)
        self.attends = bool(ranker.schema.events) and ranker.config.profile_pooling == "attention"
        self.sides = Sides.of(ranker.schema, item_vectors, attention=self.attends)
        self.item_vectors = item_vectors
        self.crosses = isinstance(ranker.interaction, DotInteraction)
        self.folds = not self.attends and (self.crosses or isinstance(ranker.interaction, Concatenation))
        names = [name.startswith("item.") for name in self.schema.numeric]
        self.of_item = torch.tensor([place for place, of in enumerate(names) if of], dtype=torch.int64)
        self.of_request = torch.tensor([place for place, of in enumerate(names) if not of], dtype=torch.int64)
        self.mixes = bool(len(self.of_item))
        """Whether the dense vector is of both sides."""
        self.share = self._first_dense().out_features if self.mixes else 0
        self.vectors = len(self.sides.item) * self.width
        self.hidden, self.by_pairs = 0, False
        if self.folds:
            self._split(*_first(ranker))
            self.behind = _behind(ranker)
        self.row_width = self.vectors + self.hidden + self.tasks + self.share

    def _split(self, weight: Tensor, bias: Tensor, blocks: tuple[tuple[str, int], ...]) -> None:
        """Sort the first layer's weights [inputs, H] by what they multiply."""
        names, self.hidden, self.start = self.schema.fields, weight.shape[1], bias
        starts, at = {}, 0
        for block, width in blocks:
            starts[block], at = (at, at + width), at + width

        def of(block: str, width: int) -> Tensor:
            start, end = starts.get(
                block, (0, 0)
            )  # `dot` keeps the dense vector alone, `concat` has no pairs
            return weight[start:end] if end else weight.new_zeros(width, self.hidden)

        def pair(a: int, b: int) -> Tensor:
            return of(pair_name(names[a], names[b]), 1)[0]

        request, item, _ = self.sides
        self.cross = torch.stack([torch.cat([pair(u, v) for v in item]) for u in request])  # [U, I H]
        met = [
            (u, v)
            for u in range(len(request))
            for v in range(len(item))
            if pair_name(names[request[u]], names[item[v]]) in starts
        ]
        products = _WORTH_TWO * len(met) * (self.vectors + self.hidden)
        self.by_pairs = 0 < products < self.vectors * self.hidden
        """Whether dot products are made, rather than folded into the matrix: which multiplies less."""
        if self.by_pairs:
            self.pair_request = torch.tensor([u for u, _ in met])
            self.pair_item = F.one_hot(torch.tensor([v for _, v in met]), len(item)).T.float()  # [I, P]
            self.pair_weight = torch.stack([pair(request[u], item[v]) for u, v in met])  # [P, H]
        within = []
        for side in (request, item):
            pairs = [pair(a, b) for place, a in enumerate(side) for b in side[:place]]
            within.append(_Within(pairs, [of(names[a], self.width) for a in side]))
        self.of_request_alone, self.of_item_alone = within
        if self.mixes:
            self.dense_request = torch.stack([pair(0, u) for u in request])  # [U, H]
            self.dense_item = torch.stack([pair(0, v) for v in item])  # [I, H]
            self.dense_field = of(names[0], self.width)  # [D, H]

    # -- of items ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def fold(self, items: ItemInputs) -> Tensor:
        """Rows of n items, float32 [n, R]."""
        fields, bias = self.item_fields(items)
        parts = [fields.flatten(1)]
        if self.folds:
            # summed in double precision: a row is made once and read for months
            parts = [
                fields.transpose(1, 2).flatten(1),
                self.of_item_alone(fields.double()),
            ]
        parts.append(bias)
        if self.share:
            first = self._first_dense()
            parts.append(F.linear(items.numeric, first.weight[:, self.of_item]))
        return torch.cat([part.float() for part in parts], dim=1).contiguous()

    def item_fields(self, items: ItemInputs) -> tuple[Tensor, Tensor]:
        """(field vectors [n, I, D] in the order of `Sides.item`, biases [n, T])."""
        ranker, width = self.ranker, self.width
        found: dict[str, Tensor] = {}
        bias = torch.zeros(len(items.ids["item"]), self.tasks)
        for name, index in items.ids.items():
            rows = F.embedding(index, ranker.tables[slot(name)])
            found[name] = rows[:, :width]
            if ranker.config.biases:
                bias = bias + rows[:, width:]
        if items.visual is not None:
            found["visual"] = ranker.visual_norm(ranker.visual(items.visual))
        for name, vectors in items.vectors.items():
            found[f"vector.{name}"] = ranker.vectors[slot(name)](vectors)
        if items.tokens is not None:
            found["tokens"] = ranker._bags(items.tokens, ranker.config.token_pooling)
        names = self.schema.fields
        return torch.stack([found[names[place]] for place in self.sides.item], dim=1), bias

    # -- of both -----------------------------------------------------------------------------------------------------

    def forward(self, rows: Tensor, state: RequestState) -> Tensor:
        """Logits [C, T] of the candidates whose rows are [C, R]."""
        sizes = (self.vectors, self.hidden, self.tasks, self.share)
        vectors, constant, bias, share = torch.split_with_sizes(rows, sizes, dim=1)
        if not self.folds:
            return self.from_fields(self.fields(rows, state)) + (bias + state.bias)
        if self.by_pairs:
            inputs = torch.addmm(constant, vectors @ state.matrix, self.pair_weight)
        else:
            inputs = torch.addmm(constant, vectors, state.matrix) if self.crosses else constant.clone()
        if self.mixes:
            dense = self._dense(share, state)
            inputs = inputs.addmm_(dense, state.dense_matrix)
            if self.crosses:
                turned = vectors.reshape(len(rows), self.width, -1)
                dots = torch.bmm(dense.unsqueeze(1), turned).squeeze(1)  # [C, I]
                inputs = inputs.addmm_(dots, self.dense_item)
        logits: Tensor = self.behind(inputs.add_(state.start))
        return logits + (bias + state.bias)

    def from_fields(self, fields: Tensor) -> Tensor:
        """Logits [C, T], without biases of ids, of all field vectors [C, F, D]: nothing folded, for `explain`."""
        return self.ranker._towers(self.ranker.interaction(fields))

    def fields(self, rows: Tensor, state: RequestState) -> Tensor:
        """All field vectors of the candidates, [C, F, D], in the order of the schema."""
        count = len(self.sides.item)
        vectors = rows[:, : self.vectors]
        whole = rows.new_empty(len(rows), len(self.schema.fields), self.width)
        whole[:, list(self.sides.request)] = state.fields
        if self.folds:
            whole[:, list(self.sides.item)] = vectors.reshape(-1, self.width, count).transpose(1, 2)
        else:
            whole[:, list(self.sides.item)] = vectors.reshape(-1, count, self.width)
        if self.mixes:
            whole[:, 0] = self._dense(rows[:, self.row_width - self.share :], state)
        if state.profiles is not None:
            events = len(self.schema.events)
            place = torch.arange(events).expand(len(rows), events)
            by_name = dict(zip(self.schema.fields, whole.unbind(1), strict=True))
            attended = self.ranker._attended(by_name, _asked(state.profiles, place))
            whole[:, -events:] = torch.stack(attended, dim=1)
        return whole

    def _first_dense(self) -> nn.Linear:
        first = self.ranker.bottom[0]
        assert isinstance(first, nn.Linear)
        return first

    def _dense(self, share: Tensor, state: RequestState) -> Tensor:
        dense: Tensor = self.ranker.bottom[1:](share + state.dense)
        return dense


class _Within(nn.Module):
    """What the fields of one side give to the first layer: their pairs' dot products and themselves, weighted."""

    def __init__(self, pairs: list[Tensor], fields: list[Tensor]) -> None:
        super().__init__()
        low, high = torch.tril_indices(len(fields), len(fields), offset=-1)
        self.pairs = low * len(fields) + high
        self.weight = torch.cat([*(row.unsqueeze(0) for row in pairs), *fields])  # [S (S - 1) / 2 + S D, H]

    def forward(self, fields: Tensor) -> Tensor:
        """[n, S, D] → [n, H]."""
        dots = torch.bmm(fields, fields.transpose(1, 2)).flatten(1)[:, self.pairs]
        return torch.cat([dots, fields.flatten(1)], dim=1) @ self.weight.to(fields.dtype)


def _first(ranker: Ranker) -> tuple[Tensor, Tensor, tuple[tuple[str, int], ...]]:
    """All that is linear in the interaction's output, side by side: (weight [inputs, H], bias [H], blocks)."""
    if ranker.config.towers == "shared_bottom":
        return ranker.top_in.weight.detach(), ranker.top_in.bias.detach(), ranker.top_in.blocks
    experts = ranker.experts
    gates = [gates[0].detach() for gates in _gates(ranker)]
    weight = torch.cat([experts.first.weight.detach(), *gates], dim=1)
    bias = torch.cat([experts.first.bias.detach(), *(weight.new_zeros(gate.shape[1]) for gate in gates)])
    return weight, bias, experts.first.blocks


class _Behind(nn.Module):
    """The ranker's own towers, given the first layer's outputs [C, H] where they expect its inputs."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.towers = ranker

    def forward(self, outputs: Tensor) -> Tensor:
        """[C, H] → [C, T]."""
        return self.towers._towers(outputs)


def _behind(ranker: Ranker) -> _Behind:
    """Layers are shared with `ranker`; its first ones are replaced by what picks their part of the outputs."""
    behind = _shallow(ranker)
    if ranker.config.towers == "shared_bottom":
        behind.top_in = nn.Identity()
        return _Behind(behind)
    experts = _shallow(ranker.experts)
    widths = [ranker.experts.first.weight.shape[1], *(gates[0].shape[1] for gates in _gates(ranker))]
    pick = torch.split_with_sizes(torch.eye(sum(widths)), widths, dim=1)
    experts.first = _Leading(widths[0])
    experts.gate = nn.ParameterList([pick[1], *list(ranker.experts.gate)[1:]])
    if len(pick) > 2:
        experts.shared_gate = nn.ParameterList([pick[2], *list(ranker.experts.shared_gate)[1:]])
    behind.experts = experts
    return _Behind(behind)


class _Leading(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs[:, : self.width]


def _gates(ranker: Ranker) -> list[nn.ParameterList]:
    return [gates for gates in (ranker.experts.gate, ranker.experts.shared_gate) if len(gates)]


def _shallow(module: Any) -> Any:
    """The same module, in which another can take the place of a submodule."""
    found = copy.copy(module)
    found._modules = dict(module._modules)
    return found


def _asked(profiles: Lists, place: Tensor) -> Batch:
    """A batch of which the profiles alone are read."""
    nothing = place.new_zeros(0)
    return Batch(nothing, {}, nothing, None, None, profiles, profile_place=place)
