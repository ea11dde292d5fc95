"""Raw ids and their rows: frequency cap, hashing, growth without renumbering."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from captionary.errors import CaptionaryError
from captionary.rank.data import RankingData
from captionary.rank.hashing import digest_ids
from captionary.rank.vocabulary import RowRules, Vocabulary


def test_ids_of_min_rows_get_a_row_and_the_rest_share_row_0():
    vocabulary = Vocabulary.fit(["ada", "bob", "ada", "cy", None], min_rows=2)
    assert vocabulary.rows == 2
    assert vocabulary.index(["ada", "cy", None, "dan"]).tolist() == [1, 0, 0, 0]


def test_growing_renumbers_nothing_and_counts_what_waited():
    """Tomorrow's shard: bob is seen a second time, eve twice, ada again; cy still waits."""
    today = Vocabulary.fit(pa.array(["ada", "bob", "ada", "cy"]), min_rows=2)
    tomorrow = today.grow(pa.chunked_array([["eve", "bob"], ["ada", "eve", None]]))
    assert tomorrow.index(["ada", "bob", "eve", "cy"]).tolist() == [1, 2, 3, 0]
    assert today.index(["ada", "bob"]).tolist() == [1, 0]
    later = tomorrow.grow(["cy"]).grow([]).grow(pa.array([None, None]))
    assert later.index(["ada", "bob", "eve", "cy"]).tolist() == [1, 2, 3, 4]
    assert later.rows_in(today).tolist() == [0, 1, 0, 0, 0]


def test_shard_by_shard_is_all_at_once():
    rng = np.random.default_rng(0)
    keys = rng.zipf(1.3, 5000) % 997
    whole, parts = Vocabulary.fit(keys, min_rows=3), Vocabulary(min_rows=3)
    for part in np.array_split(keys, 7):
        parts = parts.grow(part)
    assert parts.rows == whole.rows
    ids, counts = np.unique(keys, return_counts=True)
    assert ((parts.index(ids) > 0) == (counts >= 3)).all()
    assert len(np.unique(parts.index(ids[counts >= 3]))) == (counts >= 3).sum()


def test_an_id_may_stand_for_many_rows():
    """What the items of a category were shown: jazz 1 + 2 times, rock 5, folk never."""
    keys, times = ["jazz", "rock", "jazz", "folk", None], np.array([1, 5, 2, 0, 9])
    found = Vocabulary(min_rows=4).grow(keys, times=times)
    assert found.index(["jazz", "rock", "folk"]).tolist() == [0, 1, 0]
    assert found.grow(["jazz"]).index(["jazz"]).tolist() == [2]
    assert Vocabulary().grow(keys, np.array([0, 3]), times=times).ids.to_pylist() == ["jazz"]


def test_rules_of_tables():
    rules = RowRules(id_min_rows=2, id_hash_rows=7, category_min_rows=3, category_hash_rows=9)
    found = {name: rules.empty(name) for name in ("user", "item", "context.tab", "item.tab")}
    assert [each.rows for each in found.values()] == [8, 8, 10, 10]
    assert [each.min_rows for each in found.values()] == [2, 2, 3, 3]
    assert len({each.seed for each in found.values()}) == 4
    known = RowRules().empty("context.tab").grow(["home"])
    later = RowRules(category_min_rows=2).renewed("context.tab", known)
    assert later.grow(["home", "search"]).index(["home", "search"]).tolist() == [1, 0]
    assert later.grow(["search", "search"]).index(["search"]).tolist() == [2]
    with pytest.raises(
        CaptionaryError,
        match=r"category_hash_rows == 9, must be 0, as in the earlier training; table context\.tab; or train",
    ):
        rules.renewed("context.tab", known)
    with pytest.raises(CaptionaryError, match="id_hash_rows == 7, must be 0, as in the earlier training"):
        rules.renewed("user", Vocabulary())


def test_hashed_ids_have_a_row_even_if_never_seen():
    vocabulary = Vocabulary(hash_rows=50, seed=3)
    keys = np.arange(10_000)
    rows = vocabulary.index(keys)
    assert vocabulary.rows == 51
    assert (rows.min(), rows.max()) == (1, 50)
    assert np.bincount(rows)[1:].std() < 3 * np.sqrt(200)  # as even as chance
    assert vocabulary.grow(keys) is vocabulary
    other = Vocabulary(hash_rows=50, seed=4).index(keys)
    assert 0.01 < (other == rows).mean() < 0.04  # two seeds agree by chance: 1 in 50
    names = pa.array(["ada", None, "", "bob", "a much longer name, über alles"])
    found = vocabulary.index(names)
    assert found[1] == 0
    assert (found[[0, 2, 3, 4]] > 0).all()
    assert found.tolist() == vocabulary.index(names.dictionary_encode()).tolist()


