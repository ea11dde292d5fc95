"""Checkpoints of many processes, written by one: a full disk leaves none, and none half."""

import os
import resource

import pytest
import torch
from tests.rank.tiny_fit import CONFIG
from tests.rank.tiny_shards import impressions, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.fit import Trainer
from captionary.rank.sharded_state import scatter_checkpoint
from captionary.rank.state import checkpoints, is_sharded, load_any, say_all


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    shards = write_shards(tmp_path_factory.mktemp("made") / "shards", impressions(600, range(40), range(60)))
    trainer = Trainer(shards, CONFIG, 1)
    list(trainer.train(3))
    return trainer.checkpoint({"shards": shards.fingerprint, "seed": 1})


def only_the_first_is_left(out, kept):
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    (found,) = checkpoints(out)
    assert is_sharded(found)
    loaded = load_any(found)
    assert say_all(loaded) == say_all(kept)
    expected = kept.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize("file", [".distcp", ".metadata", "user.parquet", "state.json"])
def test_a_disk_full_at_any_file_leaves_nothing_half_written(kept, tmp_path, monkeypatch, file):
    scatter_checkpoint(kept, tmp_path / "checkpoints" / "step-00000003")

    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(file):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CaptionaryError, match=r"on a disk with room for it; .*No space left .*; make room"):
        scatter_checkpoint(kept, tmp_path / "checkpoints" / "step-00000004")
    only_the_first_is_left(tmp_path, kept)


def test_a_write_that_the_disk_does_not_take(kept, tmp_path):
    # the limit is the kernel's: writes beyond it fail as on a full disk
    scatter_checkpoint(kept, tmp_path / "checkpoints" / "step-00000003")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(
            CaptionaryError, match=r"must be on a disk with room for it; .*continues at the last"
        ):
            scatter_checkpoint(kept, tmp_path / "checkpoints" / "step-00000004")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    only_the_first_is_left(tmp_path, kept)
