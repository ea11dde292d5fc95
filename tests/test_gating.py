"""The gate on a tiny world, whose captions tell the truth: every stage is the real one."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.understand.fake import FakeCaptioner

from captionary.commands.gate import gate as verb
from captionary.errors import CaptionaryError
from captionary.gating import (
    decide,
    decision_time,
    finished,
    fit_model,
    gate_context,
    gate_stage,
    looked_before,
    looked_now,
    measure_curve,
    with_paid,
)
from captionary.pipeline import Stages
from captionary.rank.settings import RankerConfig
from captionary.settings import DataConfig, EvidenceConfig, RunConfig
from captionary.understand.gate_settings import GateConfig
from captionary.understand.media_settings import MediaConfig
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.store import CaptionStore
from captionary.world.settings import WorldConfig


class LookingCaptioner(FakeCaptioner):
    """Whose encoder can be asked alone."""

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        return self.caption_and_embed(images)[1]


def config(folder: Path) -> RunConfig:
    return RunConfig(
        name="tiny",
        data=DataConfig(world=WorldConfig.tiny(broken_media=6)),
        runs=folder,
        visual_dimensions=4,
        ranker=RankerConfig(epochs=1),
        evidence=EvidenceConfig(seeds=1, subsets=5, cards=0, placebos=()),
        workers=1,
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A run whose items are all captioned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "captionary.understand.captioner.load_captioner", lambda *_: LookingCaptioner(vector_size=8)
        )
        return finished(config(tmp_path_factory.mktemp("runs")))


def test_the_decision_is_made_as_evaluation_begins(stages: Stages) -> None:
    impressions = stages.dataset.impressions(["timestamp", "split"])
    times = impressions["timestamp"].cast(pa.int64()).to_numpy()
    evaluated = np.array(impressions["split"].to_pylist()) == "eval"
    at = decision_time(stages.config, stages.dataset)
    assert times[~evaluated].max() < at <= times[evaluated].min()


def test_what_was_not_paid_for_has_no_tokens_in_items_and_profiles(stages: Stages) -> None:
    from captionary.assemble import ranking_data

    shared = ranking_data(stages)
    told = looked_before(stages.captions.folder).media >= 0  # type: ignore[union-attr]
    paid = told & (np.arange(len(told)) % 2 == 0)
    data = with_paid(stages, shared, paid, lends=False)
    assert (data.item_tokens["A"].lengths[~paid] == 0).all()
    assert (data.item_tokens["A"].lengths[paid] > 0).any()
    whole = with_paid(stages, shared, told, lends=False)
    seen = {event: set(lists.values.tolist()) for event, lists in data.profiles["A"].items()}
    own = set(data.item_tokens["A"].values.tolist())
    assert all(tokens <= own for tokens in seen.values())
    assert sum(len(lists.values) for lists in data.profiles["A"].values()) < sum(
        len(lists.values) for lists in whole.profiles["A"].values()
    )
    with pytest.raises(CaptionaryError, match="raise the budget"):
        with_paid(stages, shared, np.zeros(len(told), bool), lends=False)


def test_decisions_differ_by_policy_and_fit_their_share(stages: Stages) -> None:
    looked = looked_before(stages.captions.folder)  # type: ignore[union-attr]
    for policy in ("budget", "popular", "random"):
        found = decide(stages.config, stages.dataset, looked, GateConfig(policy=policy, share=0.2))
        assert found.forecast.items == round(0.2 * 60)
        assert found.forecast.of == 60
        assert 0 < found.forecast.described < 1
    everything = decide(stages.config, stages.dataset, looked, GateConfig(policy="always"))
    assert everything.forecast.items == 60
    assert everything.forecast.described > 0.9


def test_a_decision_is_made_once(stages: Stages) -> None:
    """What was captioned meanwhile does not free the budget for more."""
    captioner, chosen = LookingCaptioner(vector_size=8), GateConfig(policy="budget", share=0.2)
    with CaptionStore(stages.config.folder / "other.sqlite") as store:
        args = stages.config, stages.dataset, "data", captioner, store, chosen
        first = gate_stage(*args)[0]
        from captionary.understand.caption import caption_items

        part = stages.dataset.items().take(pa.array(first.decision.chosen[:5]))
        caption_items(part, stages.dataset.root, captioner, store, progress=False)
        again = gate_stage(*args)[0]
    assert len(first.decision.chosen) == round(0.2 * 60)
    assert again.decision.chosen.tolist() == first.decision.chosen.tolist()
    assert again.decision.reason == first.decision.reason
    assert again.forecast == first.forecast


def test_the_gate_looks_at_what_the_caption_stage_captions(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}
    monkeypatch.setattr("captionary.gating.look", lambda *_, **settings: asked.update(settings))
    config = dataclasses.replace(stages.config, media=MediaConfig(entries="all", most=3))
    looked_now(config, stages.dataset, None, None)  # type: ignore[arg-type]
    assert (asked["entries"], asked["most"]) == ("all", 3)
    assert asked["locate"].folder == config.runs / "media"


def test_a_finished_stage_of_several_media_tells_sets_and_what_each_took(tmp_path: Path) -> None:
    table = {
        "media_digest": ["a", "a", "a", "a", None, "b"],
        "status": ["ok", "ok", "ok", "ok", "ok", "failed"],
        "latency_ms": [100.0, 300.0, 300.0, 200.0, None, None],
        "views": [1, 2, 2, 2, None, None],
        "caption": ["x", "x; y", "x; y", "x; z", "imported", None],
    }
    pq.write_table(pa.table(table), tmp_path / "captions.parquet")
    np.savez(tmp_path / "vectors.npz", vectors=np.zeros((6, 2)), present=np.zeros(6, bool))
    found = looked_before(tmp_path)
    assert found.missing.tolist() == [1, 2, 2, 2, 1, 0]
    assert found.media.tolist() == [0, 1, 1, 2, 3, -1]
    assert found.seconds_each == pytest.approx(0.9 / 7)
    assert not found.captioned.any()


def test_what_is_only_heard_is_free_under_every_decision(tmp_path: Path) -> None:
    table = {
        "media_digest": ["a", None, None],
        "status": ["ok", "ok", "skipped"],
        "latency_ms": [100.0, None, None],
        "views": [3, None, None],
        "caption": ["x. y. siren", "siren", None],
        "signals": ["[]", "[]", None],
    }
    pq.write_table(pa.table(table), tmp_path / "captions.parquet")
    np.savez(tmp_path / "vectors.npz", vectors=np.zeros((3, 2)), present=np.zeros(3, bool))
    found = looked_before(tmp_path)
    assert found.missing.tolist() == [3, 0, 0]
    assert found.captioned.tolist() == [False, True, False]
    assert found.media.tolist() == [0, 1, -1]


def test_it_decides_anew_where_an_item_may_take_more_captions(stages: Stages) -> None:
    """A limit that was held for one key frame is not held for eight."""
    chosen, begun = GateConfig(policy="popular", items=3), []
    captioner = LookingCaptioner(vector_size=8)
    with CaptionStore(stages.config.folder / "third.sqlite") as store:
        for changes in (
            {},
            {},
            {"signals": SignalsConfig(frames=8)},
            {"signals": SignalsConfig(frames=8, threads=2)},
            {"media": MediaConfig(entries="all")},
        ):
            config = dataclasses.replace(stages.config, **changes)
            gate_stage(config, stages.dataset, "more", captioner, store, chosen)
            begun.append((config.folder / "gate" / "decision.parquet").stat().st_mtime_ns)
    assert [before == after for before, after in itertools.pairwise(begun)] == [True, False, True, False]


def test_the_learned_policy_is_fitted_before_the_decision(stages: Stages, tmp_path: Path) -> None:
    model = fit_model(stages, seeds=1)
    assert model.cutoff == decision_time(stages.config, stages.dataset)
    assert np.isfinite(model.weights).all()
    path = model.save(tmp_path / "model.json")
    looked = looked_before(stages.captions.folder)  # type: ignore[union-attr]
    chosen = GateConfig(policy="learned", share=0.5, model=path)
    context = gate_context(stages.config, stages.dataset, looked, chosen)
    assert context.gain is not None
    assert len(decide(stages.config, stages.dataset, looked, chosen).decision.chosen) <= 30


def test_a_curve_has_every_policy_and_share(stages: Stages) -> None:
    done = []
    found = measure_curve(
        stages, policies=("budget", "random"), shares=(0.5, 1.0), unlent=(0.5,), seeds=1, done=done.append
    )
    assert len(done) == 1 + 1 + 2 + 2
    assert [(point.policy, point.share, point.lent) for point in found.points] == [
        ("budget", 0.5, True), ("budget", 1.0, True), ("budget", 0.5, False),
        ("random", 0.5, True), ("random", 1.0, True), ("random", 0.5, False),
    ]  # fmt: skip
    assert found.at("budget", 1.0).gain == found.full.gain
    assert found.at("budget", 0.5).items == 30


def test_plan_and_audit_from_the_command_line(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "captionary.understand.captioner.load_captioner", lambda *_: LookingCaptioner(vector_size=8)
    )
    monkeypatch.setattr("captionary.settings.load_run", lambda _: dataclasses.replace(stages.config))
    planned = CliRunner().invoke(verb, ["plan", "any.yaml"], catch_exceptions=False)
    assert planned.exit_code == 0
    assert "| policy | items |" in planned.output
    assert "| always | 0 of 0 |" in planned.output  # all are captioned, there is nothing to pay
    audited = CliRunner().invoke(verb, ["audit", "any.yaml"], catch_exceptions=False)
    assert audited.exit_code == 0
    assert "| impressions described |" in audited.output
    assert json.loads((stages.config.folder / "gate-audit.json").read_text())["impressions"] > 0
