import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from captionary.errors import CaptionaryError
from captionary.rank.features import FeatureSet
from captionary.rank.step import learning_rate_factor
from captionary.rank.train import predict, train_ranker

ALL = FeatureSet(visual=True, tokens="A", profiles="A")


@pytest.fixture(scope="module")
def trained(data, quick):
    return train_ranker(data, ALL, quick, seed=0)


def test_two_runs_are_equal_to_the_bit(data, quick, trained):
    config = dataclasses.replace(quick, dropout=0.2)
    torch.manual_seed(1)
    first = train_ranker(data, ALL, config, seed=0).model.state_dict()
    torch.manual_seed(2)
    again = train_ranker(data, ALL, config, seed=0).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], value) for name, value in trained.model.state_dict().items())


def test_the_callers_random_numbers_and_threads_are_left_alone(data, quick):
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train_ranker(data, FeatureSet(), quick, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_tokens_and_profiles_find_the_planted_taste(data, quick):
    config = dataclasses.replace(quick, epochs=3, batch_size=128)
    auc = {}
    for name, features in {"visual": FeatureSet(visual=True), "joint": ALL}.items():
        scores = predict(train_ranker(data, features, config, seed=0).model, data, features)
        assert scores.shape == (1000, 2)
        assert scores.dtype == np.float32
        auc[name] = roc_auc_score(data.labels[data.eval, 0], scores[:, 0])
    assert auc["joint"] > auc["visual"] + 0.05, auc


def test_the_first_prediction_is_the_base_rate_and_the_log_counts_rows(data, quick, trained):
    assert trained.log[-1].rows == 5000
    assert trained.log[-1].step == -(-5000 // 256)
    assert trained.samples_per_second > 0
    scores = predict(trained.model, data, ALL)
    np.testing.assert_allclose(scores.mean(0), data.labels[data.train].mean(0), atol=0.05)


def test_prediction_does_not_depend_on_the_batch_size(data, trained):
    rows = np.arange(5000, 5100)
    small = predict(trained.model, data, ALL, rows, batch_size=7)
    np.testing.assert_allclose(small, predict(trained.model, data, ALL, rows), atol=1e-6)


def test_a_diverged_loss_stops_with_a_word(data, quick):
    with pytest.raises(CaptionaryError, match=r"training loss == .* must be finite; step .*lower"):
        train_ranker(data, ALL, dataclasses.replace(quick, dense_lr=1e30), seed=0)


def test_a_ranker_refuses_data_of_other_columns(data, trained):
    with pytest.raises(CaptionaryError, match="what the ranker was trained on"):
        predict(trained.model, data, FeatureSet(visual=True))


def test_learning_rates_fall_at_the_end():
    assert [learning_rate_factor(done, 0.5) for done in (0, 0.25, 0.5, 0.75)] == [1, 1, 1, 0.5]
    assert learning_rate_factor(0.999, 0.0) == 1
    assert learning_rate_factor(0.999, 1.0) == 0.02


def test_ids_alone_are_enough(data, quick):
    bare = dataclasses.replace(
        data, context_categorical={}, context_numeric={}, item_categorical={}, item_numeric={}, visual=None,
        item_tokens={}, profiles={}, events=(), activity=None,
    )  # fmt: skip
    scores = predict(train_ranker(bare, FeatureSet(), quick, seed=0).model, bare, FeatureSet())
    assert np.isfinite(scores).all()
