import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.rank.tiny_shards import EVENTS, VECTORS, catalogue, impressions, tiny_schema, write_shards

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


@pytest.fixture
def rich(tmp_path, table):
    return write_shards(tmp_path / "rich", table, schema=tiny_schema(vectors=VECTORS))


def test_vectors_of_impressions_are_read_as_they_were_and_kept_once(rich, table):
    groups = list(rich.groups("train"))
    found = [g.vectors["user.text"][g.table["vector.user.text"].to_numpy()] for g in groups]
    expected = table["vector.user.text"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    np.testing.assert_array_equal(np.concatenate(found), expected)
    for group in groups:
        kept = group.vectors["user.text"]
        assert len(np.unique(kept, axis=0)) == len(kept) < len(group.table) / 2
    part = next(rich.groups("train", 250, 290))
    numbers = part.table["vector.user.text"].to_numpy()
    np.testing.assert_array_equal(part.vectors["user.text"][numbers], expected[250:290])
    assert next(rich.groups(columns=["user_id"])).vectors == {}


def test_vectors_of_items_are_kept_with_the_items(rich):
    expected = (
        catalogue(60, rich.schema)["vector.caption"].combine_chunks().flatten().to_numpy().reshape(-1, 3)
    )
    np.testing.assert_array_equal(rich.items().vectors["caption"], expected)
    assert "vector.caption" not in rich.schema.columns


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0, 2.0, 3.0], "vector.user.text == 3 numbers, must be 4 finite numbers each; .*; row 7, train"),
        (
            [1.0, 2.0, 3.0, float("nan")],
            "vector.user.text == NaN or infinite, must be 4 finite .*; row 7, train",
        ),
        (None, "vector.user.text == 0 numbers, must be 4 finite"),
    ],
)
def test_vectors_that_do_not_fit_are_not_written(tmp_path, table, value, words):
    place, column = table.column_names.index("vector.user.text"), table["vector.user.text"].to_pylist()
    column[7] = value
    changed = table.set_column(place, "vector.user.text", pa.array(column, pa.list_(pa.float32())))
    with pytest.raises(CaptionaryError, match=words):
        write_shards(tmp_path / "shards", changed, schema=tiny_schema(vectors=VECTORS))
    assert not (tmp_path / "shards").exists()


def test_vectors_that_are_not_what_the_folder_says(rich):
    def narrow(table, name):
        cut = pa.array([row[:2] for row in table[name].to_pylist()])
        return table.set_column(table.column_names.index(name), name, cut)

    stored = "vectors/user.text/train-00000.parquet"
    whole = pq.ParquetFile(rich.root / stored)
    sizes = [whole.metadata.row_group(k).num_rows for k in range(whole.num_row_groups)]
    assert len(sizes) == 3
    kept = (rich.root / stored).read_bytes()
    spoil(rich, lambda t: narrow(t, "vector"), stored)
    with pytest.raises(
        CaptionaryError, match=r"vector.user.text == 2 numbers, must be 4 finite.*row group 0"
    ):
        list(rich.groups("train"))
    (rich.root / stored).write_bytes(kept)
    spoil(rich, lambda t: t.slice(0, 1), stored)
    with pytest.raises(CaptionaryError, match=r"vector.user.text == \d+, must be 0 to 0; .*row group 0"):
        list(rich.groups("train"))
    spoil(rich, lambda t: t.rename_columns(["vectors"]), stored)
    with pytest.raises(CaptionaryError, match=r"columns of vectors == .*, must be vector"):
        list(rich.groups("train"))
    (rich.root / stored).unlink()
    with pytest.raises(CaptionaryError, match=r"user.text/train-00000.parquet, must be readable Parquet"):
        list(rich.groups("train"))
    spoil(rich, lambda t: narrow(t, "vector.caption"), "items.parquet")
    with pytest.raises(
        CaptionaryError, match=r"vector.caption == 2 numbers, must be 3 finite.*items.parquet"
    ):
        rich.items()


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


def test_weights_of_an_items_tokens_are_kept(tmp_path, table):
    schema = tiny_schema(token_weights=True)
    weighted = write_shards(tmp_path / "shards", table, schema=schema)
    known = catalogue(60, schema)
    for found, name in zip(weighted.items().tokens.to_arrow(), ("token_ids", "token_weights"), strict=True):
        assert found.equals(known[name].combine_chunks())
    lists = [[float("nan")] * len(each) for each in known["token_ids"].to_pylist()]
    spoil(
        weighted,
        lambda t: t.set_column(
            t.column_names.index("token_weights"), "token_weights", pa.array(lists, pa.list_(pa.float32()))
        ),
        "items.parquet",
    )
    with pytest.raises(CaptionaryError, match="weights of a list == NaN or infinite, must be finite"):
        weighted.items()
    spoil(weighted, lambda t: t.drop_columns(["token_weights"]), "items.parquet")
    with pytest.raises(CaptionaryError, match=r"items\.parquet has no column token_weights"):
        weighted.items()
    with pytest.raises(CaptionaryError, match="token_weights == True, must be False without tokens"):
        tiny_schema(token_weights=True, tokens=False)


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


