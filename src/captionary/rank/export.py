"""From a trained ranker and the data that it ranks to an artefact that `ServingRanker` loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from captionary.errors import bad_value
from captionary.rank.artefact import Artefact, as_lists, standardise, write_artefact
from captionary.rank.data import RankingData
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.folding import ItemInputs, Served
from captionary.rank.lookup import Lookup
from captionary.rank.model import Ranker
from captionary.rank.vocabulary import Vocabulary
from captionary.represent.jagged import Jagged
from captionary.represent.vectors import Whitening

__all__ = ["Exported", "RawKeys", "artefact_of", "export_ranker", "fold_items", "write_export"]

Ints = npt.NDArray[np.int64]
_CHUNK = 8192  # items that are folded together


@dataclass(frozen=True, kw_only=True)
class RawKeys:
    """The raw ids and categories behind the indices of a `RankingData`."""

    items: Any
    """[I] ids."""
    users: Any
    """[N] ids."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """Categorical context column → [N]."""
    item_categories: Mapping[str, Any] = field(default_factory=dict)
    """Categorical item column → [I]."""


class Exported(NamedTuple):
    """What an export made."""

    folder: Path
    version: str
    items: int
    row_bytes: int
    """Of one item, in the artefact and in an online store."""
    folds: bool
    """False: the ranker's interaction is computed over all fields of every candidate."""

    def to_string(self) -> str:
        """For people."""
        how = "folded" if self.folds else "field vectors kept, as this interaction does not fold"
        return f"{self.items:,} items, {self.row_bytes} bytes each ({how}); version {self.version}"


