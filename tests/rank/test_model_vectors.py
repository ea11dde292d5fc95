"""Dense vectors beside the visual one, and token tables that start from learnt vectors."""

import dataclasses

import numpy as np
import pytest
import torch

from captionary.errors import CaptionaryError
from captionary.rank.batches import Source
from captionary.rank.checkpoint import load_ranker, save_ranker
from captionary.rank.data import DenseVectors
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.train import predict, train_ranker
from captionary.represent.vectors import TokenVectors

FEATURES = FeatureSet(tokens="A", vectors=("sentence", "user.text"))


@pytest.fixture(scope="module")
def rich(data):
    """`data`, with vectors of items and of some other table that impressions point into; its last row is for none."""
    rng = np.random.default_rng(0)
    row = rng.integers(0, 31, len(data.item))
    values = np.concatenate([rng.normal(size=(30, 3)), np.zeros((1, 3))]).astype(np.float32)
    vectors = {
        "sentence": DenseVectors(rng.normal(size=(len(data.item_id), 5)).astype(np.float32)),
        "user.text": DenseVectors(values, row),
    }
    tokens = rng.normal(size=(25, 12)).astype(np.float32)
    learnt = TokenVectors(tokens, np.arange(25) % 5 != 0, "a tokenizer")
    return dataclasses.replace(data, vectors=vectors, token_vectors={"A": learnt})


def test_each_vector_is_a_field_that_changes_its_impressions_alone(rich, quick):
    schema = Schema.of(rich, FEATURES)
    assert schema.vectors == {"sentence": 5, "user.text": 3}
    assert schema.fields[-3:] == ("vector.sentence", "vector.user.text", "tokens")
    model = Ranker(quick, schema, seed=0).eval()
    rows = np.arange(200)

    def logits(data):
        with torch.inference_mode():
            return model(Source(data, FEATURES, np.zeros(4), np.ones(4)).batch(rows)).logits

    before = logits(rich)
    for name in FEATURES.vectors:
        values, row = rich.vectors[name]
        changed = values.copy()
        changed[7] += 1
        other = dataclasses.replace(rich, vectors={**rich.vectors, name: DenseVectors(changed, row)})
        place = rich.item if row is None else row
        moved = (logits(other) != before).any(1).numpy()
        assert np.array_equal(moved, place[rows] == 7)


def test_arms_with_vectors_share_what_others_have(rich, quick):
    plain = Ranker(quick, Schema.of(rich, FeatureSet(tokens="A")), seed=5)
    arm = dict(Ranker(quick, Schema.of(rich, FEATURES), seed=5).named_parameters())
    for name, value in plain.named_parameters():
        if name != "top_in.weight":
            assert torch.equal(value, arm[name]), name


def test_vectors_survive_the_disk_and_must_be_those_trained_on(rich, data, quick, tmp_path):
    model = train_ranker(rich, FEATURES, quick, seed=0).model
    save_ranker(model, tmp_path / "ranker")
    loaded = load_ranker(tmp_path / "ranker")
    assert loaded.schema == model.schema
    assert np.array_equal(predict(loaded, rich, FEATURES), predict(model, rich, FEATURES))
    with pytest.raises(CaptionaryError, match="vectors == "):
        predict(model, rich, FeatureSet(tokens="A", vectors=("sentence",)))
    with pytest.raises(CaptionaryError, match="vectors == sentence"):
        predict(model, data, FEATURES)


def test_the_token_table_starts_from_learnt_vectors(rich, quick):
    """Vectors of 12 numbers for a table of 8: near tokens are near in both; unknown rows are as drawn."""
    schema = Schema.of(rich, FeatureSet(tokens="A"))
    drawn = Ranker(quick, schema, seed=0).token_table.detach()
    model = Ranker(quick, schema, seed=0)
    model.start_tokens(rich.token_vectors["A"])
    table, known = model.token_table.detach(), torch.from_numpy(rich.token_vectors["A"].known[: len(drawn)])
    assert torch.equal(table[~known], drawn[~known])
    assert not torch.isclose(table[known], drawn[known]).any(1).all()
    assert table[known].square().mean().sqrt().item() == pytest.approx(quick.token_init, rel=1e-5)


def test_training_starts_there(rich, quick):
    """With steps too small to matter, the table after training is the one it started from."""
    still = dataclasses.replace(quick, embedding_lr=1e-12)
    features = FeatureSet(tokens="A", token_vectors="A")
    trained = train_ranker(rich, features, still, seed=0).model.token_table.detach()
    expected = Ranker(still, Schema.of(rich, features), seed=0)
    expected.start_tokens(rich.token_vectors["A"])
    torch.testing.assert_close(trained, expected.token_table.detach())


def test_token_vectors_need_a_table_that_they_fit(rich, quick):
    schema = Schema.of(rich, FeatureSet(tokens="A"))
    few = TokenVectors(np.ones((3, 8), np.float32), np.ones(3, bool), "")
    with pytest.raises(CaptionaryError, match=r"shape of token_vectors == \(3, 8\), must be of 20 tokens"):
        Ranker(quick, schema, seed=0).start_tokens(few)
    hashed = dataclasses.replace(quick, token_table="hash")
    with pytest.raises(CaptionaryError, match="token_table == plain"):
        Ranker(hashed, schema, seed=0).start_tokens(rich.token_vectors["A"])
    with pytest.raises(CaptionaryError, match="given with tokens or profiles"):
        FeatureSet(token_vectors="A")
    with pytest.raises(CaptionaryError, match="token vectors of the data"):
        Schema.of(rich, FeatureSet(tokens="A", token_vectors="B"))


def test_vectors_of_the_wrong_shape_are_refused(rich):
    def refused(vectors, words):
        with pytest.raises(CaptionaryError, match=words):
            dataclasses.replace(rich, vectors={"x": vectors})

    refused(DenseVectors(np.zeros((3, 2), np.float32)), "shape of vectors x")
    refused(DenseVectors(np.zeros(120, np.float32)), "shape of vectors x")
    refused(DenseVectors(np.full((120, 2), np.nan, np.float32)), "vectors x == nan")
    refused(DenseVectors(np.zeros((3, 2), np.float32), np.full(len(rich.item), 3)), "row of vectors x == 3")
    refused(DenseVectors(np.zeros((3, 2), np.float32), np.zeros(4, np.int64)), "rows of vectors x")
    with pytest.raises(CaptionaryError, match="each named once"):
        FeatureSet(vectors=("x", "x"))