def test_labels_that_are_words_are_not_written(tmp_path, table):
    place = table.column_names.index("label.like")
    words = table.set_column(place, "label.like", pa.array(["yes"] * len(table)))
    with pytest.raises(
        CaptionaryError, match=r"type of label.like == string, must be float; train impressions"
    ):
        write_shards(tmp_path / "shards", words)


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
        (
            lambda t: t.set_column(
                t.column_names.index("list.like"),
                "list.like",
                pc.if_else(pc.equal(t["list.like"], 0), None, t["list.like"]),
            ),
            r"list.like == null, must be 0 to \d+; .*row group 0",
        ),
        (
            lambda t: t.set_column(
                t.column_names.index("list.like"), "list.like", t["list.like"].cast(pa.string())
            ),
            r"list.like == string, must be 0 to \d+; .*row group 0",
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


@pytest.mark.parametrize("change", [lambda ids: ids[:1] + ids[:-1], lambda ids: [*ids[:5], None, *ids[6:]]])
def test_items_are_unique(shards, change):
    spoil(
        shards,
        lambda t: t.set_column(
            t.column_names.index("item_id"), "item_id", pa.array(change(t["item_id"].to_pylist()))
        ),
        "items.parquet",
    )
    with pytest.raises(CaptionaryError, match="item ids == 59 distinct, must be 60, unique and not null"):
        shards.items()


def test_numbers_are_numbers(shards):
    spoil(
        shards,
        lambda t: t.set_column(t.column_names.index("item.age"), "item.age", pa.array(["old"] * len(t))),
        "items.parquet",
    )
    with pytest.raises(CaptionaryError, match=r"type of age == string, must be that of numbers; .*items"):
        shards.items()


def test_what_a_ranker_can_go_on_with():
    before = tiny_schema()
    tiny_schema(vocabulary=99).check_continues(before, "here")
    bare = tiny_schema(tokens=False, profiles=False, vocabulary=0, tokenizer="", visual=0)
    tiny_schema(whitening="w", encoder="e").check_continues(bare, "here")  # captions have come
    with pytest.raises(CaptionaryError, match="visual == 0, must be 6, as in the shards"):
        bare.check_continues(before, "here")
    with pytest.raises(CaptionaryError, match="tokenizer == other, must be 'words'"):
        tiny_schema(tokenizer="other").check_continues(tiny_schema(profiles=False), "here")
    with pytest.raises(
        CaptionaryError, match=r"context_categorical == .*, must be \('tab',\), as in the shards"
    ):
        tiny_schema(context_categorical=("tab", "device")).check_continues(before, "here")
    with pytest.raises(CaptionaryError, match="tokenizer == other, must be 'words'"):
        tiny_schema(tokenizer="other").check_continues(before, "here")
    with pytest.raises(CaptionaryError, match="token_weights == True, must be False, as in the shards"):
        tiny_schema(token_weights=True).check_continues(before, "here")
    tiny_schema(token_weights=True).check_continues(bare, "here")


def test_vectors_may_be_added_but_not_be_others():
    before = tiny_schema(vectors=VECTORS)
    before.check_continues(tiny_schema(), "here")
    tiny_schema(vectors=dict(reversed(VECTORS.items())), token_vectors="w").check_continues(before, "here")
    with pytest.raises(
        CaptionaryError,
        match=r"vectors == none, must be with caption among them, as in the shards .*; here; make",
    ):
        tiny_schema().check_continues(before, "here")
    for part, value, words in (
        ("width", 8, "width of vectors caption == 8, must be 3"),
        ("encoder", "other", "encoder of vectors caption == other, must be 'e'"),
        ("projection", "other", "projection of vectors caption == other, must be 'p'"),
        ("of", "impression", "of of vectors caption == impression, must be 'item'"),
    ):
        changed = {**VECTORS, "caption": dataclasses.replace(VECTORS["caption"], **{part: value})}
        with pytest.raises(CaptionaryError, match=words):
            tiny_schema(vectors=changed).check_continues(before, "here")
