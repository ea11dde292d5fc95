import dataclasses

import numpy as np
import pytest

from captionary.rank.data import RankingData
from captionary.rank.settings import RankerConfig
from captionary.represent.jagged import Jagged

ROWS, USERS, ITEMS, TOKENS = 6000, 150, 120, 20


def small_data(seed: int = 0) -> RankingData:
    """Users like items that share a token with their profile; the last 20 items occur in no training row."""
    rng = np.random.default_rng(seed)
    tokens = [rng.choice(TOKENS, 3, replace=False) for _ in range(ITEMS)]
    likes = [rng.choice(TOKENS, 6, replace=False) for _ in range(USERS)]
    user = rng.integers(0, USERS, ROWS)
    item = np.concatenate([rng.integers(0, ITEMS - 20, 5000), rng.integers(0, ITEMS, 1000)])
    overlap = np.array([len(np.intersect1d(likes[u], tokens[i])) for u, i in zip(user, item, strict=True)])
    chance = 1 / (1 + np.exp(-(2.0 * overlap - 2.5)))
    labels = (rng.random((ROWS, 2)) < np.stack([chance, chance * 0.3], axis=1)).astype(np.float32)
    lists = Jagged.from_lists([likes[u] for u in user])
    weights = np.full(len(lists.values), 1 / 6, np.float32)
    return RankingData.from_arrays(
        tasks=("like", "share"),
        users=user,
        item=item,
        items=ITEMS,
        labels=labels,
        train=np.arange(5000),
        eval=np.arange(5000, ROWS),
        context_categorical={"tab": rng.choice(["a", "b"], ROWS)},
        context_numeric={"hour": rng.integers(0, 24, ROWS).astype(np.float64)},
        item_categorical={"genre": rng.integers(0, 4, ITEMS)},
        item_numeric={"age": rng.random(ITEMS)},
        events=("like", "share"),
        activity=rng.random((ROWS, 2)).astype(np.float32),
        visual=rng.normal(size=(ITEMS, 8)).astype(np.float32),
        item_tokens={"A": Jagged.from_lists(tokens)},
        profiles={"A": {"like": Jagged(lists.values, lists.offsets, weights), "share": _empty()}},
    )


def _empty() -> Jagged:
    return Jagged(np.empty(0, np.int32), np.zeros(ROWS + 1, np.int64), np.empty(0, np.float32))


@pytest.fixture(scope="session")
def data() -> RankingData:
    return small_data()


@pytest.fixture(scope="session")
def fields(data: RankingData) -> dict:
    return {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}


@pytest.fixture(scope="session")
def quick() -> RankerConfig:
    return RankerConfig(epochs=1, batch_size=256, shuffle_window=1000, embedding_dim=8, top=(32,), tower=8)
