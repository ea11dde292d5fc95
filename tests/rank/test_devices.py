import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.rank.pretend_cuda import CUDA, Pretended, pretended
from tests.rank.tiny_fit import CONFIG, RANKER
from tests.rank.tiny_shards import HOUR, impressions, write_shards

from captionary.commands.fit import fit
from captionary.errors import CaptionaryError
from captionary.rank.devices import CPU, choose_device, forked, moved, to_device
from captionary.rank.fit import Trainer
from captionary.rank.fit_settings import FitConfig, OptimizerConfig
from captionary.rank.processes import processes
from captionary.rank.state import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    train = impressions(600, range(40), range(60))
    held = impressions(100, range(40), range(60), seed=5, begins=24 * HOUR)
    return write_shards(tmp_path_factory.mktemp("devices") / "shards", train, held)


def config(table: str = "adagrad", decay: float = 0.0, **ranker) -> FitConfig:
    return FitConfig(
        ranker=dataclasses.replace(RANKER, embedding_damping=0.1, **ranker),
        optimizer=OptimizerConfig(table=table, table_decay=decay),
    )


KINDS = {
    "adagrad": config(),
    "adagrad, dense gradients": config(sparse_rows=4096),
    "rowwise_adagrad": config("rowwise_adagrad", 0.1),
    "sgd": config("sgd", 0.1, embedding_lr=1e-3),
    "hash": config("rowwise_adagrad", token_table="hash", hash_components=16, token_pooling="sum"),
    "attention": config(profile_pooling="attention", interaction="dcnv2"),
    "ple": config(towers="ple", interaction="dot", profile_fields="all"),
}


def trained(shards, chosen, device=CPU, *, steps=6):
    trainer = Trainer(shards, chosen, 1, device=device)
    return trainer, [trainer.mean_loss() for _ in trainer.train(steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_another_device_learns_the_same(shards, monkeypatch, kind):
    expected, losses = trained(shards, KINDS[kind])
    with pretended(monkeypatch) as device:
        trainer, found = trained(shards, KINDS[kind], device)
        assert all(isinstance(value, Pretended) for value in trainer.model.state_dict().values())
        scores = trainer.predict("eval")[0]
    np.testing.assert_allclose(found, losses, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        scores, expected.predict("eval")[0], rtol=1e-6, atol=2e-6
    )  # amounts are above 1
    known = expected.model.state_dict()
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value.held, known[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad"])
def test_a_training_goes_on_on_another_device(shards, monkeypatch, tmp_path, optimizer):
    chosen = config(optimizer, dropout=0.0, token_dropout=0.0)
    expected, _ = trained(shards, chosen, steps=8)
    begun, _ = trained(shards, chosen, steps=3)
    save_checkpoint(tmp_path / "cpu", begun.checkpoint({}))
    with pretended(monkeypatch) as device:
        there = Trainer(
            shards, chosen, 1, start=load_checkpoint(tmp_path / "cpu"), resumed=True, device=device
        )
        list(there.train(6))
        assert all(isinstance(total, Pretended) for total in there.step.tables.sums)
        save_checkpoint(tmp_path / "cuda", there.checkpoint({}))
    back = Trainer(shards, chosen, 1, start=load_checkpoint(tmp_path / "cuda"), resumed=True)
    list(back.train(8))
    known, found = expected.step.state_dict(), back.step.state_dict()
    assert known.keys() == found.keys()
    for name, value in (*back.model.state_dict().items(), *found.items()):
        other = {**expected.model.state_dict(), **known}[name]
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)


def test_tomorrow_begins_on_another_device(shards, monkeypatch, tmp_path):
    begun, _ = trained(shards, config(), steps=3)
    save_checkpoint(tmp_path / "kept", begun.checkpoint({}))
    expected = Trainer(shards, config(), 2, start=load_checkpoint(tmp_path / "kept"))
    with pretended(monkeypatch) as device:
        trainer = Trainer(shards, config(), 2, start=load_checkpoint(tmp_path / "kept"), device=device)
        known, state = expected.step.state_dict(), trainer.step.state_dict()
        assert known.keys() == state.keys()
        for name, value in state.items():
            assert torch.equal(value.cpu(), known[name]), name
        assert trainer.loss("eval") == pytest.approx(expected.loss("eval"), abs=1e-6)
        trainer.calibrate("platt")
        expected.calibrate("platt")
        np.testing.assert_allclose(trainer.predict("eval")[0], expected.predict("eval")[0], atol=1e-5)


def test_a_tensor_left_behind_is_found(monkeypatch):
    with pretended(monkeypatch) as device:
        table = torch.zeros(4, 2, device=device)
        with pytest.raises(RuntimeError, match="a tensor of the CPU meets one of cuda:0"):
            table + torch.ones(2)
        with pytest.raises(TypeError, match="numpy"):
            table.numpy()
        assert (table + 1).cpu().sum() == 8


def test_batches_go_to_the_device_whole(shards, monkeypatch):
    trainer = Trainer(shards, CONFIG, 0)
    made = list(trainer._source(0, 0))[:2]
    with pretended(monkeypatch) as device:
        batch, labels = next(moved(iter_of(made), device))
        parts = [labels, batch.dense, *batch.ids.values(), batch.place, batch.visual, *batch.tokens]
        parts += [*batch.profiles, batch.profile_place, *(x for pair in batch.vectors.values() for x in pair)]
        assert all(isinstance(part, Pretended) for part in parts)
        assert torch.equal(batch.tokens.values.cpu(), made[0][0].tokens.values)
    same = iter_of(made)
    assert moved(same, CPU) is same
    assert to_device(made[0], CPU)[1] is made[0][1]


def iter_of(made):
    yield from made


def test_a_stream_that_is_given_up_is_closed(monkeypatch):
    closed = []

    def source():
        try:
            while True:
                yield (torch.zeros(1),), torch.zeros(1)
        finally:
            closed.append(True)

    with pretended(monkeypatch) as device:
        made = source()
        stream = moved(made, device)
        next(stream)
        stream.close()
    assert closed == [True]
    made.close()


def test_random_numbers_of_the_device_are_left_alone_too(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: asked.append(devices))
    forked(CUDA), forked(CPU)
    assert asked == [[CUDA], []]


def test_devices_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(CaptionaryError, match="device == cuda, must be cpu or auto; torch"):
        choose_device("cuda")
    with pytest.raises(CaptionaryError, match=r"device == gpu, must be .*one of auto, cpu, cuda"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device() == CUDA
    assert choose_device("cuda", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 5) == CPU
    with pytest.raises(CaptionaryError, match="processes on this machine == 3 or more, must be at most 2"):
        choose_device("auto", 2)


def test_processes_take_the_device_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with processes() as team:
        assert team.device == CPU
    with pytest.raises(CaptionaryError, match="device == cuda, must be cpu or auto"), processes("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with processes("cpu") as team:
        assert team.device == CPU


def test_the_verb_refuses_a_device_that_is_not_there(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = [str(shards.root), "--out", str(tmp_path / "out")]
    with pytest.raises(CaptionaryError, match="device == cuda, must be cpu or auto"):
        CliRunner().invoke(fit, [*words, "--device", "cuda"], catch_exceptions=False)
    ran = CliRunner().invoke(fit, [*words, "--device", "auto", "--epochs", "1"], catch_exceptions=False)
    assert "samples/s" in ran.output
