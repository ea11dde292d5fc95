import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from captionary.errors import CaptionaryError
from captionary.rank.bags import Lists
from captionary.rank.batches import Source
from captionary.rank.calibration import Calibration, TaskCalibration
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.settings import RankerConfig
from captionary.rank.train import predict, train_ranker

ARMS = [
    FeatureSet(),
    FeatureSet(visual=True),
    FeatureSet(visual=True, tokens="A"),
    FeatureSet(visual=True, profiles="A"),
    FeatureSet(visual=True, tokens="A", profiles="A"),
]


def test_arms_start_from_the_same_values_in_all_that_they_share(data, quick):
    full = Ranker(quick, Schema.of(data, ARMS[-1]), seed=5)
    whole = dict(full.named_parameters())
    for features in ARMS[:-1]:
        arm = Ranker(quick, Schema.of(data, features), seed=5)
        for name, value in arm.named_parameters():
            if name != "top_in.weight":
                assert torch.equal(value, whole[name]), name
        for name, _ in arm.top_in.blocks:
            assert torch.equal(arm.top_in.block(name), full.top_in.block(name)), name


def test_another_seed_starts_elsewhere(data, quick):
    one, two = (Ranker(quick, Schema.of(data, ARMS[-1]), seed=seed) for seed in (0, 1))
    other = dict(two.named_parameters())
    same = [name for name, value in one.named_parameters() if torch.equal(value, other[name])]
    assert all(name.endswith(("bias", "visual_norm.weight")) for name in same), same


def source(data, features):
    return Source(data, features, np.zeros(4), np.ones(4))


