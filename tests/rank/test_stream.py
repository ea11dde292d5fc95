import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.rank.tiny_shards import VECTORS, impressions, tiny_schema, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.fit_settings import FitConfig, StreamFeatures
from captionary.rank.portions import Portion, portions
from captionary.rank.scan import scan, schema_of
from captionary.rank.stream import Block, Encoder, Order, batches, prefetched

ORDER = Order(seed=3, window=250, batch_size=64, unseen_users=0.1, unseen_items=0.2, together=4)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("captionary.rank.stream._BLOCK", 400)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    table = impressions(1500, range(30), range(60))
    return write_shards(
        tmp_path_factory.mktemp("stream") / "shards", table, schema=tiny_schema(vectors=VECTORS)
    )


@pytest.fixture(scope="module")
def encoder(shards):
    return encoder_of(shards)


def encoder_of(shards, config=None):
    config = config or FitConfig()
    items = shards.items()
    found = scan(shards, items, config)
    schema = schema_of(shards, found.vocabularies, config)
    return Encoder(shards, items, schema, found.vocabularies, found.mean, found.scale)


def same(one, other):
    (first, labels), (second, expected) = one, other
    flat = [*zip(first.ids.values(), second.ids.values(), strict=True), (labels, expected)]
    flat += [(first.dense, second.dense), (first.place, second.place), (first.visual, second.visual)]
    flat += [
        *zip(first.tokens, second.tokens, strict=True),
        *zip(first.profiles, second.profiles, strict=True),
    ]
    flat.append((first.profile_place, second.profile_place))
    assert list(first.vectors) == list(second.vectors)
    flat += [
        each for name, one in first.vectors.items() for each in zip(one, second.vectors[name], strict=True)
    ]
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in flat)


def test_an_epoch_has_every_row_once_and_windows_keep_time(encoder, shards):
    order = ORDER._replace(unseen_users=0.0, unseen_items=0.0)
    hours = torch.cat([batch.dense[:, 0] for batch, _ in batches(encoder, order, 0)])
    in_time = torch.cat([batch.dense[:, 0] for batch, _ in batches(encoder, order, 0, shuffled=False)])
    assert len(hours) == 1500
    assert not torch.equal(hours, in_time)
    for start in range(0, 1500, 250):
        window = slice(start, start + 250)
        assert torch.equal(hours[window].sort().values, in_time[window].sort().values)


def test_batches_have_one_size_across_blocks_and_shards(encoder):
    assert [len(labels) for _, labels in batches(encoder, ORDER, 0)] == [64] * 23 + [1500 - 23 * 64]


def test_any_batch_can_be_the_first(encoder):
    whole = list(batches(encoder, ORDER, 1))
    for first in (0, 3, 7, 8, 15, 23, 24):
        rest = list(batches(encoder, ORDER, 1, first=first))
        assert len(rest) == len(whole) - first
        assert all(same(one, other) for one, other in zip(rest, whole[first:], strict=True))


def test_vectors_go_to_the_process_that_has_the_row(encoder):
    """Two processes that read everything: their parts of a batch, one after the other, are the batch."""
    whole = list(batches(encoder, ORDER, 0))
    parts = [list(portions(encoder, ORDER, Portion(rank, 2, "all"), 0, 1500)) for rank in (0, 1)]
    for (batch, _), *halves in zip(whole, *parts, strict=True):
        for name, (vectors, which) in batch.vectors.items():
            found = [half.vectors[name] for half, _ in halves]
            assert torch.equal(torch.cat([values[at] for values, at in found]), vectors[which])


def test_rows_of_a_user_stay_together(encoder):
    users = [batch.ids["user"].unique().numel() for batch, _ in batches(encoder, ORDER, 0)]
    apart = [
        batch.ids["user"].unique().numel() for batch, _ in batches(encoder, ORDER._replace(together=1), 0)
    ]
    assert sum(users) < 0.8 * sum(apart)


def test_epochs_and_seeds_differ(encoder):
    first = next(batches(encoder, ORDER, 0))
    assert not same(first, next(batches(encoder, ORDER, 1)))
    assert not same(first, next(batches(encoder, ORDER._replace(seed=4), 0)))


