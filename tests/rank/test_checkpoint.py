import dataclasses
import errno
import json

import numpy as np
import pytest
import torch

from captionary.errors import CaptionaryError
from captionary.rank.calibration import fit_calibration
from captionary.rank.checkpoint import load_ranker, load_vocabularies, save_ranker
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.settings import RankerConfig
from captionary.rank.train import predict, train_ranker

ALL = FeatureSet(visual=True, tokens="A", profiles="A")


@pytest.fixture(scope="module")
def model(data, quick):
    return train_ranker(data, ALL, quick, seed=0).model


def test_round_trip_gives_the_same_predictions(model, data, tmp_path):
    save_ranker(model, tmp_path / "ranker")
    loaded = load_ranker(tmp_path / "ranker")
    assert loaded.schema == model.schema
    assert loaded.config == model.config
    assert np.array_equal(predict(loaded, data, ALL), predict(model, data, ALL))


def test_damaged_or_missing_files_are_named(model, tmp_path):
    with pytest.raises(CaptionaryError, match=r"config\.json"):
        load_ranker(tmp_path)
    save_ranker(model, tmp_path / "ranker")
    weights = tmp_path / "ranker" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CaptionaryError, match=r"model\.safetensors"):
        load_ranker(tmp_path / "ranker")


def test_a_failed_write_leaves_the_old_ranker(model, data, tmp_path, monkeypatch):
    save_ranker(model, tmp_path / "ranker")
    monkeypatch.setattr("captionary.rank.checkpoint.save", lambda tensors: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_ranker(model, tmp_path / "ranker")
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]
    load_ranker(tmp_path / "ranker")


def test_calibration_and_vocabularies_go_with_the_ranker(data, quick, tmp_path):
    model = Ranker(quick, Schema.of(data, ALL), seed=0)
    rng = np.random.default_rng(0)
    model.calibration = fit_calibration(
        rng.normal(size=(200, 2)), rng.integers(0, 2, (200, 2)) * 1.0, data.tasks, data.task_kinds, "isotonic"
    )
    save_ranker(model, tmp_path / "ranker", data.vocabularies)
    loaded = load_ranker(tmp_path / "ranker")
    assert loaded.calibration == model.calibration
    logits = torch.randn(9, 2)
    assert torch.equal(
        loaded.predictions(logits, calibrated=True), model.predictions(logits, calibrated=True)
    )
    found = load_vocabularies(tmp_path / "ranker")
    assert found.keys() == {"user", "item", "context.tab", "item.genre"}
    assert found["context.tab"].index(["a", "b", "c"]).tolist()[2] == 0
    assert {name: found[name].rows for name in found} == {
        name: vocabulary.rows for name, vocabulary in data.vocabularies.items()
    }
    save_ranker(Ranker(quick, Schema.of(data, ALL), seed=0), tmp_path / "bare")
    assert load_ranker(tmp_path / "bare").calibration is None
    assert load_vocabularies(tmp_path / "bare") == {}


def test_checkpoints_of_before_a_setting_was_there_load_as_they_were(data, quick, tmp_path):
    config = dataclasses.replace(quick, profile_fields="all")
    model = Ranker(config, Schema.of(data, ALL), seed=0)
    save_ranker(model, tmp_path / "ranker")
    path = tmp_path / "ranker" / "config.json"
    said = json.loads(path.read_text())
    del said["weights"], said["schema"]["task_kinds"], said["schema"]["task_weights"]
    later = ("towers", "experts", "cross_layers", "profile_pooling", "profile_fields", "id_hash_rows")
    for name in (*later, "category_min_rows", "category_hash_rows"):
        del said["config"][name]
    path.write_text(json.dumps(said))
    loaded = load_ranker(tmp_path / "ranker")
    assert loaded.schema == model.schema
    assert loaded.schema.task_kinds == ("binary", "binary")
    assert loaded.config == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda said: said["config"].update(novelty=1),
            "key == novelty.*; or the ranker was saved by a later",
        ),
        (
            lambda said: said.pop("schema"),
            r"ranker == .*config\.json, must be a config written by save_ranker",
        ),
        (lambda said: said.update(schema=3), r"ranker == .*config\.json, must be a config written"),
        (
            lambda said: said.update(weights="0"),
            r"model\.safetensors, must be weights that fit.*not those that",
        ),
        (lambda said: said["schema"].update(users=7, extra=0), "key == extra"),
    ],
)
def test_a_config_that_is_not_the_rankers_is_refused(model, tmp_path, change, message):
    save_ranker(model, tmp_path / "ranker")
    path = tmp_path / "ranker" / "config.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    with pytest.raises(CaptionaryError, match=message):
        load_ranker(tmp_path / "ranker")


def test_weights_of_another_training_are_refused(model, data, quick, tmp_path):
    """Folders copied in part: the config of one, the weights of another that happens to have its shapes."""
    save_ranker(model, tmp_path / "one")
    save_ranker(Ranker(quick, Schema.of(data, ALL), seed=1), tmp_path / "two")
    (tmp_path / "one" / "model.safetensors").write_bytes(
        (tmp_path / "two" / "model.safetensors").read_bytes()
    )
    with pytest.raises(CaptionaryError, match=r"not those that config\.json was"):
        load_ranker(tmp_path / "one")
    (tmp_path / "two" / "calibration.json").write_text("{")
    with pytest.raises(CaptionaryError, match=r"calibration\.json"):
        load_ranker(tmp_path / "two")


def test_a_full_disk_is_a_clear_error_and_leaves_what_was_there(model, tmp_path, monkeypatch):
    save_ranker(model, tmp_path / "ranker")
    before = (tmp_path / "ranker" / "model.safetensors").read_bytes()

    def full(path, *args, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("captionary.publish.os.fsync", full)
    with pytest.raises(
        CaptionaryError, match=r"checkpoint == .*ranker, must be on a disk that takes it; No space"
    ):
        save_ranker(model, tmp_path / "ranker")
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]
    assert (tmp_path / "ranker" / "model.safetensors").read_bytes() == before
    load_ranker(tmp_path / "ranker")


@pytest.mark.parametrize(
    "change", [{"towers": "ple", "expert_levels": 2}, {"interaction": "dcnv2", "cross_rank": 2}]
)
def test_every_shape_of_ranker_is_read_back(data, change, tmp_path):
    model = Ranker(RankerConfig(profile_pooling="attention", **change), Schema.of(data, ALL), seed=0)
    save_ranker(model, tmp_path / "ranker")
    loaded = load_ranker(tmp_path / "ranker").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
