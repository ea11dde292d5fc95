"""A trained ranker goes on with other features, tasks or ids: what adopting caption features in production means.

    trained: ids, visual             warm_start(trained, schema with tokens and profiles, config, seed)
    started: ids, visual, tokens, profiles
        tables, layers, blocks of what both have    the trained weights
        token table                                 drawn by name and seed, as in training from scratch
        blocks of the top layer that read tokens    zero: at step 0 the predictions are the trained ones

A block that starts at zero still learns at once: its gradient is what it reads, which is not zero (as the zero matrix
of LoRA, Hu et al. 2021). Rows that a table has gained start from row 0, by which their ids were scored so far.
What is removed takes its part of the predictions with it, and further training has to make up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from captionary.errors import bad_value, nearest
from captionary.rank.features import Schema
from captionary.rank.interaction import pair_name
from captionary.rank.layout import Axis, layout, tables_of
from captionary.rank.model import Ranker
from captionary.rank.settings import RankerConfig

__all__ = ["Carrier", "WarmStart", "warm_start"]

Ints = npt.NDArray[np.int64]

_READERS = ("top_in.weight", "experts.first.weight", "interaction.weight.", "interaction.project.")


class WarmStart(NamedTuple):
    """What became of the parameters, by name."""

    kept: tuple[str, ...]
    """As they were trained, whole."""
    resized: tuple[str, ...]
    """Trained where both rankers have a block or row, new elsewhere."""
    new: tuple[str, ...]
    """Of the new ranker alone, as drawn by its seed."""
    dropped: tuple[str, ...]
    """Of the trained ranker alone."""
    added_fields: tuple[str, ...]
    """Fields that the trained ranker did not have, or of another shape: they start without a say."""
    removed_fields: tuple[str, ...]
    """Fields that the new ranker does not have."""

    def to_text(self) -> str:
        """One line a field of this report."""
        return "\n".join(f"{name}: {', '.join(found) or '-'}" for name, found in self._asdict().items())


class Carrier:
    """Moves values that belong to a ranker's parameters (weights, accumulators of optimizers) into another ranker's.

    Args:
        old: where they are from.
        new: where they go.
        rows: table → for each row of the new table the old row that it goes on from, -1 for none. Where not given,
            rows keep their numbers, as those of a `Vocabulary` that grew do.
    """

    def __init__(self, old: Ranker, new: Ranker, rows: Mapping[str, Ints] | None = None) -> None:
        self.old, self.new = layout(old), layout(new)
        self.tables = tables_of(new)
        self.rows = {name: np.asarray(index, np.int64) for name, index in (rows or {}).items()}
        parameters = {table: name for name, table in self.tables.items()}
        for table, index in self.rows.items():
            if table not in parameters:
                raise bad_value("rows of table", table, nearest(table, parameters))
            size = self.new[parameters[table]][0][0][1]
            known = self.old[parameters[table]][0][0][1] if parameters[table] in self.old else 0
            if index.shape != (size,) or index.min(initial=0) < -1 or index.max(initial=-1) >= known:
                found = f"{index.shape} from {index.min(initial=0)} to {index.max(initial=0)}"
                raise bad_value(f"rows of table {table}", found, f"({size},) from -1 to {known - 1}")

    def into(self, name: str, value: Tensor, target: Tensor, *, unseen: bool = False) -> str:
        """Write what `value` of the old parameter `name` has for the new one into `target`, in place.

        Args:
            name: of the parameter.
            value: of its shape in the old ranker, or of that of its first axes.
            target: of its shape in the new ranker, or of that of its first axes.
            unseen: whether rows that an id table has gained start from the values of row 0.

        Returns:
            `kept` where all of both was matched, `resized` where some was, `new` where nothing was.
        """
        if name not in self.old or name not in self.new or value.ndim != target.ndim:
            return "new"
        whole, sources, places = True, [], []
        for axis in range(value.ndim):
            known, wanted = self.old[name][axis], self.new[name][axis]
            table = self.tables.get(name) if axis == 0 else None
            source, place = self._rows(table, known, wanted) if table else _match(known, wanted)
            whole &= len(source) == value.shape[axis] == target.shape[axis]
            if not len(source) and (value.shape[axis] or target.shape[axis]):
                return "new"
            sources.append(torch.from_numpy(source).to(value.device))
            places.append(torch.from_numpy(place).to(target.device))
        with torch.no_grad():
            target[_grid(places)] = value[_grid(sources)].to(target)
            if unseen and self.tables.get(name, "token") != "token":
                gained = torch.ones(len(target), dtype=torch.bool)
                gained[places[0]] = False
                first = [sources[0].new_zeros(1), *sources[1:]]
                target[_grid([gained.nonzero().squeeze(1), *places[1:]])] = value[_grid(first)].to(target)
        return "kept" if whole else "resized"

    def _rows(self, table: str, known: Axis, wanted: Axis) -> tuple[Ints, Ints]:
        """(old rows, new rows) that belong together."""
        if table not in self.rows:
            both = np.arange(min(known[0][1], wanted[0][1]))
            return both, both
        index = self.rows[table]
        return index[index >= 0], np.flatnonzero(index >= 0)


def _match(known: Axis, wanted: Axis) -> tuple[Ints, Ints]:
    """(old places, new places) of the blocks of the same name and width."""
    starts = dict(zip(known, np.cumsum([0, *(width for _, width in known)]), strict=False))
    source, place, start = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for block in wanted:
        if block in starts:
            source.append(np.arange(starts[block], starts[block] + block[1]))
            place.append(np.arange(start, start + block[1]))
        start += block[1]
    return np.concatenate(source), np.concatenate(place)


def _grid(places: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Numbers along each axis as an index of all their combinations."""
    count = len(places)
    return tuple(
        place.view(*(-1 if k == axis else 1 for k in range(count))) for axis, place in enumerate(places)
    )


