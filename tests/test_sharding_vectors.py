"""`captionary shards --vectors`: what a run's rankers read in memory, out of shards."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.tiny_run import copy_run

from captionary.assemble import ranking_data, with_features
from captionary.commands.shards import shards as shards_command
from captionary.errors import CaptionaryError
from captionary.exporting import finished_stages
from captionary.rank.features import FeatureSet
from captionary.rank.fit import Trainer
from captionary.rank.fit_settings import FitConfig
from captionary.rank.settings import RankerConfig
from captionary.rank.train import predict
from captionary.represent.tokenizers import load_tokenizer
from captionary.represent.vectors import TokenVectors
from captionary.settings import load_run
from captionary.sharding import Between, make_shards
from captionary.sharding_vectors import named_projection

KINDS = ("sentence", "profile_text", "word2vec")
CONFIG = FitConfig(ranker=RankerConfig(epochs=1, batch_size=64, embedding_dim=4))


@pytest.fixture(scope="module", autouse=True)
def finished():
    """The run is: its stages are read as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captionary.sharding.run", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def path(tiny_run, tmp_path_factory):
    """The config of a run that was made with vectors: random ones, so that no model is needed."""
    path = copy_run(tiny_run, tmp_path_factory.mktemp("run"))
    write_vectors(load_run(path).folder / "tokens", finished_stages(load_run(path)).dataset)
    return path


@pytest.fixture(scope="module")
def config(path):
    return load_run(path)


