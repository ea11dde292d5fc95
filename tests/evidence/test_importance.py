"""Feature importance: what decides the labels weighs, what does not weighs nothing, alone and in groups."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.importance import feature_importance, strata_of
from captionary.evidence.metrics import auc, auc_gain
from captionary.evidence.permute import by_row, columns_of, groups_of, permuted
from captionary.rank.data import RankingData
from captionary.rank.features import FeatureSet
from captionary.represent.jagged import Jagged

ROWS, USERS, ITEMS = 3000, 200, 60
JOINT = FeatureSet(visual=True, tokens="A", profiles="A")


def made(seed: int = 0) -> RankingData:
    """The label follows the item's first token, which is the sign of its visual vector, and the hour; no user."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, ITEMS, ROWS)
    sign = rng.integers(0, 2, ITEMS)
    extra = rng.integers(0, 2, ITEMS)  # what the tokens say and the look does not
    visual = np.where(sign == 1, 4.0, -4.0)[:, None] + rng.normal(0, 0.1, (ITEMS, 3))
    hour = rng.normal(size=ROWS)
    logits = 1.5 * (2 * sign[item] - 1) + 0.8 * (2 * extra[item] - 1) + 0.7 * hour
    labels = (rng.random((ROWS, 2)) < 1 / (1 + np.exp(-logits[:, None] * [1, 0.5]))).astype(np.float32)
    lists = Jagged.from_lists([[2 * s + e] for s, e in zip(sign, extra, strict=True)])
    profile = Jagged.from_lists([[int(each)] for each in rng.integers(0, 4, ROWS)])
    return RankingData.from_arrays(
        tasks=("like", "share"),
        users=rng.integers(0, USERS, ROWS),
        item=item,
        items=ITEMS,
        labels=labels,
        train=np.arange(1000),
        eval=np.arange(1000, ROWS),
        context_categorical={"tab": rng.choice(["a", "b"], ROWS)},
        context_numeric={"hour": hour},
        item_categorical={"genre": sign},
        events=("like",),
        activity=rng.random((ROWS, 1)).astype(np.float32),
        visual=visual.astype(np.float32),
        item_tokens={"A": lists},
        profiles={"A": {"like": profile}},
    )


