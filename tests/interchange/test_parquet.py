"""What is exported, read back as anybody would: by pyarrow alone."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.interchange.shop import day, impressions, numbered, source

from captionary.errors import CaptionaryError
from captionary.interchange import parquet
from captionary.interchange.parquet import Source, export_features, profile_files, read_metadata
from captionary.represent.jagged import Jagged

RED, SOFA, DOG, BLUE = 3, 4, 2, 1
UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize("rows", [1, 2, 1 << 17])
def test_the_files_are_those_that_the_docs_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", rows)
    made = export_features(tmp_path / "out", source(), as_of=[day(6), day(2.5)], impressions=impressions())
    assert made.rows == {
        "item_tokens.parquet": 5,
        "profiles/add to cart.parquet": 1,
        "profiles/like.parquet": 2 + 3,
        "impressions/add to cart.parquet": 3,
        "impressions/like.parquet": 3,
        "vocabulary.parquet": 5,
    }
    assert made.as_of == (day(2.5), day(6))
    assert {name: pq.read_metadata(made.folder / name).num_rows for name in made.rows} == made.rows
    items = pq.read_table(made.folder / "item_tokens.parquet")
    assert items.schema.types == [pa.string(), UTC_MICROSECONDS, pa.list_(pa.int32())]
    assert items["token_ids"].to_pylist() == [[RED, SOFA], [], [RED, DOG], [BLUE, DOG], [BLUE, SOFA]]
    assert items["event_timestamp"].to_pylist()[:2] == [day(-9), datetime.fromisoformat("1970-01-01T00:00Z")]
    likes = pq.read_table(made.folder / "profiles" / "like.parquet")
    assert likes.schema.names == ["user_id", "event_timestamp", "token_ids", "weights", "mass"]
    assert likes.schema.types[2:] == [pa.list_(pa.int32()), pa.list_(pa.float32()), pa.float32()]
    assert likes["user_id"].to_pylist() == ["u1", "u2", "u1", "u2", "u3"]
    assert likes["event_timestamp"].to_pylist() == [day(2.5)] * 2 + [day(6)] * 3
    words = pq.read_table(made.folder / "vocabulary.parquet").to_pydict()
    assert [words["token"][token] for token in (RED, SOFA, DOG, BLUE)] == ["red", "sofa", "dog", "blue"]


def test_a_profile_sees_what_was_strictly_before_its_moment(tmp_path: Path) -> None:
    export_features(tmp_path / "out", source(), as_of=[day(2)], impressions=impressions())
    likes = pq.read_table(tmp_path / "out" / "profiles" / "like.parquet").to_pylist()
    # u1 liked i0 two days ago, one half-life; what it likes at that very moment is the future
    assert likes == [
        {
            "user_id": "u1",
            "event_timestamp": day(2),
            "token_ids": [RED, SOFA],
            "weights": [0.5, 0.5],
            "mass": 0.5,
        }
    ]
    shown = pq.read_table(tmp_path / "out" / "impressions" / "like.parquet").to_pylist()
    assert shown[0] == {"impression_id": 10, **likes[0]}
    old, new = 2 ** -(4 / 2), 2 ** -(1 / 2)  # u2: i3 (blue dog) four days ago, i4 (blue sofa) yesterday
    assert shown[1]["token_ids"] == [BLUE, SOFA, DOG]
    assert shown[1]["weights"] == pytest.approx(np.array([old + new, new, old]) / (2 * (old + new)), rel=1e-6)
    assert shown[2]["token_ids"] == []


def test_a_user_whose_window_is_empty_again_keeps_a_row(tmp_path: Path) -> None:
    """Else the last full list would be taken for that of now."""
    from captionary.represent.profiles import ProfileConfig

    short = source(profiles=ProfileConfig(event_types=("like",), last_days=2.0))
    export_features(tmp_path / "out", short, as_of=[day(3.5), day(6)])
    rows = pq.read_table(tmp_path / "out" / "profiles" / "like.parquet").to_pylist()
    assert [(row["user_id"], row["event_timestamp"], bool(row["token_ids"])) for row in rows] == [
        ("u1", day(3.5), True), ("u2", day(3.5), True), ("u3", day(3.5), False),
        ("u1", day(6), False), ("u2", day(6), True), ("u3", day(6), False),
    ]  # fmt: skip


def test_without_a_moment_the_snapshot_sees_every_event(tmp_path: Path) -> None:
    made = export_features(tmp_path / "out", source())
    assert [(moment - day(5)).total_seconds() for moment in made.as_of] == [1e-6]
    likes = pq.read_table(tmp_path / "out" / "profiles" / "like.parquet").to_pylist()
    assert SOFA in likes[1]["token_ids"]


def test_files_say_what_they_are(tmp_path: Path) -> None:
    shop = source()
    export_features(tmp_path / "out", shop, as_of=[day(6)])
    files = profile_files(tmp_path / "out")
    assert list(files) == ["add to cart", "like"]
    like, cart = read_metadata(files["like"]), read_metadata(files["add to cart"])
    assert (like.table, like.event, like.half_life_days) == ("profiles", "like", 2.0)
    assert cart.half_life_days is None, "no decay"
    assert like.as_of == ("2025-01-07T00:00:00+00:00",)
    assert like.profiles is not None
    assert (like.profiles["top_k"], like.profiles["last_days"]) == (24, None)
    items = read_metadata(tmp_path / "out" / "item_tokens.parquet")
    for about in (items, like):
        assert about.tokenizer_fingerprint == shop.tokenizer.fingerprint()
        assert (about.tokenizer, about.vocabulary_size, about.vocabulary_version) == ("concepts", 5, 0)


def test_integer_ids_and_token_weights_are_kept(tmp_path: Path) -> None:
    export_features(tmp_path / "out", numbered())
    items = pq.read_table(tmp_path / "out" / "item_tokens.parquet")
    assert items.schema.field("item_id").type == pa.int64()
    assert items["weights"].to_pylist()[0] == [0.5, 0.5]
    likes = pq.read_table(tmp_path / "out" / "profiles" / "like.parquet")
    assert likes.schema.field("user_id").type == pa.int64()


def test_items_alone_can_be_exported_and_an_export_replaced(tmp_path: Path) -> None:
    assert "profiles/like.parquet" in export_features(tmp_path / "out", source()).rows
    made = export_features(tmp_path / "out", source(events=None))
    assert list(made.rows) == ["item_tokens.parquet", "vocabulary.parquet"]
    assert made.as_of == ()
    assert profile_files(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"item_ids": pa.array(["i0"] * 5)}, {}, "item_ids == repeated ids, must be unique"),
        ({"item_ids": pa.array(["i0"])}, {}, "item_tokens == 5 lists, must be one for each of 1 items"),
        ({"item_tokens": Jagged.from_lists([[5]] * 5)}, {}, "token id == 5, must be below 5, the vocabulary of"),
        ({"created_at": pa.array([day(0)])}, {}, "created_at == 1 timestamps, must be one for each of 5 items"),
        ({"events": None}, {"as_of": [day(1)]}, r"events == \(absent\), must be given"),
        ({}, {"as_of": [datetime(2025, 1, 1)]}, "as_of == 2025-01-01T00:00:00, must be a datetime with a time"),
        ({"events": source().events.slice(0, 0)}, {}, "events == 0 rows"),  # type: ignore[union-attr]
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_written(
    tmp_path: Path, changes: dict[str, object], asked: dict[str, object], said: str
) -> None:
    with pytest.raises(CaptionaryError, match=said):
        export_features(tmp_path / "out", source(**changes), **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_file_of_somebody_else_has_no_metadata(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CaptionaryError, match=r"metadata == \(absent\), must be that of an export"):
        read_metadata(tmp_path / "a.parquet")
    with pytest.raises(CaptionaryError, match="must be readable Parquet"):
        read_metadata(tmp_path / "b.parquet")


def test_a_newer_format_is_refused_not_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_features(tmp_path / "out", Source(**{**vars(source()), "events": None}))
    monkeypatch.setattr(parquet, "FORMAT", 2)
    with pytest.raises(CaptionaryError, match="format == 1, must be 2"):
        read_metadata(tmp_path / "out" / "item_tokens.parquet")
