"""Profiles in words: strictly earlier events, the top liked items, nothing paid twice, failures marked."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from captionary.errors import CaptionaryError
from captionary.represent.text_profiles import (
    Completer,
    TextProfileConfig,
    TextStore,
    liked_captions,
    rows_as_of,
    write_profiles,
)

TIME = pa.timestamp("us", "UTC")
ITEMS = ["i0", "i1", "i2", "i3"]
CAPTIONS = ["a dog", "a cat", "a red sofa", None]
ROWS: list[tuple[str, str, str, int, float | None]] = [
    ("ada", "i0", "like", 10, None),
    ("ada", "i1", "share", 20, 3.0),
    ("ada", "i2", "like", 30, 1.0),
    ("ada", "i0", "like", 40, 0.5),
    ("bob", "i1", "like", 5, 1.0),
    ("bob", "i3", "like", 6, 9.0),  # no caption
    ("bob", "i2", "like", 7, 0.0),  # shows no liking
    ("bob", "i2", "like", 50, 1.0),
]


def log(rows: list[tuple[str, str, str, int, float | None]] = ROWS) -> pa.Table:
    users, items, events, times, values = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {
            "user_id": users,
            "item_id": items,
            "event": events,
            "timestamp": pa.array(times, TIME),
            "value": pa.array(values, pa.float64()),
        }
    )


def liked(*moments: int, **config: Any) -> list[tuple[str, int, list[str], list[str]]]:
    table = liked_captions(log(), ITEMS, CAPTIONS, moments, TextProfileConfig(**{"min_items": 1, **config}))
    times = table["as_of"].cast(pa.int64()).to_pylist()
    columns = (table[name].to_pylist() for name in ("user_id", "item_ids", "captions"))
    users, items, captions = columns
    return list(zip(users, times, items, captions, strict=True))


def test_captions_of_strictly_earlier_events_the_oldest_first() -> None:
    assert liked(40) == [
        ("ada", 40, ["i0", "i1", "i2"], ["a dog", "a cat", "a red sofa"]),
        ("bob", 40, ["i1"], ["a cat"]),
    ]
    # Liked again at 40, the dog is ada's latest.
    assert liked(41)[0] == ("ada", 41, ["i1", "i2", "i0"], ["a cat", "a red sofa", "a dog"])
    assert liked(10) == [("bob", 10, ["i1"], ["a cat"])]


def test_the_most_valued_items_then_the_latest() -> None:
    # At 40: cat 3, dog 1 (no value: 1) of 10, sofa 1 of 30. At 41 the dog has 1 + 0.5.
    assert liked(40, items=2)[0][2] == ["i1", "i2"]
    assert liked(41, items=2)[0][2] == ["i1", "i0"]
    assert liked(40, items=2, event_types=("like",))[0][2] == ["i0", "i2"]
    assert liked(40, value_missing=0.0)[0][2] == ["i1", "i2"]


def test_users_of_too_few_items_have_no_profile() -> None:
    assert [row[:2] for row in liked(60, 40, min_items=2)] == [("ada", 40), ("ada", 60), ("bob", 60)]


def test_later_events_change_nothing() -> None:
    later = log([*ROWS, ("ada", "i2", "like", 40, 99.0), ("cy", "i0", "like", 41, 1.0)])
    assert liked_captions(later, ITEMS, CAPTIONS, [40]).equals(liked_captions(log(), ITEMS, CAPTIONS, [40]))


class Writer:
    """Writes the prompt in capitals; fails on prompts with `bad`, and stops at `stop`."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        self.calls.append(list(prompts))
        if any("sofa" in prompt for prompt in prompts):
            raise LookupError("no sofas here")
        return [f"  likes\n{prompt.upper()} " for prompt in prompts]

    def completer(self, **other: Any) -> Completer:
        return Completer(self, **{"fingerprint": "writer-1", "fill": " + ".join, **other})


def asked(*moments: int) -> pa.Table:
    return liked_captions(log(), ITEMS, CAPTIONS, moments, TextProfileConfig(min_items=1))