def score(data: RankingData) -> np.ndarray:
    """The truth, read from tokens and hour: a ranker that ignores the visual vector."""
    tokens = data.item_tokens["A"].take(data.item[data.eval]).values
    logits = 1.5 * (2 * (tokens // 2) - 1) + 0.8 * (2 * (tokens % 2) - 1)
    logits = logits + 0.7 * data.context_numeric["hour"][data.eval]
    return (1 / (1 + np.exp(-logits[:, None] * [1, 0.5]))).astype(np.float32)


@pytest.fixture(scope="module")
def data() -> RankingData:
    return made()


@pytest.fixture(scope="module")
def found(data):
    without = np.full((1, len(data.eval), 2), 0.5, np.float32)
    return feature_importance(
        data,
        [score],
        JOINT,
        strata=strata_of(data, clusters=2),
        retrained={"item tokens": without},
        repeats=3,
    )


def test_what_is_not_read_weighs_exactly_nothing(found) -> None:
    for name in (
        "user id",
        "item id",
        "context.tab",
        "item.genre",
        "activity.like",
        "visual",
        "profile.like",
    ):
        assert found.weight(name).shuffled.auc_gain == 0
        assert found.weight(name).shuffled.interval == (0, 0)


def test_what_is_read_weighs_and_the_interval_excludes_nothing(found) -> None:
    assert [one.name for one in found.features[:2]] == ["item tokens", "context.hour"]
    tokens = found.weight("item tokens")
    assert tokens.shuffled.interval[0] > 0.05
    assert (tokens.rank, tokens.percentile) == (1, 100)
    others = len(found.features) - 1
    assert (found.features[1].rank, found.features[1].percentile) == (2, 100 * (others - 1) / others)


def test_the_gain_is_that_over_the_shuffled_ranker(data) -> None:
    one = feature_importance(data, [score], JOINT, repeats=1, seed=3)
    # The same draws as inside: the rows, then the permutation.
    rng = np.random.default_rng(3)
    rng.permutation(len(data.eval))
    order = np.lexsort((rng.random(len(data.eval)), np.zeros(len(data.eval))))
    shuffled = score(permuted(by_row(data, data.eval, JOINT), ["item tokens"], order))
    labels = data.labels[data.eval]
    gains = [
        auc_gain(auc(labels[:, t], score(data)[:, t]), auc(labels[:, t], shuffled[:, t])) for t in range(2)
    ]
    weight = one.weight("item tokens").shuffled
    assert list(weight.tasks.values()) == pytest.approx(gains)
    assert weight.auc_gain == pytest.approx((gains[0] + gains[1]) / 2)


def test_within_alike_items_only_what_the_look_does_not_say_is_lost(found) -> None:
    tokens = found.weight("item tokens")
    assert 0 < tokens.within.auc_gain < 0.6 * tokens.shuffled.auc_gain
    hour = found.weight("context.hour")
    assert hour.within.auc_gain == pytest.approx(hour.shuffled.auc_gain, abs=0.05)


def test_retrained_is_against_the_arm_that_lacks_it(data, found) -> None:
    labels, predicted = data.labels[data.eval], score(data)
    gains = [auc_gain(auc(labels[:, t], predicted[:, t]), 0.5) for t in range(2)]
    weight = found.weight("item tokens")
    assert weight.retrained.auc_gain == pytest.approx((gains[0] + gains[1]) / 2)
    assert found.weight("visual").retrained is None


def test_groups_are_shuffled_together(data, found) -> None:
    names = columns_of(data, JOINT)
    assert groups_of(names) == {
        "ids": ("user id", "item id"),
        "context": ("context.tab", "context.hour"),
        "captions": ("item tokens", "profile.like"),
    }
    captions = found.weight("captions").shuffled
    assert captions.auc_gain == pytest.approx(found.weight("item tokens").shuffled.auc_gain)
    table = by_row(data, data.eval[:50], JOINT)
    order = np.arange(50)[::-1].copy()
    both = permuted(table, ["context.tab", "context.hour"], order)
    assert (both.context_numeric["hour"][:50] == table.context_numeric["hour"][:50][::-1]).all()
    assert (both.context_categorical["tab"][:50] == table.context_categorical["tab"][:50][::-1]).all()
    assert both.context_numeric["hour"][50] == table.context_numeric["hour"][50]
    assert (both.user == table.user).all()


@pytest.mark.parametrize("name", columns_of(made(), JOINT))
def test_every_column_is_permuted_and_no_other(data, name) -> None:
    table = by_row(data, data.eval[:40], JOINT)
    order = np.roll(np.arange(40), 1)
    there = permuted(table, [name], order)
    back = permuted(there, [name], np.argsort(order))
    changed = [one for one in columns_of(table, JOINT) if not same(table, there, one)]
    assert changed == [name]
    assert all(same(table, back, one) for one in columns_of(table, JOINT))


def same(left: RankingData, right: RankingData, name: str) -> bool:
    part, _, column = name.partition(".")
    pairs = {
        "user id": lambda data: data.user,
        "item id": lambda data: data.item_id,
        "visual": lambda data: data.visual,
        "item tokens": lambda data: data.item_tokens["A"].values,
        "context": lambda data: {**data.context_categorical, **data.context_numeric}[column],
        "item": lambda data: {**data.item_categorical, **data.item_numeric}[column],
        "activity": lambda data: data.activity[:, data.events.index(column)],
        "profile": lambda data: data.profiles["A"][column].values,
    }
    read = pairs[name] if name in pairs else pairs[part]
    return bool(np.array_equal(read(left), read(right)))


def test_rows_are_limited_and_the_same_seed_gives_the_same(data) -> None:
    seen: list[int] = []

    def counting(table: RankingData) -> np.ndarray:
        seen.append(len(table.item))
        return score(table)

    once = feature_importance(data, [counting], JOINT, repeats=1, most_rows=500, seed=4)
    assert set(seen) == {501}
    assert once.rows == 500
    assert once == feature_importance(data, [score], JOINT, repeats=1, most_rows=500, seed=4)


def test_a_task_of_one_class_has_no_figure(data) -> None:
    labels = data.labels.copy()
    labels[:, 1] = 0
    made_ = feature_importance(replace(data, labels=labels), [score], JOINT, repeats=1)
    tokens = made_.weight("item tokens").shuffled
    assert tokens.tasks["share"] is None
    assert tokens.auc_gain == tokens.tasks["like"]
    json.dumps(made_.to_dict(), allow_nan=False)


def test_a_real_ranker_accepts_the_rows() -> None:
    from captionary.rank.settings import RankerConfig
    from captionary.rank.train import predict, train_ranker

    data = made()
    config = RankerConfig(epochs=1, batch_size=256, embedding_dim=4, top=(8,), tower=4)
    model = train_ranker(data, JOINT, config, 0).model
    rows = data.eval[:300]
    table = by_row(data, rows, JOINT)
    assert np.allclose(predict(model, table, JOINT), predict(model, data, JOINT, rows), atol=1e-6)


def test_strata_are_looks_or_a_category(data) -> None:
    looks, words = strata_of(data, clusters=2)
    sign = data.visual[data.item[data.eval], 0] > 0
    assert "visual" in words
    assert len(np.unique(np.stack([looks, sign]), axis=1).T) == 2  # cluster and sign are one
    genre, words = strata_of(replace(data, visual=None))
    assert (words, len(genre)) == ("genre", len(data.eval))
    assert strata_of(replace(data, visual=None, item_categorical={})) is None


def test_tables_and_json_say_the_same(found) -> None:
    text = found.to_markdown()
    assert "| item tokens | 1 | 100 | +" in text
    assert "| captions | 1 | 100 |" in text
    assert "| Shuffled, by task | like | share |" in text
    assert "mean of 1 ranker and 3 shuffles" in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["weights"][0]["name"] == "item tokens"
    assert plain["weights"][0]["shuffled"]["auc_gain"] == found.features[0].shuffled.auc_gain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": []}, "scores == 0, must be >= 1"),
        ({"repeats": 0}, "repeats == 0"),
        ({"retrained": {"token": np.zeros((1, 2000, 2))}}, "feature in retrained == token"),
        ({"scores": [lambda table: score(table)[:, :1]]}, "shape of predictions"),
    ],
)
def test_mistakes_are_named(data, change, words) -> None:
    given = {"scores": [score]} | change
    with pytest.raises(CaptionaryError, match=words):
        feature_importance(data, given.pop("scores"), JOINT, **given)


def test_an_unknown_feature_names_the_nearest(data, found) -> None:
    with pytest.raises(CaptionaryError, match="feature == visuals, must be visual"):
        found.weight("visuals")
    with pytest.raises(CaptionaryError, match=r"column == context\.day"):
        permuted(by_row(data, data.eval[:4], JOINT), ["context.day"], np.arange(4))
