"""A trained ranker that goes on with other features: at step 0 it predicts what it did."""

import dataclasses

import numpy as np
import pytest
import torch

from captionary.errors import CaptionaryError
from captionary.rank.batches import Source
from captionary.rank.data import DenseVectors
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.vocabulary import Vocabulary
from captionary.rank.warm_start import Carrier, warm_start

ALL = FeatureSet(visual=True, tokens="A", profiles="A", vectors=("sentence",))
SHAPES = [
    {},
    {"interaction": "dot"},
    {"interaction": "concat", "top": (32, 16)},
    {"interaction": "dcnv2"},
    {"interaction": "dcnv2", "cross_rank": 3, "token_table": "hash", "hash_components": 16},
    {"towers": "mmoe", "experts": 3, "top": (32, 16)},
    {"towers": "ple", "expert_levels": 3, "task_experts": 2},
    {"profile_pooling": "attention"},
]


@pytest.fixture(scope="module")
def rich(data):
    vectors = np.random.default_rng(0).normal(size=(len(data.item_id), 5)).astype(np.float32)
    return dataclasses.replace(data, vectors={"sentence": DenseVectors(vectors)})


def perturbed(config, schema, seed=0):
    """A ranker whose every weight is other than it was drawn, as after training."""
    model = Ranker(config, schema, seed).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
        model.mean += 0.1
        model.scale *= 2
    return model


def logits(model, data, features, rows=300):
    source = Source(data, features, model.mean.numpy(), model.scale.numpy())
    with torch.inference_mode():
        return model.eval()(source.batch(np.arange(rows))).logits


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize(
    "before", [FeatureSet(), FeatureSet(visual=True, profiles="A")], ids=["ids", "profiles"]
)
def test_added_features_change_nothing_at_step_0_and_learn_at_once(rich, quick, shape, before):
    config = dataclasses.replace(quick, **shape)
    trained = perturbed(config, Schema.of(rich, before))
    started, report = warm_start(trained, Schema.of(rich, ALL), config, seed=9)
    torch.testing.assert_close(logits(started, rich, ALL), logits(trained, rich, before), rtol=0, atol=2e-6)
    fields = set(started.schema.fields) - set(trained.schema.fields)
    assert set(report.added_fields) == fields
    assert report.dropped == report.removed_fields == ()
    assert "tables.user" in report.kept
    source = Source(rich, ALL, started.mean.numpy(), started.scale.numpy())
    started.train()(source.batch(np.arange(64))).logits.sum().backward()
    reader = started.experts.first if shape.get("towers") else started.top_in
    names = [name for name, _ in reader.blocks]
    place = sum(width for _, width in reader.blocks[: names.index("tokens")]) if "tokens" in names else 0
    assert reader.weight.grad[place].abs().sum() > 0


def test_removed_features_leave_the_rest_as_it_was(rich, quick):
    trained = perturbed(quick, Schema.of(rich, ALL))
    bare = FeatureSet(visual=True)
    started, report = warm_start(trained, Schema.of(rich, bare), quick, seed=0)
    assert set(report.removed_fields) == {"tokens", "profile.like", "profile.share", "vector.sentence"}
    assert {"token_table", "vectors.sentence.0.weight"} <= set(report.dropped)
    assert report.resized == ("top_in.weight",)
    assert report.new == ()
    for name, _ in started.top_in.blocks:
        assert torch.equal(started.top_in.block(name), trained.top_in.block(name)), name
    # and back again: what was never removed is as trained
    again, _ = warm_start(started, Schema.of(rich, ALL), quick, seed=0)
    assert torch.equal(again.top_in.block("item*visual"), trained.top_in.block("item*visual"))
    assert (again.top_in.block("item*tokens") == 0).all()


