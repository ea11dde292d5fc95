"""`captionary export` on a tiny run whose every stage is the real one, but for the captioner."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.understand.fake import FakeCaptioner

from captionary.assemble import ranking_data, with_features
from captionary.commands.export import export
from captionary.errors import CaptionaryError
from captionary.exporting import finished_stages, raw_keys, whitening_of
from captionary.pipeline import run
from captionary.rank.artefact import ItemFeatures, read_artefact
from captionary.rank.checkpoint import load_ranker
from captionary.rank.features import FeatureSet
from captionary.rank.served import ScoringRequest, ServingRanker
from captionary.rank.train import predict
from captionary.represent.profiles import ProfileList
from captionary.represent.tables import read_profiles
from captionary.settings import load_run
from captionary.training import arm_folder
from captionary.world.settings import WorldConfig

JOINT = "+visual+tokens(A)+profiles(A)"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    said = {
        "name": "tiny",
        "data": {"world": dataclasses.asdict(WorldConfig.tiny())},
        "runs": str(root / "runs"),
        "visual_dimensions": 4,
        "evidence": {"seeds": 1, "placebos": []},
        "ranker": {"epochs": 1},
        "workers": 1,
    }
    (root / "tiny.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(said, default=str))))
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeCaptioner(vector_size=8)
        patch.setattr("captionary.understand.captioner.load_captioner", lambda *_: fake)
        run(load_run(root / "tiny.yaml"), "train")
    return root / "tiny.yaml"


def call(*args: object) -> Result:
    return CliRunner().invoke(export, [str(arg) for arg in args], catch_exceptions=False)


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
