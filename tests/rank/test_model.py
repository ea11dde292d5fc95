import numpy as np
import torch

from captionary.rank.batches import Source
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.model import Ranker
from captionary.rank.settings import RankerConfig

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
