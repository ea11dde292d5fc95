import dataclasses
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.rank.tiny_fit import CONFIG, RANKER, train_in_process
from tests.rank.tiny_shards import HOUR, impressions, tiny_schema, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.fit import Trainer, fit
from captionary.rank.fit_settings import FitConfig, OptimizerConfig, StreamFeatures
from captionary.rank.losses import task_loss
from captionary.rank.state import checkpoints, latest, load_checkpoint, prune, save_checkpoint

STEPS = 2 * 24


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    train = impressions(1200, range(40), range(60))
    held = impressions(400, range(40), range(60), seed=5, begins=24 * HOUR)
    return write_shards(tmp_path_factory.mktemp("fit") / "shards", train, held)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A training that nobody killed."""
    out = tmp_path_factory.mktemp("whole")
    return out, fit(shards, out, CONFIG, seed=1)


def contents(checkpoint: Path) -> dict[str, bytes]:
    return {
        name: (checkpoint / name).read_bytes()
        for name in ("ranker/model.safetensors", "optimizers.safetensors")
    }


def test_a_training_killed_again_and_again_gives_the_same_bits(shards, whole, tmp_path):
    # processes of their own, forked from one that has imported everything: SIGKILL is real, imports are paid once
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pandas", "torch._dynamo", "tests.rank.tiny_fit"])
    log, draw = tmp_path / "log.jsonl", random.Random(0)
    kills = 0
    for target in (5, 22, 38, None):
        process = processes.Process(target=train_in_process, args=(str(shards.root), str(tmp_path)))
        process.start()
        while target is not None and process.is_alive() and steps_in(log) < target:
            time.sleep(0.01)
        if target is not None:
            time.sleep(draw.random() * 0.02)  # anywhere: in a step, in a checkpoint, in between
            process.kill()
        process.join()
        kills += process.exitcode == -9
        for path in checkpoints(tmp_path):
            load_checkpoint(path)
    assert kills >= 2
    assert process.exitcode == 0
    assert contents(latest(tmp_path)) == contents(whole[1].checkpoint)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, STEPS + 1))
    hidden = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]
    assert hidden == []


def steps_in(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_what_a_checkpoint_says(shards, whole):
    out, fitted = whole
    assert [path.name for path in checkpoints(out)] == ["step-00000040", "step-00000048"]
    kept = load_checkpoint(checkpoints(out)[0])
    # 40 steps are an epoch of 24 and 16 batches of 50 rows
    assert (kept.progress.epoch, kept.progress.batch, kept.progress.rows) == (1, 16, 1200 + 800)
    assert (kept.progress.shard, kept.progress.row_group, kept.progress.offset) == ("train-00000", 2, 200)
    assert not kept.progress.finished
    assert load_checkpoint(fitted.checkpoint).progress.finished
    assert kept.config == CONFIG
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 14, 21, 28, 35, 42, 48]
    assert lines[-1]["rows"] == 2400
    assert lines[-1]["samples_per_second"] > 0


def test_it_learns(shards, whole):
    scores, labels = whole[1].trainer.predict("eval")
    assert scores.shape == labels.shape == (400, 2)
    assert roc_auc_score(labels[:, 0], scores[:, 0]) > 0.6
    assert np.isnan(labels[:, 1]).any()


def test_the_background_and_the_log_change_nothing(shards, whole, tmp_path):
    stream = dataclasses.replace(CONFIG.stream, prefetch=1, log_steps=50, checkpoint_steps=1000)
    again = fit(shards, tmp_path, dataclasses.replace(CONFIG, stream=stream), seed=1)
    assert contents(again.checkpoint) == contents(whole[1].checkpoint)


def test_a_finished_training_is_left_alone(shards, whole):
    again = fit(shards, whole[0], CONFIG, seed=1)
    assert math.isnan(again.samples_per_second)
    assert again.checkpoint == whole[1].checkpoint


@pytest.mark.parametrize(
    ("changes", "seed", "words"),
    [
        ({}, 2, "seed == 2, must be 1, as of the training there"),
        (
            {"ranker": dataclasses.replace(RANKER, epochs=3)},
            1,
            "ranker.epochs == 3, must be 2, as of the training",
        ),
        ({"optimizer": OptimizerConfig(table="sgd")}, 1, "optimizer.table == sgd, must be adagrad"),
    ],
)
def test_another_training_does_not_continue_this_one(shards, whole, changes, seed, words):
    with pytest.raises(CaptionaryError, match=words):
        fit(shards, whole[0], dataclasses.replace(CONFIG, **changes), seed=seed)


def test_other_shards_do_not_continue_this_one(whole, tmp_path):
    other = write_shards(tmp_path / "other", impressions(1200, range(40), range(60), seed=9))
    with pytest.raises(CaptionaryError, match=r"shards == .*, must be .*, as of the training there"):
        fit(other, whole[0], CONFIG, seed=1)


@pytest.mark.parametrize("table", ["rowwise_adagrad", "sgd"])
def test_every_optimizer_resumes_to_the_bit(shards, tmp_path, table):
    rates = dataclasses.replace(RANKER, epochs=1, embedding_lr=0.01)
    chosen = FitConfig(ranker=rates, optimizer=OptimizerConfig(table=table, table_decay=0.01, dense="adam"))
    trainer = Trainer(shards, chosen, 0)
    list(trainer.train(11))
    save_checkpoint(tmp_path / "kept", trainer.checkpoint({}))
    list(trainer.train())
    resumed = Trainer(shards, chosen, 0, start=load_checkpoint(tmp_path / "kept"), resumed=True)
    list(resumed.train())
    assert resumed.step.done == trainer.step.done == 24
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    ours, theirs = resumed.step.state_dict(), trainer.step.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert resumed.mean_loss() == trainer.mean_loss()


def test_the_callers_random_numbers_are_left_alone(shards):
    torch.manual_seed(4)
    state = torch.get_rng_state()
    list(Trainer(shards, CONFIG, 0).train(3))
    assert torch.equal(state, torch.get_rng_state())


def test_tomorrow_goes_on_with_grown_vocabularies(shards, whole, tmp_path):
    tomorrow = write_shards(
        tmp_path / "shards",
        impressions(600, range(20, 70), range(60), seed=8, begins=48 * HOUR),
        schema=tiny_schema(vocabulary=30),
    )
    before = load_checkpoint(latest(whole[0]))
    trainer = Trainer(tomorrow, CONFIG, 1, start=before)
    was, now = before.vocabularies["user"], trainer.vocabularies["user"]
    assert now.rows == 71 > was.rows == 41
    assert now.ids.to_pylist()[:40] == was.ids.to_pylist()
    old = before.model.state_dict()
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value[: len(old[name])], old[name], rtol=0, atol=0)
    users = trainer.model.state_dict()["tables.user"]
    assert torch.equal(users[41:], users[:1].expand(30, -1))  # as the unseen user, which they were
    sums, kept = trainer.step.state_dict()["table.tables.user"], before.optimizers["table.tables.user"]
    assert torch.equal(sums[:41], kept)
    assert not sums[41:].any()
    assert trainer.step.state_dict()["layer.tower_out.exp_avg"].equal(
        before.optimizers["layer.tower_out.exp_avg"]
    )
    # nothing has been learnt of the new users: they are scored as the unseen one was
    yesterday = Trainer(shards, CONFIG, 1, start=before, resumed=True)
    np.testing.assert_allclose(trainer.loss("train"), loss_of(yesterday, trainer), rtol=1e-6)
    fitted = fit(tomorrow, tmp_path / "out", CONFIG, seed=1, start=whole[0])
    assert load_checkpoint(fitted.checkpoint).progress.before == STEPS
    assert not torch.equal(fitted.trainer.model.state_dict()["tables.user"][41:], users[41:])
    with pytest.raises(CaptionaryError, match=r"start == .*, as of the training there"):
        fit(tomorrow, tmp_path / "out", CONFIG, seed=1)


def test_a_loss_is_the_mean_over_the_labels_that_are_given(tmp_path, monkeypatch):
    """In batches of 100 rows, of which the first 150 have three labelled ones."""
    monkeypatch.setattr("captionary.rank.fit._SCORED", 100)
    table = impressions(400, range(40), range(60))
    for name in ("label.like", "label.seconds"):
        said = table[name].to_numpy().copy()
        said[3:150] = np.nan
        table = table.set_column(
            table.column_names.index(name), name, pa.array(said, pa.float32(), from_pandas=True)
        )
    trainer = Trainer(write_shards(tmp_path / "shards", table, table), CONFIG, 1)
    list(trainer.train(5))
    logits, labels = trainer._logits("eval", 0, None)
    assert torch.isnan(labels[100:150]).all()
    assert trainer.loss("eval") == pytest.approx(
        float(task_loss(logits, labels, trainer.model.schema)), rel=1e-6
    )
    assert math.isnan(trainer.loss("eval", 100, 150))


def loss_of(yesterday: Trainer, trainer: Trainer) -> float:
    """Tomorrow's loss by yesterday's ranker, which does not know the new users."""
    yesterday.encoder, encoder = trainer.encoder, yesterday.encoder
    yesterday.encoder.vocabularies = {**trainer.vocabularies, "user": encoder.vocabularies["user"]}
    found = yesterday.loss("train")
    trainer.encoder.vocabularies = trainer.vocabularies
    return found


def test_a_feature_group_can_be_adopted_on_the_way(shards, tmp_path):
    bare = dataclasses.replace(CONFIG, features=StreamFeatures(tokens=False, profiles=False))
    first = fit(shards, tmp_path / "bare", bare)
    start = load_checkpoint(first.checkpoint)
    trainer = Trainer(shards, CONFIG, 1, start=start)
    assert trainer.model.schema.tokens
    np.testing.assert_allclose(trainer.loss("eval"), first.trainer.loss("eval"), rtol=1e-5)
    list(trainer.train())
    assert trainer.loss("eval") != first.trainer.loss("eval")


def test_shards_that_have_captions_since_today_go_on(tmp_path):
    table = impressions(600, range(40), range(60))
    plain = tiny_schema(tokens=False, profiles=False, vocabulary=0, tokenizer="", visual=0)
    first = fit(write_shards(tmp_path / "plain", table, schema=plain), tmp_path / "first", CONFIG)
    assert first.trainer.model.schema.fields == ("dense", "user", "item", "context.tab", "item.genre")
    today = write_shards(tmp_path / "today", table)
    trainer = Trainer(today, CONFIG, 1, start=load_checkpoint(first.checkpoint))
    assert trainer.model.schema.visual
    assert trainer.model.schema.events
    np.testing.assert_allclose(trainer.loss("train"), first.trainer.loss("train"), rtol=1e-5)
    list(trainer.train())


def test_shards_with_other_columns_are_refused(whole, tmp_path):
    table = impressions(600, range(40), range(60))
    table = table.append_column("context.device", table["context.tab"])
    schema = tiny_schema(context_categorical=("tab", "device"))
    other = write_shards(tmp_path / "shards", table, schema=schema)
    with pytest.raises(
        CaptionaryError, match=r"context_categorical == .*device.*, must be \('tab',\), as in the shards"
    ):
        fit(other, tmp_path / "out", CONFIG, start=whole[0])


def test_a_full_disk_leaves_the_checkpoint_before(shards, whole, tmp_path):
    # the limit is the kernel's: writes beyond it fail as on a full disk
    trainer = Trainer(shards, CONFIG, 1)
    list(trainer.train(3))
    save_checkpoint(tmp_path / "checkpoints" / "step-00000003", trainer.checkpoint({}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(
            CaptionaryError, match=r"must be on a disk that takes it; .*continues at the last"
        ):
            save_checkpoint(tmp_path / "checkpoints" / "step-00000004", trainer.checkpoint({}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert load_checkpoint(latest(tmp_path)).progress.done == 3


@pytest.mark.parametrize("file", ["model.safetensors", "optimizers.safetensors", "state.json"])
def test_a_disk_full_at_any_file_leaves_nothing_half_written(shards, tmp_path, monkeypatch, file):
    trainer = Trainer(shards, CONFIG, 1)
    save_checkpoint(tmp_path / "checkpoints" / "step-00000000", trainer.checkpoint({}))

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(file):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CaptionaryError, match="No space left on device; make room"):
        save_checkpoint(tmp_path / "checkpoints" / "step-00000001", trainer.checkpoint({}))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000000"]


def test_damaged_checkpoints_are_refused(whole, tmp_path):
    for name in (
        "state.json",
        "optimizers.safetensors",
        "ranker/model.safetensors",
        "ranker/vocabularies/user.parquet",
    ):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(whole[1].checkpoint, copy)
        (copy / name).write_bytes((copy / name).read_bytes()[:40])
        with pytest.raises(CaptionaryError, match=r"must be (a checkpoint of captionary fit|weights|a file)"):
            load_checkpoint(copy)
    with pytest.raises(CaptionaryError, match="must be a checkpoint, or a folder that captionary fit wrote"):
        latest(tmp_path)


def test_pruned_checkpoints_are_gone(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    prune(tmp_path, 2)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]


def test_a_loss_that_explodes_stops(shards, tmp_path):
    rates = dataclasses.replace(RANKER, dense_lr=1e30)
    with pytest.raises(CaptionaryError, match=r"training loss == .*, must be .*; step .*lower"):
        fit(shards, tmp_path, dataclasses.replace(CONFIG, ranker=rates))


def test_tensorboard_is_told_what_the_log_is(shards, tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    stream = dataclasses.replace(CONFIG.stream, tensorboard=True)
    once = dataclasses.replace(RANKER, epochs=1)
    fit(shards, tmp_path, FitConfig(ranker=once, stream=stream))
    board = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    said = [(each.step, pytest.approx(each.value)) for each in board.Scalars("loss")]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == said
