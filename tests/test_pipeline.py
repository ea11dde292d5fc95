"""The main job on a tiny world with a captioner that knows the truth: small, but every stage is the real one."""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.understand.fake import FakeCaptioner

from captionary import pipeline
from captionary.contract import Dataset, open_dataset
from captionary.errors import CaptionaryError
from captionary.evidence.result import Evidence
from captionary.pipeline import run
from captionary.rank.checkpoint import load_ranker
from captionary.settings import DataConfig, EvidenceConfig, RunConfig
from captionary.world.settings import WorldConfig


def config(folder: Path, **changes: object) -> RunConfig:
    values = {
        "name": "tiny",
        "data": DataConfig(world=WorldConfig.tiny(broken_media=6)),
        "runs": folder,
        "visual_dimensions": 4,
        "evidence": EvidenceConfig(seeds=1, subsets=5, cards=3),
        "workers": 1,
    }
    return RunConfig(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, FakeCaptioner]:
    """One finished run, shared by the tests that only look at it."""
    captioner = FakeCaptioner(vector_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captionary.understand.captioner.load_captioner", lambda *_: captioner)
        chosen = config(tmp_path_factory.mktemp("runs"))
        run(chosen)
    return chosen, captioner


def again(chosen: RunConfig, captioner: FakeCaptioner, last: str = "run") -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captionary.understand.captioner.load_captioner", lambda *_: captioner)
        run(chosen, last)


def test_report_and_evidence_are_there(finished: tuple[RunConfig, FakeCaptioner]) -> None:
    report = finished[0].folder / "report"
    evidence = Evidence.from_json((report / "evidence.json").read_text())
    assert [arm.name for arm in evidence.arms] == [
        "ids", "+visual", "+visual+tokens(A)", "+visual+tokens(B)", "+visual+profiles(A)",
        "+visual+tokens(A)+profiles(A)", "+tokens(A)+profiles(A)", "shuffled", "random", "constant",
    ]  # fmt: skip
    assert evidence.captions is not None
    assert (evidence.captions.ok, evidence.captions.failed) == (60, 6)
    assert sum(evidence.captions.reasons.values()) == 6
    assert evidence.oracle is not None
    page = (report / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 3
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert set(evidence.run.fingerprints) == {"data", "captions", "tokens", "profiles", "rankers"}


def test_a_second_run_redoes_nothing_and_says_so(
    finished: tuple[RunConfig, FakeCaptioner], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, captioner = finished
    seen = captioner.images
    before = {path: path.stat().st_mtime_ns for path in chosen.folder.rglob("*") if path.name != ".lock"}
    again(chosen, captioner)
    assert captioner.images == seen
    assert {
        path: path.stat().st_mtime_ns for path in chosen.folder.rglob("*") if path.name != ".lock"
    } == before
    out = capsys.readouterr()
    assert "nothing to do: every stage is up to date" in out.out
    assert out.err.count("up to date") == 6
    assert "Table 1" in out.out


def test_a_changed_config_redoes_what_depends_on_it(
    finished: tuple[RunConfig, FakeCaptioner], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, captioner = finished
    shutil.copytree(chosen.runs, tmp_path / "runs")
    seen = captioner.images
    again(config(tmp_path / "runs", evidence=EvidenceConfig(seeds=1, subsets=4, cards=1)), captioner)
    lines = capsys.readouterr().err.splitlines()
    redone = [
        line.split()[0]
        for line in lines
        if line.endswith(tuple("abcdefghijklmnopqrstuvwxyz")) and " s " in line
    ]
    assert "evidence" in redone
    assert not {"data", "caption", "tokenize", "train"} & set(redone)
    assert captioner.images == seen


def test_a_lost_training_is_done_again_alone(
    finished: tuple[RunConfig, FakeCaptioner], tmp_path: Path
) -> None:
    """A killed run continues: of all trainings only the lost one runs, and gives the same bits."""
    chosen, captioner = finished
    shutil.copytree(chosen.runs, tmp_path / "runs")
    copied = config(tmp_path / "runs")
    lost = copied.folder / "rankers" / "ids" / "seed-0"
    kept = copied.folder / "rankers" / "visual" / "seed-0" / "stage.json"
    predictions, stamp = np.load(lost / "predictions.npy"), kept.stat().st_mtime_ns
    shutil.rmtree(lost)
    again(copied, captioner, "train")
    np.testing.assert_array_equal(np.load(lost / "predictions.npy"), predictions)
    assert kept.stat().st_mtime_ns == stamp


def test_captions_keep_raw_and_normalised_side_by_side(finished: tuple[RunConfig, FakeCaptioner]) -> None:
    table = pq.read_table(finished[0].folder / "captions" / "captions.parquet")
    assert table.num_rows == 66
    for raw, normal in zip(table["caption"].to_pylist(), table["normalized"].to_pylist(), strict=True):
        assert (raw is None) == (normal is None)
    assert any(text for text in table["normalized"].to_pylist())


def test_training_items_are_those_of_training_rows(
    finished: tuple[RunConfig, FakeCaptioner],
) -> None:
    chosen = finished[0]
    dataset = open_dataset(chosen.folder / "data" / "world")
    known = pipeline.training_items(chosen, dataset)
    shown = set(_train_items(dataset))
    assert known.tolist() == [item in shown for item in dataset.items()["item_id"].to_pylist()]
    assert 0 < known.sum() < len(known)


def _train_items(dataset: Dataset) -> list[object]:
    table = dataset.impressions(["item_id", "split"])
    return [
        i
        for i, part in zip(table["item_id"].to_pylist(), table["split"].to_pylist(), strict=True)
        if part == "train"
    ]


def test_an_unknown_stage_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match="last == tokenise"):
        run(config(tmp_path), "tokenise")
    assert list(tmp_path.iterdir()) == []


def test_rankers_can_be_loaded(finished: tuple[RunConfig, FakeCaptioner]) -> None:
    model = load_ranker(finished[0].folder / "rankers" / "visual-tokens-A-profiles-A" / "seed-0" / "ranker")
    assert model.schema.tokens
    assert model.schema.visual == 4


def test_held_out_items_leave_no_trace_in_profiles(tmp_path: Path) -> None:
    """Split by items: dropping the events of held-out items changes no profile."""
    source = config(tmp_path, name="made")
    again(source, FakeCaptioner(vector_size=8), "caption")
    world = source.folder / "data" / "world"
    held = tmp_path / "held"
    shutil.copytree(world, held)
    _split_by_items(held)
    lists = {}
    for name, events in (("all", True), ("dropped", False)):
        folder = tmp_path / name
        shutil.copytree(held, folder)
        if not events:
            _drop_held_out_events(folder)
        chosen = config(tmp_path, name=f"run-{name}", data=DataConfig(path=folder))
        again(chosen, FakeCaptioner(vector_size=8), "profile")
        files = sorted((chosen.folder / "profiles" / "A").glob("*.parquet"))
        lists[name] = [pq.read_table(file) for file in files]
    assert len(lists["all"]) == 4
    for one, other in zip(lists["all"], lists["dropped"], strict=True):
        assert one.equals(other)
        assert sum(len(ids) for ids in one["token_ids"].to_pylist()) > 0


def _split_by_items(folder: Path) -> None:
    (path,) = [p for p in folder.glob("impressions*") if p.suffix == ".parquet" or p.is_dir()]
    table = pq.read_table(path)
    ids = table["item_id"].to_numpy()
    parts = np.where(ids % 5 == 0, "eval", "train")
    _replace(path, table.set_column(table.column_names.index("split"), "split", [parts.tolist()]))
    text = (folder / "dataset.yaml").read_text()
    assert "kind: time" in text
    (folder / "dataset.yaml").write_text(text.replace("kind: time", "kind: items"))


def _drop_held_out_events(folder: Path) -> None:
    (path,) = [p for p in folder.glob("events*") if p.suffix == ".parquet" or p.is_dir()]
    table = pq.read_table(path)
    kept: npt.NDArray[np.bool_] = table["item_id"].to_numpy() % 5 != 0
    assert not kept.all()
    _replace(path, table.filter(kept))


def _replace(path: Path, table: object) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
        path = path / "0.parquet"
    pq.write_table(table, path)


def test_a_data_set_without_media_runs_on_ids_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = config(tmp_path, data=DataConfig(world=WorldConfig.tiny(pictures=False)))
    run(chosen)
    evidence = json.loads((chosen.folder / "report" / "evidence.json").read_text())
    assert [arm["name"] for arm in evidence["arms"]] == ["ids"]
    assert evidence["outcome"] == "cannot tell"
    assert evidence["left_out"]
    assert "no_media 60" in capsys.readouterr().err


def test_unreadable_pictures_only_fail_their_items(tmp_path: Path) -> None:
    """A captioner that chokes on one picture: its item fails, the run goes on, and the next run tries it again."""
    choked: list[bytes] = []

    def choke(image: Image.Image) -> str | None:
        if not choked or image.tobytes() == choked[0]:
            choked.append(image.tobytes())
            raise RuntimeError("out of memory")
        return None

    chosen = config(tmp_path)
    again(chosen, FakeCaptioner(vector_size=8, hook=choke), "caption")
    facts = json.loads((chosen.folder / "captions" / "stage.json").read_text())["facts"]
    assert facts["failed"]["captioner_error"] >= 1
    again(chosen, FakeCaptioner(vector_size=8), "caption")
    facts = json.loads((chosen.folder / "captions" / "stage.json").read_text())["facts"]
    assert "captioner_error" not in facts["failed"]
    assert facts["ok"] == 60