def test_strings_are_hashed_by_fnv_1a_in_any_process():
    """Reference values of the FNV-1a test suite."""
    found = digest_ids(pa.array(["", "a", "foobar"])).view(np.uint64).tolist()
    assert found == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8]
    assert digest_ids(pa.array(["x", "a", "foobar"]).slice(1)).view(np.uint64).tolist() == found[1:]
    code = (
        "from captionary.rank.vocabulary import Vocabulary;"
        "print(Vocabulary(hash_rows=1000, seed=1).index(['ada', 'bob', 'cy']).tolist())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(Vocabulary(hash_rows=1000, seed=1).index(["ada", "bob", "cy"]).tolist())


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary(),
        Vocabulary(hash_rows=9, seed=2),
        Vocabulary.fit([5, 6, 5, 7], min_rows=2),
        Vocabulary.fit(["a", "b"]),
        Vocabulary.fit(["a", "b"], min_rows=2),
    ],
    ids=["empty", "hashed", "integers", "strings", "waiting"],
)
def test_what_is_saved_is_read_back_and_grows_alike(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "user.parquet")
    loaded = Vocabulary.load(tmp_path / "user.parquet")
    keys = [5, 7, 8] if vocabulary.ids.type == pa.int64() else ["a", "b", "c"]
    for one, other in ((vocabulary, loaded), (vocabulary.grow(keys), loaded.grow(keys))):
        assert (one.rows, one.min_rows, one.hash_rows, one.seed) == (
            other.rows, other.min_rows, other.hash_rows, other.seed,
        )  # fmt: skip
        assert one.index(keys).tolist() == other.index(keys).tolist()


def test_what_is_wrong_is_named(tmp_path):
    known = Vocabulary.fit([1, 2])
    for act in (known.index, known.grow):
        with pytest.raises(CaptionaryError, match="type of ids == large_string, must be int64"):
            act(["ada"])
    (tmp_path / "user.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        CaptionaryError, match=r"vocabulary == .*user\.parquet, must be a file that save wrote"
    ):
        Vocabulary.load(tmp_path / "user.parquet")
    with pytest.raises(CaptionaryError, match="min_rows == 0, must be >= 1"):
        Vocabulary(min_rows=0)
    with pytest.raises(CaptionaryError, match="hash_rows == -1, must be >= 0"):
        Vocabulary(hash_rows=-1)
    with pytest.raises(CaptionaryError, match="hash_rows == 9 with seed 0, must be 8 with seed 0"):
        Vocabulary(hash_rows=9).rows_in(Vocabulary(hash_rows=8))


def test_ranking_data_can_hash_its_users_and_items():
    common = {
        "tasks": ("like",), "item": np.array([0, 1, 2, 2]), "items": 4, "train": np.array([0, 1]),
        "eval": np.array([2, 3]), "labels": np.zeros((4, 1), np.float32),
    }  # fmt: skip
    users = np.array(["ada", "bob", "eve", None])
    plain = RankingData.from_arrays(users=users, **common)
    assert (plain.users, plain.item_ids) == (3, 3)
    assert plain.user.tolist() == [1, 2, 0, 0]
    assert plain.item_id.tolist() == [1, 2, 0, 0]
    keys = pa.array(["w", "x", "y", "z"])
    hashed = RankingData.from_arrays(users=users, item_keys=keys, hash_rows=100, **common)
    assert (hashed.users, hashed.item_ids) == (101, 101)
    assert (hashed.user[:3] > 0).all()
    assert hashed.user[3] == 0
    assert hashed.item_id.tolist() == hashed.vocabularies["item"].index(keys).tolist()
    assert (hashed.item_id > 0).all()


def test_ranking_data_can_cap_and_hash_its_categories():
    """Items 0 and 1 are jazz, shown twice and once in training; item 2 is rock, shown once."""
    common = {
        "tasks": ("like",), "item": np.array([0, 0, 1, 2, 3]), "items": 4, "train": np.arange(4),
        "eval": np.array([4]), "labels": np.zeros((5, 1), np.float32), "users": np.zeros(5, np.int64),
        "context_categorical": {"tab": ["home", "home", "home", "search", "home"]},
        "item_categorical": {"genre": ["jazz", "jazz", "rock", "folk"]},
    }  # fmt: skip
    plain = RankingData.from_arrays(**common)
    assert plain.item_categorical["genre"].tolist() == [1, 1, 2, 0]
    capped = RankingData.from_arrays(**common, category_min_rows=3)
    assert capped.item_categorical["genre"].tolist() == [1, 1, 0, 0]
    assert capped.context_categorical["tab"].tolist() == [1, 1, 1, 0, 1]
    assert (capped.users, capped.item_ids) == (2, 4)  # these are ids
    hashed = RankingData.from_arrays(**common, category_hash_rows=50)
    assert hashed.rows_of("item.genre", hashed.item_categorical["genre"]) == 51
    assert (hashed.item_categorical["genre"] > 0).all()
    assert len(np.unique(hashed.item_categorical["genre"])) == 3