def test_an_impression_scores_the_same_in_any_batch(data, quick):
    model = Ranker(quick, Schema.of(data, ARMS[-1]), seed=0).eval()
    rows = np.array([5, 5999, 5, 17])
    with torch.inference_mode():
        together = model(source(data, ARMS[-1]).batch(rows)).logits
        alone = [model(source(data, ARMS[-1]).batch(rows[k : k + 1])).logits for k in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_weights_of_profiles_are_honoured(data, quick):
    model = Ranker(quick, Schema.of(data, ARMS[-1]), seed=0).eval()
    batch = source(data, ARMS[-1]).batch(np.arange(50))
    other = batch.profiles._replace(weights=torch.rand_like(batch.profiles.weights))
    with torch.inference_mode():
        assert not torch.equal(model(batch).logits, model(batch._replace(profiles=other)).logits)


def test_items_and_profiles_share_one_table(data, quick):
    model = Ranker(quick, Schema.of(data, ARMS[-1]), seed=0)
    assert [name for name, _ in model.named_parameters() if "token" in name] == ["token_table"]


def test_dropped_tokens_change_training_alone(data):
    """token_dropout leaves prediction as it is, and makes two training passes differ."""
    features = FeatureSet(tokens="A", profiles="A")
    model = Ranker(RankerConfig(token_dropout=0.5), Schema.of(data, features), seed=0)
    batch = Source(data, features, model.mean.numpy(), model.scale.numpy()).batch(np.arange(64))
    with torch.no_grad():
        model.train()
        first, second = model(batch).logits, model(batch).logits
        model.eval()
        third, fourth = model(batch).logits, model(batch).logits
    assert not torch.equal(first, second)
    assert torch.equal(third, fourth)


VARIANTS = [
    {"interaction": "dot"},
    {"interaction": "concat"},
    {"interaction": "dcnv2", "cross_layers": 1},
    {"interaction": "dcnv2", "cross_rank": 2},
    {"towers": "mmoe", "experts": 2, "top": (16, 8)},
    {"towers": "ple", "expert_levels": 2, "dropout": 0.1},
    {"profile_pooling": "attention", "token_pooling": "sum"},
    {"profile_pooling": "attention", "token_table": "hash", "hash_components": 32},
    {"profile_pooling": "sum", "token_dropout": 0.2},
]


@pytest.mark.parametrize("change", VARIANTS, ids=lambda change: "-".join(map(str, change.values())))
def test_every_choice_trains_and_arms_share_what_they_have_in_common(data, quick, change):
    config = dataclasses.replace(quick, **change)
    small, full = (Ranker(config, Schema.of(data, features), seed=5) for features in (ARMS[1], ARMS[-1]))
    one, other = dict(small.named_parameters()), dict(full.named_parameters())
    for name, value in one.items():
        if value.shape == other[name].shape:
            assert torch.equal(value, other[name]), name
    trained = train_ranker(data, ARMS[-1], config, seed=0)
    assert trained.log[-1].loss < 0.62  # nats; the base rates give 0.64 on average
    scores = predict(trained.model, data, ARMS[-1])
    assert np.isfinite(scores).all()
    rows = data.eval[:9]
    np.testing.assert_allclose(
        predict(trained.model, data, ARMS[-1], rows, batch_size=2), scores[:9], atol=1e-6
    )


def bags(model, lists, pooling):
    with torch.inference_mode():
        return model._bags(lists, pooling)


def test_a_sum_is_louder_the_longer_its_list_and_a_mean_is_not(data, quick):
    """Weights of mean 1: [1, 3] / 4 of two tokens count 0.5 and 1.5."""
    model = Ranker(dataclasses.replace(quick, bag_scale=2.0), Schema.of(data, ARMS[-1]), seed=0).eval()
    lists = Lists(
        torch.tensor([3, 3, 4, 3, 4]), torch.tensor([0, 1, 3, 3, 5]), torch.tensor([1, 0.25, 0.75, 1, 1])
    )
    table = model.token_table.detach()
    expected = torch.stack([table[3], 0.5 * table[3] + 1.5 * table[4], table[0] * 0, table[3] + table[4]])
    torch.testing.assert_close(bags(model, lists, "sum"), 2 * expected)
    mean = bags(model, lists, "mean")
    torch.testing.assert_close(mean[3], 2 / 8**0.5 * F.layer_norm(table[3] + table[4], (8,)))
    assert (mean[2] == 0).all()


def test_attention_starts_as_the_mean_and_the_item_moves_it(data, quick):
    plain, attending = (
        Ranker(dataclasses.replace(quick, profile_pooling=pooling), Schema.of(data, ARMS[-1]), seed=0).eval()
        for pooling in ("mean", "attention")
    )
    batch = source(data, ARMS[-1]).batch(np.arange(40))
    with torch.inference_mode():
        before = attending(batch).logits
        torch.testing.assert_close(before, plain(batch).logits)
        attending.attention.weight.add_(torch.randn(attending.attention.weight.shape))
        assert not torch.equal(attending(batch).logits, before)


def test_kinds_of_tasks_have_their_units(data, quick):
    """Seconds that depend on the item, a third of them missing: predicted in seconds, NaN nowhere."""
    rng = np.random.default_rng(0)
    seconds = rng.exponential(1 + 30 * (data.item % 7 == 0))[:, None]
    labels = np.concatenate([data.labels, seconds, seconds], axis=1).astype(np.float32)
    labels[rng.random(len(labels)) < 1 / 3, 1:] = np.nan
    kinds = ("binary", "binary", "weighted_logistic", "huber_log")
    weights = (1.0, 1.0, 0.1, 1.0)
    mixed = dataclasses.replace(
        data,
        tasks=("like", "share", "mean", "typical"),
        labels=labels,
        task_kinds=kinds,
        task_weights=weights,
    )
    config = dataclasses.replace(quick, batch_size=64, epochs=3)
    model = train_ranker(mixed, FeatureSet(), config, seed=0).model
    scores = predict(model, mixed, FeatureSet())
    long = mixed.item[mixed.eval] % 7 == 0
    assert scores[long, 2].mean() > 3 * scores[~long, 2].mean() > 1
    assert scores[long, 3].mean() > 2 * scores[~long, 3].mean() > 0.5
    assert (scores[:, :2] < 1).all()


def test_predictions_are_calibrated_where_asked(data, quick):
    model = Ranker(quick, Schema.of(data, FeatureSet()), seed=0)
    logits = torch.tensor([[0.0, 2.0]])
    assert torch.equal(model.predictions(logits), torch.sigmoid(logits))
    with pytest.raises(CaptionaryError, match="calibrated == True, must be False"):
        model.predictions(logits, calibrated=True)
    parts = {"like": TaskCalibration(intercept=1.0), "share": TaskCalibration(slope=0.5)}
    model.calibration = Calibration(method="platt", tasks=parts)
    expected = torch.sigmoid(torch.tensor([[0.0 + 1, 2.0 * 0.5]]))
    assert torch.equal(model.predictions(logits, calibrated=True), expected)
