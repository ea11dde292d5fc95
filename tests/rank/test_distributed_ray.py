"""The distributed training under Ray Train, on a local cluster, which takes long to start: for CAPTIONARY_RAY=1."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
from tests.optional import optional
from tests.rank.tiny_distributed import config
from tests.rank.tiny_shards import impressions, write_shards
from tests.ray_cluster import local_cluster

from captionary.config import to_mapping
from captionary.rank.fit import fit
from captionary.rank.fit_settings import FitConfig
from captionary.rank.state import checkpoints, load_any

if not os.environ.get("CAPTIONARY_RAY"):
    pytest.skip("a Ray cluster takes long to start: CAPTIONARY_RAY=1 runs it", allow_module_level=True)
optional("torchrec", reason="distributed training is TorchRec's")
ray = optional("ray", reason="Ray Train needs captionary[ray]")

CONFIG = config(embedding_decay=0.0)


@pytest.fixture
def cluster(monkeypatch):
    with local_cluster(monkeypatch, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)):
        yield


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_two_workers_of_ray_train_as_one_process_does(cluster, tmp_path):
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def work(said):  # pickled whole: what it uses it imports
        from pathlib import Path

        import torch

        from captionary.config import from_mapping
        from captionary.rank.fit_distributed import fit_distributed
        from captionary.rank.processes import processes
        from captionary.rank.shards import open_shards

        torch.set_num_threads(1)
        config = from_mapping(FitConfig, said["config"], where="the test")
        with processes("cpu") as team:
            assert team.world == 2
            fit_distributed(
                open_shards(Path(said["shards"])), Path(said["out"]), config, 5, team=team, reading="all"
            )

    shards = write_shards(
        tmp_path / "shards", impressions(1000, range(30), range(60)), group_rows=100, shard_rows=300
    )
    fit(shards, tmp_path / "one", CONFIG, 5)
    TorchTrainer(
        work,
        train_loop_config={
            "shards": str(shards.root),
            "out": str(tmp_path / "two"),
            "config": to_mapping(CONFIG),
        },
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="ray", storage_path=str(tmp_path / "storage")),
    ).fit()

    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(two) == 8
    np.testing.assert_allclose(two, one, atol=1e-4)
    found, expected = (load_any(checkpoints(tmp_path / name)[-1]) for name in ("two", "one"))
    assert found.identity["processes"] == 2
    assert dataclasses.asdict(found.config) == dataclasses.asdict(expected.config)
    for name, tensor in expected.model.state_dict().items():
        np.testing.assert_allclose(found.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
