"""Hash embeddings: the formula, its gradient, hashes that stay, and training with them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from captionary.errors import CaptionaryError
from captionary.rank.bags import Lists, pool
from captionary.rank.checkpoint import load_ranker, save_ranker
from captionary.rank.features import FeatureSet
from captionary.rank.hash_embedding import HashEmbedding
from captionary.rank.hashing import hash_rows
from captionary.rank.optimizers import TableAdagrad
from captionary.rank.settings import RankerConfig
from captionary.rank.train import predict, train_ranker

BOTH = FeatureSet(tokens="A", profiles="A")


def lists() -> Lists:
    """[[7, 3, 7], [], [0]], weighted."""
    return Lists(torch.tensor([7, 3, 7, 0]), torch.tensor([0, 3, 3, 4]), torch.tensor([0.5, 2.0, 0.25, 1.0]))


@pytest.mark.parametrize("importance", [0, 4])
@pytest.mark.parametrize("append", [False, True])
def test_a_bag_is_the_weighted_sum_of_the_papers_formula(importance: int, append: bool) -> None:
    made = HashEmbedding(0, 9, 6, std=0.1, components=5, functions=2, importance=importance, append=append)

    def vector(token: int) -> torch.Tensor:
        one = np.array([token], np.int64)
        row = hash_rows(one, 0, importance) if importance else one
        p = made.importance[row[0]]
        c1, c2 = (made.components[hash_rows(row, function, 5)[0]] for function in (1, 2))
        summed = p[0] * c1 + p[1] * c2
        return torch.cat([summed, p]) if append else summed

    expected = torch.stack([0.5 * vector(7) + 2 * vector(3) + 0.25 * vector(7), torch.zeros(6), vector(0)])
    torch.testing.assert_close(made(lists()), expected)
    torch.testing.assert_close(made(lists()), pool(made.rows(torch.arange(9)), lists()))
    numbers = 5 * (4 if append else 6) + (importance or 9) * 2
    assert sum(parameter.numel() for parameter in made.parameters()) == numbers


def test_no_lists_at_all_are_zeros() -> None:
    made = HashEmbedding(0, 9, 6, std=0.1, components=5)
    nothing = Lists(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]), torch.zeros(0))
    assert made(nothing).tolist() == [[0.0] * 6]


@pytest.mark.parametrize("append", [False, True])
def test_gradients_are_those_of_finite_differences(append: bool) -> None:
    made = HashEmbedding(0, 9, 4, std=0.1, components=5, importance=4, append=append).double()
    values, offsets, weights = lists()

    def summed(importance: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
        named = {"importance": importance, "components": components}
        held = Lists(values, offsets, weights.double())
        return torch.func.functional_call(made, named, (held,))

    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in made.parameters())
    assert torch.autograd.gradcheck(summed, inputs)


def test_sparse_gradients_give_the_same_updates() -> None:
    """Steps of Adagrad with sparse gradients, two bags summed into each as items and profiles are."""
    made = [HashEmbedding(0, 9, 4, std=0.1, components=5, sparse_rows=rows) for rows in (0, 100)]
    for module in made:
        tables = TableAdagrad(list(module.parameters()), lr=0.1, damping=0.0)
        for _ in range(3):
            (module(lists()).square().sum() + module(lists()).sum()).backward()
            assert module.importance.grad is not None
            assert module.importance.grad.is_sparse == (module is made[0])
            tables.step(1.0, 1)
    for sparse, dense in zip(made[0].parameters(), made[1].parameters(), strict=True):
        torch.testing.assert_close(sparse, dense)


def test_tokens_start_with_the_usual_spread() -> None:
    for append in (False, True):
        made = HashEmbedding(0, 3000, 16, std=0.1, components=3000, functions=2, append=append)
        assert made.rows(torch.arange(3000)).std().item() == pytest.approx(0.1, rel=0.05)


def test_hashes_are_the_same_in_any_process() -> None:
    keys = np.array([0, 1, 2, 123_456_789], np.int64)
    code = (
        "import numpy as np; from captionary.rank.hashing import hash_rows;"
        "print(hash_rows(np.array([0, 1, 2, 123_456_789], np.int64), 1, 1000).tolist())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(hash_rows(keys, 1, 1000).tolist())
    # Written down once: a saved ranker must find its components again.
    assert hash_rows(keys, 1, 1000).tolist() == PINNED
    even = np.bincount(hash_rows(np.arange(100_000), 2, 10), minlength=10)
    assert abs(even - 10_000).max() < 5 * 10_000**0.5
    same = hash_rows(np.arange(10_000), 1, 10) == hash_rows(np.arange(10_000), 2, 10)
    assert same.mean() == pytest.approx(0.1, abs=0.02)


PINNED = [700, 519, 226, 766]


def test_a_ranker_learns_with_it_and_survives_the_disk(data, quick, tmp_path) -> None:
    """8 component vectors for 20 tokens: fewer rows than tokens, and still the tokens' gain."""
    config = dataclasses.replace(quick, token_table="hash", hash_components=8, epochs=4)
    first = train_ranker(data, BOTH, config, seed=0)
    names = [name for name, _ in first.model.named_parameters() if "token" in name]
    assert names == ["token_hash.importance", "token_hash.components"]
    without = train_ranker(data, FeatureSet(), config, seed=0)
    assert _loss(data, first.model, BOTH) < _loss(data, without.model, FeatureSet()) - 0.004
    start = HashEmbedding(0, first.model.schema.vocabulary, 8, std=config.token_init, components=8)
    for before, after in zip(start.parameters(), first.model.token_hash.parameters(), strict=True):
        assert not torch.equal(before, after)
    save_ranker(first.model, tmp_path / "ranker")
    loaded = load_ranker(tmp_path / "ranker")
    assert np.array_equal(predict(loaded, data, BOTH), predict(first.model, data, BOTH))


def _loss(data, model, features) -> float:
    said, true = predict(model, data, features), data.labels[data.eval]
    return float(-np.log(np.where(true > 0.5, said, 1 - said)).mean())


def test_appended_weights_need_room() -> None:
    with pytest.raises(CaptionaryError, match="hash_functions == 4, must be < "):
        RankerConfig(embedding_dim=4, token_table="hash", hash_functions=4, hash_append=True)
    with pytest.raises(CaptionaryError, match="hash_functions == 6, must be < 6"):
        HashEmbedding(0, 9, 6, std=0.1, components=5, functions=6, append=True)
    with pytest.raises(CaptionaryError, match="token_table"):
        RankerConfig(token_table="hashed")  # type: ignore[arg-type]
