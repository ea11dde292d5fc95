"""Artefacts of rankers trained on shards: they score as the ranker predicts, calibrated where it is."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pytest
from tests.rank.tiny_fit import CONFIG
from tests.rank.tiny_shards import HOUR, VECTORS, impressions, tiny_schema, write_shards

from captionary.errors import CaptionaryError
from captionary.exporting import export_trained
from captionary.rank.artefact import read_artefact
from captionary.rank.checkpoint import save_ranker
from captionary.rank.export_shards import artefact_of_shards, load_trained
from captionary.rank.fit import fit
from captionary.rank.served import ScoringRequest, ServingRanker
from captionary.rank.state import checkpoints
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileList

RICH = tiny_schema(vectors=VECTORS)
HELD = impressions(120, range(50), range(60), seed=5, begins=24 * HOUR)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    train = impressions(800, range(40), range(50))
    return write_shards(tmp_path_factory.mktemp("export") / "shards", train, HELD, schema=RICH)


@pytest.fixture(scope="module")
def fitted(shards, tmp_path_factory):
    return fit(shards, tmp_path_factory.mktemp("fit") / "out", CONFIG, seed=1)


@pytest.fixture
def home(fitted, tmp_path):
    shutil.copytree(fitted.checkpoint.parent.parent, tmp_path / "out")
    return tmp_path / "out"


def scores(served, table=HELD):
    """What a service says of each impression, asked with what it would know."""
    found = []
    lists = {
        event: Jagged.from_arrow(table[f"token_ids.{event}"], table[f"weights.{event}"])
        for event in RICH.events
    }
    for row, said in enumerate(table.to_pylist()):
        one = {event: each.take(np.array([row])) for event, each in lists.items()}
        asked = ScoringRequest(
            user=said["user_id"],
            items=[said["item_id"]],
            context={"tab": said["context.tab"], "hour": said["context.hour"]},
            profiles={
                event: ProfileList(each.values, each.weights, said[f"mass.{event}"])
                for event, each in one.items()
            },
            vectors={"user.text": np.array(said["vector.user.text"], np.float32)},
        )
        found.append(served.score(asked)[0])
    return np.array(found)


def near(found, expected):
    """Chances to 1e-5; amounts, which are not below 1, to 1e-5 of themselves."""
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-5, atol=1e-5)


def test_an_artefact_scores_as_the_ranker_predicts(shards, fitted, home):
    made = export_trained(home, shards.root)
    assert made.folder == home / "export"
    assert made.items == 60
    served = ServingRanker.load(made.folder)
    expected = fitted.trainer.predict("eval")[0]
    near(scores(served), expected)
    users = np.array(HELD["user_id"].to_pylist())
    assert (users >= 40).any()  # who was not seen in training
    said = read_artefact(made.folder)
    assert said.item_vectors == {"caption"}
    assert said.whitening is None
    assert said.provenance["shards"] == said.provenance["items_of"] == shards.fingerprint
    assert (said.provenance["seed"], said.provenance["steps"]) == (1, 32)
    assert said.provenance["calibration"] is None


@pytest.mark.parametrize(
    "rules", [{"category_min_rows": 280, "id_min_rows": 20}, {"category_hash_rows": 5, "id_hash_rows": 9}]
)
def test_rare_and_hashed_categories_and_weighted_tokens_are_served_as_they_were_learnt(tmp_path, rules):
    schema = tiny_schema(vectors=VECTORS, token_weights=True)
    train = impressions(800, range(40), range(50))
    held = HELD.set_column(
        HELD.column_names.index("context.tab"), "context.tab", pa.array(["home", "voice"] * 60)
    )
    weighted = write_shards(tmp_path / "shards", train, held, schema=schema)
    config = dataclasses.replace(CONFIG, ranker=dataclasses.replace(CONFIG.ranker, **rules))
    trained = fit(weighted, tmp_path / "out", config, seed=1)
    known = trained.trainer.vocabularies
    if "category_hash_rows" in rules:
        assert trained.trainer.model.schema.context == {"tab": 6}
        assert known["context.tab"].index(["voice"])[0] > 0  # shares a row with others
    else:
        assert (known["item.genre"].index(["news", "music", "games"]) == 0).any()
    made = export_trained(tmp_path / "out", weighted.root)
    near(scores(ServingRanker.load(made.folder), held), trained.trainer.predict("eval")[0])
    kept, tokens = read_artefact(made.folder).tokens, weighted.items().tokens
    np.testing.assert_array_equal(kept.weights, tokens.weights)
    assert len(np.unique(tokens.weights)) > 10


def test_any_folder_of_the_training_names_it(shards, fitted, home):
    step = fitted.checkpoint.name
    expected = export_trained(home, shards.root).version
    for folder in (home / "checkpoints" / step, home / "checkpoints" / step / "ranker"):
        assert export_trained(folder, shards.root).version == expected
        assert load_trained(folder).home == home
    assert export_trained(checkpoints(home)[0], shards.root, home / "early").version != expected
    moved = shutil.move(home / "checkpoints" / step, home.parent / "moved")
    assert export_trained(moved, shards.root).folder == home.parent / "export"


def test_scores_are_calibrated_where_the_ranker_is(shards, home):
    resumed = fit(shards, home, CONFIG, seed=1).trainer
    plain = resumed.predict("eval")[0]
    resumed.calibrate("platt")
    save_ranker(resumed.model, home / "ranker", resumed.vocabularies)
    calibrated = resumed.predict("eval")[0]
    assert np.abs(calibrated - plain).max() > 1e-3
    for folder in (home, checkpoints(home)[-1], home / "ranker"):
        made = export_trained(folder, shards.root)
        served = ServingRanker.load(made.folder)
        assert served.calibrated
        near(scores(served), calibrated)
        assert read_artefact(made.folder).provenance["calibration"] == "platt"
    early = load_trained(checkpoints(home)[0])
    assert early.checkpoint.model.calibration is None
    other = early.checkpoint.model
    other.calibration = resumed.model.calibration
    save_ranker(other, home / "ranker", resumed.vocabularies)
    with pytest.raises(
        CaptionaryError, match=r"ranker == .*/ranker, must be of the weights in step-00000032; cal"
    ):
        export_trained(home, shards.root)


def test_tomorrows_items_are_folded_as_unseen_ones(shards, fitted, tmp_path):
    more = write_shards(
        tmp_path / "more",
        HELD,
        items=80,
        schema=tiny_schema(vectors=VECTORS, vocabulary=99, tasks=RICH.tasks),
    )
    trained = load_trained(fitted.checkpoint)
    served = ServingRanker(artefact_of_shards(trained.checkpoint, more))
    assert served.items == 80
    asked = ScoringRequest(user=1, items=["i70", "i71", "nobody's"])
    found = served.score(asked)
    assert len(np.unique(found[:, 0])) == 3  # content counts


def test_a_checkpoint_of_many_processes_is_one_too(shards, fitted, tmp_path):
    from captionary.rank.sharded_state import scatter_checkpoint

    trained = load_trained(fitted.checkpoint)
    scatter_checkpoint(trained.checkpoint, tmp_path / "many" / "checkpoints" / "step-00000032")
    made = export_trained(tmp_path / "many", shards.root)
    near(scores(ServingRanker.load(made.folder)), fitted.trainer.predict("eval")[0])


def test_what_cannot_be_exported_is_said(shards, fitted, home, tmp_path):
    rule = r"must be the config of a run, the --out of captionary fit, or a checkpoint in it"
    for folder in (tmp_path / "absent", shards.root):
        with pytest.raises(CaptionaryError, match=rf"ranker == .*, {rule}"):
            export_trained(folder, shards.root)
    with pytest.raises(
        CaptionaryError, match="--shards == missing, must be the shards whose items are folded"
    ):
        export_trained(home, None)
    bare = write_shards(tmp_path / "bare", HELD, schema=tiny_schema())
    with pytest.raises(
        CaptionaryError,
        match=r"with caption among them, as in the shards that the ranker was .*; make them with",
    ):
        export_trained(home, bare.root)
    items = pa.concat_tables([pa.parquet.read_table(shards.root / "items.parquet")] * 2)
    shutil.copytree(shards.root, tmp_path / "twice")
    pa.parquet.write_table(items, tmp_path / "twice" / "items.parquet")
    with pytest.raises(CaptionaryError, match="item ids == 60 distinct, must be 120, unique and not null"):
        export_trained(home, tmp_path / "twice")
    assert not (home / "export").exists()
