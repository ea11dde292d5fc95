"""The gate in a run: what it may know and when, what is captioned under it, and what that was worth.

gate_context   the run's data set as the gate sees it, before the evaluation period
decide         the decision of the run's config, with its forecast
with_paid      ranking data in which only some items were captioned: tokens, lent tokens, profiles made of them
fit_model      the learned policy's model, from a slice of the training rows held out from earlier rankers
measure_curve  AUC gain against the share of items captioned
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.assemble import ranking_data, with_features
from captionary.config import to_mapping
from captionary.contract import Dataset, open_dataset
from captionary.errors import bad_value
from captionary.evidence.budget import BudgetCurve, Measurement, budget_curve
from captionary.pipeline import Stages, _events, run, split_of, training_items
from captionary.rank.data import RankingData
from captionary.rank.features import FeatureSet
from captionary.represent.profiles import build_profiles
from captionary.represent.tokenizers import make_tokenizer
from captionary.settings import RunConfig
from captionary.stages import code_version, fingerprint, read_stage, run_stage
from captionary.understand.gate import Budget, Calls, GateContext, GateDecision, gate
from captionary.understand.gate_audit import Forecast, forecast, read_forecast
from captionary.understand.gate_context import Catalogue, Looked, build_context, look
from captionary.understand.gate_learned import GateModel, fit_gate
from captionary.understand.gate_lookalike import lend
from captionary.understand.gate_settings import GateConfig, Policy
from captionary.understand.store import CaptionStore

__all__ = [
    "Decided",
    "curve_path",
    "decide",
    "decision_time",
    "finished",
    "fit_model",
    "gate_config",
    "gate_context",
    "gate_stage",
    "known_log",
    "looked_before",
    "looked_now",
    "measure_curve",
    "model_path",
    "with_paid",
]

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_CODE = ("", "_audit", "_context", "_forecast", "_learned", "_lookalike", "_settings", "_streams")
_HELD_OUT = 1 / 8
"""Last share of the training rows on which the learned policy's losses are measured."""


class Decided(NamedTuple):
    """A decision, and what it will cost and cover."""

    decision: GateDecision
    forecast: Forecast


def decision_time(config: RunConfig, dataset: Dataset) -> int:
    """When the gate decides, microseconds: as evaluation begins where that is later than training, else after the log.

    Where timestamps are ranks or a split holds items out, evaluation is not after training; the gate then knows the
    training rows, all of them and nothing else.
    """
    split = dataset.spec.splits[split_of(config, dataset)]
    impressions = dataset.impressions(["timestamp", split.column])
    times = impressions["timestamp"].cast(pa.int64()).to_numpy()
    part = impressions[split.column]
    train = pc.fill_null(pc.equal(part, "train"), False).to_numpy()
    evaluated = pc.fill_null(pc.equal(part, "eval"), False).to_numpy()
    after = int(times[train].max()) + 1
    if split.kind == "time" and dataset.spec.clock == "time" and evaluated.any():
        return min(after, int(times[evaluated].min()))
    return after


def known_log(config: RunConfig, dataset: Dataset) -> pa.Table:
    """item_id and timestamp of the impressions that the gate may know: the training rows."""
    column = dataset.spec.splits[split_of(config, dataset)].column
    impressions = dataset.impressions(["item_id", "timestamp", column])
    return impressions.filter(pc.fill_null(pc.equal(impressions[column], "train"), False)).select(
        ["item_id", "timestamp"]
    )


def gate_context(
    config: RunConfig, dataset: Dataset, looked: Looked, chosen: GateConfig, cutoff: int | None = None
) -> GateContext:
    """What the gate knows of a run's items at `cutoff`, by default `decision_time`; with the learned policy's word."""
    spec = dataset.spec
    events = dataset.events(["item_id", "event", "timestamp"])
    if spec.event_types:
        events = events.filter(pc.is_in(events["event"], value_set=pa.array(spec.event_types)))
    catalogue = Catalogue(
        dataset.items(),
        known_log(config, dataset),
        events,
        text=tuple(dict.fromkeys(["title", *spec.text])),
        categorical=spec.item_features.categorical,
    )
    at = decision_time(config, dataset) if cutoff is None else cutoff
    context = build_context(catalogue, looked, at, chosen)
    if chosen.policy == "learned":
        context = context._replace(gain=GateModel.load(model_path(config, chosen)).predict(context))
    return context