def warm_start(
    trained: Ranker,
    schema: Schema,
    config: RankerConfig,
    seed: int,
    *,
    rows: Mapping[str, Ints] | None = None,
    numeric: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Ranker, WarmStart]:
    """A ranker of `schema` that goes on from `trained`; see the module.

    Added features, and ids that tables have gained, leave the predictions as they are (up to rounding) until training
    begins. So do added tasks, for those that there were, except in PLE of several levels.

    Args:
        trained: the ranker so far; not changed.
        schema: what the new ranker reads and predicts.
        config: of the new ranker. What it shapes otherwise than `trained.config` starts anew.
        seed: of the initial values of what is new.
        rows: table (`user`, `item`, `context.NAME`, `item.NAME`, `token`) → for each new row the old one, -1 for none:
            see `Vocabulary.rows_in`. Rows keep their numbers in tables that are not named.
        numeric: added numeric columns → (mean, standard deviation) of their training rows; default (0, 1).

    Returns:
        (the ranker, ready to be trained, and what became of each parameter). It has no calibration: fit one anew.

    Raises:
        CaptionaryError: another `embedding_dim`, `rows` that do not fit the tables, or a `numeric` column that is not
            added.
    """
    if config.embedding_dim != trained.config.embedding_dim:
        rule = f"{trained.config.embedding_dim}, that of the trained ranker"
        raise bad_value("embedding_dim", config.embedding_dim, rule, todo="or train from scratch")
    model = Ranker(config, schema, seed)
    carrier = Carrier(trained, model, rows)
    tables = carrier.tables
    old, state = trained.state_dict(), model.state_dict()
    rehashed = _rehashed(trained, model)
    found = {}
    for name, target in state.items():
        skip = name not in old or (rehashed and tables.get(name) == "token")
        found[name] = "new" if skip else carrier.into(name, old[name], target, unseen=True)
    added = _added(trained, model, found, rehashed)
    _silence(model, added)
    _scale(model, trained, numeric or {})
    by_fate = {
        fate: tuple(name for name in found if found[name] == fate) for fate in ("kept", "resized", "new")
    }
    return model, WarmStart(
        **by_fate,
        dropped=tuple(name for name in old if found.get(name, "new") == "new"),
        added_fields=added,
        removed_fields=tuple(name for name in trained.schema.fields if name not in schema.fields),
    )


def _added(trained: Ranker, model: Ranker, found: Mapping[str, str], rehashed: bool) -> tuple[str, ...]:
    """Fields that `trained` does not have, or whose own parameters do not fit."""
    own = {"visual": "visual.weight"}
    own |= {f"vector.{name}": f"vectors.{name.replace('.', '/')}.0.weight" for name in model.schema.vectors}
    own |= {table: name for name, table in tables_of(model).items() if table != "token"}
    tokens = "token_hash.components" if hasattr(model, "token_hash") else "token_table"
    own |= {name: tokens for name in model.schema.fields if name == "tokens" or name.startswith("profile.")}
    fresh = []
    for name in model.schema.fields:
        parameter = own.get(name)
        unlike = parameter is not None and found[parameter] == "new"
        if name not in trained.schema.fields or unlike or (rehashed and parameter == tokens):
            fresh.append(name)
    return tuple(fresh)


def _silence(model: Ranker, added: tuple[str, ...]) -> None:
    """What reads an added field starts at zero."""
    fields = model.schema.fields
    names = {pair_name(one, other) for one in added for other in fields if one != other} | set(added)
    state = model.state_dict()
    for name, axes in layout(model).items():
        if name.startswith(_READERS):
            start = 0
            for block, width in axes[0]:
                if block in names:
                    state[name][start : start + width] = 0
                start += width


def _scale(model: Ranker, trained: Ranker, numeric: Mapping[str, tuple[float, float]]) -> None:
    """Added numeric columns: their moments, and weights of zero in the dense MLP."""
    columns, first = model.schema.numeric, model.bottom[0]
    assert isinstance(first, nn.Linear)
    added = [name for name in columns if name not in trained.schema.numeric]
    for name in numeric:
        if name not in added:
            raise bad_value("numeric", name, "one of the added columns: " + (", ".join(added) or "none"))
    with torch.no_grad():
        for name in added:
            place = columns.index(name)
            mean, spread = numeric.get(name, (0.0, 1.0))
            model.mean[place], model.scale[place] = mean, spread or 1.0
            first.weight[:, place] = 0


def _rehashed(trained: Ranker, model: Ranker) -> bool:
    """Whether tokens that both know have other rows now."""
    if not (hasattr(trained, "token_hash") and hasattr(model, "token_hash")):
        return False
    one, other = trained.token_hash, model.token_hash
    both = min(len(one.bucket), len(other.bucket))
    same = torch.equal(one.bucket[:both], other.bucket[:both])
    return not (same and torch.equal(one.chosen[:both], other.chosen[:both]))
