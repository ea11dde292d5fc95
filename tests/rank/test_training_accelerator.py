"""What benchmarks/training_accelerator.py counts, and that it says so where there is nothing to measure."""

import sys
from pathlib import Path

import pytest
import torch

from captionary.rank.bags import Lists
from captionary.rank.features import Schema
from captionary.rank.model import Batch, Ranker
from captionary.rank.settings import RankerConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import training_accelerator

    return training_accelerator


def test_bytes_are_rows_read_and_written_and_their_accumulators(script):
    config = RankerConfig(embedding_dim=4, biases=False)
    schema = Schema(tasks=("click",), users=9, items=9, numeric=("n",), context={}, tokens=True, vocabulary=9)
    batch = Batch(
        dense=torch.zeros(3, 1),
        ids={"user": torch.tensor([1, 1, 2]), "item": torch.tensor([5, 5, 5])},
        place=torch.zeros(3, dtype=torch.int64),
        visual=None,
        tokens=Lists(torch.tensor([3, 4, 3, 3]), torch.tensor([0, 4]), torch.ones(4)),
        profiles=None,
    )
    occurrences, distinct = 3 + 3 + 4, 2 + 1 + 2
    for optimizer, state in (("sgd", 0), ("rowwise_adagrad", 1), ("adagrad", 4)):
        expected = 4 * (occurrences * 4 + 2 * distinct * (4 + state))
        assert script.table_bytes(Ranker(config, schema, 0), batch, optimizer) == expected


def test_without_an_accelerator_it_says_so(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["training_accelerator.py"])
    monkeypatch.setattr(script, "write_result", None)
    script.main()
    assert capsys.readouterr().out == "no accelerator here: nothing measured, nothing written\n"


def test_batches_have_the_shape_of_the_demos(script):
    model, config, ready = script.demo_shaped(64, True, torch.device("cpu"))
    batch, labels = ready[0]
    assert labels.shape == (64, 5)
    assert batch.profile_place.shape == (64, 4)
    assert (len(batch.tokens.offsets) - 1, len(batch.profiles.offsets) - 1) == (3, 33)  # 5.4 % and 52 % of 64
    contender = script.Contender(model, config, ready, "adagrad")
    assert contender.train(0.01) > 0