def model_path(config: RunConfig, chosen: GateConfig) -> Path:
    """Where the learned policy's model is."""
    return chosen.model or config.folder / "gate-model.json"


def curve_path(config: RunConfig) -> Path:
    """Where the curve is kept for the report."""
    return config.folder / "gate-curve.json"


def decide(config: RunConfig, dataset: Dataset, looked: Looked, chosen: GateConfig) -> Decided:
    """The decision of a config, with the forecast of what it will cost and cover."""
    context = gate_context(config, dataset, looked, chosen)
    budget = Budget.of(chosen, context)
    decision = gate(dataset.items(["item_id"]), context, budget, chosen)
    return Decided(decision, forecast(decision, context, budget, horizon_days=chosen.horizon_days))


def gate_stage(
    config: RunConfig, dataset: Dataset, data: str, captioner: Any, store: CaptionStore, chosen: GateConfig
) -> tuple[Decided, Looked]:
    """Decide once for a run: a job that is killed and started again carries out the decision that it began with.

    Otherwise what it had captioned would no longer count, and the budget would be spent anew.

    Args:
        config: the run.
        dataset: its data set.
        data: the data set's fingerprint.
        captioner: which would be invoked; its encoder looks at the pictures now.
        store: the caption store.
        chosen: the gate's settings.
    """
    looked = looked_now(config, dataset, captioner, store, embed=chosen.policy in ("budget", "learned"))
    model = model_path(config, chosen) if chosen.policy == "learned" else None
    expected = fingerprint(
        data=data,
        split=split_of(config, dataset),
        gate=to_mapping(chosen),
        model=model.read_text(encoding="utf-8") if model is not None and model.exists() else None,
        captioner=captioner.fingerprint,
        # What decides how many captions an item takes: under others, the limits would hold for something else.
        media=[config.media.entries, config.media.most],
        frames=config.signals.fingerprint("animation"),
        code=code_version("gating.py", *(f"understand/gate{part}.py" for part in _CODE)),
    )

    def work(out: Path) -> Mapping[str, Any]:
        decided = decide(config, dataset, looked, chosen)
        pq.write_table(
            decided.decision.to_table(dataset.items(["item_id"])["item_id"]), out / "decision.parquet"
        )
        decided.forecast.save(out / "forecast.json")
        return {"policy": chosen.policy, "items": decided.forecast.items}

    done = run_stage(config.folder / "gate", expected, work)
    decision = GateDecision.from_table(pq.read_table(done.folder / "decision.parquet"), chosen.policy)
    return Decided(decision, read_forecast(done.folder / "forecast.json")), looked


def gate_config(config: RunConfig) -> GateConfig:
    """The gate of a run; without a section `gate`, every item is captioned."""
    return config.gate


def looked_now(
    config: RunConfig, dataset: Dataset, captioner: Any, store: CaptionStore, *, embed: bool = True
) -> Looked:
    """What is known of the media that the run's caption stage would caption; its encoder may be run."""
    from captionary.captioning import Fetcher  # which knows this module
    from captionary.understand.gate_streams import KeyFrames
    from captionary.understand.streams import Streams

    media = config.media
    # As the caption stage makes them, which finds what this one counted.
    streams = Streams(config.signals, config.runs / "streams", getattr(captioner, "image_size", None))
    return look(
        dataset.items(["item_id", "media"]),
        dataset.root,
        captioner,
        store,
        embed=embed,
        entries=media.entries,
        most=media.most,
        locate=Fetcher(media.remote, config.runs / "media"),
        frames=KeyFrames(streams),
    )


