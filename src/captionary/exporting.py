"""Export one ranker, of a finished run or of a training from shards: what is there is read, nothing is made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from captionary.assemble import ranking_data, with_features
from captionary.contract import open_dataset
from captionary.errors import bad_value, nearest
from captionary.evidence.arms import Arm
from captionary.pipeline import Stages
from captionary.rank.checkpoint import load_ranker
from captionary.rank.data import RankingData
from captionary.rank.export import Exported, RawKeys, export_ranker, write_export
from captionary.rank.export_shards import artefact_of_shards, load_trained
from captionary.rank.features import FeatureSet
from captionary.rank.shards import open_shards
from captionary.represent.vectors import Whitening
from captionary.settings import RunConfig
from captionary.stages import Stage, read_stage
from captionary.training import arm_folder

__all__ = ["export_run", "export_trained", "finished_stages", "raw_keys", "whitening_of"]


def export_run(config: RunConfig, out: Path, *, arm: str | None = None, seed: int = 0) -> Exported:
    """Fold the items of a run's data set by one of its rankers, and write the artefact that `ServingRanker` loads.

    Args:
        config: of the run.
        out: a new folder, or one that an earlier export wrote.
        arm: its name; None: the one that the verdict is about, or the baseline without captions.
        seed: which of the arm's trainings.

    Raises:
        CaptionaryError: a stage of the run is missing, or newer than the ranker; no such arm or seed; see
            `captionary.rank.export.export_ranker`.
    """
    stages = finished_stages(config)
    chosen = _arm(stages, arm)
    trained = _stage(arm_folder(config.folder / "rankers", chosen.name, seed), "train")
    assert stages.tokens is not None
    assert stages.profiles is not None
    assert stages.captions is not None
    inputs = {"captions": stages.captions, "tokens": stages.tokens, "profiles": stages.profiles}
    for name, stage in inputs.items():
        if stage.made_at > trained.made_at:
            where = f"{trained.folder} is of other {name}"
            raise bad_value(
                f"stage {name}", "newer", "older than the ranker", where=where, todo="train again"
            )
    features = FeatureSet(**chosen.features())
    data = with_features(stages, ranking_data(stages), features)
    return export_ranker(
        load_ranker(trained.folder / "ranker"),
        data,
        features,
        raw_keys(stages),
        out,
        whitening=whitening_of(stages, data) if chosen.visual else None,
        provenance={
            "run": config.name,
            "arm": chosen.name,
            "seed": seed,
            "ranker": trained.fingerprint,
            **{name: stage.fingerprint for name, stage in inputs.items()},
            "tokenizer": chosen.tokenizer or None,
            "trained_at": trained.made_at,
        },
    )


def export_trained(folder: Path, shards: Path | None, out: Path | None = None) -> Exported:
    """Fold the items of some shards by a ranker of `captionary fit`, calibrated where it is.

    Args:
        folder: the training's --out, whose last checkpoint is taken, or one of its checkpoints.
        shards: whose catalogue is folded: those that it was trained on, or others made like them; not None.
        out: a new folder, or one that an earlier export wrote; None: `export` in the training's --out.

    Raises:
        CaptionaryError: no such training or shards, or shards that do not fit the ranker.
    """
    trained = load_trained(folder)
    if shards is None:
        rule = "the shards whose items are folded"
        raise bad_value("--shards", "missing", rule, todo=f"captionary export {folder} --shards DIR")
    checkpoint, opened = trained.checkpoint, open_shards(shards)
    progress, identity = checkpoint.progress, checkpoint.identity
    parts = artefact_of_shards(
        checkpoint,
        opened,
        provenance={
            "run": opened.made_of.get("run"),
            "shards": identity.get("shards"),
            "items_of": opened.fingerprint,
            "seed": identity.get("seed"),
            "steps": progress.before + progress.done,
            "tokenizer": checkpoint.schema.tokenizer or None,
            "calibration": getattr(checkpoint.model.calibration, "method", None),
        },
    )
    return write_export(parts, out or trained.home / "export")


def finished_stages(config: RunConfig) -> Stages:
    """The stages of a run that was done before, whatever has become of the code since.

    Raises:
        CaptionaryError: one of captions, tokens and profiles is missing.
    """
    world = config.folder / "data" / "world"
    if config.data.path is None and not world.is_dir():
        raise _unfinished(world, "run")
    return Stages(
        config,
        open_dataset(config.data.path or world),
        data="",
        captions=_stage(config.folder / "captions", "caption"),
        tokens=_stage(config.folder / "tokens", "tokenize"),
        profiles=_stage(config.folder / "profiles", "profile"),
    )


def raw_keys(stages: Stages) -> RawKeys:
    """The raw ids and categories behind the indices that `captionary.assemble.ranking_data` makes."""
    spec, dataset = stages.dataset.spec, stages.dataset
    impressions, items = dataset.impressions(), dataset.items()
    return RawKeys(
        items=items["item_id"],
        users=impressions["user_id"],
        context={name: impressions[name] for name in spec.context.categorical},
        item_categories={name: items[name] for name in spec.item_features.categorical},
    )


def whitening_of(stages: Stages, data: RankingData) -> Whitening | None:
    """How `data.visual` was made of the encoder's vectors; None where no item has any.

    Raises:
        CaptionaryError: the encoder's vectors on disk do not give those of the data.
    """
    assert stages.captions is not None
    path = stages.captions.folder / "vectors.npz"
    with np.load(path) as stored:
        vectors, present = stored["vectors"].astype(np.float32), stored["present"]
    shown = np.unique(data.item[data.train])
    fitted = shown[present[shown]]
    if not len(fitted) or data.visual is None:
        return None
    whitening = Whitening.fit(vectors[fitted], stages.config.visual_dimensions)
    if not np.allclose(whitening.apply(vectors, present), data.visual, atol=1e-4):
        raise bad_value("visual vectors", "others", "those of the data", where=str(path), todo="train again")
    return whitening


def _arm(stages: Stages, name: str | None) -> Arm:
    arms = stages.arms
    if name is None:
        return arms.headline or arms.baseline
    found = {arm.name: arm for arm in arms.arms if not arm.placebo}
    if name not in found:
        raise bad_value("arm", name, nearest(name, found), where=f"run {stages.config.name}")
    return found[name]


def _stage(folder: Path, verb: str) -> Stage:
    found = read_stage(folder)
    if found is None:
        raise _unfinished(folder, verb)
    return found


def _unfinished(folder: Path, verb: str) -> Exception:
    return bad_value("stage", str(folder), "finished", todo=f"captionary {verb} CONFIG")
