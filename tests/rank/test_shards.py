import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.rank.tiny_shards import EVENTS, catalogue, impressions, tiny_schema, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.shards import open_shards
from captionary.represent.jagged import Jagged


@pytest.fixture
def table():
    return impressions(1000, range(30), range(60))


@pytest.fixture
def shards(tmp_path, table):
    return write_shards(tmp_path / "shards", table, impressions(150, range(30), range(60), seed=3))


def lists_of(group, event):
    taken = group.lists.take(group.table[f"list.{event}"].to_numpy().astype(np.int64))
    return taken.to_arrow()


def test_what_is_written_is_read(shards, table):
    assert [file.rows for file in shards.train] == [900, 100]
    assert (shards.rows("train"), shards.rows("eval")) == (1000, 150)
    groups = list(shards.groups("train"))
    assert [len(group.table) for group in groups] == [300, 300, 300, 100]
    whole = pa.concat_tables([group.table for group in groups])
    for name in (
        "user_id",
        "item_id",
        "timestamp",
        "context.tab",
        "context.hour",
        "label.seconds",
        "mass.like",
    ):
        assert whole[name].combine_chunks().equals(table[name].combine_chunks()), name
    for event in EVENTS:
        for place, kind in enumerate(("token_ids", "weights")):
            found = pa.concat_arrays([lists_of(group, event)[place] for group in groups])
            assert found.equals(table[f"{kind}.{event}"].combine_chunks())


def test_a_row_group_holds_each_list_once(shards):
    for group in shards.groups("train"):
        said = list(zip(*(part.to_pylist() for part in group.lists.to_arrow()), strict=True))
        assert len({str(each) for each in said}) == len(said) < 2 * len(group.table)


def test_any_rows_can_be_read_alone(shards, table):
    for start, stop in ((0, 1000), (250, 650), (899, 901), (1000, 1000)):
        found = [
            row for group in shards.groups("train", start, stop) for row in group.table["user_id"].to_pylist()
        ]
        assert found == table["user_id"].to_pylist()[start:stop]


def test_where_an_impression_is(shards):
    assert shards.place("train", 0) == ("train-00000", 0, 0)
    assert shards.place("train", 650) == ("train-00000", 2, 50)
    assert shards.place("train", 901) == ("train-00001", 0, 1)
    assert shards.place("train", 1000) == ("train-00001", 0, 100)


def test_the_catalogue(shards):
    items = shards.items()
    known = catalogue(60, shards.schema)
    assert items.ids.equals(known["item_id"].combine_chunks())
    np.testing.assert_array_equal(items.numeric["age"], known["item.age"].to_numpy())
    assert items.tokens.to_arrow()[0].equals(known["token_ids"].combine_chunks())
    assert items.visual.shape == (60, 6)


def test_two_writings_are_equal_and_another_row_is_not(tmp_path, table):
    prints = [write_shards(tmp_path / name, rows).fingerprint for name, rows in
              (("a", table), ("b", table), ("c", table.slice(1)))]  # fmt: skip
    assert prints[0] == prints[1] != prints[2]


def test_times_must_not_fall(tmp_path, table):
    with pytest.raises(
        CaptionaryError, match=r"timestamp == .*, must be not before the impression ahead of it"
    ):
        write_shards(tmp_path / "shards", pa.concat_tables([table.slice(500), table.slice(0, 500)]))
    assert not (tmp_path / "shards").exists()


def test_a_missing_column_is_named(tmp_path, table):
    with pytest.raises(CaptionaryError, match=r"must be with mass\.like among them; train impressions"):
        write_shards(tmp_path / "shards", table.drop_columns(["mass.like"]))


def test_no_folder_of_shards(tmp_path):
    with pytest.raises(CaptionaryError, match=r"must be a folder of shards; .*captionary shards CONFIG"):
        open_shards(tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(CaptionaryError, match="format == 99, must be 1"):
        open_shards(tmp_path)


def spoil(shards, change, name="shards/train-00000.parquet"):
    path = shards.root / name
    table = change(pq.read_table(path))
    sizes = 300 if name.startswith("shards") else table.num_rows
    pq.write_table(table, path, row_group_size=sizes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["label.like"]), "train-00000.parquet has no column label.like"),
        (
            lambda t: t.append_column("price", t["mass.like"]),
            "has a column price that shards.json does not have",
        ),
        (lambda t: t.slice(0, 600), "rows == 600, must be 900, as shards.json says"),
        (
            lambda t: t.set_column(
                t.column_names.index("list.like"), "list.like", pc.add(t["list.like"], 10_000)
            ),
            r"list.like == 1\d+, must be 0 to \d+; .*row group 0",
        ),
    ],
)
def test_a_shard_that_is_not_what_the_folder_says(shards, change, words):
    spoil(shards, change)
    with pytest.raises(CaptionaryError, match=words):
        list(shards.groups("train"))


def test_a_damaged_file_is_named(shards):
    path = shards.root / "shards" / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CaptionaryError, match=r"shard == .*train-00001.parquet, must be readable Parquet"):
        list(shards.groups("train"))
    (shards.root / "items.parquet").unlink()
    with pytest.raises(CaptionaryError, match=r"items.parquet, must be readable Parquet"):
        shards.items()


def test_a_token_beyond_the_vocabulary(shards):
    lists = Jagged.from_lists([[0], [77]] * 30).to_arrow()[0]
    spoil(
        shards, lambda t: t.set_column(t.column_names.index("token_ids"), "token_ids", lists), "items.parquet"
    )
    with pytest.raises(CaptionaryError, match="token id == 77, must be 0 to 19"):
        shards.items()


def test_what_a_ranker_can_go_on_with():
    before = tiny_schema()
    tiny_schema(vocabulary=99).check_continues(before, "here")
    with pytest.raises(
        CaptionaryError, match=r"context_categorical == .*, must be \('tab',\), as in the shards"
    ):
        tiny_schema(context_categorical=("tab", "device")).check_continues(before, "here")
    with pytest.raises(CaptionaryError, match="tokenizer == other, must be 'words'"):
        tiny_schema(tokenizer="other").check_continues(before, "here")
