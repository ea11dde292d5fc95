from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.represent.profile_logs import (
    CAPS,
    EVENTS,
    IDF,
    ITEMS,
    READS,
    TOKENS,
    Row,
    build,
    capped,
    compiled,
    events_table,
    listed,
    reads_table,
)

from captionary.errors import CaptionaryError
from captionary.represent.forgetting import repair, without
from captionary.represent.profiles import ProfileConfig, build_profiles, snapshot

FORGOTTEN = st.sampled_from([([], ["i3"]), (["u0"], []), (["u1"], ["i1", "never"]), ([], ["gone"])])


@compiled
@given(EVENTS, READS, FORGOTTEN, st.just({}) | CAPS, st.booleans())
def test_what_is_forgotten_was_never_there(
    rows: list[Row],
    reads: list[tuple[str, int]],
    forgotten: tuple[list[str], list[str]],
    caps: dict[str, Any],
    other_idf: bool,
) -> None:
    (users, items), config = forgotten, capped(caps)
    idf = IDF[::-1].copy() if other_idf else IDF
    table = reads_table(reads).append_column(
        "item_id", pa.array(["i1"] * (len(reads) - 1) + ["i3"], pa.string())
    )
    left = repair(
        build(rows, reads, config), events_table(rows), table, ITEMS, TOKENS, config, idf,
        forget_users=users, forget_items=items, idf_changed=other_idf,
    )  # fmt: skip
    kept_rows = [row for row in rows if row.user not in users and row.item not in items]
    kept = np.flatnonzero([item not in items for item in ITEMS])
    names = [ITEMS[index] for index in kept]
    own = ["user_id", "item_id", "event", "timestamp"]  # a value may be NaN, which equals nothing
    assert left.events.select(own).equals(events_table(kept_rows).select(own))
    assert left.impressions.equals(without(table, user_ids=users, item_ids=items))
    tables = events_table(kept_rows), left.impressions, names, TOKENS.take(kept), config, idf
    never = build_profiles(*tables, types=("like", "share"))
    for event, profiles in never.items():
        for row in range(len(left.impressions)):
            assert listed(left.profiles[event], row) == listed(profiles, row)


def test_only_the_users_concerned_are_built_anew() -> None:
    rows = [
        Row("u0", "i3", "like", 0, None),
        Row("u1", "i1", "like", 0, None),
        Row("u2", "i0", "share", 0, None),
    ]
    reads = [("u0", 5), ("u1", 5), ("u1", 9), ("u2", 5)]
    config = capped({})
    arguments = events_table(rows), reads_table(reads), ITEMS, TOKENS, config, IDF
    left = repair(build(rows, reads, config), *arguments, forget_items=["i1"])
    assert left.rebuilt == 2
    assert left.profiles["like"].lists.lengths.tolist() == [3, 0, 0, 0]
    assert left.profiles["like"].mass.tolist()[1:3] == [0, 0]


def test_a_snapshot_forgets() -> None:
    rows = [
        Row("u0", "i3", "like", 0, None),
        Row("u0", "i1", "like", 1, None),
        Row("u1", "i1", "like", 2, None),
    ]
    config = ProfileConfig(event_types=("like",))
    taken = snapshot(without(events_table(rows), item_ids=["i1"]), 10, ITEMS, TOKENS, config, IDF)
    never = snapshot(events_table(rows[:1]), 10, ITEMS, TOKENS, config, IDF)
    assert taken.user_ids.to_pylist() == ["u0"]
    assert listed(taken.profiles["like"], 0) == listed(never.profiles["like"], 0)


def test_what_does_not_fit_is_refused() -> None:
    rows, reads = [Row("u0", "i3", "like", 0, None)], [("u0", 5)]
    built = build(rows, reads, capped({}))
    more = events_table(rows), reads_table([*reads, ("u1", 6)]), ITEMS, TOKENS, capped({}), IDF
    with pytest.raises(CaptionaryError, match="profiles of like == 1 lists, must be one for each of 2"):
        repair(built, *more, forget_users=["u0"])
    with pytest.raises(CaptionaryError, match="user_id to forget == int64, must be string"):
        without(events_table(rows), user_ids=[1])
