"""Tomorrow's shards in many processes: what `fit --from` gives, from a checkpoint of one process or of many."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.optional import optional
from tests.rank.tiny_distributed import config, torchrun
from tests.rank.tiny_shards import HOUR, impressions, tiny_schema, write_shards

from captionary.commands.train_backend import train
from captionary.config import to_mapping
from captionary.errors import CaptionaryError
from captionary.rank.fit import Trainer, fit
from captionary.rank.fit_settings import StreamFeatures
from captionary.rank.state import checkpoints, latest, load_checkpoint
from captionary.stages import locked

torchrec = optional("torchrec", reason="distributed training is TorchRec's")

from captionary.rank.distributed import DistributedTrainer  # noqa: E402
from captionary.rank.fit_distributed import fit_distributed  # noqa: E402
from captionary.rank.part_reader import PartReader  # noqa: E402
from captionary.rank.processes import processes  # noqa: E402
from captionary.rank.sharded_state import load_sharded  # noqa: E402


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Three days, of ever more users and tokens."""
    root = tmp_path_factory.mktemp("days")
    return [
        write_shards(
            root / f"{day}",
            impressions(600, range(10 * day, 30 + 10 * day), range(60), seed=day, begins=24 * day * HOUR),
            schema=tiny_schema(vocabulary=20 + 4 * day),
            group_rows=100,
            shard_rows=300,
        )
        for day in range(3)
    ]


@pytest.fixture(scope="module")
def alone(days, tmp_path_factory):
    """The three days by one process."""
    out, start = tmp_path_factory.mktemp("alone"), None
    for day, shards in enumerate(days):
        fit(shards, out / f"{day}", config(), 5, start=start)
        start = out / f"{day}"
    return out


@pytest.fixture
def team():
    with processes("cpu") as one:
        yield one


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
chosen = from_mapping(FitConfig, json.loads(sys.argv[1]), where="the test")
with processes("cpu") as team:
    for shards, start, out in json.loads(sys.argv[2]):
        fit_distributed(
            open_shards(Path(shards)), Path(out), chosen, 5, team=team, reading="all", start=Path(start),
            placement={"user": "row_wise", "item": "table_wise", "token": "row_wise"},
        )
