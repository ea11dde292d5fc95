from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from captionary.commands.leakage import check_leakage, leakage
from captionary.errors import CaptionaryError
from captionary.represent.jagged import Jagged
from captionary.represent.leakage import check_profiles, check_tables, probe
from captionary.represent.profiles import ProfileConfig, Profiles, build_profiles
from captionary.represent.tables import write_item_tokens, write_profiles
from captionary.world.market import make_world
from captionary.world.settings import WorldConfig

HOUR = 3_600_000_000
ITEMS = np.arange(40)
TOKENS = Jagged.from_lists([[item, 100 + item % 7] for item in ITEMS])
CONFIG = ProfileConfig(event_types=("like",), top_k=50)


def tables(n: int = 600) -> tuple[pa.Table, pa.Table]:
    """Impressions of twelve users; every other is liked some seconds later."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(0, 30 * 24, n)) * HOUR + rng.integers(0, HOUR, n)
    users, items = rng.integers(0, 12, n), rng.choice(ITEMS, n)
    stamp = pa.timestamp("us", "UTC")
    reads = {
        "impression_id": np.arange(n),
        "user_id": users,
        "item_id": items,
        "timestamp": pa.array(times, stamp),
    }
    reads["like"] = np.arange(n) % 2 == 0
    liked = np.flatnonzero(reads["like"])
    events = {"user_id": users[liked], "item_id": items[liked], "event": ["like"] * len(liked)}
    events["timestamp"] = pa.array(times[liked] + 7_000_001, stamp)
    return pa.table(events), pa.table(reads)


EVENTS, READS = tables()


def ours(events: pa.Table, reads: pa.Table) -> Mapping[str, Profiles]:
    return build_profiles(events, reads, ITEMS, TOKENS, CONFIG, types=("like",))


def later(microseconds: int) -> Callable[[pa.Table, pa.Table], Mapping[str, Profiles]]:
    """A builder that reads each list some time after its impression."""

    def build(events: pa.Table, reads: pa.Table) -> Mapping[str, Profiles]:
        times = reads["timestamp"].cast(pa.int64()).to_numpy() + microseconds
        return ours(events, reads.set_column(3, "timestamp", pa.array(times)))

    return build


def test_our_builder_passes_and_others_do_not() -> None:
    assert probe(ours, EVENTS, READS) == ()
    for build in (later(10_000_000), later(10**15)):
        found = probe(build, EVENTS, READS)
        assert [finding.verdict for finding in found] == ["leak", "leak"]
        assert "change when events after them are taken away" in found[0].what
        assert "shuffled" in found[1].what
        assert found[0].rows >= 1
        assert found[0].examples[0].startswith("impression ")


def test_a_builder_that_counts_ties_is_caught() -> None:
    at = READS["timestamp"].cast(pa.int64()).to_numpy()
    events = EVENTS.set_column(3, "timestamp", pa.array(at[::2]))  # every like at its impression's moment
    assert probe(ours, events, READS) == ()
    found = probe(later(1), events, READS, cuts=40)
    assert found
    assert all(finding.verdict == "leak" for finding in found)


def test_a_sample_draws_whole_users() -> None:
    sizes = []

    def build(events: pa.Table, reads: pa.Table) -> Mapping[str, Profiles]:
        sizes.append(set(reads["user_id"].to_pylist()))
        assert set(events["user_id"].to_pylist()) <= set(range(12))
        return ours(events, reads)

    assert probe(build, EVENTS, READS, sample=120) == ()
    assert len(sizes[0]) < 12


@pytest.mark.parametrize(
    ("shift", "reason"),
    [
        (HOUR, "they count the events of the hour after"),
        (10**15, "they count all events of the user"),
    ],
)
def test_finished_profiles_that_saw_the_future(shift: int, reason: str) -> None:
    made = later(shift)(EVENTS, READS)
    found = check_profiles(made, EVENTS, READS, ITEMS, TOKENS, config=CONFIG)
    assert all(finding.verdict == "leak" for finding in found)
    assert any("hold tokens that the user's events bring only later" in finding.what for finding in found)
    assert any(reason in finding.what for finding in found)
    assert "first brought at" in found[0].examples[0]
    assert check_profiles(ours(EVENTS, READS), EVENTS, READS, ITEMS, TOKENS, config=CONFIG) == ()


def test_any_recipe_is_held_to_what_happened_before() -> None:
    """Other weights are no leak; a token from nowhere is, and so is one of the very moment."""
    made = ours(EVENTS, READS)["like"]
    assert made.lists.weights is not None
    other = {"like": made._replace(lists=made.lists._replace(weights=made.lists.weights[::-1].copy()))}
    assert check_profiles(other, EVENTS, READS, ITEMS, TOKENS) == ()
    (found,) = check_profiles(other, EVENTS, READS, ITEMS, TOKENS, config=CONFIG)
    assert (found.verdict, "another recipe, or a leak" in found.what) == ("differs", True)
    values = made.lists.values.copy()
    values[0] = 999
    nowhere = {"like": made._replace(lists=made.lists._replace(values=values))}
    (found,) = check_profiles(nowhere, EVENTS, READS, ITEMS, TOKENS)
    assert (found.verdict, found.rows, "no event of the user ever brings" in found.what) == ("leak", 1, True)
    at = READS["timestamp"].cast(pa.int64()).to_numpy()
    tied = EVENTS.set_column(3, "timestamp", pa.array(at[::2]))
    found_ties = check_profiles(later(1)(tied, READS), tied, READS, ITEMS, TOKENS, config=CONFIG)
    assert [finding.verdict for finding in found_ties] == ["leak", "leak"]
    assert "at the very moment of the impression" in found_ties[0].what
    assert "the events of the impression's very moment" in found_ties[1].what
    with pytest.raises(CaptionaryError, match="profiles of like == 600 lists, must be one for each of 5"):
        check_profiles(other, EVENTS, READS.slice(0, 5), ITEMS, TOKENS)


def test_tables_that_invite_a_leak() -> None:
    labels = {"like": READS["like"].to_numpy(zero_copy_only=False)}
    assert check_tables(EVENTS, READS, labels) == ()
    at = READS["timestamp"].cast(pa.int64()).to_numpy()[::2]

    def moved(times: Any) -> tuple[Any, ...]:
        return check_tables(EVENTS.set_column(3, "timestamp", pa.array(times)), READS, labels)

    (early,) = moved(at - 2_000_000)
    assert (early.verdict, early.rows, early.of) == ("suspect", 300, 300)
    assert "the label of like may be in the profile" in early.what
    assert "has a like 2 s earlier" in early.examples[0]
    (tied,) = moved(at)
    assert (tied.verdict, tied.rows) == ("note", 300)
    day = 24 * HOUR
    whole = READS.set_column(
        3, "timestamp", pa.array(READS["timestamp"].cast(pa.int64()).to_numpy() // day * day)
    )
    found = check_tables(EVENTS.set_column(3, "timestamp", pa.array(at // day * day)), whole, {})
    assert [finding.verdict for finding in found] == ["suspect", "note"]
    assert "all timestamps are whole days" in found[0].what
    with pytest.raises(CaptionaryError, match="window_minutes == 0, must be > 0"):
        check_tables(EVENTS, READS, labels, window_minutes=0)


def test_habits_are_no_leak() -> None:
    """Who likes the same item again and again does so before negative impressions too."""
    rng = np.random.default_rng(1)
    n = 2000
    reads = pa.table(
        {
            "user_id": rng.integers(0, 3, n),
            "item_id": rng.integers(0, 3, n),
            "timestamp": rng.integers(0, 40 * HOUR, n),
        }
    )
    events = pa.table(
        {
            "user_id": rng.integers(0, 3, n),
            "item_id": rng.integers(0, 3, n),
            "event": ["like"] * n,
            "timestamp": rng.integers(0, 40 * HOUR, n),
        }
    )
    found = check_tables(events, reads, {"like": rng.random(n) < 0.5})
    assert not any("label" in finding.what for finding in found)


def test_the_command(tmp_path: Path) -> None:
    world = make_world(WorldConfig.tiny(pictures=False), tmp_path / "world")
    done = CliRunner().invoke(leakage, [str(world)])
    assert done.exit_code == 0, done.output
    assert "no leak found" in done.output
    from captionary.contract import open_dataset

    data = open_dataset(world)
    items, reads, events = data.items()["item_id"].combine_chunks(), data.impressions(), data.events()
    lists = Jagged.from_lists([[row, 500] for row in range(len(items))])
    tokens = write_item_tokens(tmp_path / "item_tokens.parquet", items, lists)
    config = ProfileConfig(top_k=60)
    write_profiles(
        tmp_path / "good", reads["impression_id"], build_profiles(events, reads, items, lists, config)
    )
    assert check_leakage(world, None, tmp_path / "good", tokens).leaks == 0
    end = pa.array(np.full(len(reads), 2**52), pa.timestamp("us", "UTC"))
    seen = build_profiles(events, reads.set_column(3, "timestamp", end), items, lists, config)
    write_profiles(tmp_path / "bad", reads["impression_id"], seen)
    words = [str(world), "--profiles", str(tmp_path / "bad")]
    done = CliRunner().invoke(leakage, [*words, "--tokens", str(tokens)])
    assert isinstance(done.exception, CaptionaryError)
    assert "must be 0" in str(done.exception)
    assert "leak: lists of like hold tokens" in done.output
    assert "--tokens == (absent)" in str(CliRunner().invoke(leakage, words).exception)
