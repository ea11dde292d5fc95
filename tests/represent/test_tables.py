from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionary.errors import CaptionaryError
from captionary.represent import tables
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import Profiles
from captionary.represent.tables import read_item_tokens, read_profiles, write_item_tokens, write_profiles

TOKENS = Jagged.from_lists([[7, 3], [], [5]])
WEIGHTED = TOKENS._replace(weights=np.array([0.75, 0.25, 1], np.float32))
MASS = np.array([2.5, 0, 1], np.float32)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_item_tokens_round_trip(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROWS", rows)
    path = write_item_tokens(tmp_path / "item_tokens.parquet", ["a", "b", "c"], TOKENS)
    schema = pq.read_schema(path)
    assert schema.names == ["item_id", "token_ids"]
    assert schema.field("token_ids").type == pa.list_(pa.int32())
    ids, tokens = read_item_tokens(path)
    assert ids.to_pylist() == ["a", "b", "c"]
    assert tokens.values.tolist() == TOKENS.values.tolist()
    assert tokens.offsets.tolist() == TOKENS.offsets.tolist()
    assert tokens.weights is None


def test_weights_of_item_tokens_are_kept(tmp_path: Path) -> None:
    path = write_item_tokens(tmp_path / "t.parquet", np.array([1, 2, 3]), WEIGHTED)
    assert read_item_tokens(path)[1].weights.tolist() == [0.75, 0.25, 1]  # type: ignore[union-attr]


def test_no_items_make_an_empty_file(tmp_path: Path) -> None:
    path = write_item_tokens(tmp_path / "t.parquet", pa.array([], pa.int64()), Jagged.from_lists([]))
    ids, tokens = read_item_tokens(path)
    assert (len(ids), tokens.rows) == (0, 0)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_profiles_round_trip(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROWS", rows)
    written = write_profiles(
        tmp_path / "profiles",
        pa.chunked_array([[10], [11, 12]]),
        {
            "watch 50%/deep": Profiles(WEIGHTED, MASS),
            "like": Profiles(WEIGHTED._replace(weights=MASS), MASS * 2),
        },
    )
    assert [path.parent for path in written] == [tmp_path / "profiles"] * 2
    assert sorted(path.name for path in (tmp_path / "profiles").iterdir()) == sorted(
        path.name for path in written
    )
    assert pq.read_schema(written[0]).names == ["impression_id", "token_ids", "weights", "mass"]
    ids, profiles = read_profiles(tmp_path / "profiles")
    assert ids.to_pylist() == [10, 11, 12]
    assert set(profiles) == {"watch 50%/deep", "like"}
    assert profiles["watch 50%/deep"].lists.values.tolist() == [7, 3, 5]
    assert profiles["watch 50%/deep"].lists.weights.tolist() == [0.75, 0.25, 1]  # type: ignore[union-attr]
    assert profiles["like"].mass.tolist() == [5, 0, 2]
    assert profiles["like"].mass.dtype == np.float32


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="item_id == 2 ids, must be one for each of 3 lists"):
        write_item_tokens(tmp_path / "t.parquet", ["a", "b"], TOKENS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CaptionaryError, match="must be readable Parquet"):
        read_item_tokens(tmp_path / "t.parquet")
    with pytest.raises(CaptionaryError, match="must be a folder of profiles"):
        read_profiles(tmp_path)
    pq.write_table(pa.table({"item_id": [1]}), tmp_path / "t.parquet")
    with pytest.raises(CaptionaryError, match="columns == item_id, must be with token_ids"):
        read_item_tokens(tmp_path / "t.parquet")


def test_profiles_of_other_impressions_are_refused(tmp_path: Path) -> None:
    write_profiles(tmp_path, [1, 2, 3], {"like": Profiles(WEIGHTED, MASS)})
    write_profiles(tmp_path, [1, 2, 4], {"share": Profiles(WEIGHTED, MASS)})
    with pytest.raises(
        CaptionaryError, match=r"other ids, must be those of the files beside it; .*share\.parquet"
    ):
        read_profiles(tmp_path)
