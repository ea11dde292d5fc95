"""What a finished run weighs and costs: of a tiny world, with the stages that a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.understand.fake import FakeCaptioner

from captionary.assemble import evaluation_rows
from captionary.contract import open_dataset
from captionary.errors import CaptionaryError
from captionary.pipeline import Stages, run
from captionary.settings import DataConfig, EvidenceConfig, RunConfig
from captionary.showing import change_cards
from captionary.stages import Stage
from captionary.weighing import (
    calibration_of_run,
    cost_of_run,
    extremes_of_run,
    history_of_run,
    importance_of_run,
)
from captionary.world.settings import WorldConfig

JOINT = "+visual+tokens(A)+profiles(A)"


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    config = RunConfig(
        name="tiny",
        data=DataConfig(world=WorldConfig.tiny(broken_media=6)),
        runs=tmp_path_factory.mktemp("runs"),
        visual_dimensions=4,
        evidence=EvidenceConfig(seeds=2, subsets=5, cards=0, placebos=()),
        workers=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "captionary.understand.captioner.load_captioner", lambda *_: FakeCaptioner(vector_size=8)
        )
        run(config, "train")
    found = {}
    for name in ("captions", "tokens", "profiles"):
        made = json.loads((config.folder / name / "stage.json").read_text(encoding="utf-8"))
        found[name] = Stage(config.folder / name, made["facts"], made["fingerprint"], False, made["seconds"])
    return Stages(config, open_dataset(config.folder / "data" / "world"), "", **found)


def test_features_of_the_headline_arm_are_weighed(stages: Stages) -> None:
    found = importance_of_run(stages, repeats=1, most_rows=300)
    assert {"user id", "visual", "item tokens"} <= {one.name for one in found.features}
    assert found.rankers == 2
    assert found.rows <= 300
    retrained = {one.name for one in found.weights if one.retrained is not None}
    assert {"item tokens", "captions"} <= retrained
    assert "visual" in retrained  # the ablation's arm has tokens and profiles without it


def test_an_arm_can_be_chosen(stages: Stages) -> None:
    found = importance_of_run(stages, arm="ids", repeats=1, most_rows=200)
    assert "item tokens" not in {one.name for one in found.features}
    with pytest.raises(CaptionaryError, match="arm == id, must be ids"):
        importance_of_run(stages, arm="id")


def test_costs_are_of_every_real_arm(stages: Stages) -> None:
    found = cost_of_run(stages, gain=None, requests=2, rounds=2, prices={"price_per_item": 0.5})
    assert found.baseline == "+visual"
    assert [one.arm for one in found.arms][-1] == JOINT
    joint, base = found.arm(JOINT), found.arm("+visual")
    assert found.measures == ("samples_per_second", "p50_ms", "p99_ms", "bytes_read", "ranker_bytes")
    assert joint.figures["bytes_read"] > base.figures["bytes_read"]
    assert joint.ratios["ranker_bytes"].verdict == "worse"
    assert joint.ratios["p50_ms"].interval is not None
    assert found.captions.money == pytest.approx(0.5 * found.captions.items, rel=0.5)


def test_calibration_is_of_baseline_and_headline(stages: Stages) -> None:
    curves = calibration_of_run(stages, bins=4)
    tasks = [task.name for task in stages.dataset.spec.tasks]
    assert [(one.arm, one.task) for one in curves] == [
        (arm, task) for arm in ("+visual", JOINT) for task in tasks
    ]


def test_extremes_are_captioned_items_with_what_changed(stages: Stages) -> None:
    impressions = stages.dataset.impressions()
    rows = evaluation_rows(stages, impressions)
    found = extremes_of_run(stages, rows, 3)
    assert len(found.best) == len(found.worst) == 3
    assert found.best[0].relative < 0 < found.worst[0].relative
    cards = change_cards(stages, found.worst)
    shown = [stages.dataset.items(["item_id"])["item_id"][change.item].as_py() for change in found.worst]
    assert [card.item_id for card in cards] == [str(one) for one in shown]
    assert all(card.note.startswith("loss ") and " higher over " in card.note for card in cards)
    assert all(card.status == "ok" and card.caption for card in cards)
    assert extremes_of_run(stages, rows, 0) == ((), ())


def test_a_run_without_rankers_is_named(stages: Stages, tmp_path: Path) -> None:
    import dataclasses

    bare = stages._replace(config=dataclasses.replace(stages.config, runs=tmp_path))
    with pytest.raises(CaptionaryError, match=r"must be trained; run `captionary train CONFIG` first"):
        calibration_of_run(bare)


def test_what_the_captioner_could_not_read_is_told(stages: Stages) -> None:
    found = history_of_run(stages)
    assert {one.what: one.number for one in found} == stages.captions.facts["failed"]
    assert sum(one.number for one in found) == 6
    assert all(one.stage == "caption" for one in found)
