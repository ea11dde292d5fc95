"""Forgetting users and items: what is left is, bit for bit, what would be there had they never been.

Three places keep a trace of an event: the tables, the profiles made of them, and a live state. `without` takes it out
of tables, `repair` out of profiles (only the users concerned are built anew), and
`stream.ProfileState.forget_user` and `forget_item` out of a live state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.errors import bad_value
from captionary.represent.jagged import Jagged
from captionary.represent.profile_log import ids_of
from captionary.represent.profiles import ProfileConfig, Profiles, build_profiles

__all__ = ["Repaired", "repair", "without"]

Ids: TypeAlias = pa.Array | npt.NDArray[Any] | Sequence[Any]


class Repaired(NamedTuple):
    """What is left after forgetting."""

    events: pa.Table
    impressions: pa.Table
    profiles: dict[str, Profiles]
    """Row i belongs to row i of the impressions above."""
    rebuilt: int
    """Impressions whose lists were built anew; those of all other users were kept as they were."""


def without(table: pa.Table, *, user_ids: Ids = (), item_ids: Ids = ()) -> pa.Table:
    """The rows of a table (events, impressions or items) that are of none of these users and items."""
    gone = _among(table, "user_id", user_ids) | _among(table, "item_id", item_ids)
    return table.filter(pa.array(~gone))


def repair(
    profiles: Mapping[str, Profiles],
    events: pa.Table,
    impressions: pa.Table,
    item_ids: Ids,
    item_tokens: Jagged,
    config: ProfileConfig,
    idf: npt.NDArray[np.float32] | None = None,
    *,
    forget_users: Ids = (),
    forget_items: Ids = (),
    idf_changed: bool = False,
) -> Repaired:
    """Profiles as `build_profiles` would make them had some users and items never been, from those already made.

    Args:
        profiles: of all impressions, made with the same items, tokens, config and idf.
        events, impressions: with user_id and item_id; as they were, nothing forgotten yet.
        item_ids, item_tokens, config: as of `build_profiles`; forgotten items may still be among them.
        idf: the frequencies from now on.
        forget_users, forget_items: ids; some that nobody knows change nothing.
        idf_changed: whether `idf` is another than the one that the profiles were made with, since it counted the
            forgotten items. Then every list may have another order, and all are built anew.

    Raises:
        CaptionaryError: profiles that do not belong to the impressions; as `build_profiles`.
    """
    for event_type, one in profiles.items():
        if one.lists.rows != len(impressions):
            rule = f"one for each of {len(impressions)} impressions"
            raise bad_value(f"profiles of {event_type}", f"{one.lists.rows} lists", rule)
    ids = ids_of(item_ids, "item_id of items")
    left = np.flatnonzero(~_among(pa.table({"item_id": ids}), "item_id", forget_items))
    items, tokens = ids.take(pa.array(left)), item_tokens.take(left)
    on_gone = events.filter(pa.array(_among(events, "item_id", forget_items)))
    touched = pc.unique(on_gone["user_id"].combine_chunks())
    kept_events = without(events, user_ids=forget_users, item_ids=forget_items)
    gone = _among(impressions, "user_id", forget_users) | _among(impressions, "item_id", forget_items)
    rows = np.flatnonzero(~gone)
    kept = impressions.take(pa.array(rows))
    again = np.full(len(kept), True) if idf_changed else _among(kept, "user_id", touched)
    concerned = kept.filter(pa.array(again))
    mine = kept_events.filter(
        pc.is_in(kept_events["user_id"], value_set=pc.unique(concerned["user_id"].combine_chunks()))
    )
    built = build_profiles(mine, concerned, items, tokens, config, idf, types=tuple(profiles))
    merged = {event_type: _merge(one, rows, again, built[event_type]) for event_type, one in profiles.items()}
    return Repaired(kept_events, kept, merged, int(again.sum()))


def _merge(
    old: Profiles, rows: npt.NDArray[np.int64], again: npt.NDArray[np.bool_], new: Profiles
) -> Profiles:
    """The old profiles at `rows`, with those at `again` of them replaced by the new ones."""
    assert old.lists.weights is not None
    assert new.lists.weights is not None
    values = np.concatenate([old.lists.values, new.lists.values])
    weights = np.concatenate([old.lists.weights, new.lists.weights])
    offsets = np.concatenate([old.lists.offsets, new.lists.offsets[1:] + old.lists.offsets[-1]])
    source = rows.copy()
    source[again] = old.lists.rows + np.arange(int(again.sum()))
    mass = np.concatenate([old.mass, new.mass])[source]
    return Profiles(Jagged(values, offsets, weights).take(source), mass)


def _among(table: pa.Table, column: str, ids: Ids) -> npt.NDArray[np.bool_]:
    """Whether each row's id is one of `ids`; never, where the table has no such column."""
    chosen = ids if isinstance(ids, pa.Array) else pa.array(ids)
    if column not in table.column_names or not len(chosen):
        return np.zeros(len(table), np.bool_)
    own = ids_of(table[column], column)
    wanted = ids_of(chosen, f"{column} to forget")
    if own.type != wanted.type:
        raise bad_value(f"{column} to forget", str(wanted.type), str(own.type))
    among: npt.NDArray[np.bool_] = pc.is_in(own, value_set=wanted).to_numpy(zero_copy_only=False)
    return among