"""


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_two_processes_go_on_as_one_does(days, alone, team, tmp_path):
    # the second day from one process's checkpoint, the third from that of two
    plans = [
        (str(days[1].root), str(alone / "0"), str(tmp_path / "1")),
        (str(days[2].root), str(tmp_path / "1"), str(tmp_path / "2")),
    ]
    torchrun(PROGRAM, tmp_path, json.dumps(to_mapping(config())), json.dumps(plans))

    for day in ("1", "2"):
        np.testing.assert_allclose(losses(tmp_path / day), losses(alone / day), atol=1e-4)
        mine, theirs = load_sharded(latest(tmp_path / day)), load_checkpoint(latest(alone / day))
        assert mine.progress.before == theirs.progress.before == 5 * int(day)
        assert mine.vocabularies["user"].rows == theirs.vocabularies["user"].rows
        same(mine, theirs)

    # and the third from that of two, by one process of TorchRec's, and by the plain trainer
    fit_distributed(days[2], tmp_path / "3", config(), 5, team=team, start=tmp_path / "1")
    fit(days[2], tmp_path / "4", config(), 5, start=tmp_path / "1")
    for day in ("3", "4"):
        np.testing.assert_allclose(losses(tmp_path / day), losses(alone / "2"), atol=1e-4)


def same(mine, theirs) -> None:
    for a, b in (
        (mine.model.state_dict(), theirs.model.state_dict()),
        (mine.optimizers, theirs.optimizers),
    ):
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            assert tensor.shape == b[name].shape, name
            torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4, msg=name)


BARE = StreamFeatures(tokens=False, profiles=False)
KINDS = {
    "adagrad": (config("adagrad"), config("adagrad", dropout=0.2, token_dropout=0.1)),
    "sgd": (config("sgd", embedding_lr=1e-4), config("sgd", embedding_lr=1e-4)),
    "hash": (config(token_table="hash", hash_components=8), config(token_table="hash", hash_components=8)),
    "rehashed": (
        config(token_table="hash", hash_components=8),
        config(token_table="hash", hash_components=9),
    ),
    "other optimizer": (config("adagrad"), config("rowwise_adagrad")),
    "biases adopted": (config("adagrad", biases=False), config("adagrad", biases=True)),
    "biases given up": (config("adagrad", embedding_dim=4), config("adagrad", embedding_dim=4, biases=False)),
    "tokens adopted": (dataclasses.replace(config(), features=BARE), config(profile_pooling="attention")),
    "categories hashed": (config("adagrad", category_hash_rows=5), config("adagrad", category_hash_rows=5)),
    "categories capped": (config(category_min_rows=350), config(category_min_rows=450)),
    "tokens given up": (config(), dataclasses.replace(config(), features=BARE)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_it_is_where_fit_would_be(days, team, tmp_path, kind):
    first, then = KINDS[kind]
    begun = fit(days[0], tmp_path / "first", first, 3)
    expected = Trainer(days[1], then, 4, start=load_checkpoint(begun.checkpoint))

    trainer = DistributedTrainer(days[1], then, 4, team, start=begun.checkpoint)

    trainer.save(tmp_path / "kept", {})
    found = load_sharded(tmp_path / "kept")
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    for name, tensor in expected.step.state_dict().items():
        if name != "watch":
            torch.testing.assert_close(found.optimizers[name], tensor, msg=name)
    users = found.model.state_dict()["tables.user"]
    assert torch.equal(users[31:], users[:1].expand(10, -1))  # as the unseen user, which they were
    assert users.shape[0] == 41
    list(expected.train())
    list(trainer.train(2))  # and killed
    trainer.save(tmp_path / "killed", {})
    resumed = DistributedTrainer(days[1], then, 4, team, resumed=tmp_path / "killed")
    list(resumed.train())
    assert resumed.mean_loss() == pytest.approx(expected.mean_loss(), abs=1e-4)
    assert resumed.progress() == expected.progress()._replace(log_loss=0.0, log_rows=0)


def test_the_verb_goes_on_with_the_earlier_config(days, alone, tmp_path):
    words = [str(days[1].root), "--backend", "torchrec", "--out", str(tmp_path / "out"), "--seed", "5"]
    words += ["--from", str(alone / "0"), "--device", "cpu"]
    ran = CliRunner().invoke(train, words, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    np.testing.assert_allclose(losses(tmp_path / "out"), losses(alone / "1"), atol=1e-4)
    said = PartReader(checkpoints(tmp_path / "out")[-1]).said
    assert said.config == config()
    assert said.identity["start"] == {"shards": days[0].fingerprint, "seed": 5, "steps": 5}
    assert "nothing to do" in CliRunner().invoke(train, words, catch_exceptions=False).output
    with pytest.raises(CaptionaryError, match=r"start == None, must be .*, as of the training there"):
        CliRunner().invoke(train, [*words[:7]], catch_exceptions=False)


def test_what_cannot_be_begun_with_is_refused(days, alone, team, tmp_path):
    def begin(start: Path, **changes):
        return DistributedTrainer(days[1], config(**changes), 0, team, start=start)

    with locked(tmp_path / "out"), pytest.raises(CaptionaryError, match="used by one process at a time"):
        fit_distributed(days[1], tmp_path / "out", config(), 0, team=team)
    with pytest.raises(CaptionaryError, match="embedding_dim == 8, must be 6"):
        begin(latest(alone / "0"), embedding_dim=8)
    with pytest.raises(
        CaptionaryError, match="category_hash_rows == 9, must be 0, as in the earlier training"
    ):
        begin(latest(alone / "0"), category_hash_rows=9)
    with pytest.raises(CaptionaryError, match="a checkpoint of captionary fit or train"):
        begin(tmp_path)
    kept = latest(alone / "0") / "ranker" / "model.safetensors"
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "one"
    subprocess.run(["cp", "-r", str(latest(alone / "0")), str(copy)], check=True)
    changed = bytearray(kept.read_bytes())
    changed[-1] ^= 1
    (copy / "ranker" / "model.safetensors").write_bytes(changed)
    with pytest.raises(CaptionaryError, match="not those that config"):
        begin(copy)
    (copy / "optimizers.safetensors").write_bytes(b"short")
    with pytest.raises(CaptionaryError, match="a whole checkpoint of captionary fit or train"):
        begin(copy)
