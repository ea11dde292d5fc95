import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.optional import optional
from tests.rank.tiny_distributed import RANKER, config, torchrun
from tests.rank.tiny_shards import impressions, write_shards

from captionary.commands.train_backend import checkpoint as verb
from captionary.commands.train_backend import train
from captionary.errors import CaptionaryError
from captionary.rank import sharded
from captionary.rank.fit import Trainer, fit
from captionary.rank.fit_settings import OptimizerConfig
from captionary.rank.model import Ranker
from captionary.rank.portions import Portion, portions, steps_of
from captionary.rank.sharded import initial_rows, table_specs
from captionary.rank.state import checkpoints, load_checkpoint
from captionary.rank.stream import Order

torchrec = optional("torchrec", reason="distributed training is TorchRec's")

from captionary.rank.distributed import DistributedTrainer  # noqa: E402
from captionary.rank.fit_distributed import fit_distributed  # noqa: E402
from captionary.rank.processes import processes  # noqa: E402
from captionary.rank.sharded_state import load_sharded, scatter_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    made = impressions(1000, range(30), range(60))
    return write_shards(tmp_path_factory.mktemp("made") / "shards", made, group_rows=100, shard_rows=300)


@pytest.fixture
def team():
    with processes("cpu") as alone:
        yield alone


PROGRAM = """
import json, sys
from pathlib import Path
import torch
from captionary.config import from_mapping
from captionary.rank.fit_distributed import fit_distributed
from captionary.rank.fit_settings import FitConfig
from captionary.rank.processes import processes
from captionary.rank.shards import open_shards
torch.set_num_threads(1)
said = json.loads(sys.argv[3])
with processes("cpu") as team:
    fit_distributed(
        open_shards(Path(sys.argv[1])), Path(sys.argv[2]), from_mapping(FitConfig, said, where="the test"), 5,
        team=team, reading="all", placement={"user": "row_wise", "item": "table_wise", "token": "row_wise"},
    )
"""


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_does(shards, tmp_path):
    from captionary.config import to_mapping

    chosen = config()
    fit(shards, tmp_path / "one", chosen, 5)
    torchrun(PROGRAM, tmp_path, str(shards.root), str(tmp_path / "two"), json.dumps(to_mapping(chosen)))

    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [line["step"] for line in two] == list(range(1, 9))
    assert [line["rows"] for line in two] == [line["rows"] for line in one]
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], atol=1e-4)

    expected = checkpoints(tmp_path / "one")[-1]
    found = checkpoints(tmp_path / "two")[-1]
    assert found.name == expected.name
    out = tmp_path / "gathered"
    ran = CliRunner().invoke(verb, ["gather", str(found), "--out", str(out)], catch_exceptions=False)
    assert ran.exit_code == 0
    names = [{path.relative_to(root) for path in root.rglob("*")} for root in (expected, out)]
    assert names[0] == names[1]
    mine, theirs = load_checkpoint(out), load_checkpoint(expected)
    assert mine.config == theirs.config
    assert mine.schema == theirs.schema
    for a, b in (
        (mine.model.state_dict(), theirs.model.state_dict()),
        (mine.optimizers, theirs.optimizers),
    ):
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            assert tensor.shape == b[name].shape, name
            torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seen", ["adagrad", "hash", "attention", "sgd"])