def looked_before(captions: Path) -> Looked:
    """The media of a finished caption stage, as if nothing of them had been captioned yet.

    What has a descriptor of its sounds alone costs the captioner nothing, and has it under every decision.
    """
    columns = ["media_digest", "status", "latency_ms", "views", "caption"]
    read = pq.read_table(captions / "captions.parquet")
    signals, table = "signals" in read.column_names, read.select(columns).to_pydict()
    with np.load(captions / "vectors.npz") as stored:
        vectors, present = stored["vectors"].astype(np.float32), stored["present"]
    contents: list[tuple[str, ...]] = []
    for row, key in enumerate(table["media_digest"]):
        views = table["views"][row] or 1
        if table["status"][row] != "ok":
            contents.append(())
        elif not key:  # Captions that were imported have no digest; each item then stands for itself.
            contents.append((f"row {row}",))
        elif views == 1:
            contents.append((key,))
        else:  # the first medium's is known, of the others what they say
            contents.append((key, *(f"{n} of {table['caption'][row]}" for n in range(1, views))))
    heard = [signals and not key for key in table["media_digest"]]
    missing = np.array(
        [0 if free else len(keys) for keys, free in zip(contents, heard, strict=True)], np.int64
    )
    latency = np.array([0.0 if value is None else value for value in table["latency_ms"]])
    waited = (latency > 0) & (missing > 0)
    seconds = float(latency[waited].sum() / missing[waited].sum()) / 1000 if waited.any() else None
    none = np.zeros(len(missing), np.int64)
    calls = Calls(missing, none, none, np.zeros(len(missing)))
    return Looked(tuple(contents), calls, vectors, present, seconds)


def finished(config: RunConfig) -> Stages:
    """The stages of a run up to its profiles; what is not done yet is done first.

    Raises:
        CaptionaryError: see `captionary.pipeline.run`, or captions that a gate has left incomplete.
    """
    run(config, "profile")
    dataset = open_dataset(config.data.path or config.folder / "data" / "world")
    found = {}
    for name in ("captions", "tokens", "profiles"):
        found[name] = read_stage(config.folder / name)
    table = pq.read_table(config.folder / "captions" / "captions.parquet", columns=["reason"])
    held = sum(bool(reason and reason.startswith("gate_")) for reason in table["reason"].to_pylist())
    if held:
        todo = "set gate: {policy: always} and caption the rest"
        raise bad_value(
            "captions that the gate left out", held, "0 to learn what captions are worth", todo=todo
        )
    return Stages(config, dataset, "")._replace(**found)  # type: ignore[arg-type]


def with_paid(stages: Stages, shared: RankingData, paid: Flags, *, lends: bool) -> RankingData:
    """`shared` as it would be had only the items `paid` [I] been captioned.

    The tokenizer is fitted on their captions alone, an item that was not captioned has no tokens (or, where `lends`,
    those that its picture foretells), and profiles are made of the tokens that there are.
    """
    assert stages.captions is not None
    config, dataset = stages.config, stages.dataset
    letter = next(iter(config.tokenizers))
    table = pq.read_table(stages.captions.folder / "captions.parquet", columns=["normalized"])
    lines = [
        line if mine and line else ""
        for line, mine in zip(table["normalized"].to_pylist(), paid, strict=True)
    ]
    known = training_items(config, dataset)
    corpus = [line for line, seen in zip(lines, known, strict=True) if seen and line]
    if not corpus:
        raise bad_value("captioned items among those of training", 0, ">= 1", todo="raise the budget")
    tokenizer = make_tokenizer(config.tokenizers[letter]).fit(corpus)
    tokens = tokenizer.encode(lines)
    if lends:
        with np.load(stages.captions.folder / "vectors.npz") as stored:
            vectors, present = stored["vectors"].astype(np.float32), stored["present"]
        tokens = lend(
            tokens, paid, vectors, present, vocabulary=len(tokenizer.vocabulary), fitted=known | paid
        ).tokens
    if not dataset.spec.event_types:
        return dataclasses.replace(shared, item_tokens={letter: tokens}, profiles={})
    chosen = dataclasses.replace(
        config.profiles, event_types=config.profiles.event_types or dataset.spec.event_types
    )
    impressions = dataset.impressions(["impression_id", "user_id", "timestamp"])
    items = dataset.items(["item_id"])["item_id"]
    built = build_profiles(_events(stages), impressions, items, tokens, chosen, tokenizer.idf())
    profiles = {event: profile.lists for event, profile in built.items()}
    return dataclasses.replace(shared, item_tokens={letter: tokens}, profiles={letter: profiles})


