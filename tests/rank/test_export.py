import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from tests.rank.served_rankers import JOINT, artefact, raw_data, request, shaken

from captionary.errors import CaptionaryError
from captionary.rank.artefact import read_artefact, write_artefact
from captionary.rank.export import artefact_of, export_ranker
from captionary.rank.served import ServingRanker
from captionary.represent.vectors import Whitening


@pytest.fixture(scope="module")
def raw():
    return raw_data()


@pytest.fixture
def folder(raw, tmp_path):
    whitening = Whitening.fit(np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32), 6)
    export_ranker(
        shaken(raw), raw.data, JOINT, raw.keys, tmp_path / "out", whitening=whitening, provenance={"run": "r"}
    )
    return tmp_path / "out"


def test_what_is_loaded_scores_as_what_was_exported(raw, folder):
    loaded, made = ServingRanker.load(folder), ServingRanker(artefact(raw, shaken(raw)))
    for row in range(5):
        asked = request(raw, row, [1, 2, 3])
        np.testing.assert_array_equal(loaded.score(asked), made.score(asked))
    assert loaded.tasks == ("like", "seconds")
    assert loaded.events == ("like", "share")
    assert loaded.items == 30
    # 4 item fields of width 8, 24 hidden, 2 tasks' biases, 10 of the dense MLP's first layer
    assert loaded.row_width == 4 * 8 + 24 + 2 + 10
    parts = read_artefact(folder)
    assert parts.provenance == {"run": "r"}
    assert parts.whitening.components.shape == (8, 6)
    assert parts.tokens.row(1).tolist() == raw.data.item_tokens["A"].row(1).tolist()
    assert isinstance(parts.rows, np.memmap)


def test_the_version_is_of_what_decides_scores(raw, folder, tmp_path):
    version = ServingRanker.load(folder).version
    again = export_ranker(shaken(raw), raw.data, JOINT, raw.keys, tmp_path / "again", provenance={"run": "s"})
    assert again.version != version  # no whitening
    twice = export_ranker(shaken(raw), raw.data, JOINT, raw.keys, tmp_path / "twice")
    assert twice.version == again.version
    assert export_ranker(shaken(raw, seed=1), raw.data, JOINT, raw.keys, folder).version not in (
        version,
        again.version,
    )


@pytest.mark.parametrize("name", ["rows.npy", "tokens.npz", "items.parquet", "ranker/model.safetensors"])
def test_a_cut_file_is_refused(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CaptionaryError, match=rf"size of {name} == .*export the ranker again"):
        ServingRanker.load(folder)
    path.unlink()
    with pytest.raises(CaptionaryError, match=r"artefact == .*must be what captionary export wrote"):
        ServingRanker.load(folder)


def test_another_format_or_folder_is_refused(folder, tmp_path):
    with pytest.raises(CaptionaryError, match="must be what captionary export wrote"):
        ServingRanker.load(tmp_path / "nothing")
    said = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps(said | {"format": 99}))
    with pytest.raises(CaptionaryError, match="format == 99, must be 1"):
        ServingRanker.load(folder)


def test_an_engine_that_does_not_take_the_ranker_is_refused(raw, folder):
    assert ServingRanker.load(folder).engine == "torch"  # a numeric column of items
    with pytest.raises(CaptionaryError, match="engine == numba, must be torch"):
        ServingRanker.load(folder, engine="numba")
    with pytest.raises(CaptionaryError, match="threads == 0, must be >= 1"):
        ServingRanker.load(folder, threads=0)


def test_raw_keys_say_what_data_without_vocabularies_does_not(raw):
    bare = dataclasses.replace(raw.data, vocabularies={})
    model = shaken(raw)
    found, expected = artefact_of(model, bare, JOINT, raw.keys), artefact(raw, model)
    for name, lookup in expected.lookups.items():
        keys = lookup.vocabulary.ids.to_pylist()
        assert found.lookups[name].rows(keys).tolist() == lookup.rows(keys).tolist(), name


def test_hashed_ids_keep_their_hash(raw, tmp_path):
    hashed = raw_data(id_hash_rows=16)
    model = shaken(hashed)
    write_artefact(artefact(hashed, model), tmp_path / "out")
    served = ServingRanker.load(tmp_path / "out")
    asked = request(hashed, 3, [1, 2])
    other = served.score(asked._replace(user="never seen"))
    known = hashed.data.vocabularies["user"].index(["never seen"])[0]
    assert known > 0
    assert served._parts.lookups["user"].row("never seen") == known
    assert not np.allclose(other, served.score(asked._replace(user=None)))


def test_keys_that_do_not_fit_are_refused(raw):
    model = shaken(raw)
    short = dataclasses.replace(raw.keys, users=raw.keys.users[:-1])
    with pytest.raises(CaptionaryError, match="raw keys of user == 299, must be 300"):
        artefact_of(model, raw.data, JOINT, short)
    twice = dataclasses.replace(raw.keys, items=pa.array([1] * 30))
    with pytest.raises(CaptionaryError, match="item ids == 1 distinct, must be 30, unique and not null"):
        artefact_of(model, raw.data, JOINT, twice)
    with pytest.raises(CaptionaryError, match="raw values of context column tab == absent"):
        artefact_of(model, raw.data, JOINT, dataclasses.replace(raw.keys, context={}))


def test_weights_that_are_not_finite_are_not_exported(raw):
    model = shaken(raw)
    model.top_in.weight.data[0, 0] = float("nan")
    with pytest.raises(CaptionaryError, match=r"weights == top_in\.weight, must be finite"):
        artefact_of(model, raw.data, JOINT, raw.keys)
