import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.rank.checkpoint import load_ranker, save_ranker
from captionary.rank.features import FeatureSet
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