def export_ranker(
    ranker: Ranker,
    data: RankingData,
    features: FeatureSet,
    keys: RawKeys,
    out: Path,
    *,
    whitening: Whitening | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Exported:
    """Fold every item of `data` and write the artefact.

    Args:
        ranker: trained, in evaluation mode.
        data: its items are folded; its impressions say how raw ids became indices.
        features: what the ranker reads of it.
        keys: the raw ids.
        out: a new folder, or one that an earlier export wrote.
        whitening: how `data.visual` was made of the encoder's vectors, so that new items can be folded from these.
        provenance: kept beside, for people.

    Raises:
        CaptionaryError: data that the ranker was not made for, keys that do not fit, a folder that cannot be written.
    """
    parts = artefact_of(ranker, data, features, keys, whitening=whitening, provenance=provenance)
    return write_export(parts, out)


def write_export(parts: Artefact, out: Path) -> Exported:
    """Write an artefact, and say what it is.

    Raises:
        CaptionaryError: see `captionary.rank.artefact.write_artefact`.
    """
    version = write_artefact(parts, out)
    folds = Served(parts.ranker, parts.item_vectors).folds
    return Exported(Path(out), version, len(parts.rows) - 1, 4 * parts.rows.shape[1], folds)


def artefact_of(
    ranker: Ranker,
    data: RankingData,
    features: FeatureSet,
    keys: RawKeys,
    *,
    whitening: Whitening | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Artefact:
    """What `export_ranker` writes, in memory; arguments and errors are its own."""
    ranker.schema.check_accepts(Schema.of(data, features))
    ranker = ranker.eval()
    of_items = frozenset(name for name in features.vectors if data.vectors[name].row is None)
    ids = keys.items if isinstance(keys.items, pa.Array | pa.ChunkedArray) else pa.array(keys.items)
    lookups = {"user": _lookup("user", keys.users, data.user, data)}
    lookups["item"] = _lookup("item", ids, data.item_id, data)
    for kind, raw, indices in (
        ("context", keys.context, data.context_categorical),
        ("item", keys.item_categories, data.item_categorical),
    ):
        for name, index in indices.items():
            if name not in raw:
                raise bad_value(f"raw values of {kind} column {name}", "absent", "given")
            lookups[f"{kind}.{name}"] = _lookup(f"{kind}.{name}", raw[name], index, data)
    rows, item_rows = fold_items(
        ranker,
        of_items,
        ids,
        len(data.item_id),
        lambda chosen: _inputs(chosen, ranker, data, features, of_items),
    )
    return Artefact(
        ranker=ranker,
        rows=rows,
        item_rows=item_rows,
        lookups=lookups,
        item_vectors=of_items,
        whitening=whitening if ranker.schema.visual else None,
        tokens=data.item_tokens[features.tokens] if features.tokens else None,
        provenance=provenance or {},
    )


def fold_items(
    ranker: Ranker,
    of_items: frozenset[str],
    ids: pa.Array | pa.ChunkedArray,
    count: int,
    inputs: Callable[[Ints], ItemInputs],
) -> tuple[npt.NDArray[np.float32], Lookup]:
    """(rows [1 + I, R], that of an unseen item first; which of them each raw id has).

    Args:
        ranker: in evaluation mode.
        of_items: its dense vectors that belong to items.
        ids: raw ids of the items [I].
        count: I.
        inputs: the content of some of them, by their place in `ids`.

    Raises:
        CaptionaryError: weights that are not finite; ids that are not unique, or null.
    """
    for name, parameter in ranker.named_parameters():
        if not parameter.isfinite().all():
            raise bad_value("weights", name, "finite", where="the ranker", todo="train it again")
    distinct = pc.count_distinct(ids).as_py()
    if distinct != count or len(ids) != distinct or ids.null_count:
        raise bad_value("item ids", f"{distinct} distinct", f"{count}, unique and not null")
    served = Served(ranker, of_items)
    rows = np.empty((1 + count, served.row_width), np.float32)
    rows[:1] = served.fold(_unseen(ranker.schema, of_items)).numpy()
    for start in range(0, count, _CHUNK):
        chosen = np.arange(start, min(start + _CHUNK, count))
        rows[1 + chosen] = served.fold(inputs(chosen)).numpy()
    return rows, Lookup(Vocabulary.fit(ids), "item")


def _lookup(name: str, raw: Any, index: Ints, data: RankingData) -> Lookup:
    """How raw keys [N] became `index` [N]: by the data's own vocabulary, or as the two columns say."""
    said = name.replace(".", " column ", 1)
    if len(raw) != len(index):
        raise bad_value(f"raw keys of {said}", len(raw), str(len(index)))
    known = data.vocabularies.get(name)
    if known is not None and np.array_equal(known.index(raw), index):
        return Lookup(known, said)
    # a vocabulary numbers ids as they come: let them come by their row, each once
    first = np.unique(index, return_index=True)[1]
    if (
        index[first].tolist() != list(range(index[first][0], len(first) + index[first][0]))
        or index[first][0] > 1
    ):
        raise bad_value(f"rows of {said}", "gaps", "each of an id", todo="give the data its vocabularies")
    shown = first[index[first] > 0]
    array = raw if isinstance(raw, pa.Array | pa.ChunkedArray) else pa.array(raw, from_pandas=True)
    return Lookup(Vocabulary.fit(array.take(pa.array(shown))), said)


def _inputs(
    chosen: Ints, ranker: Ranker, data: RankingData, features: FeatureSet, of_items: frozenset[str]
) -> ItemInputs:
    """The content of the items `chosen` [n]."""
    ids = {"item": data.item_id[chosen]}
    ids |= {f"item.{name}": index[chosen] for name, index in data.item_categorical.items()}
    columns = [np.asarray(values[chosen], np.float64) for values in data.item_numeric.values()]
    places = [k for k, name in enumerate(ranker.schema.numeric) if name.startswith("item.")]
    numeric = np.stack(columns, axis=1) if columns else np.empty((len(chosen), 0))
    standard = standardise(numeric, ranker.mean.numpy()[places], ranker.scale.numpy()[places])
    visual = data.visual[chosen].astype(np.float32) if features.visual and data.visual is not None else None
    tokens = data.item_tokens[features.tokens].take(chosen) if features.tokens else None
    return ItemInputs(
        ids={name: torch.from_numpy(np.asarray(index, np.int64)) for name, index in ids.items()},
        numeric=torch.from_numpy(standard),
        visual=None if visual is None else torch.from_numpy(visual),
        tokens=None if tokens is None else as_lists(tokens, ranker.schema.vocabulary),
        vectors={
            name: torch.from_numpy(data.vectors[name].values[chosen].astype(np.float32))
            for name in features.vectors
            if name in of_items
        },
    )


def _unseen(schema: Schema, of_items: frozenset[str]) -> ItemInputs:
    """One item never seen, of which nothing is known."""
    ids = {"item": torch.zeros(1, dtype=torch.int64)}
    ids |= {f"item.{name}": torch.zeros(1, dtype=torch.int64) for name in schema.item_categories}
    own = sum(name.startswith("item.") for name in schema.numeric)
    empty = Jagged(np.empty(0, np.int32), np.zeros(2, np.int64))
    return ItemInputs(
        ids=ids,
        numeric=torch.zeros(1, own),
        visual=torch.zeros(1, schema.visual) if schema.visual else None,
        tokens=as_lists(empty, schema.vocabulary) if schema.tokens else None,
        vectors={name: torch.zeros(1, size) for name, size in schema.vectors.items() if name in of_items},
    )
