"""Training from shards that carry dense vectors of items and impressions, and where a token table starts."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.optional import optional
from tests.rank.tiny_fit import CONFIG
from tests.rank.tiny_shards import HOUR, TOKENS, VECTORS, catalogue, impressions, tiny_schema, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.data import DenseVectors, RankingData
from captionary.rank.features import FeatureSet
from captionary.rank.fit import Trainer, fit
from captionary.rank.fit_settings import StreamFeatures
from captionary.rank.model import Ranker
from captionary.rank.state import load_checkpoint, save_checkpoint
from captionary.rank.train import predict
from captionary.represent.jagged import Jagged
from captionary.represent.vectors import TokenVectors

RICH = tiny_schema(vectors=VECTORS)
EVENTS = RICH.events


@pytest.fixture(scope="module")
def tables():
    train = impressions(800, range(40), range(60))
    return train, impressions(300, range(40), range(60), seed=5, begins=24 * HOUR)


@pytest.fixture(scope="module")
def shards(tables, tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("vectors") / "shards", *tables, schema=RICH)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    return fit(shards, tmp_path_factory.mktemp("whole"), CONFIG, seed=1)


def in_memory(tables, trainer) -> RankingData:
    """The same rows as arrays, by the vocabularies of the trainer."""
    schema = trainer.shards.schema
    rows, items, known = pa.concat_tables(tables), catalogue(60, schema), trainer.vocabularies
    count = len(tables[0])
    hour = rows["context.hour"].to_numpy()
    mean = dict(zip(trainer.model.schema.numeric, trainer.model.mean.numpy(), strict=True))
    place = {name: row for row, name in enumerate(items["item_id"].to_pylist())}
    values = np.stack(rows["vector.user.text"].to_pylist())
    return RankingData(
        tasks=RICH.tasks,
        task_kinds=RICH.task_kinds,
        task_weights=RICH.task_weights,
        user=known["user"].index(rows["user_id"]),
        item=np.array([place[name] for name in rows["item_id"].to_pylist()]),
        item_id=known["item"].index(items["item_id"]),
        labels=np.column_stack([rows[f"label.{task}"].to_numpy() for task in RICH.tasks]),
        train=np.arange(count),
        eval=np.arange(count, len(rows)),
        context_categorical={"tab": known["context.tab"].index(rows["context.tab"])},
        context_numeric={"hour": np.where(np.isnan(hour), mean["context.hour"], hour)},
        item_categorical={"genre": known["item.genre"].index(items["item.genre"])},
        item_numeric={"age": items["item.age"].to_numpy()},
        events=EVENTS,
        activity=np.column_stack([np.log1p(rows[f"mass.{event}"].to_numpy()) for event in EVENTS]),
        visual=np.stack(items["visual"].to_pylist()).astype(np.float32),
        item_tokens={
            "A": Jagged.from_arrow(
                items["token_ids"], items["token_weights"] if schema.token_weights else None
            )
        },
        profiles={"A": {e: Jagged.from_arrow(rows[f"token_ids.{e}"], rows[f"weights.{e}"]) for e in EVENTS}},
        vectors={
            "caption": DenseVectors(np.stack(items["vector.caption"].to_pylist()).astype(np.float32)),
            "user.text": DenseVectors(values.astype(np.float32), np.arange(len(values))),
        },
        vocabularies=known,
    )


def test_predictions_are_those_of_the_same_weights_in_memory(tables, whole):
    trainer = whole.trainer
    assert trainer.model.schema.vectors == {"caption": 3, "user.text": 4}
    found, labels = trainer.predict("eval")
    features = FeatureSet(visual=True, tokens="A", profiles="A", vectors=tuple(VECTORS))
    data = in_memory(tables, trainer)
    np.testing.assert_allclose(found, predict(trainer.model, data, features), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, data.labels[data.eval])
    # and they depend on both
    for name in VECTORS:
        values, row = data.vectors[name]
        other = data.vectors | {name: DenseVectors(values[::-1].copy(), row)}
        moved = predict(trainer.model, dataclasses.replace(data, vectors=other), features)
        assert np.abs(moved - found).max() > 1e-3, name


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_weights_of_an_items_tokens_are_those_of_the_ranker_in_memory(tables, tmp_path, pooling):
    schema = tiny_schema(vectors=VECTORS, token_weights=True)
    config = dataclasses.replace(CONFIG, ranker=dataclasses.replace(CONFIG.ranker, token_pooling=pooling))
    trainer = Trainer(write_shards(tmp_path / "shards", *tables, schema=schema), config, 1)
    list(trainer.train())
    found, _ = trainer.predict("eval")
    features = FeatureSet(visual=True, tokens="A", profiles="A", vectors=tuple(VECTORS))
    data = in_memory(tables, trainer)
    assert data.item_tokens["A"].weights is not None
    np.testing.assert_allclose(found, predict(trainer.model, data, features), rtol=1e-5, atol=1e-6)
    # and are not even ones
    even = dataclasses.replace(data, item_tokens={"A": data.item_tokens["A"]._replace(weights=None)})
    moved = np.abs(predict(trainer.model, even, features) - found).max(axis=1)
    lengths = data.item_tokens["A"].lengths[data.item[data.eval]]
    assert moved[lengths > 1].max() > 1e-3
    np.testing.assert_allclose(moved[lengths == 0], 0, atol=1e-6)


def test_a_training_that_stopped_goes_on_to_the_same_bits(shards, whole, tmp_path):
    trainer = Trainer(shards, CONFIG, 1)
    list(trainer.train(13))
    save_checkpoint(tmp_path / "kept", trainer.checkpoint({}))
    kept = load_checkpoint(tmp_path / "kept")
    assert kept.schema == shards.schema
    resumed = Trainer(shards, CONFIG, 1, start=kept, resumed=True)
    list(resumed.train())
    expected = whole.trainer.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_tomorrow_goes_on_from_what_the_vectors_taught(shards, whole, tmp_path):
    table = impressions(400, range(20, 60), range(60), seed=8, begins=48 * HOUR)
    tomorrow = write_shards(tmp_path / "shards", table, schema=RICH)
    before = whole.trainer.model.state_dict()
    trainer = Trainer(tomorrow, CONFIG, 1, start=load_checkpoint(whole.checkpoint))
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value[: len(before[name])], before[name], rtol=0, atol=0)
    list(trainer.train())
    moved = trainer.model.state_dict()
    assert all(not torch.equal(moved[name], before[name]) for name in before if name.startswith("vectors."))
    other = VECTORS | {"caption": dataclasses.replace(VECTORS["caption"], encoder="another")}
    with pytest.raises(
        CaptionaryError, match="encoder of vectors caption == another, must be 'e', as in the shards that the"
    ):
        fit(
            write_shards(tmp_path / "other", table, schema=tiny_schema(vectors=other)),
            tmp_path / "out",
            CONFIG,
            start=whole.checkpoint,
        )


def test_vectors_are_adopted_by_a_ranker_that_had_none(shards, tables, tmp_path):
    plain = write_shards(tmp_path / "plain", *tables)
    first = fit(plain, tmp_path / "first", CONFIG, seed=1)
    trainer = Trainer(shards, CONFIG, 1, start=load_checkpoint(first.checkpoint))
    assert trainer.model.schema.vectors
    np.testing.assert_allclose(trainer.predict("eval")[0], first.trainer.predict("eval")[0], rtol=1e-5)
    before = {name: layer[0].weight.detach().clone() for name, layer in trainer.model.vectors.items()}
    list(trainer.train())  # what reads the vectors learns first, then the vectors' own layers
    assert all(
        not torch.equal(layer[0].weight, before[name]) for name, layer in trainer.model.vectors.items()
    )


@pytest.fixture(scope="module")
def learnt():
    rng = np.random.default_rng(2)
    return TokenVectors(rng.normal(size=(TOKENS, 7)).astype(np.float32), np.arange(TOKENS) % 5 != 0, "words")


def test_the_token_table_starts_from_the_vectors_of_the_shards(tables, learnt, tmp_path):
    schema = tiny_schema(token_vectors="w")
    shards = write_shards(tmp_path / "shards", *tables, schema=schema, token_vectors=learnt)
    trainer = Trainer(shards, CONFIG, 1)
    expected = Ranker(CONFIG.ranker, trainer.model.schema, 1)
    drawn = expected.token_table.detach().clone()
    expected.start_tokens(learnt)
    torch.testing.assert_close(trainer.model.token_table.detach(), expected.token_table.detach())
    without = dataclasses.replace(CONFIG, features=StreamFeatures(token_vectors=False))
    assert torch.equal(Trainer(shards, without, 1).model.token_table.detach(), drawn)
    # what was learnt is not overwritten tomorrow
    fitted = fit(shards, tmp_path / "out", CONFIG, seed=1)
    tomorrow = Trainer(shards, CONFIG, 1, start=load_checkpoint(fitted.checkpoint))
    assert torch.equal(tomorrow.model.token_table, fitted.trainer.model.token_table)
    # but a ranker that adopts tokens starts them there too
    bare = dataclasses.replace(CONFIG, features=StreamFeatures(tokens=False, profiles=False))
    first = fit(shards, tmp_path / "bare", bare, seed=1)
    adopting = Trainer(shards, CONFIG, 1, start=load_checkpoint(first.checkpoint))
    torch.testing.assert_close(adopting.model.token_table.detach(), expected.token_table.detach())
    np.testing.assert_allclose(adopting.predict("eval")[0], first.trainer.predict("eval")[0], rtol=1e-5)


def test_many_processes_learn_what_one_does(tables, learnt, tmp_path):
    optional("torchrec", reason="distributed training is TorchRec's")
    from captionary.rank.fit_distributed import fit_distributed
    from captionary.rank.processes import processes
    from captionary.rank.sharded_state import load_sharded

    schema = tiny_schema(vectors=VECTORS, token_vectors="w")
    shards = write_shards(tmp_path / "shards", *tables, schema=schema, token_vectors=learnt)
    steady = dataclasses.replace(CONFIG.ranker, epochs=1, dropout=0.0, token_dropout=0.0)
    config = dataclasses.replace(CONFIG, ranker=steady)
    with processes() as team:
        made = fit_distributed(shards, tmp_path / "many", config, 1, team=team)
    found = load_sharded(made.checkpoint).model.state_dict()
    for name, value in fit(shards, tmp_path / "one", config, seed=1).trainer.model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_token_vectors_that_do_not_fit_are_refused(tables, learnt, tmp_path):
    schema = tiny_schema(token_vectors="w")
    few = learnt._replace(vectors=learnt.vectors[:7], known=learnt.known[:7])
    shards = write_shards(tmp_path / "few", *tables, schema=schema, token_vectors=few)
    with pytest.raises(CaptionaryError, match=r"shape of token_vectors == \(7, 7\), must be of 20 tokens"):
        Trainer(shards, CONFIG, 1)
    with pytest.raises(CaptionaryError, match=r"token vectors == .*token_vectors.npz, must be a file"):
        Trainer(write_shards(tmp_path / "none", *tables, schema=schema), CONFIG, 1)