def fit_model(stages: Stages, *, seeds: int = 2) -> GateModel:
    """Fit the learned policy's model on the last eighth of the training rows, with rankers that have not seen it.

    Captions of the run's items tell what they were worth; nothing of the evaluation period is looked at.
    """
    from captionary.rank.train import predict, train_ranker

    assert stages.captions is not None
    shared = ranking_data(stages)
    times = stages.dataset.impressions(["timestamp"])["timestamp"].cast(pa.int64()).to_numpy()
    until = decision_time(stages.config, stages.dataset)
    order = shared.train[np.argsort(times[shared.train], kind="stable")]
    begin = int(times[order[int(len(order) * (1 - _HELD_OUT))]])
    inner = _earlier(shared, order[times[order] < begin], order[times[order] >= begin])
    baseline, arm = _arms(stages)
    captioned = with_features(stages, inner, arm)
    binary = np.array([kind == "binary" for kind in inner.task_kinds])
    if not binary.any():
        raise bad_value("tasks", ", ".join(inner.tasks), "with a binary one", where="what captions are worth")
    labels = inner.labels[inner.eval][:, binary].astype(np.float64)
    given = ~np.isnan(labels)
    total = np.zeros(len(inner.eval))
    for seed in range(seeds):
        losses = []
        for features in (baseline, arm):
            ranker = train_ranker(captioned, features, stages.config.ranker, seed).model
            p = np.clip(predict(ranker, captioned, features)[:, binary].astype(np.float64), 1e-7, 1 - 1e-7)
            lost = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
            losses.append(lost.sum(axis=1, where=given) / np.maximum(given.sum(axis=1), 1))
        total += (losses[0] - losses[1]) / seeds
    looked = looked_before(stages.captions.folder)
    context = gate_context(stages.config, stages.dataset, looked, GateConfig(policy="budget"), cutoff=begin)
    item = inner.item[inner.eval]
    told = context.media[item] >= 0
    return fit_gate(context, item[told], total[told], until=until)


def measure_curve(
    stages: Stages,
    *,
    policies: Sequence[Policy] = ("budget", "learned", "popular", "random"),
    shares: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0),
    seeds: int = 3,
    unlent: Sequence[float] = (0.2,),
    workers: int = 1,
    chosen: GateConfig | None = None,
    model: GateModel | None = None,
    done: Callable[[Measurement], None] = lambda _: None,
) -> BudgetCurve:
    """Train the joint arm under each policy and share, and measure it against the baseline without captions.

    Args:
        stages: a run whose captions, tokens and profiles are finished, every item captioned.
        policies: see `captionary.understand.gate`; `random` is drawn anew for each seed.
        shares: of the items that have media.
        seeds: trainings of each.
        unlent: shares at which the policies are also measured without lending.
        workers: processes side by side, one thread each.
        chosen: settings of the gate; its policy and limits are replaced.
        model: for `learned`; it is left out without one.
        done: told of each training as it ends.
    """
    base = chosen or GateConfig(policy="budget")
    wanted = [policy for policy in policies if policy != "learned" or model is not None]
    jobs: list[tuple[Policy | None, float, bool, int]] = [(None, 0.0, True, seed) for seed in range(seeds)]
    jobs += [("always", 1.0, True, seed) for seed in range(seeds)]
    for lends, at in ((True, shares), (False, unlent)):
        for policy in wanted:
            for share in at:
                if share < 1:
                    jobs += [(policy, share, lends, seed) for seed in range(seeds)]
    found: list[Measurement] = []
    for one in _measurements(stages, base, model, jobs, workers):
        found.append(one)
        done(one)
    full = [one for one in found if one.policy == "always"]
    points = [one for one in found if one.policy not in ("", "always")]
    order = {str(policy): index for index, policy in enumerate(wanted)}
    points.sort(key=lambda one: (order[one.policy], not one.lent, one.share, one.seed))
    for policy in wanted if 1.0 in shares else ():  # every policy then does the same
        points += [one._replace(policy=policy) for one in full]
    return budget_curve([one for one in found if not one.policy], full, points)


