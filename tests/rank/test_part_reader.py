import json
from types import SimpleNamespace

import pytest
import torch
from tests.rank.tiny_fit import CONFIG
from tests.rank.tiny_shards import impressions, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.fit import Trainer
from captionary.rank.part_reader import PartReader
from captionary.rank.sharded_state import scatter_checkpoint
from captionary.rank.state import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(a training, its checkpoint as of one process, and as of many)."""
    root = tmp_path_factory.mktemp("parts")
    trainer = Trainer(write_shards(root / "shards", impressions(200, range(40), range(60))), CONFIG, 1)
    list(trainer.train(2))
    save_checkpoint(root / "one", trainer.checkpoint({"shards": "these", "seed": 1}))
    scatter_checkpoint(load_checkpoint(root / "one"), root / "many")
    return trainer, root / "one", root / "many"


@pytest.mark.parametrize("kind", [1, 2])
def test_one_process_s_checkpoint_and_many_s_say_the_same(folders, kind):
    trainer, kept = folders[0], PartReader(folders[kind], verify=True)
    state = {f"ranker.{name}": value for name, value in trainer.model.state_dict().items()}
    state |= {f"optimizers.{name}": value for name, value in trainer.step.state_dict().items()}
    assert kept.sizes == {name: tuple(value.shape) for name, value in state.items()}
    assert kept.ranker() == (CONFIG.ranker, trainer.model.schema)
    assert kept.said.progress == trainer.progress()
    assert kept.said.named == {"shards": "these", "seed": 1, "steps": 2}
    assert kept.vocabularies()["user"].ids.equals(trainer.vocabularies["user"].ids)

    wanted = ["ranker.tables.user", "ranker.mean", "optimizers.table.tables.user", "optimizers.done"]
    into = {name: torch.full_like(state[name], 7) for name in wanted}
    kept.read(into)
    assert all(torch.equal(into[name], state[name]) for name in wanted)


def test_of_a_table_only_this_process_s_rows_are_read(folders):
    part = torch.zeros(5, 6)
    shard = SimpleNamespace(metadata=SimpleNamespace(shard_offsets=[10, 0]), tensor=part)
    PartReader(folders[1]).read({"ranker.tables.user": SimpleNamespace(local_shards=lambda: [shard])})
    assert torch.equal(part, folders[0].model.state_dict()["tables.user"][10:15])


def test_a_checkpoint_that_is_none_is_refused(folders, tmp_path):
    with pytest.raises(CaptionaryError, match="must be a checkpoint of captionary fit or train"):
        PartReader(tmp_path)
    (tmp_path / "state.json").write_text((folders[1] / "state.json").read_text())
    with pytest.raises(CaptionaryError, match="must be a whole checkpoint of captionary fit or train"):
        PartReader(tmp_path)
    said = json.loads((folders[1] / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(said | {"format": 2}))
    with pytest.raises(CaptionaryError, match="format == 2, must be 1"):
        PartReader(tmp_path)