def test_a_batch_is_what_its_rows_say(encoder, shards):
    batch, labels = next(batches(encoder, Order(0, 1, 50), 0, 700, shuffled=False))
    group = next(shards.groups("train", 700, 750))
    table = group.table
    items = shards.items()
    place = {name: row for row, name in enumerate(items.ids.to_pylist())}
    rows = [place[name] for name in table["item_id"].to_pylist()]
    assert len(batch.visual) == len(set(rows)) < 50  # each distinct item once
    np.testing.assert_array_equal(batch.visual[batch.place], items.visual[rows])
    users = encoder.vocabularies["user"].ids.to_pylist()
    assert [users[row - 1] for row in batch.ids["user"].tolist()] == table["user_id"].to_pylist()
    np.testing.assert_array_equal(labels[:, 1], table["label.seconds"].to_numpy())
    numbers = [table[f"list.{event}"].to_pylist() for event in shards.schema.events]
    assert listed(batch) == [
        [group.lists.row(each).tolist() for each in row] for row in zip(*numbers, strict=True)
    ]
    assert len(batch.profiles.offsets) - 1 == len({each for event in numbers for each in event})
    assert list(batch.vectors) == ["caption", "user.text"]
    vectors, which = batch.vectors["caption"]
    np.testing.assert_array_equal(vectors[which], items.vectors["caption"][rows])
    vectors, which = batch.vectors["user.text"]
    numbers = table["vector.user.text"].to_numpy()
    np.testing.assert_array_equal(vectors[which], group.vectors["user.text"][numbers])
    assert len(vectors) == len(set(numbers.tolist())) < 50
    numbers = table["context.hour"].to_numpy()
    assert np.isnan(numbers).any()
    expected = np.nan_to_num((numbers - encoder.mean[0]) / encoder.scale[0])
    np.testing.assert_allclose(batch.dense[:, 0], expected, atol=1e-6)
    mass = np.log1p(table["mass.share"].to_numpy())
    np.testing.assert_allclose(batch.dense[:, 3], (mass - encoder.mean[3]) / encoder.scale[3], atol=1e-5)


def test_shares_of_ids_are_shown_as_unseen(encoder):
    ids = [batch.ids for batch, _ in batches(encoder, ORDER, 0)]
    for name, share in (("user", 0.1), ("item", 0.2)):
        unseen = torch.cat([each[name] for each in ids]) == 0
        assert abs(unseen.double().mean().item() - share) < 0.04


def test_features_can_be_left_out(shards):
    without = StreamFeatures(visual=False, tokens=False, profiles=False, vectors=False)
    bare = encoder_of(shards, FitConfig(features=without))
    batch, _ = next(batches(bare, ORDER, 0))
    assert (batch.visual, batch.tokens, batch.profiles, batch.profile_place) == (None,) * 4
    assert bare.schema.vocabulary == 0
    assert bare.schema.vectors == batch.vectors == {}


def test_moments_are_those_of_all_rows(encoder, shards):
    hour = np.concatenate([group.table["context.hour"].to_numpy() for group in shards.groups()])
    np.testing.assert_allclose(encoder.mean[0], np.nanmean(hour))
    np.testing.assert_allclose(encoder.scale[0], np.nanstd(hour))


def test_rows_outside_the_range_are_not_looked_at(shards):
    config = FitConfig()
    found = scan(shards, shards.items(), config, start=0, stop=40)
    assert found.vocabularies["user"].rows - 1 == len(
        set(next(shards.groups(stop=40)).table["user_id"].to_pylist())
    )


def test_joined_blocks_take_like_one(encoder, shards):
    blocks = [encoder.block(group) for group in shards.groups("train", 0, 700)]
    joined = Block.join(blocks)
    rows = np.array([650, 3, 299, 300, 3])
    part = Block.join([joined.take(rows[:2]), joined.take(rows[2:])])
    (one, labels), (other, expected) = encoder.batch(part, np.arange(5)), encoder.batch(joined, rows)
    assert torch.equal(one.ids["user"], other.ids["user"])
    assert torch.equal(labels.nan_to_num(), expected.nan_to_num())
    assert listed(one) == listed(other)
    for name, (vectors, which) in one.vectors.items():
        expected, place = other.vectors[name]
        assert torch.equal(vectors[which], expected[place])