def write_vectors(tokens, dataset, width=9):
    """As the tokens stage writes them; every seventh item has no sentence, profiles are as of two moments."""
    rng = np.random.default_rng(0)
    items, seen = dataset.items(["item_id"]), dataset.impressions(["user_id", "timestamp"])
    present = np.arange(len(items)) % 7 > 0
    vectors = rng.normal(size=(len(items), width)) * present[:, None]
    users = np.unique(seen["user_id"].to_numpy())[::2]
    moments = np.sort(seen["timestamp"].cast(pa.int64()).to_numpy())[[len(seen) // 4, len(seen) // 2]]
    profiles = pa.table(
        {
            "user_id": np.repeat(users, 2),
            "as_of": pa.array(np.tile(moments, len(users)), pa.timestamp("us", tz="UTC")),
            "text": ["likes dogs"] * (2 * len(users)),
        }
    )
    texts = np.append(rng.normal(size=(len(profiles), width)), np.zeros((1, width)), axis=0)
    for kind, values, there in (
        ("sentence", vectors, present),
        ("profile_text", texts, np.arange(len(texts)) < len(profiles)),
    ):
        (tokens / kind).mkdir(exist_ok=True)
        np.savez(tokens / kind / "vectors.npz", vectors=values.astype(np.float32), present=there)
    pq.write_table(profiles, tokens / "profile_text" / "profiles.parquet")
    tokenizer = load_tokenizer(tokens / "A")
    size = len(tokenizer.vocabulary)
    learnt = TokenVectors(
        rng.normal(size=(size, 6)).astype(np.float32), np.arange(size) > 2, tokenizer.fingerprint()
    )
    learnt.save(tokens / "word2vec" / "A.npz")
    say_encoder(tokens, "minilm-1")


def say_encoder(tokens, name):
    said = json.loads((tokens / "stage.json").read_text())
    said["facts"]["rivals"] = {kind: {"model": name} for kind in ("sentence", "profile_text")}
    (tokens / "stage.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def made(config, tmp_path_factory):
    return make_shards(config, tmp_path_factory.mktemp("shards") / "all", vectors=KINDS)


def test_predictions_are_those_of_the_run_in_memory(config, made):
    """To the weights of a ranker trained on the shards, both sides of the vectors give the same numbers."""
    trainer = Trainer(made, CONFIG, 0)
    list(trainer.train())
    assert trainer.model.schema.vectors == {"sentence": 9, "profile_text": 9}
    stages = finished_stages(config)
    features = FeatureSet(
        visual=True, tokens="A", profiles="A", vectors=("sentence", "profile_text"), token_vectors="A"
    )
    data, known = with_features(stages, ranking_data(stages), features), trainer.vocabularies
    items, seen = stages.dataset.items(), stages.dataset.impressions()
    data = dataclasses.replace(
        data,
        user=known["user"].index(seen["user_id"]),
        item_id=known["item"].index(items["item_id"]),
        context_categorical={
            name: known[f"context.{name}"].index(seen[name]) for name in data.context_categorical
        },
        item_categorical={name: known[f"item.{name}"].index(items[name]) for name in data.item_categorical},
        vocabularies=known,
    )
    found, labels = trainer.predict("eval")
    np.testing.assert_array_equal(labels, data.labels[data.eval])
    np.testing.assert_allclose(found, predict(trainer.model, data, features), rtol=1e-5, atol=1e-6)
    values, row = data.vectors["profile_text"]
    assert 0.2 < (row[data.eval] < len(values) - 1).mean() < 0.8
    np.testing.assert_array_equal(made.token_vectors().vectors, data.token_vectors["A"].vectors)
    fresh = Trainer(made, CONFIG, 0).model.token_table.detach().numpy()
    plain = dataclasses.replace(CONFIG, features=dataclasses.replace(CONFIG.features, token_vectors=False))
    drawn = Trainer(made, plain, 0).model.token_table.detach().numpy()
    assert np.array_equal(fresh[:3], drawn[:3])
    assert not np.isclose(fresh[3:], drawn[3:]).any(axis=1).all()


def test_vectors_are_stored_once_an_item_and_once_a_profile(made):
    columns = pq.read_schema(made.root / "shards" / "train-00000.parquet").names
    assert "vector.sentence" not in columns
    assert "vector.profile_text" in columns
    assert "vector.sentence" in pq.read_schema(made.root / "items.parquet").names
    for group in made.groups("train"):
        assert len(np.unique(group.vectors["profile_text"], axis=0)) == len(group.vectors["profile_text"])
        assert len(group.vectors["profile_text"]) < len(group.table) / 4


def test_impressions_that_are_dealt_out_by_time_keep_their_vectors(config, made, tmp_path, monkeypatch):
    times = np.concatenate([group.table["timestamp"].cast(pa.int64()).to_numpy() for group in made.groups()])
    ends = np.quantile(times, [0.3, 0.6]).astype(np.int64)
    monkeypatch.setattr("captionary.sharding._Impressions._ends", lambda _: ends)
    monkeypatch.setattr("captionary.sharding._BATCH", 257)
    dealt = make_shards(config, tmp_path / "dealt", vectors=KINDS)
    assert dealt.schema == made.schema
    for part in ("train", "eval"):
        found, expected = ([*shards.groups(part)] for shards in (dealt, made))
        for name in ("user_id", "timestamp"):
            one, other = (
                pa.concat_tables([group.table for group in each])[name] for each in (found, expected)
            )
            assert one.equals(other)
        vectors = [
            np.concatenate(
                [g.vectors["profile_text"][g.table["vector.profile_text"].to_numpy()] for g in each]
            )
            for each in (found, expected)
        ]
        np.testing.assert_array_equal(*vectors)


def test_a_run_without_being_asked_has_none(config, tmp_path):
    bare = make_shards(config, tmp_path / "bare")
    assert (bare.schema.vectors, bare.schema.token_vectors) == ({}, "")
    assert bare.token_vectors() is None
    assert not (bare.root / "vectors").exists()


def test_shards_like_earlier_ones_have_their_projections(config, made, tmp_path):
    tokens = config.folder / "tokens"
    late = make_shards(config, tmp_path / "late", like=made.root)
    assert late.schema.vectors == made.schema.vectors
    late.schema.check_continues(made.schema, "late")
    np.testing.assert_array_equal(late.items().vectors["sentence"], made.items().vectors["sentence"])
    kept = {path: path.read_bytes() for path in tokens.rglob("*") if path.is_file()}
    try:
        # sentences of the same encoder, of which some changed: the earlier projection, not one fitted on them
        with np.load(tokens / "sentence" / "vectors.npz") as stored:
            vectors, present = stored["vectors"] * np.linspace(1, 5, 9, dtype=np.float32), stored["present"]
        np.savez(tokens / "sentence" / "vectors.npz", vectors=vectors, present=present)
        whitening = made.projection("sentence")
        moved = make_shards(config, tmp_path / "moved", like=made.root).items().vectors["sentence"]
        np.testing.assert_allclose(moved, whitening.apply(vectors, present), rtol=1e-6)
        write_vectors(tokens, finished_stages(config).dataset, width=5)
        with pytest.raises(
            CaptionaryError,
            match=r"width of the encoder's vectors sentence == 5, must be 9, as in .*/all; embed with that",
        ):
            make_shards(config, tmp_path / "narrow", like=made.root)
        say_encoder(tokens, "minilm-2")
        with pytest.raises(
            CaptionaryError, match=r"encoder of vectors sentence == minilm-2, must be minilm-1, as in .*/all"
        ):
            make_shards(config, tmp_path / "other", like=made.root)
        anew = make_shards(config, tmp_path / "anew", vectors=["sentence", "profile_text"])
        with pytest.raises(
            CaptionaryError, match="width of vectors sentence == 5, must be 9, as in the shards"
        ):
            anew.schema.check_continues(made.schema, "anew")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    with pytest.raises(
        CaptionaryError, match=r"vectors == sentence, must be with profile_text among them, as in .*/all; run"
    ):
        make_shards(config, tmp_path / "fewer", like=made.root, vectors=["sentence"])
    assert not any((tmp_path / name).exists() for name in ("narrow", "other", "fewer"))


def test_projections_know_nothing_of_later_impressions(config, made, tmp_path):
    """Whatever the pictures and captions of items that come later, and what is said of users later."""
    stages = finished_stages(config)
    times = np.sort(stages.dataset.impressions(["timestamp"])["timestamp"].cast(pa.int64()).to_numpy())
    moment = pa.scalar(int(times[len(times) // 2]), pa.timestamp("us", tz="UTC")).as_py()
    early = make_shards(config, tmp_path / "early", vectors=KINDS, between=Between(until=moment))
    seen = pc.unique(pa.concat_tables([group.table for group in early.groups()])["item_id"])
    later = ~pc.is_in(stages.dataset.items(["item_id"])["item_id"], value_set=seen).to_numpy()
    assert later.any()
    files = {name: config.folder / "tokens" / name / "vectors.npz" for name in ("sentence", "profile_text")}
    files |= {"": config.folder / "captions" / "vectors.npz"}
    said = pq.read_table(config.folder / "tokens" / "profile_text" / "profiles.parquet")["as_of"]
    after = np.append(pc.greater_equal(said, moment).to_numpy(), False)
    kept = {path: path.read_bytes() for path in files.values()}
    try:
        for name, path in files.items():
            with np.load(path) as stored:
                vectors, present = stored["vectors"].copy(), stored["present"]
            vectors[after if name == "profile_text" else later] *= 100
            np.savez(path, vectors=vectors, present=present)
        other = make_shards(config, tmp_path / "other", vectors=KINDS, between=Between(until=moment))
        whole = make_shards(config, tmp_path / "whole", vectors=KINDS)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    for name in files:
        assert named_projection(other.projection(name)) == named_projection(early.projection(name)), name
        assert named_projection(whole.projection(name)) != named_projection(made.projection(name)), name


def test_visual_vectors_of_another_encoder_are_refused(config, tmp_path):
    captions = config.folder / "captions"
    stage, vectors = captions / "stage.json", captions / "vectors.npz"
    kept = {path: path.read_bytes() for path in (stage, vectors)}

    def say(encoder):
        said = json.loads(kept[stage])
        said["facts"]["encoder"] = encoder
        stage.write_text(json.dumps(said))

    try:
        say("")  # as runs of earlier versions do
        silent = make_shards(config, tmp_path / "silent")
        say("efficientnet")
        known = make_shards(config, tmp_path / "known", like=silent.root)
        assert known.schema.encoder == "efficientnet"
        say("another")
        with pytest.raises(
            CaptionaryError,
            match=r"encoder of visual vectors == another, must be efficientnet, as in .*/known; embed with that",
        ):
            make_shards(config, tmp_path / "other", like=known.root)
        say("efficientnet")
        with np.load(vectors) as stored:
            np.savez(vectors, vectors=stored["vectors"][:, :5], present=stored["present"])
        with pytest.raises(
            CaptionaryError, match="width of the encoder's visual vectors == 5, must be 8, as in"
        ):
            make_shards(config, tmp_path / "narrow", like=known.root)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_vectors_can_be_added_to_what_earlier_shards_had(config, tmp_path):
    before = make_shards(config, tmp_path / "before", vectors=["profile_text"])
    more = make_shards(config, tmp_path / "more", like=before.root, vectors=["sentence", "profile_text"])
    assert list(more.schema.vectors) == ["sentence", "profile_text"]
    more.schema.check_continues(before.schema, "more")


def test_by_the_verb_and_what_is_not_there(path, config, made, tmp_path):
    def call(*words):
        return CliRunner().invoke(
            shards_command, [str(path), "--out", str(tmp_path / "out"), *words], catch_exceptions=False
        )

    assert call("--vectors", "word2vec", "--vectors", "sentence").exit_code == 0
    said = json.loads((tmp_path / "out" / "shards.json").read_text())["schema"]
    assert list(said["vectors"]) == ["sentence"]
    assert said["token_vectors"] == made.schema.token_vectors != ""
    with pytest.raises(CaptionaryError, match=r"vectors == sentences, must be sentence \(did you mean that"):
        call("--vectors", "sentences")
    with pytest.raises(
        CaptionaryError, match="vectors == word2vec, must be left out with these tokens; run tiny"
    ):
        call("--vectors", "word2vec", "--tokens", "B")
    kept = config.folder / "tokens" / "sentence"
    kept.rename(kept.with_name("away"))
    try:
        with pytest.raises(CaptionaryError, match="vectors == sentence, must be what the run was made with"):
            call("--vectors", "sentence")
    finally:
        kept.with_name("away").rename(kept)