def test_alone_it_is_the_trainer_and_a_killed_one_continues(shards, team, tmp_path, seen):
    chosen = {
        "adagrad": config("adagrad"),
        "hash": config(
            token_table="hash", hash_components=8, hash_importance=6, hash_append=True, embedding_lr=0.02
        ),
        "attention": config("adagrad", profile_pooling="attention", dropout=0.2),
        "sgd": config("sgd", embedding_lr=1e-4),
    }[seen]
    expected = Trainer(shards, chosen, 3)
    for _ in expected.train():
        pass

    begun = DistributedTrainer(shards, chosen, 3, team)
    for _ in begun.train(until=5):
        pass
    begun.save(tmp_path / "kept", {"name": "this"}, 7)
    continued = DistributedTrainer(shards, chosen, 3, team, resumed=tmp_path / "kept")
    for trainer in (begun, continued):
        for _ in trainer.train():
            pass
        trainer.save(tmp_path / f"{trainer is begun}", {})

    whole, again = load_sharded(tmp_path / "True"), load_sharded(tmp_path / "False")
    assert whole.progress == again.progress
    for name, tensor in {**whole.model.state_dict(), **whole.optimizers}.items():
        other = {**again.model.state_dict(), **again.optimizers}[name]
        assert torch.equal(tensor, other), name
    for name, tensor in expected.model.state_dict().items():
        torch.testing.assert_close(whole.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert set(whole.optimizers) == set(expected.step.state_dict())


def test_the_verb_trains_and_says_where_everything_is(shards, tmp_path):
    words = [
        str(shards.root),
        "--backend",
        "torchrec",
        "--out",
        str(tmp_path / "out"),
        "--place",
        "user=row_wise",
    ]
    ran = CliRunner().invoke(train, words, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "tables|user" in ran.output
    assert "samples/s" in ran.output
    (kept,) = checkpoints(tmp_path / "out")
    assert f"checkpoint: {kept}" in ran.output
    again = CliRunner().invoke(train, words, catch_exceptions=False)
    assert "nothing to do" in again.output
    with pytest.raises(CaptionaryError, match="TABLE=HOW"):
        CliRunner().invoke(train, [*words[:-1], "user"], catch_exceptions=False)
    with pytest.raises(CaptionaryError, match="--out"):
        CliRunner().invoke(train, words[:3], catch_exceptions=False)
    with pytest.raises(CaptionaryError, match="--device == cpu, must be left out without --backend torchrec"):
        CliRunner().invoke(train, ["run.yaml", "--device", "cpu"], catch_exceptions=False)


def test_one_process_s_checkpoint_goes_there_and_back(shards, tmp_path):
    fitted = fit(shards, tmp_path / "one", config(), 5)
    kept = load_checkpoint(fitted.checkpoint)

    scatter_checkpoint(kept, tmp_path / "spread")
    back = load_sharded(tmp_path / "spread")

    assert back._replace(model=None, optimizers=None, vocabularies=None) == kept._replace(
        model=None, optimizers=None, vocabularies=None
    )
    for a, b in ((back.model.state_dict(), kept.model.state_dict()), (back.optimizers, kept.optimizers)):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rows", [1, 3, 16, 100, 129])
def test_initial_rows_are_those_of_one_process(monkeypatch, rows):
    monkeypatch.setattr(sharded, "_CHUNK", 1)
    schema = _schema(rows)
    ranker = Ranker(RANKER, schema, 9)
    for spec in table_specs(RANKER, schema):
        parts = list(initial_rows(spec, 9))
        assert len(parts) == max(1, rows // 16)
        assert [start for start, _ in parts] == list(np.cumsum([0, *(len(part) for _, part in parts)])[:-1])
        assert torch.equal(torch.cat([part for _, part in parts]), ranker.get_parameter(spec.parameter))


def _schema(rows: int):
    from captionary.rank.features import Schema

    return Schema(
        tasks=("like", "share"),
        users=rows,
        items=rows,
        numeric=("hour",),
        context={"tab": rows},
        item_categories={"genre.of": rows},
        tokens=True,
        vocabulary=rows,
    )


def test_every_row_is_read_once_by_the_process_that_it_belongs_to(shards, monkeypatch):
    trainer = Trainer(shards, config(), 0)
    order = Order(0, 100, 128)
    monkeypatch.setattr(Order, "block", property(lambda self: 200))  # stretches of 600 and 400 rows
    read, labels, batches = [], Counter(), []
    real = type(shards).groups

    def groups(self, *arguments, **more):
        for group in real(self, *arguments, **more):
            if arguments[1:] != (0, 1):  # the row that stands for none
                read.append(group.table.num_rows)
            yield group

    monkeypatch.setattr(type(shards), "groups", groups)
    for rank in range(3):
        made = list(portions(trainer.encoder, order, Portion(rank, 3), 0, 1000))
        batches.append(len(made))
        for _, given in made:
            labels.update(given[~torch.isnan(given[:, 0]), 0].tolist())

    assert sum(read) == 1000
    known = np.concatenate([group.table["label.like"].to_numpy() for group in real(shards)])
    assert labels == Counter(known.tolist())
    # 200 + 133 rows or one more in batches of 42 or 43
    assert batches == [8, 8, 8] == [steps_of(Portion(0, 3), order, 1000)] * 3


@pytest.mark.parametrize("reading", ["own", "all"])
def test_a_process_goes_on_in_the_middle_of_an_epoch(shards, reading):
    trainer = Trainer(shards, config(), 0)
    order, portion = Order(0, 100, 90, 0.1, 0.1), Portion(1, 2, reading)

    whole = list(portions(trainer.encoder, order, portion, 1, 1000))
    rest = list(portions(trainer.encoder, order, portion, 1, 1000, first=7))

    assert len(rest) == len(whole) - 7
    for (a, left), (b, right) in zip(whole[7:], rest, strict=True):
        torch.testing.assert_close(left, right, equal_nan=True, rtol=0, atol=0)
        assert torch.equal(a.ids["user"], b.ids["user"])


def test_what_cannot_be_is_refused(shards, team, tmp_path):
    decaying = dataclasses.replace(config(), optimizer=OptimizerConfig(table_decay=0.1))
    with pytest.raises(CaptionaryError, match="table_decay"):
        DistributedTrainer(shards, decaying, 0, team)
    with pytest.raises(CaptionaryError, match="did you mean that"):
        DistributedTrainer(shards, config(), 0, team, placement={"users": "row_wise"})
    with pytest.raises(CaptionaryError, match="table_wise or row_wise"):
        DistributedTrainer(shards, config(), 0, team, placement={"user": "column_wise"})
    fit(shards, tmp_path / "one", config(), 5)
    with pytest.raises(CaptionaryError, match="one process"):
        fit_distributed(shards, tmp_path / "one", config(), 5, team=team)
    fit_distributed(shards, tmp_path / "many", config(), 5, team=team)
    with pytest.raises(CaptionaryError, match="seed"):
        fit_distributed(shards, tmp_path / "many", config(), 6, team=team)
    (checkpoints(tmp_path / "many")[-1] / "sharded" / ".metadata").unlink()
    with pytest.raises(CaptionaryError, match="whole checkpoint"):
        load_sharded(checkpoints(tmp_path / "many")[-1])
