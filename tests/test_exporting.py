"""`captionary export` on a tiny run, and on a ranker that was trained on its shards."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.tiny_run import copy_run, faked

from captionary.assemble import ranking_data, with_features
from captionary.commands.export import export
from captionary.commands.fit import fit
from captionary.commands.shards import shards
from captionary.errors import CaptionaryError
from captionary.exporting import finished_stages, raw_keys, whitening_of
from captionary.rank.artefact import ItemFeatures, read_artefact
from captionary.rank.checkpoint import load_ranker
from captionary.rank.export_shards import load_trained
from captionary.rank.features import FeatureSet
from captionary.rank.fit import Trainer
from captionary.rank.served import ScoringRequest, ServingRanker
from captionary.rank.shards import open_shards
from captionary.rank.train import predict
from captionary.represent.profiles import ProfileList
from captionary.represent.tables import read_profiles
from captionary.settings import load_run
from captionary.training import arm_folder

JOINT = "+visual+tokens(A)+profiles(A)"


@pytest.fixture(scope="module")
def config(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_run(tiny_run, tmp_path_factory.mktemp("run"))


def verb(command: click.Command, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


def call(*args: object) -> Result:
    return verb(export, *args)


def test_the_artefact_scores_as_the_trained_ranker(config: Path) -> None:
    told = call(config)
    assert told.exit_code == 0
    chosen = load_run(config)
    served = ServingRanker.load(chosen.folder / "export")
    assert f"version {served.version}" in told.output
    stages = finished_stages(chosen)
    features = FeatureSet(visual=True, tokens="A", profiles="A")
    data = with_features(stages, ranking_data(stages), features)
    model = load_ranker(arm_folder(chosen.folder / "rankers", JOINT, 0) / "ranker")
    rows = data.eval[:20]
    expected = predict(model, data, features, rows)
    keys, profiles = raw_keys(stages), read_profiles(chosen.folder / "profiles" / "A")[1]
    for row, wanted in zip(rows.tolist(), expected, strict=True):
        lists = {
            event: ProfileList(of.lists.row(row), of.lists.take(np.array([row])).weights, float(of.mass[row]))
            for event, of in profiles.items()
        }
        context = {name: column[row].as_py() for name, column in keys.context.items()}
        context |= {name: float(column[row]) for name, column in data.context_numeric.items()}
        item = keys.items[int(data.item[row])].as_py()
        asked = ScoringRequest(keys.users[row].as_py(), [item], None, context, lists)
        np.testing.assert_allclose(served.score(asked)[0], wanted, atol=1e-5)
    parts = read_artefact(chosen.folder / "export")
    assert (parts.provenance["arm"], parts.provenance["seed"], parts.provenance["run"]) == (JOINT, 0, "tiny")


def test_new_items_are_folded_from_the_encoders_vectors(config: Path, tmp_path: Path) -> None:
    assert call(config, "--out", tmp_path / "out", "--arm", "+visual").exit_code == 0
    served, stages = ServingRanker.load(tmp_path / "out"), finished_stages(load_run(config))
    assert stages.captions is not None
    with np.load(stages.captions.folder / "vectors.npz") as stored:
        vectors = np.where(stored["present"][:, None], stored["vectors"], np.nan).astype(np.float32)
    data, keys = ranking_data(stages), raw_keys(stages)
    assert whitening_of(stages, data) is not None
    ids = keys.items.to_pylist()
    columns = {name: column.to_pylist() for name, column in keys.item_categories.items()}
    features = ItemFeatures(ids=ids, categorical=columns, numeric=data.item_numeric, visual=vectors)
    np.testing.assert_allclose(served.fold(features), served.rows(ids), atol=1e-4)


@pytest.fixture(scope="module")
def fitted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of the run, and `out`, where a ranker was trained on them and calibrated, by the verbs."""
    root = tmp_path_factory.mktemp("fitted")
    with faked():
        verb(shards, config, "--out", root / "shards")
    (root / "fit.yaml").write_text("ranker: {epochs: 1, embedding_dim: 8, batch_size: 64}")
    verb(
        fit,
        root / "shards",
        "--out",
        root / "out",
        "--config",
        root / "fit.yaml",
        "--threads",
        1,
        "--calibrate",
        "platt",
    )
    return root