def listed(batch):
    """The token ids of each profile of each row."""
    ends = batch.profiles.offsets.tolist()
    tokens = batch.profiles.values.tolist()
    return [[tokens[ends[which] : ends[which + 1]] for which in row] for row in batch.profile_place.tolist()]


def broken(tmp_path, name, value, row=650):
    table = impressions(700, range(30), range(60))
    column = table[name].to_pylist()
    column[row] = value
    changed = table.set_column(table.column_names.index(name), name, pa.array(column, table[name].type))
    return write_shards(tmp_path / "shards", changed)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "context.hour",
            float("inf"),
            r"context.hour == inf, must be finite, or null; row 50, .*row group 2",
        ),
        ("mass.like", -1.0, r"mass.like == -1.0, must be finite and >= 0, or null; row 50"),
        (
            "label.like",
            1.5,
            r"label == 1.5, must be from 0 to 1; row 50, like, .*train-00000.parquet, row group 2",
        ),
        ("label.seconds", -2.0, r"label == -2.0, must be finite and >= 0"),
        ("item_id", "i999", r"item_id == i999, must be in items.parquet; row 50"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, value, words):
    shards = broken(tmp_path, name, value)
    with pytest.raises(CaptionaryError, match=words):
        list(batches(encoder_of(shards), ORDER, 0))


def rewritten(tmp_path, name, column):
    """Shards of another maker: 700 rows, of which a column is replaced."""
    shards = write_shards(tmp_path / "shards", impressions(700, range(30), range(60)))
    path = shards.root / "shards" / "train-00000.parquet"
    table = pq.read_table(path)
    changed = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(changed, path, row_group_size=300)
    return shards


@pytest.mark.parametrize("name", ["label.like", "context.hour", "mass.like"])
def test_numbers_are_numbers(tmp_path, name):
    shards = rewritten(tmp_path, name, pa.array(["x"] * 700))
    words = rf"type of {name} == string, must be that of numbers; .*row group 0"
    with pytest.raises(CaptionaryError, match=words):
        list(batches(encoder_of(shards), ORDER, 0))


def test_labels_may_be_flags(tmp_path):
    flags = [None if row == 5 else row % 3 == 0 for row in range(700)]
    shards = rewritten(tmp_path, "label.like", pa.array(flags))
    _, labels = next(batches(encoder_of(shards), Order(0, 1, 700), 0, shuffled=False))
    expected = [np.nan if flag is None else float(flag) for flag in flags]
    np.testing.assert_array_equal(labels[:, 0].numpy(), expected)


def test_what_is_missing_is_the_mean_an_unseen_id_or_no_label(tmp_path):
    for name in ("context.hour", "context.tab", "user_id", "label.like"):
        shards = broken(tmp_path / name, name, None)
        found = list(batches(encoder_of(shards), Order(0, 1, 700), 0, shuffled=False))
        batch, labels = found[0]
        if name == "label.like":
            assert labels[650, 0].isnan()
        elif name == "context.hour":
            assert batch.dense[650, 0] == 0
        else:
            assert batch.ids[{"user_id": "user"}.get(name, name)][650] == 0


def test_the_background_gives_the_same_and_ends(encoder):
    whole = list(batches(encoder, ORDER, 0))
    ahead = list(prefetched(batches(encoder, ORDER, 0), 2))
    assert all(same(one, other) for one, other in zip(ahead, whole, strict=True))
    stopped = prefetched(batches(encoder, ORDER, 0), 2)
    next(stopped)
    stopped.close()
    assert not any(thread.name == "captionary-batches" for thread in threading.enumerate())


def test_an_error_in_the_background_is_raised(tmp_path):
    shards = broken(tmp_path, "label.like", 1.5)
    encoder = encoder_of(write_shards(tmp_path / "good", impressions(700, range(30), range(60))))
    encoder.shards = shards
    with pytest.raises(CaptionaryError, match=r"label == 1\.5"):
        list(prefetched(batches(encoder, ORDER, 0), 2))


def test_schemas_without_tokens(tmp_path):
    schema = tiny_schema(tokens=False, profiles=False, vocabulary=0, visual=0, tokenizer="")
    shards = write_shards(tmp_path / "shards", impressions(400, range(30), range(60)), schema=schema)
    assert not list((shards.root / "lists").iterdir())
    assert len(list(batches(encoder_of(shards), ORDER, 0))) == 7