def test_new_rows_start_from_the_unseen_row_and_moved_rows_are_found(data, quick):
    old = Vocabulary.fit(["ada", "bob", "cy"])
    schema = dataclasses.replace(Schema.of(data, FeatureSet()), users=old.rows)
    trained = perturbed(quick, schema)
    grown = old.grow(["dan"])
    started, report = warm_start(trained, dataclasses.replace(schema, users=grown.rows), quick, seed=3)
    table, before = started.tables["user"], trained.tables["user"]
    assert torch.equal(table[:4], before)
    assert torch.equal(table[4], before[0])
    assert "tables.user" in report.resized
    rebuilt = Vocabulary.fit(["eve", "cy", "ada"])
    rows = rebuilt.rows_in(old)
    moved, _ = warm_start(trained, schema, quick, seed=3, rows={"user": rows})
    assert torch.equal(moved.tables["user"], before[[0, 0, 3, 1]])
    with pytest.raises(CaptionaryError, match=r"rows of table == usr, must be user \(did you"):
        warm_start(trained, schema, quick, seed=3, rows={"usr": rows})
    with pytest.raises(CaptionaryError, match=r"rows of table user == .*must be \(4,\) from -1 to 3"):
        warm_start(trained, schema, quick, seed=3, rows={"user": rows + 1})


def test_tasks_and_numeric_columns_come_and_go(data, quick):
    schema = Schema.of(data, FeatureSet(visual=True))
    trained = perturbed(quick, schema)
    features = FeatureSet(visual=True)
    labels = np.concatenate([data.labels, data.labels[:, :1]], axis=1)
    more = dataclasses.replace(
        data, tasks=("long", "like", "share"), labels=labels, task_kinds=(), task_weights=(),
        context_numeric={**data.context_numeric, "length": np.linspace(0, 60, len(data.item))},
    )  # fmt: skip
    started, report = warm_start(
        trained, Schema.of(more, features), quick, seed=0, numeric={"context.length": (30.0, 17.0)}
    )
    torch.testing.assert_close(
        logits(started, more, features)[:, 1:], logits(trained, data, features), rtol=0, atol=2e-6
    )
    assert started.mean.tolist() == [*trained.mean.tolist()[:1], 30.0, *trained.mean.tolist()[1:]]
    assert "tower_out" in report.resized
    with pytest.raises(
        CaptionaryError, match=r"numeric == item\.age, must be one of the added columns: none"
    ):
        warm_start(trained, schema, quick, seed=0, numeric={"item.age": (0, 1)})


def test_a_field_of_another_shape_starts_anew_without_a_say(data, quick):
    schema = Schema.of(data, FeatureSet(visual=True))
    started, report = warm_start(
        perturbed(quick, schema), dataclasses.replace(schema, visual=4), quick, seed=0
    )
    assert report.added_fields == ("visual",)
    assert (started.top_in.block("item*visual") == 0).all()
    assert (started.top_in.block("item*user") != 0).any()
    assert "visual.weight" in report.new
    assert "visual.weight" in report.dropped
    assert "added_fields: visual" in report.to_text()


def test_a_carrier_moves_accumulators_too(data, quick):
    """Those of row-wise optimizers have one number a row."""
    old = Ranker(quick, Schema.of(data, FeatureSet()), 0)
    new = Ranker(quick, Schema.of(data, FeatureSet(visual=True)), 0)
    carrier = Carrier(old, new)
    sums, target = torch.arange(len(old.tables["user"])) + 1.0, torch.zeros(len(new.tables["user"]))
    assert carrier.into("tables.user", sums, target) == "kept"
    assert torch.equal(target, sums)
    moment = torch.zeros_like(new.top_in.weight)
    assert carrier.into("top_in.weight", torch.ones_like(old.top_in.weight), moment) == "resized"
    assert int(moment.sum()) == old.top_in.weight.numel()


def test_a_config_of_another_shape_keeps_what_fits(data, quick):
    schema = Schema.of(data, FeatureSet())
    trained = perturbed(quick, schema)
    started, report = warm_start(trained, schema, dataclasses.replace(quick, towers="mmoe"), seed=0)
    assert "experts.first.weight" in report.new
    assert "top_in.weight" in report.dropped
    assert torch.equal(started.tables["user"], trained.tables["user"])
    assert torch.equal(started.tower_in, trained.tower_in)
    with pytest.raises(CaptionaryError, match="embedding_dim == 16, must be 8"):
        warm_start(trained, schema, dataclasses.replace(quick, embedding_dim=16), seed=0)