def test_a_ranker_of_fit_is_exported_with_its_calibration(config: Path, fitted: Path) -> None:
    told = call(fitted / "out", "--shards", fitted / "shards")
    assert f"export: {(fitted / 'out').resolve() / 'export'}" in told.output
    served = ServingRanker.load(fitted / "out" / "export")
    assert served.calibrated
    trained, opened = load_trained(fitted / "out").checkpoint, open_shards(fitted / "shards")
    trainer = Trainer(opened, trained.config, start=trained, resumed=True)
    expected = trainer.predict("eval", stop=30)[0]
    group = next(opened.groups("eval", stop=30))
    assert group.lists is not None
    for row, (said, wanted) in enumerate(zip(group.table.to_pylist(), expected, strict=True)):
        lists = {
            event: group.lists.take(np.array([said[f"list.{event}"]], np.int64))
            for event in opened.schema.events
        }
        asked = ScoringRequest(
            user=said["user_id"],
            items=[said["item_id"]],
            context={
                name: said[f"context.{name}"]
                for name in (*opened.schema.context_categorical, *opened.schema.context_numeric)
            },
            profiles={
                event: ProfileList(one.values, one.weights, said[f"mass.{event}"])
                for event, one in lists.items()
            },
        )
        np.testing.assert_allclose(served.score(asked)[0], wanted, rtol=1e-5, atol=1e-5, err_msg=str(row))
    # and the encoder's vectors of new items are projected as the shards' were
    parts = read_artefact(fitted / "out" / "export")
    assert parts.whitening is not None
    with np.load(load_run(config).folder / "captions" / "vectors.npz") as stored:
        vectors, present = stored["vectors"].astype(np.float32), stored["present"]
    np.testing.assert_allclose(parts.whitening.apply(vectors, present), opened.items().visual, rtol=1e-5)


def test_options_of_the_other_kind_are_refused(config: Path, fitted: Path, tmp_path: Path) -> None:
    for words, said in (
        ((config, "--shards", "x"), "--shards == x, must be left out with the config of a run"),
        ((fitted / "out", "--arm", "ids"), "--arm == ids, must be left out with a ranker of captionary fit"),
        ((fitted / "out", "--seed", 0), "--seed == 0, must be left out with a ranker of captionary fit"),
        (
            (fitted / "out",),
            "--shards == missing, must be the shards whose items are folded; captionary export",
        ),
        (
            (tmp_path / "nothing",),
            "ranker == .*nothing, must be the config of a run, the --out of captionary",
        ),
        (
            (load_run(config).folder,),
            "ranker == .*tiny, must be the config of a run, the --out of captionary",
        ),
    ):
        with pytest.raises(CaptionaryError, match=said):
            call(*words)


def test_what_cannot_be_exported_is_said(config: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match=r"arm == \+visuals, must be \+visual \(did you mean that\?\)"):
        call(config, "--arm", "+visuals")
    with pytest.raises(
        CaptionaryError, match=r"stage == .*seed-3, must be finished; captionary train CONFIG"
    ):
        call(config, "--seed", 3)
    other = yaml.safe_load(config.read_text()) | {"name": "other"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(CaptionaryError, match=r"stage == .*world, must be finished; captionary run CONFIG"):
        call(tmp_path / "other.yaml")


def test_tokens_newer_than_the_ranker_are_refused(config: Path, tmp_path: Path) -> None:
    path = load_run(config).folder / "tokens" / "stage.json"
    said = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(said) | {"made_at": "2999-01-01T00:00:00+00:00"}))
        with pytest.raises(CaptionaryError, match="stage tokens == newer, must be older than the ranker"):
            call(config, "--out", tmp_path / "out")
    finally:
        path.write_text(said)
