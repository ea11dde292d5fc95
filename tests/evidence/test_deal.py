import numpy as np
import pytest

from captionary.evidence.deal import deal_captions, dealt_test
from captionary.rank.data import RankingData
from captionary.rank.features import FeatureSet
from captionary.rank.settings import RankerConfig
from captionary.rank.train import train_ranker
from captionary.represent.jagged import Jagged

FEATURES = FeatureSet(tokens="A")


def world(*, informative: bool) -> RankingData:
    """300 items of two kinds, told by their token; one kind is liked by all. Items 200 to 299 are held out."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 300)
    told = kind if informative else rng.integers(0, 2, 300)
    item = np.concatenate([rng.integers(0, 200, 3000), rng.integers(200, 300, 1000)])
    labels = rng.random(4000) < np.where(kind[item] == 1, 0.8, 0.2)
    return RankingData.from_arrays(
        tasks=("like",),
        users=rng.integers(0, 20, 4000),
        item=item,
        items=300,
        labels=labels[:, None].astype(np.float32),
        train=np.arange(3000),
        eval=np.arange(3000, 4000),
        item_tokens={"A": Jagged.from_lists([[int(token) + 1] for token in told])},
    )


def scores(data: RankingData) -> np.ndarray:
    config = RankerConfig(unseen_items=1.0, batch_size=256, epochs=2)
    model = train_ranker(data, FEATURES, config, 0).model
    return deal_captions(model, data, FEATURES, deals=39, seed=0)


def test_captions_that_tell_are_found_out() -> None:
    dealt = scores(world(informative=True))
    assert dealt.shape == (40, 1)
    assert dealt[0, 0] > 0.75
    test = dealt_test(dealt[None])
    assert test is not None
    assert test[0] > 0.4
    assert test[1] == 1 / 40  # no deal of 39 scores as high


def test_captions_that_say_nothing_are_not() -> None:
    test = dealt_test(scores(world(informative=False))[None])
    assert test is not None
    assert test[1] > 0.05


def test_the_p_value_counts_the_true_deal_and_ties() -> None:
    values = np.array([0.6, 0.5, 0.6, 0.7]).reshape(1, 4, 1)
    test = dealt_test(values)
    assert test == (pytest.approx((0.6 - 0.6) / (1 - 0.6)), (1 + 2) / 4)
    both = np.concatenate([values, np.full((1, 4, 1), np.nan)], axis=2)  # a task of one class is left out
    assert dealt_test(both) == test
    assert dealt_test(np.full((1, 4, 1), np.nan)) is None


def test_the_same_seed_deals_the_same() -> None:
    data = world(informative=True)
    model = train_ranker(data, FEATURES, RankerConfig(unseen_items=1.0, epochs=1), 0).model
    first, again = (deal_captions(model, data, FEATURES, deals=3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(set(first[1:, 0])) > 1
