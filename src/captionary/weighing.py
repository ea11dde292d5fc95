"""Of a finished run: what each feature weighs in its rankers, what its arms cost, how its predictions come true, and
which items captions helped and hurt most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from captionary.assemble import evaluation_rows, ranking_data, with_features
from captionary.errors import bad_value, nearest
from captionary.evidence.arms import Arm
from captionary.evidence.by_kind import is_continuous
from captionary.evidence.calibration import CalibrationCurve, calibration_curve
from captionary.evidence.cost import Cost, caption_cost, cost_of
from captionary.evidence.extremes import Extremes, extremes
from captionary.evidence.permute import columns_of, groups_of
from captionary.evidence.sections import Happening
from captionary.evidence.slices import Slice, slices_by_history
from captionary.pipeline import Stages
from captionary.stages import read_stage
from captionary.training import arm_folder

if TYPE_CHECKING:
    from captionary.evidence.importance import Importance, Score
    from captionary.rank.data import RankingData
    from captionary.rank.features import FeatureSet

__all__ = [
    "calibration_of_run",
    "cost_of_run",
    "extremes_of_run",
    "history_of_run",
    "importance_of_run",
    "lacking",
    "slices_of_run",
]


def importance_of_run(
    stages: Stages, *, arm: str | None = None, repeats: int = 5, most_rows: int = 20_000
) -> Importance:
    """Feature importance of a trained arm, with drop-and-retrain figures from the run's other arms.

    Args:
        stages: of a run whose rankers are trained.
        arm: its name; None: the headline arm, or the baseline of a run without captions.
        repeats, most_rows: see `captionary.evidence.importance`.

    Raises:
        CaptionaryError: no such arm, or a ranker that is not there.
    """
    from captionary.evidence.importance import feature_importance, strata_of
    from captionary.rank.features import FeatureSet

    chosen = _arm(stages, arm)
    features = FeatureSet(**chosen.features())
    data = with_features(stages, ranking_data(stages), features)
    unit = "item_id" if stages.holds_items_out else "user_id"
    units = stages.dataset.impressions([unit])[unit].to_numpy()[data.eval]
    return feature_importance(
        data,
        [_score(_folder(stages, chosen, seed), features) for seed in _seeds(stages)],
        features,
        units=units,
        strata=strata_of(data, seed=stages.config.evidence.seed),
        retrained={
            name: _predictions(stages, other)
            for name, other in lacking(stages.arms.arms, chosen, data).items()
        },
        repeats=repeats,
        subsets_=stages.config.evidence.subsets,
        most_rows=most_rows,
        seed=stages.config.evidence.seed,
    )


def lacking(arms: Sequence[Arm], arm: Arm, data: RankingData) -> dict[str, Arm]:
    """Feature or group → the real arm that differs from `arm` by its absence alone."""
    from captionary.rank.features import FeatureSet

    columns = columns_of(data, FeatureSet(**arm.features()))
    groups = groups_of(columns)
    profiles = [name for name in columns if name.startswith("profile.")]
    whole = arm.features()
    without = {
        "visual": {**whole, "visual": False},
        "item tokens": {**whole, "tokens": None},
        "profiles" if len(profiles) > 1 else "".join(profiles): {**whole, "profiles": None},
        "captions": {**whole, "tokens": None, "profiles": None},
    }
    found: dict[str, Arm] = {}
    for name, wanted in without.items():
        if name in columns or name in groups:
            same = [one for one in arms if not one.placebo and one.features() == wanted and one != arm]
            if same:
                found[name] = same[0]
    return found


def cost_of_run(
    stages: Stages,
    *,
    gain: float | None,
    requests: int = 50,
    rounds: int = 5,
    prices: Mapping[str, float] | None = None,
) -> Cost:
    """Captions, training and serving of a finished run; its real arms are served in turns.

    Args:
        stages: of a run whose rankers are trained.
        gain: AUC gain of the headline arm, where the run's outcome is ``gain``; else None.
        requests, rounds: see `captionary.evidence.serving`; with `requests` 0 nothing is served.
        prices: see `captionary.evidence.cost.caption_cost`.

    Raises:
        CaptionaryError: a ranker that is not there, or a price below 0.
    """

    import pyarrow.parquet as pq

    from captionary.evidence.serving import bytes_read, time_requests
    from captionary.rank.checkpoint import load_ranker
    from captionary.rank.features import FeatureSet
    from captionary.rank.train import predict

    assert stages.captions is not None
    shared = ranking_data(stages)
    measured: dict[str, dict[str, Sequence[float]]] = {}
    answers: dict[str, Any] = {}
    for arm in stages.arms.arms:
        if arm.placebo or arm.ablation:
            continue
        features = FeatureSet(**arm.features())
        data = with_features(stages, shared, features)
        folders = [_folder(stages, arm, seed) for seed in _seeds(stages)]
        trained = [stage for folder in folders if (stage := read_stage(folder))]
        weights = folders[0] / "ranker" / "model.safetensors"
        measured[arm.name] = {
            "samples_per_second": [stage.facts["samples_per_second"] for stage in trained],
            "bytes_read": [bytes_read(data, features, data.eval)],
            "ranker_bytes": [float(weights.stat().st_size)],
        }
        if requests:
            asked = np.sort(np.random.default_rng(0).permutation(len(data.eval))[:10_000])
            few = _only(data, data.eval[asked])
            ranker = load_ranker(folders[0] / "ranker")
            answers[arm.name] = lambda rows, r=ranker, d=few, f=features: predict(r, d, f, rows)
    if requests:
        rows = np.arange(min(10_000, len(shared.eval)))
        for name, found in time_requests(answers, rows, requests=requests, rounds=rounds).items():
            measured[name] |= found
    captions = caption_cost(
        pq.read_table(stages.captions.folder / "captions.parquet"),
        gain=gain,
        **(prices or {}),
    )
    return cost_of(stages.arms.baseline.name, measured, captions=captions if captions.items else None)


def slices_of_run(stages: Stages, rows: npt.NDArray[np.int64]) -> tuple[Slice, ...]:
    """Cold, tail and head items, new users, short and long profiles, captioned or not: slices of impressions `rows`."""
    import pyarrow.parquet as pq

    assert stages.captions is not None
    shared = ranking_data(stages)
    item_shown = np.bincount(shared.item[shared.train], minlength=int(shared.item.max()) + 1)
    user_shown = np.bincount(shared.user[shared.train], minlength=int(shared.user.max()) + 1)
    status = pq.read_table(stages.captions.folder / "captions.parquet", columns=["status"])["status"]
    told = np.array([one == "ok" for one in status.to_pylist()])
    with_profiles = next((arm for arm in stages.arms.arms if arm.profiles and not arm.placebo), None)
    lengths = None
    if with_profiles is not None:
        from captionary.rank.features import FeatureSet

        data = with_features(stages, shared, FeatureSet(**with_profiles.features()))
        lists = next(iter(data.profiles.values())).values()
        lengths = np.sum([each.lengths[rows] for each in lists], axis=0)
    return slices_by_history(
        item_exposure=item_shown[shared.item[rows]],
        item=shared.item[rows],
        user_exposure=user_shown[shared.user[rows]],
        profile_length=lengths,
        captioned=told[shared.item[rows]] if told.any() else None,
    )


def calibration_of_run(stages: Stages, *, bins: int = 10) -> list[CalibrationCurve]:
    """Calibration of baseline and headline arm at every task of 0 and 1; predictions are means over seeds."""
    dataset = stages.dataset
    impressions = dataset.impressions()
    labels = dataset.labels(impressions.take(evaluation_rows(stages, impressions)))
    arms = [stages.arms.baseline, *([stages.arms.headline] if stages.arms.headline else [])]
    curves = []
    for arm in arms:
        mean = _predictions(stages, arm).mean(axis=0, dtype=np.float64)
        for place, task in enumerate(dataset.spec.tasks):
            known = ~np.isnan(labels[:, place])
            if known.any() and not is_continuous(task.kind):
                given = labels[known, place], mean[known, place]
                curves.append(calibration_curve(task.name, arm.name, *given, bins=bins))
    return curves


def extremes_of_run(stages: Stages, rows: npt.NDArray[np.int64], count: int) -> Extremes:
    """The captioned items whose predictions at impressions `rows` the headline arm changed most."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    headline = stages.arms.headline
    if headline is None or not count:
        return Extremes((), ())
    assert stages.captions is not None
    dataset = stages.dataset
    chosen = dataset.impressions().take(rows)
    items = dataset.items(["item_id"])["item_id"].combine_chunks()
    item = pc.index_in(chosen["item_id"].combine_chunks(), value_set=items)
    status = pq.read_table(stages.captions.folder / "captions.parquet", columns=["status"])["status"]
    return extremes(
        dataset.labels(chosen),
        _predictions(stages, stages.arms.baseline),
        _predictions(stages, headline),
        item.to_numpy(zero_copy_only=False).astype(np.int64),
        count=count,
        kinds=tuple(task.kind for task in dataset.spec.tasks),
        among=np.array([one == "ok" for one in status.to_pylist()]),
    )


