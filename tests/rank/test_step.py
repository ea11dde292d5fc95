import dataclasses

import numpy as np
import pytest
import torch

from captionary.errors import CaptionaryError
from captionary.rank.batches import Source
from captionary.rank.features import FeatureSet, Schema
from captionary.rank.fit_settings import OptimizerConfig
from captionary.rank.model import Ranker
from captionary.rank.step import Step, Watch


def looked(losses, watch=None):
    """What a watch says of each loss."""
    watch = watch or Watch(2.0)
    return [watch.look(loss) for loss in losses]


def test_a_loss_that_doubles_and_is_worse_than_a_coins_stops():
    said = looked([0.5] * 20 + [1.1] * 20)
    assert said[:-1] == [None] * 39
    assert said[-1].startswith("<= 1, mean of 20 steps, that of the first 20 being 0.5")


def test_rare_labels_do_not():
    rare = np.random.default_rng(0).poisson(0.06, 400) * 0.11  # a positive in sixteen batches of 64
    assert rare[20:].mean() > 0
    assert not any(looked(rare))
    assert not any(looked([0.1] * 20 + [0.6] * 60))


def test_one_bad_step_does_not():
    assert not any(looked([0.5] * 40 + [9.0] + [0.5] * 40))


def test_a_watch_goes_on_where_it_was():
    losses = [0.5] * 20 + [0.8] * 15
    whole, first, second = Watch(2.0), Watch(2.0), Watch(2.0)
    looked(losses, whole)
    looked(losses[:27], first)
    second.load(first.state())
    looked(losses[27:], second)
    assert (second.first, second.seen, second.last) == (whole.first, whole.seen, whole.last)


def test_each_step_drops_other_units_and_the_same_again(data, quick):
    config = dataclasses.replace(quick, dropout=0.5, dense_lr=1e-12, embedding_lr=1e-12)
    source = Source(data, FeatureSet(), np.zeros(len(data.numeric)), np.ones(len(data.numeric)))
    rows = data.train[:50]
    batch, labels = source.batch(rows), torch.from_numpy(data.labels[rows])
    steps = [Step(Ranker(config, Schema.of(data, FeatureSet()), 0), config, 0, 10) for _ in range(2)]
    losses = [[step(batch, labels) for _ in range(3)] for step in steps]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_a_state_of_other_optimizers_is_refused(data, quick):
    model = Ranker(quick, Schema.of(data, FeatureSet()), 0)
    state = Step(model, quick, 0, 10).state_dict()
    other = Step(model, quick, 0, 10, OptimizerConfig(table="rowwise_adagrad"))
    with pytest.raises(
        CaptionaryError, match=r"table\.tables\.\S+ == \(\d+, \d+\), must be \(\d+,\); state of the opt"
    ):
        other.load_state_dict(state)
