from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.tiny_run import copy_run, faked

from captionary.commands.fit import fit as fit_command
from captionary.commands.shards import shards as shards_command
from captionary.commands.tune import tune as tune_command
from captionary.contract import open_dataset, table_files
from captionary.errors import CaptionaryError
from captionary.rank.checkpoint import load_ranker
from captionary.rank.shards import open_shards
from captionary.represent.tables import read_item_tokens, read_profiles, write_item_tokens
from captionary.settings import load_run
from captionary.sharding import Between, make_shards, tokenizer_name


@pytest.fixture(scope="module", autouse=True)
def captioner():
    with faked():
        yield


@pytest.fixture(scope="module")
def path(tiny_run, tmp_path_factory):
    return copy_run(tiny_run, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def config(path):
    return load_run(path)


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    return make_shards(config, tmp_path_factory.mktemp("shards") / "all")


@pytest.fixture(scope="module")
def dataset(config, made):
    return open_dataset(config.folder / "data" / "world")


def rows_of(shards, part="train"):
    return pa.concat_tables([group.table for group in shards.groups(part)])


def in_time(dataset, part):
    impressions = dataset.impressions()
    chosen = np.flatnonzero(impressions["split"].to_numpy(zero_copy_only=False) == part)
    times = impressions["timestamp"].cast(pa.int64()).to_numpy()[chosen]
    return impressions, chosen[np.argsort(times, kind="stable")]


def test_impressions_are_those_of_the_split_in_time(made, dataset):
    for part in ("train", "eval"):
        impressions, order = in_time(dataset, part)
        rows, expected = rows_of(made, part), impressions.take(pa.array(order))
        for name in ("user_id", "item_id", "timestamp"):
            assert rows[name].to_pylist() == expected[name].to_pylist()
        labels = np.column_stack([rows[f"label.{task}"].to_numpy() for task in made.schema.tasks])
        np.testing.assert_array_equal(labels, dataset.labels(expected))


def test_profiles_and_tokens_are_those_of_the_stages(config, made, dataset):
    _, order = in_time(dataset, "train")
    built = read_profiles(config.folder / "profiles" / "A")[1]
    assert made.schema.events == tuple(built)
    groups = list(made.groups("train"))
    for event, (lists, mass) in built.items():
        expected = lists.take(order)
        found = [g.lists.take(g.table[f"list.{event}"].to_numpy().astype(np.int64)) for g in groups]
        np.testing.assert_array_equal(np.concatenate([each.values for each in found]), expected.values)
        np.testing.assert_array_equal(np.concatenate([each.weights for each in found]), expected.weights)
        np.testing.assert_array_equal(rows_of(made)[f"mass.{event}"].to_numpy(), mass[order])
    tokens = read_item_tokens(config.folder / "tokens" / "A" / "item_tokens.parquet")[1]
    np.testing.assert_array_equal(made.items().tokens.values, tokens.values)
    assert made.schema.vocabulary > tokens.values.max()


def test_weights_of_tokens_go_where_the_tokens_go(config, made, tmp_path, monkeypatch):
    monkeypatch.setattr("captionary.sharding.run", lambda *_: None)
    path = config.folder / "tokens" / "A" / "item_tokens.parquet"
    kept = path.read_bytes()
    ids, tokens = read_item_tokens(path)
    assert tokens.weights is None
    assert not made.schema.token_weights
    weights = np.random.default_rng(0).random(len(tokens.values)).astype(np.float32)
    try:
        write_item_tokens(path, ids, tokens._replace(weights=weights))
        weighted = make_shards(config, tmp_path / "weighted")
        with pytest.raises(CaptionaryError, match=r"token_weights == True, must be False, as in .*/all"):
            make_shards(config, tmp_path / "like", like=made.root)
    finally:
        path.write_bytes(kept)
    assert weighted.schema.token_weights
    np.testing.assert_array_equal(weighted.items().tokens.weights, weights)
    np.testing.assert_array_equal(weighted.items().tokens.values, tokens.values)


def test_impressions_in_any_order_give_the_same_shards(config, made, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("captionary.sharding._DEALT", 300)
    monkeypatch.setattr("captionary.sharding._BATCH", 257)
    monkeypatch.setattr("captionary.sharding.run", lambda *_: None)
    files = table_files(dataset.root, "impressions")
    profiles = sorted((config.folder / "profiles" / "A").glob("*.parquet"))
    before = {each: each.read_bytes() for each in [*files, *profiles]}
    whole = pa.concat_tables([pq.read_table(each) for each in files])
    turned = pa.array(np.random.default_rng(0).permutation(whole.num_rows))
    try:
        for each in files[1:]:
            each.unlink()
        pq.write_table(whole.take(turned), files[0])
        for each in profiles:
            pq.write_table(pq.read_table(each).take(turned), each)
        other = make_shards(config, tmp_path / "turned")
    finally:
        for each, content in before.items():
            each.write_bytes(content)
    # rows of one moment may have changed places
    for name in ("timestamp", "user_id", "item_id"):
        assert sorted(rows_of(other)[name].to_pylist()) == sorted(rows_of(made)[name].to_pylist())
    times = rows_of(other)["timestamp"].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    np.testing.assert_array_equal(times, rows_of(made)["timestamp"].cast(pa.int64()).to_numpy())
    assert not (tmp_path / "turned" / "sorting").exists()


def test_profiles_of_other_impressions_are_refused(config, made, tmp_path, monkeypatch):
    monkeypatch.setattr("captionary.sharding.run", lambda *_: None)
    path = config.folder / "profiles" / "A" / "like.parquet"
    kept = path.read_bytes()
    try:
        pq.write_table(pq.read_table(path).slice(1), path)
        with pytest.raises(
            CaptionaryError, match=r"impression_id == other ids, .*like\.parquet; delete the folder"
        ):
            make_shards(config, tmp_path / "out")
    finally:
        path.write_bytes(kept)
    assert not (tmp_path / "out").exists()


def test_a_day_like_the_days_before(config, made, tmp_path):
    times = rows_of(made)["timestamp"].to_pylist()
    middle = times[len(times) // 2]
    late = make_shards(config, tmp_path / "late", between=Between(since=middle), like=made.root)
    early = make_shards(config, tmp_path / "early", between=Between(until=middle))
    assert early.rows() + late.rows() == made.rows()
    assert rows_of(early)["timestamp"].to_pylist()[-1] < middle <= rows_of(late)["timestamp"].to_pylist()[0]
    late.schema.check_continues(made.schema, "late")


def test_shards_made_again_another_day_are_the_same_shards(config, made, tmp_path, monkeypatch):
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(days=1)

    monkeypatch.setattr("captionary.sharding.datetime", Tomorrow)
    again = make_shards(config, tmp_path / "again")
    assert again.made_of["made_at"] > made.made_of["made_at"]
    assert again.fingerprint == made.fingerprint  # which decides the order that a training shuffles rows into


def test_a_grown_tokenizer_keeps_its_name():
    class Known(NamedTuple):
        kind: str
        vocabulary: list[str]

    first = tokenizer_name(Known("concepts", ["[UNK]", "dog"]))
    assert tokenizer_name(Known("concepts", ["[UNK]", "dog", "cat"]), first) == first
    assert tokenizer_name(Known("concepts", ["[UNK]", "dog", "cat"])) != first
    for other in (
        Known("concepts", ["[UNK]", "cat", "dog"]),
        Known("wordpiece", ["[UNK]", "dog"]),
        Known("concepts", ["[UNK]"]),
    ):
        assert tokenizer_name(other, first) == tokenizer_name(other) != first


def test_features_can_be_left_out(config, tmp_path):
    bare = make_shards(config, tmp_path / "bare", tokens=False, visual=False)
    assert (bare.schema.tokens, bare.schema.profiles, bare.schema.visual) == (False, False, 0)
    assert bare.schema.events
    other = make_shards(config, tmp_path / "b", letter="B")
    assert (other.schema.tokens, other.schema.profiles) == (True, False)
    with pytest.raises(CaptionaryError, match="tokenizer == C, must be one of A, B"):
        make_shards(config, tmp_path / "c", letter="C")


def call(command, *args):
    return CliRunner().invoke(command, [str(each) for each in args], catch_exceptions=False)


def test_from_a_config_to_a_measured_ranker_and_on(path, made, tmp_path):
    done = call(shards_command, path, "--out", tmp_path / "shards", "--shard-rows", 1000)
    assert done.exit_code == 0
    assert f"train: {made.rows():,} impressions" in done.stdout
    assert open_shards(tmp_path / "shards").rows("eval") == made.rows("eval")
    fitted = call(fit_command, tmp_path / "shards", "--out", tmp_path / "out", "--threads", 1)
    assert "samples/s" in fitted.stdout
    assert "AUC" in fitted.stdout
    assert all(task in fitted.stdout for task in made.schema.tasks)
    again = call(fit_command, tmp_path / "shards", "--out", tmp_path / "out")
    assert "nothing to do: this training is finished" in again.stdout
    measured = call(fit_command, tmp_path / "shards", "--out", tmp_path / "out", "--calibrate", "platt")
    half = made.rows("eval") // 2
    assert f"calibrated by platt on the {half:,} eval rows before these" in measured.stdout
    before, after = measured.stdout.split("calibrated by")
    for task in made.schema.tasks:
        lines = [
            next(line for line in part.splitlines() if line.startswith(task)).split()
            for part in (before, after)
        ]
        assert int(lines[0][1]) == made.rows("eval") - half
        # A rising line turns no pair of rows round, and a nearly flat one makes a float32 tie of a pair or two: half a
        # pair each, of all pairs of a row with the label and one without.
        rows, share = int(lines[0][1]), float(lines[0][5])
        pairs = round(rows * share) * round(rows * (1 - share))
        assert abs(float(lines[1][2]) - float(lines[0][2])) <= 1 / pairs + 1e-5
        assert lines[0][4] != lines[1][4]
    assert load_ranker(tmp_path / "out" / "ranker").calibration is not None
    tomorrow = datetime(2100, 1, 1, tzinfo=UTC) - timedelta(days=1)
    with pytest.raises(CaptionaryError, match="training impressions == 0, must be >= 1"):
        call(shards_command, path, "--out", tmp_path / "none", "--since", tomorrow.isoformat())
    with pytest.raises(CaptionaryError, match="--until == today, must be a time with its zone"):
        call(shards_command, path, "--out", tmp_path / "none", "--until", "today")
    on = call(
        fit_command,
        tmp_path / "shards",
        "--out",
        tmp_path / "next",
        "--from",
        tmp_path / "out",
        "--epochs",
        1,
    )
    assert "checkpoint: " in on.stdout
    pytest.importorskip("optuna", reason="optuna is not installed")
    tuned = call(tune_command, path, "--out", tmp_path / "tuned", "--trials", 1)
    assert "best of 1 trials" in tuned.stdout
    assert open_shards(tmp_path / "tuned" / "shards").rows() == made.rows()
