import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from captionary.understand.named import average_precision, drawn_scores, ridge_probe, said_scores


def test_average_precision_is_the_public_one_with_ties() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((60, 3)) < 0.3
    scores = rng.integers(0, 4, (60, 3)).astype(float)
    found = average_precision(truth, scores, ["a", "b", "c"])
    assert found.values == pytest.approx(
        [average_precision_score(truth[:, w], scores[:, w]) for w in range(3)]
    )
    assert found.micro == pytest.approx(average_precision_score(truth.ravel(), scores.ravel()))
    assert found.counts == truth.sum(0).tolist()


def test_a_word_that_nobody_has_has_no_precision() -> None:
    found = average_precision(
        np.array([[True, False], [False, False]]), np.array([[1.0, 0], [0, 1]]), ["a", "b"]
    )
    assert found.values[0] == 1.0
    assert np.isnan(found.values[1])


def test_said_words_count_by_their_place() -> None:
    scores = said_scores(["comedy sci-fi a dog", "a comedian", "drama"], ["comedy", "drama", "sci-fi"])
    assert scores.tolist() == [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_the_probe_finds_a_linear_rule_among_noise() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 40)).astype(np.float32)
    labels = (features[:, :2] > 0).astype(float)
    scores = ridge_probe(features[:200], labels[:200], features[200:])
    found = average_precision(labels[200:] > 0, scores, ["a", "b"])
    assert found.micro > 0.9
    constant = ridge_probe(features[:200], np.ones((200, 1)), features[200:])
    assert constant == pytest.approx(np.ones((100, 1)))


def test_drawn_words_count_by_how_often_they_are_said() -> None:
    drawn = [["comedy a dog", "comedy drama", "a dog", "drama"], ["drama", "drama", "drama", "drama"]]
    assert drawn_scores(drawn, ["comedy", "drama"]).tolist() == [[2 / 4, 2 / 4], [0.0, 1.0]]
