import math

import pytest
from click.testing import CliRunner
from tests.rank.tiny_shards import HOUR, impressions, write_shards

from captionary.commands.tune import tune as command
from captionary.errors import CaptionaryError
from captionary.rank.fit_settings import FitConfig, load_fit
from captionary.rank.settings import RankerConfig
from captionary.tuning import SPACE, tune

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

BASE = FitConfig(
    ranker=RankerConfig(epochs=1, batch_size=100, shuffle_window=400, embedding_dim=4, top=(8,), tower=2)
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    train = impressions(1000, range(40), range(60))
    held = impressions(200, range(40), range(60), seed=5, begins=24 * HOUR)
    made = write_shards(tmp_path_factory.mktemp("tune") / "shards", train, held)
    (made.root / "shards" / "eval-00000.parquet").write_bytes(b"never looked at")
    return made


def study(out):
    backend = optuna.storages.journal.JournalFileBackend(str(out / "study.log"))
    return optuna.load_study(study_name="ranker", storage=optuna.storages.JournalStorage(backend))


def test_a_search_goes_on_and_never_sees_the_evaluation_rows(shards, tmp_path):
    first = tune(shards, tmp_path, BASE, trials=2)
    assert first.trials == 2
    assert 0 < first.loss <= first.first  # the first trial is the base itself
    began = study(tmp_path)
    killed = began.ask()
    killed.suggest_categorical("embedding_dim", [8, 16, 32, 64, 4])
    lines = []
    best = tune(shards, tmp_path, BASE, trials=4, say=lines.append)
    assert best.trials == 4
    assert best.loss <= first.loss
    assert len(lines) == 2
    assert lines[0].startswith("trial 3 of 4: ")
    states = [trial.state.name for trial in study(tmp_path).get_trials()]
    assert states.count("FAIL") == 1
    assert "RUNNING" not in states
    again = study(tmp_path).get_trials()[3]
    assert again.params["embedding_dim"] == study(tmp_path).get_trials()[2].params["embedding_dim"]
    assert load_fit(tmp_path / "best.yaml") == best.config
    assert tune(shards, tmp_path, BASE, trials=4).trials == 4


def test_two_searches_are_equal(shards, tmp_path):
    results = [tune(shards, tmp_path / name, BASE, trials=2) for name in ("a", "b")]
    assert results[0] == results[1]


def test_all_that_is_searched_is_a_setting_of_the_ranker():
    assert set(SPACE) <= set(RankerConfig.__dataclass_fields__)


def test_another_search_does_not_go_on_with_this_one(shards, tmp_path):
    tune(shards, tmp_path, BASE, trials=1)
    with pytest.raises(CaptionaryError, match=r"search == .*, as of the search there"):
        tune(shards, tmp_path, BASE, trials=1, seed=1)


def test_a_trial_that_diverges_is_not_the_best(shards, tmp_path, monkeypatch):
    from captionary.rank import fit

    whole = fit.Trainer.train

    def diverges(self, until=None):
        if self.config.ranker == BASE.ranker:
            raise CaptionaryError("training loss == nan, must be finite")
        return whole(self, until)

    monkeypatch.setattr(fit.Trainer, "train", diverges)
    best = tune(shards, tmp_path, BASE, trials=2)
    assert (best.trials, best.pruned) == (2, 1)
    assert math.isnan(best.first)


@pytest.mark.parametrize(("name", "value"), [("trials", 0), ("tail", 0.0), ("tail", 0.7)])
def test_bad_arguments(shards, tmp_path, name, value):
    with pytest.raises(CaptionaryError, match=f"{name} == {value}"):
        tune(shards, tmp_path, BASE, **{name: value})


def test_the_command_prints_the_best_as_yaml(shards, tmp_path):
    (tmp_path / "base.yaml").write_text("ranker: {batch_size: 100, embedding_dim: 4, tower: 2}\n")
    args = [
        str(shards.root),
        "--out",
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "base.yaml"),
        "--trials",
        "1",
    ]
    done = CliRunner().invoke(command, args, catch_exceptions=False)
    assert done.exit_code == 0
    (tmp_path / "printed.yaml").write_text(done.stdout)
    assert load_fit(tmp_path / "printed.yaml").ranker.embedding_dim == 4
    assert "best of 1 trials, 0 of them stopped early" in done.stdout
