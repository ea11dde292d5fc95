"""Item tokens and profiles as the inputs of an existing TorchRec model.

    rows                 0          1        2
    item_tokens         [7, 3]      []      [5]
    profile_like        [3]        [9, 2]   []

    keys      [item_tokens, profile_like]
    values    [7, 3, 5,  3, 9, 2]
    lengths   [2, 0, 1,  1, 2, 0]
    weights   [1., 1., 1.,  1., .6, .4]

All keys are ids of one vocabulary: give them one table (`feature_names=` all keys) and weighted sum pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from captionary.errors import bad_value
from captionary.interchange.parquet import Metadata, profile_files, read_metadata
from captionary.rank.bags import Lists
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import Profiles, SharedProfiles
from captionary.represent.tables import read_item_tokens

__all__ = ["Exported", "Feature", "features_of", "read_export", "to_keyed_jagged", "to_tensors"]

Rows = npt.NDArray[np.int64]


class Feature(NamedTuple):
    """The lists of N rows, each held once however many rows have it."""

    lists: Jagged
    """L lists."""
    list_of: Rows | None = None
    """[N] which list each row has, -1: an empty one; None: row i has list i."""

    @property
    def rows(self) -> int:
        """N."""
        return self.lists.rows if self.list_of is None else len(self.list_of)


class Exported(NamedTuple):
    """An exported folder, read."""

    metadata: Metadata
    """That of the item tokens."""
    item_ids: pa.Array
    item_tokens: Jagged
    profiles: dict[str, tuple[pa.Array, Jagged]]
    """event type -> (user ids, the latest list of each)."""

    @property
    def keys(self) -> list[str]:
        """The keys of the features: item_tokens, and profile_EVENT for each event type."""
        return ["item_tokens", *(f"profile_{event}" for event in self.profiles)]

    @property
    def user_ids(self) -> pa.Array:
        """The ids of all users that have a profile of any event type, in rising order."""
        found = pa.concat_arrays(
            [users for users, _ in self.profiles.values()] or [pa.array([], pa.string())]
        )
        found = pc.unique(found)
        return found.take(pc.sort_indices(found))

    @property
    def vocabulary_size(self) -> int:
        """Rows that the token table needs."""
        return self.metadata.vocabulary_size

    def features(self, user_ids: Any, item_ids: Any) -> dict[str, Feature]:
        """The features of N pairs of a user and an item, for requests at the export's moment or later.

        For training on the past use `features_of` with point-in-time profiles: these lists know what came after.

        Args:
            user_ids: [N] Arrow array, array or list; an unknown user has empty lists.
            item_ids: [N] likewise.

        Raises:
            CaptionaryError: other numbers of users than of items, or ids of another type than the export's.
        """
        if len(user_ids) != len(item_ids):
            raise bad_value("user_ids", f"{len(user_ids)} ids", f"one for each of {len(item_ids)} item_ids")
        found = {"item_tokens": Feature(self.item_tokens, _places(item_ids, self.item_ids, "item_ids"))}
        for event, (users, lists) in self.profiles.items():
            found[f"profile_{event}"] = Feature(lists, _places(user_ids, users, "user_ids"))
        return found


def read_export(folder: Path, as_of: datetime | None = None) -> Exported:
    """Read what `export_features` wrote, with each user's latest profile.

    Args:
        folder: the export.
        as_of: snapshots after this moment are left out; None: none is.

    Raises:
        CaptionaryError: no export there, or files of several tokenizers.
    """
    path = folder / "item_tokens.parquet"
    about = read_metadata(path)
    item_ids, tokens = read_item_tokens(path)
    profiles = {}
    for event, file in profile_files(folder).items():
        if read_metadata(file).tokenizer_fingerprint != about.tokenizer_fingerprint:
            raise bad_value("tokenizer_fingerprint", "another", "that of item_tokens", where=str(file))
        table = pq.read_table(file, partitioning=None)
        if as_of is not None:
            table = table.filter(pc.less_equal(table["event_timestamp"], pa.scalar(as_of)))
        order = pc.sort_indices(table, [("user_id", "ascending"), ("event_timestamp", "ascending")])
        table = table.take(order)
        users = table["user_id"].combine_chunks()
        last = np.ones(len(users), bool)
        if len(users) > 1:
            last[:-1] = pc.not_equal(users[:-1], users[1:]).to_numpy(zero_copy_only=False)
        table = table.filter(pa.array(last))
        lists = Jagged.from_arrow(table["token_ids"], table["weights"])
        profiles[event] = table["user_id"].combine_chunks(), lists
    return Exported(about, item_ids, tokens, profiles)


def features_of(
    item_tokens: Jagged, item: Rows, profiles: Mapping[str, Profiles | SharedProfiles]
) -> dict[str, Feature]:
    """The features of N impressions, such as a training table's.

    Args:
        item_tokens: the token list of each of I items.
        item: [N] row of each impression's item; -1: no tokens.
        profiles: event type -> point-in-time profiles of N rows, as `build_profiles` gives them.
    """
    found = {"item_tokens": Feature(item_tokens, item)}
    for event, built in profiles.items():
        shared = built.list_of if isinstance(built, SharedProfiles) else None
        found[f"profile_{event}"] = Feature(built.lists, shared)
    return found


def to_tensors(
    features: Mapping[str, Feature], rows: Rows | None = None, *, device: torch.device | str | None = None
) -> dict[str, Lists]:
    """key -> (values, offsets, weights) of a batch: what `torch.nn.functional.embedding_bag` takes.

    Args:
        features: of N rows each.
        rows: [B] the rows of the batch; None: all N.
        device: where the tensors go; None: the CPU.

    Raises:
        CaptionaryError: features of unequal numbers of rows; rows or places that are not there.
    """
    counts = {key: feature.rows for key, feature in features.items()}
    if len(set(counts.values())) != 1:
        raise bad_value("rows of the features", str(counts), "one number for all, of at least one feature")
    count = next(iter(counts.values()))
    chosen = np.arange(count) if rows is None else np.asarray(rows)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < count:
        raise bad_value("rows", f"{chosen.min()} to {chosen.max()}", f"in 0..{count - 1}")
    return {key: _batch(key, feature, chosen, device) for key, feature in features.items()}


def to_keyed_jagged(
    features: Mapping[str, Feature], rows: Rows | None = None, *, device: torch.device | str | None = None
) -> Any:
    """A batch as a torchrec KeyedJaggedTensor of int64 values, lengths and float32 weights.

    Where torchrec is not installed: the same as a plain dict, see `to_tensors`, whose arguments and errors these are.
    """
    tensors = to_tensors(features, rows, device=device)
    try:
        from torchrec import KeyedJaggedTensor
    except ModuleNotFoundError as error:
        if error.name == "torchrec":
            return tensors
        todo = "install what docs/interchange.md names beside it"
        raise bad_value(
            "torchrec", f"without {error.name}", "installed with what it needs", todo=todo
        ) from None
    return KeyedJaggedTensor(
        keys=list(tensors),
        values=torch.cat([lists.values for lists in tensors.values()]),
        weights=torch.cat([lists.weights for lists in tensors.values()]),
        lengths=torch.cat([lists.offsets.diff() for lists in tensors.values()]),
    )


def _batch(key: str, feature: Feature, rows: Rows, device: torch.device | str | None) -> Lists:
    lists = feature.lists
    index = rows if feature.list_of is None else feature.list_of[rows]
    if len(index) and not -1 <= index.min() <= index.max() < lists.rows:
        rule = f"in -1..{lists.rows - 1}"
        raise bad_value(f"list_of {key}", f"{index.min()} to {index.max()}", rule)
    whole = lists._replace(offsets=np.append(lists.offsets, lists.offsets[-1]))  # index -1: an empty list
    taken = whole.take(np.where(index < 0, lists.rows, index))
    weights = np.ones(len(taken.values), np.float32) if taken.weights is None else taken.weights
    return Lists(
        torch.from_numpy(taken.values.astype(np.int64)).to(device),
        torch.from_numpy(taken.offsets).to(device),
        torch.from_numpy(weights).to(device),
    )


def _places(asked: Any, known: pa.Array, what: str) -> Rows:
    """Where each id is, -1 where nowhere."""
    ids = asked.combine_chunks() if isinstance(asked, pa.ChunkedArray) else asked
    try:
        ids = pa.array(ids) if not isinstance(ids, pa.Array) else ids
        places = pc.index_in(ids.cast(known.type), value_set=known)
    except (pa.ArrowException, TypeError) as error:
        raise bad_value(what, f"ids of type {getattr(ids, 'type', type(ids))}", str(known.type)) from error
    return pc.fill_null(places, -1).to_numpy().astype(np.int64)  # type: ignore[no-any-return]