def _measurements(
    stages: Stages,
    base: GateConfig,
    model: GateModel | None,
    jobs: Sequence[tuple[Policy | None, float, bool, int]],
    workers: int,
) -> Iterator[Measurement]:
    if workers <= 1:
        _start(stages, base, model)
        yield from map(_measure, jobs)
        return
    import multiprocessing

    # Spawned, not forked: torch's and Arrow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(stages, base, model)) as pool:
        yield from pool.map(_measure, jobs)


_worker: Mapping[str, Any]


def _start(stages: Stages, base: GateConfig, model: GateModel | None) -> None:
    """What all jobs of a process share: the ranking data without captions, and what the gate knows."""
    global _worker
    import torch

    assert stages.captions is not None
    torch.set_num_threads(1)
    looked = looked_before(stages.captions.folder)
    context = gate_context(stages.config, stages.dataset, looked, dataclasses.replace(base, policy="budget"))
    if model is not None:
        context = context._replace(gain=model.predict(context))
    _worker = {"stages": stages, "base": base, "shared": ranking_data(stages), "context": context}


def _measure(job: tuple[Policy | None, float, bool, int]) -> Measurement:
    from captionary.rank.train import predict, train_ranker

    policy, share, lends, seed = job
    stages, shared, context = _worker["stages"], _worker["shared"], _worker["context"]
    baseline, arm = _arms(stages)
    if not policy:
        data, features, paid = shared, baseline, np.zeros(len(context.media), np.bool_)
    else:
        paid = context.media >= 0
        if policy != "always":
            paid = _paid(stages, context, _worker["base"], policy, share, lends, seed)
        data, features = with_paid(stages, shared, paid, lends=lends), arm
    ranker = train_ranker(data, features, stages.config.ranker, seed).model
    return Measurement.of(
        data.labels[data.eval],
        predict(ranker, data, features),
        policy=policy or "",
        share=share,
        lent=lends,
        seed=seed,
        items=int(paid.sum()),
        described=float(paid[data.item[data.eval]].mean()),
        kinds=data.task_kinds,
    )


def _paid(
    stages: Stages,
    context: GateContext,
    base: GateConfig,
    policy: Policy,
    share: float,
    lends: bool,
    seed: int,
) -> Flags:
    """Which items have a caption under a policy at a share of the items."""
    config = dataclasses.replace(
        base, policy=policy, share=share, items=None, seconds=None, money=None, lend=lends, seed=seed
    )
    items = stages.dataset.items(["item_id"])
    return gate(items, context, Budget.of(config, context), config).described(context)


def _arms(stages: Stages) -> tuple[FeatureSet, FeatureSet]:
    """The baseline and the joint arm of the run."""
    arms = stages.arms
    if arms.headline is None:
        raise bad_value(
            "captions", "none", "those of a finished run", todo="run `captionary profile CONFIG` first"
        )
    return FeatureSet(**arms.baseline.features()), FeatureSet(**arms.headline.features())


def _earlier(shared: RankingData, train: Ints, held_out: Ints) -> RankingData:
    """`shared` as of an earlier time: ids that its training rows do not hold are unseen."""
    users = np.isin(shared.user, np.unique(shared.user[train]))
    items = np.isin(np.arange(len(shared.item_id)), np.unique(shared.item[train]))
    return dataclasses.replace(
        shared,
        user=np.where(users, shared.user, 0),
        item_id=np.where(items, shared.item_id, 0),
        train=train,
        eval=held_out,
    )
