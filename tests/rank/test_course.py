import dataclasses

import pytest
import torch
from tests.rank.tiny_fit import CONFIG
from tests.rank.tiny_shards import impressions, write_shards

from captionary.errors import CaptionaryError
from captionary.rank.course import Course, check_same, run
from captionary.rank.devices import CPU


class Counting(Course):
    """Learns nothing; the loss of a batch is the number of its step."""

    module = torch.nn.Identity()

    def __init__(self, shards, **more):
        super().__init__(shards, CONFIG, 1, device=CPU, **more)
        self.asked = []

    def _source(self, epoch, first):
        self.asked.append((epoch, first))
        for step in range(first, self.epoch_steps):
            yield step, torch.zeros(50)

    def _learn(self, batch, labels):
        torch.rand(3)
        return len(labels), float(batch)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("course") / "shards", impressions(330, range(9), range(60)))


def test_it_goes_through_all_epochs_and_on_from_anywhere(shards):
    course = Counting(shards)
    assert (course.epoch_steps, course.steps) == (7, 14)  # 330 rows in batches of 50, twice
    state = torch.get_rng_state()
    assert list(course.train(4)) == [50] * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert course.mean_loss() == (0 + 1 + 2 + 3) / 4
    list(course.train())
    assert course.asked == [(0, 0), (0, 4), (1, 0)]
    assert course.mean_loss() == (4 + 5 + 6 + 7 * 6 / 2) / 10
    assert course.mean_loss() == 0.0
    assert list(course.train()) == []


def test_progress_names_the_row_that_comes_next(shards):
    course = Counting(shards, rows=(10, 330))
    list(course.train(9))
    progress = course.progress(17)
    assert (progress.done, progress.steps, progress.rows, progress.log_bytes) == (9, 14, 450, 17)
    assert (progress.epoch, progress.batch) == (1, 2)
    assert (progress.row_group, progress.offset) == (0, 10 + 2 * 50)
    again = Counting(shards, rows=(10, 330))
    again._go_on(progress)
    assert again.progress(17) == progress


def test_a_run_is_kept_and_logged_at_its_steps(shards, tmp_path):
    kept, said = [], []
    speed = run(Counting(shards), tmp_path, lambda *each: kept.append(each), say=said.append)
    assert [path.name for path, _ in kept] == ["step-00000010", "step-00000014"]
    assert [line["step"] for line in said] == [7, 14]
    assert said[0]["loss"] == (0 + 1 + 2 + 3 + 4 + 5 + 6) / 7
    assert speed > 0
    assert kept[-1][1] == (tmp_path / "log.jsonl").stat().st_size
    other = tmp_path / "other"
    run(Counting(shards), other, lambda *each: kept.append(each), first=False)
    assert not other.exists()  # the first process alone writes the log


def test_another_training_is_refused(tmp_path):
    identity = {"seed": 1, "start": None}
    check_same(identity, CONFIG, dict(identity), CONFIG, tmp_path)
    often = dataclasses.replace(CONFIG, stream=dataclasses.replace(CONFIG.stream, log_steps=1))
    check_same(identity, CONFIG, identity, often, tmp_path)  # of no consequence
    with pytest.raises(CaptionaryError, match="seed == 2, must be 1, as of the training there"):
        check_same(identity, CONFIG, identity | {"seed": 2}, CONFIG, tmp_path)
    wide = dataclasses.replace(CONFIG, ranker=dataclasses.replace(CONFIG.ranker, embedding_dim=8))
    with pytest.raises(CaptionaryError, match=r"ranker\.embedding_dim == 8, must be 4"):
        check_same(identity, CONFIG, identity, wide, tmp_path)