def history_of_run(stages: Stages) -> list[Happening]:
    """What the captioner could not do, reason by reason: how many items, the first one's detail, last when."""
    import pyarrow.parquet as pq

    assert stages.captions is not None
    table = pq.read_table(stages.captions.folder / "captions.parquet")
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in table.select(["status", "reason", "detail", "created_at"]).to_pylist():
        if row["status"] == "failed":
            rows.setdefault(str(row["reason"]), []).append(row)
    found = []
    for reason, failed in sorted(rows.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        times = [row["created_at"] for row in failed if row["created_at"] is not None]
        when = max(times).isoformat(timespec="seconds") if times else ""
        found.append(Happening("caption", reason, failed[0]["detail"] or "", when, len(failed)))
    return found


def _only(data: RankingData, rows: npt.NDArray[np.int64]) -> RankingData:
    """`rows` as the first rows of small ranking data, so that a request costs what it would cost in serving."""
    from captionary.evidence.permute import by_row
    from captionary.rank.features import FeatureSet

    key = next(iter({*data.item_tokens, *data.profiles}), None)
    features = FeatureSet(
        visual=data.visual is not None,
        tokens=key if key in data.item_tokens else None,
        profiles=key if key in data.profiles else None,
    )
    return by_row(data, rows, features)


def _arm(stages: Stages, name: str | None) -> Arm:
    if name is None:
        return stages.arms.headline or stages.arms.baseline
    for arm in stages.arms.arms:
        if arm.name == name:
            return arm
    raise bad_value("arm", name, nearest(name, [arm.name for arm in stages.arms.arms]))


def _seeds(stages: Stages) -> range:
    return range(stages.config.evidence.seeds)


def _folder(stages: Stages, arm: Arm, seed: int) -> Path:
    folder = arm_folder(stages.config.folder / "rankers", arm.name, seed)
    if not (folder / "ranker").is_dir():
        raise bad_value("ranker", str(folder), "trained", todo="run `captionary train CONFIG` first")
    return folder


def _score(folder: Path, features: FeatureSet) -> Score:
    from captionary.rank.checkpoint import load_ranker
    from captionary.rank.train import predict

    ranker = load_ranker(folder / "ranker")
    return lambda data: predict(ranker, data, features)


def _predictions(stages: Stages, arm: Arm) -> npt.NDArray[np.float32]:
    return np.stack([np.load(_folder(stages, arm, seed) / "predictions.npy") for seed in _seeds(stages)])