def test_each_prompt_is_paid_for_once(tmp_path: Path) -> None:
    writer = Writer()
    with TextStore(tmp_path / "texts.sqlite") as store:
        written = write_profiles(asked(8, 10, 15), writer.completer(), store)
        assert writer.calls == [["a cat", "a dog"]]  # bob's prompt is one at all three moments
        assert written["text"].to_pylist() == ["likes A CAT", "likes A CAT", "likes A DOG", "likes A CAT"]
        assert written["user_id"].to_pylist() == ["bob", "bob", "ada", "bob"]
        assert set(written.column_names) == {
            "user_id", "as_of", "item_ids", "text", "prompt_digest", "completer", "created_at", "reason",
        }  # fmt: skip
        assert len(store) == 2
    with TextStore(tmp_path / "texts.sqlite") as store:  # another day
        again = write_profiles(asked(8, 10, 15), writer.completer(), store)
        assert len(writer.calls) == 1
        assert again.equals(written)
        write_profiles(asked(8), writer.completer(fingerprint="writer-2"), store)
        assert writer.calls[1:] == [["a cat"]]


def test_a_prompt_that_fails_is_marked_and_the_rest_goes_on(tmp_path: Path) -> None:
    writer = Writer()
    with TextStore(tmp_path / "texts.sqlite") as store:
        written = write_profiles(asked(40), writer.completer(failures=(LookupError,)), store)
        assert written["text"].to_pylist() == [None, "likes A CAT"]
        assert written["reason"].to_pylist() == ["no sofas here", ""]
        # Together, then one by one; next time only what has failed.
        ada = "a dog + a cat + a red sofa"
        assert writer.calls == [[ada, "a cat"], [ada], ["a cat"]]
        write_profiles(asked(40), writer.completer(failures=(LookupError,)), store)
        assert writer.calls[3:] == [[ada]]


def test_what_was_answered_before_a_stop_is_kept(tmp_path: Path) -> None:
    class Said:
        text = "likes cats"

    class StoppedError(Exception):
        answered = (None, Said())

    def stopped(prompts: Sequence[str]) -> list[str]:
        raise StoppedError

    with TextStore(tmp_path / "texts.sqlite") as store:
        with pytest.raises(StoppedError):
            write_profiles(asked(40), Completer(stopped, "writer-1", " + ".join), store)
        writer = Writer()
        written = write_profiles(asked(40), writer.completer(failures=(LookupError,)), store)
        assert writer.calls == [["a dog + a cat + a red sofa"]]
        assert written["text"].to_pylist() == [None, "likes cats"]


def test_an_empty_answer_is_a_failure(tmp_path: Path) -> None:
    with TextStore(tmp_path / "texts.sqlite") as store:
        blank = Completer(lambda prompts: [" \n"] * len(prompts), "blank", " + ".join)
        written = write_profiles(asked(10), blank, store)
        assert written["reason"].to_pylist() == ["empty answer"]
        assert len(store) == 0
        short = Completer(lambda prompts: [], "short", " + ".join)
        with pytest.raises(CaptionaryError, match="answers of complete == 0"):
            write_profiles(asked(10), short, store)


def test_an_impression_has_the_latest_profile_at_or_before_it() -> None:
    profiles = pa.table(
        {
            "user_id": ["ada", "ada", "bob", "ada"],
            "as_of": pa.array([20, 10, 10, 30], TIME),
            "text": ["second", "first", "his", None],
        }
    )
    users = pa.array(["ada", "ada", "ada", "ada", "bob", "bob", "cy", "ada"])
    times = pa.array([9, 10, 19, 20, 9, 99, 99, 31], TIME)
    assert rows_as_of(profiles, users, times).tolist() == [4, 1, 1, 0, 4, 2, 4, 0]
    assert rows_as_of(profiles.slice(0, 0), users, times).tolist() == [0] * 8


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="moments"):
        liked_captions(log(), ITEMS, CAPTIONS, [])
    with pytest.raises(CaptionaryError, match="a datetime with a time zone"):
        liked_captions(log(), ITEMS, CAPTIONS, [datetime.datetime(2026, 1, 1)])
    with pytest.raises(CaptionaryError, match="min_items == 3, must be <= items == 2"):
        TextProfileConfig(items=2, min_items=3)
    (tmp_path / "texts.sqlite").write_bytes(b"no database, but long enough to look like one" * 9)
    with pytest.raises(CaptionaryError, match="a store of answers"):
        TextStore(tmp_path / "texts.sqlite")


def test_moments_may_be_datetimes() -> None:
    moment = datetime.datetime(1970, 1, 1, microsecond=40, tzinfo=datetime.UTC)
    assert liked_captions(log(), ITEMS, CAPTIONS, [moment]).equals(
        liked_captions(log(), ITEMS, CAPTIONS, [40])
    )
    assert np.array_equal(np.array(liked(40)[0][1]), 40)
