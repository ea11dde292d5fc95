"""What the axes of a ranker's parameters mean: named blocks along each, by which two rankers' weights are matched.

top_in.weight   [item*user | item | user] x [hidden]        a row block for each pair and field
tables.user     [rows] x [vector | like | share]            a column for each task's bias
tower_in        [last] x [like | share]                     a column block for each task
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from captionary.rank.interaction import CrossNetwork
from captionary.rank.model import Ranker

__all__ = ["Axis", "layout", "tables_of"]

Axis = tuple[tuple[str, int], ...]
"""(name, width) of each block along an axis, in order; one block named "" where nothing is told apart."""


def layout(model: Ranker) -> dict[str, tuple[Axis, ...]]:
    """The axes of every parameter and saved buffer of `model`."""
    config, schema = model.config, model.schema
    width, tasks, fields = config.embedding_dim, schema.tasks, schema.fields
    by_task, by_field = _each(tasks), _each(fields, width)
    known: dict[str, dict[int, Axis]] = {
        "mean": {0: _each(schema.numeric)},
        "scale": {0: _each(schema.numeric)},
        "bottom.0.weight": {1: _each(schema.numeric)},
        "top_in.weight": {0: model.interaction.blocks},
        "tower_in": {1: _each(tasks, config.tower)},
        "tower_in_bias": {0: _each(tasks, config.tower)},
        "tower_out": {0: by_task},
        "tower_out_bias": {0: by_task},
    }
    columns = (("vector", width), *(by_task if config.biases else ()))
    known |= {f"tables.{name}": {1: columns} for name in model.tables}
    if hasattr(model, "attention"):
        asked = _each(model.attention.fields, width)
        known["attention.weight"] = {0: asked, 1: _each(schema.events, width)}
    if isinstance(model.interaction, CrossNetwork):
        for layer in range(config.cross_layers):
            known[f"interaction.weight.{layer}"] = {0: by_field, 1: by_field}
            known[f"interaction.project.{layer}"] = {0: by_field}
            known[f"interaction.expand.{layer}"] = {1: by_field}
            known[f"interaction.bias.{layer}"] = {0: by_field}
    if hasattr(model, "experts"):
        known |= _experts(model)
    state = model.state_dict()
    return {name: _axes(value, known.get(name, {})) for name, value in state.items()}


def tables_of(model: Ranker) -> dict[str, str]:
    """Parameter → the table whose rows its first axis is, named as in `RankingData.vocabularies`, or `token`."""
    schema = model.schema
    names = ["user", "item", *(f"context.{name}" for name in schema.context)]
    names += [f"item.{name}" for name in schema.item_categories]
    found = {f"tables.{name.replace('.', '/')}": name for name in names}
    if hasattr(model, "token_hash"):
        found["token_hash.importance"] = "token"
    elif schema.vocabulary:
        found["token_table"] = "token"
    return found


def _experts(model: Ranker) -> dict[str, dict[int, Axis]]:
    experts, config, tasks = model.experts, model.config, model.schema.tasks
    blocks, first, last = model.interaction.blocks, config.top[0], config.top[-1]
    own = [f"own.{k}" for k in range(experts.own)]
    shared = [f"shared.{k}" for k in range(experts.shared)]
    gates = _each(f"{task}>{one}" for task in tasks for one in (*own, *shared))
    found: dict[str, dict[int, Axis]] = {
        "first.weight": {0: blocks, 1: _each(experts.names, first)},
        "first.bias": {0: _each(experts.names, first)},
        "gate.0": {0: blocks, 1: gates},
        "shared_gate.0": {0: blocks, 1: _each(experts.names)},
    }
    for depth in range(len(experts.deeper)):
        found[f"deeper.{depth}"] = found[f"deeper_bias.{depth}"] = {0: _each(experts.names)}
    for level in range(config.expert_levels - 1):
        found[f"own_experts.{level}"] = found[f"own_bias.{level}"] = {0: _each(tasks), 2: _each(own, last)}
        found[f"shared_experts.{level}"] = {1: _each(shared, last)}
        found[f"shared_bias.{level}"] = {0: _each(shared, last)}
        found[f"gate.{level + 1}"] = {0: _each(tasks), 2: _each([*own, *shared])}
        found[f"shared_gate.{level + 1}"] = {1: _each(experts.names)}
    return {f"experts.{name}": axes for name, axes in found.items()}


def _each(names: Iterable[str], width: int = 1) -> Axis:
    return tuple((name, width) for name in names)


def _axes(value: torch.Tensor, known: dict[int, Axis]) -> tuple[Axis, ...]:
    return tuple(known.get(axis, (("", size),)) for axis, size in enumerate(value.shape))
