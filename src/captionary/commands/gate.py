"""`captionary gate`: decide which items are worth a caption, before paying; and look back, after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from captionary.contract import Dataset
    from captionary.settings import RunConfig

__all__ = ["gate"]

_PATH = click.Path(path_type=Path)


@click.group()
def gate() -> None:
    """Decide which items are worth a caption, and check what it came to."""


@gate.command("plan")
@click.argument("config", type=_PATH)
def gate_plan(config: Path) -> None:
    """Forecast what CONFIG's gate will caption, cost and cover; beside it, every other policy.

    The encoder looks at the pictures (its vectors are kept), the captioner is not invoked. The plan is written to the
    run's folder, and `captionary caption CONFIG` carries it out.
    """
    import dataclasses

    from captionary.gating import decide, gate_config, gate_stage, looked_now, model_path
    from captionary.settings import load_run
    from captionary.stages import locked
    from captionary.understand.captioner import ImportedCaptions, load_captioner
    from captionary.understand.gate_audit import markdown
    from captionary.understand.gate_settings import POLICIES
    from captionary.understand.store import CaptionStore

    run = load_run(config)
    chosen = gate_config(run)
    with locked(run.folder):
        dataset, data = _data(run)
        captioner = load_captioner(run.captioner, run.data.path or Path())
        if isinstance(captioner, ImportedCaptions):
            raise _imported(run.captioner.source)
        with CaptionStore(run.runs / "captions.sqlite") as store:
            # Before the plan of the run, so that every policy is told the same of the same pictures.
            looked = looked_now(run, dataset, captioner, store)
            mine = gate_stage(run, dataset, data, captioner, store, chosen)[0].forecast
    forecasts = [mine]
    for policy in POLICIES:
        other = dataclasses.replace(chosen, policy=policy)
        if policy == chosen.policy or (policy == "learned" and not model_path(run, other).exists()):
            continue
        forecasts.append(decide(run, dataset, looked, other).forecast)
    click.echo(markdown(forecasts))
    left = ", ".join(f"{name} {count:,}" for name, count in mine.reasons.items())
    click.echo(
        f"\npolicy {mine.policy}: {mine.items:,} items to caption{'; left out: ' + left if left else ''}"
    )
    if mine.seconds is None:
        click.echo(
            "seconds are not known: nothing was captioned by this captioner yet, or give gate.seconds_per_item"
        )
    click.echo(f"plan: {run.folder / 'gate' / 'forecast.json'}")


@gate.command("audit")
@click.argument("config", type=_PATH)
def gate_audit(config: Path) -> None:
    """What captioning CONFIG did cost and cover, beside the plan."""
    import json

    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from captionary.errors import bad_value
    from captionary.gating import gate_config
    from captionary.publish import atomic_file
    from captionary.represent.tables import read_item_tokens
    from captionary.settings import load_run
    from captionary.understand.gate_audit import audit, read_forecast

    run = load_run(config)
    chosen = gate_config(run)
    before = read_forecast(run.folder / "gate" / "forecast.json")
    made = run.folder / "captions" / "captions.parquet"
    if not made.exists():
        todo = f"run `captionary caption {config}` first"
        raise bad_value("captions", str(made), "there to be audited", todo=todo)
    captions = pq.read_table(made)
    dataset, _ = _data(run)
    impressions = dataset.impressions(["item_id", "timestamp"])
    ids = dataset.items(["item_id"])["item_id"].combine_chunks()
    item = pc.index_in(impressions["item_id"].combine_chunks(), value_set=ids)
    lists = run.folder / "tokens" / next(iter(run.tokenizers)) / "item_tokens.parquet"
    lent = None
    if lists.exists():
        told = np.array([status == "ok" for status in captions["status"].to_pylist()])
        lent = (read_item_tokens(lists)[1].lengths > 0) & ~told
    found = audit(
        before,
        captions,
        item.to_numpy(zero_copy_only=False).astype(np.int64),
        impressions["timestamp"].cast(pa.int64()).to_numpy(),
        lent=lent,
        price_per_item=chosen.price_per_item,
        price_per_second=chosen.price_per_second,
    )
    with atomic_file(run.folder / "gate-audit.json") as file:
        file.write(json.dumps(found.to_dict(), indent=1).encode())
    click.echo(found.to_markdown())
    click.echo(f"\naudit: {run.folder / 'gate-audit.json'}")


@gate.command("fit")
@click.argument("config", type=_PATH)
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="Rankers of each kind.")
def gate_fit(config: Path, seeds: int) -> None:
    """Fit the learned policy's model to where CONFIG's captions lowered the ranker's loss."""
    from captionary.gating import finished, fit_model, gate_config, model_path
    from captionary.settings import load_run

    run = load_run(config)
    model = fit_model(finished(run), seeds=seeds)
    path = model.save(model_path(run, gate_config(run)))
    click.echo(
        f"{model.impressions:,} impressions of {model.items:,} items; a caption lowers the loss by "
        f"{model.bias:.5f} nats on average; {100 * max(model.explained, 0):.1f} % of its variance between items "
        "are foretold"
    )
    click.echo(f"model: {path}")


@gate.command("curve")
@click.argument("config", type=_PATH)
@click.option(
    "--share", "shares", type=float, multiple=True, default=(0.05, 0.1, 0.2, 0.5, 1.0), show_default=True
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Rankers of each point.")
def gate_curve(config: Path, shares: tuple[float, ...], seeds: int) -> None:
    """AUC gain against the share of CONFIG's items captioned, for every policy; the report then shows it."""
    import json

    from tqdm import tqdm

    from captionary.gating import curve_path, finished, gate_config, measure_curve, model_path
    from captionary.publish import atomic_file
    from captionary.settings import load_run
    from captionary.understand.gate_learned import GateModel

    def tick(bar: tqdm[NoReturn]) -> None:
        bar.update()

    run = load_run(config)
    chosen = gate_config(run)
    path = model_path(run, chosen)
    with tqdm(desc="gate curve", unit="ranker") as bar:
        found = measure_curve(
            finished(run),
            shares=shares,
            seeds=seeds,
            workers=run.workers,
            chosen=chosen,
            model=GateModel.load(path) if path.exists() else None,
            done=lambda _: tick(bar),
        )
    with atomic_file(curve_path(run)) as file:
        file.write(json.dumps(found.to_dict(), indent=1).encode())
    click.echo(found.to_markdown())
    click.echo(f"\ncurve: {curve_path(run)}")


def _data(run: RunConfig) -> tuple[Dataset, str]:
    """The run's data set, made where it is a world, and its fingerprint."""
    from captionary.contract import open_dataset
    from captionary.pipeline import _data_fingerprint, _world

    dataset = _world(run) if run.data.path is None else open_dataset(run.data.path)
    return dataset, _data_fingerprint(dataset)


def _imported(source: str) -> Exception:
    from captionary.errors import bad_value

    return bad_value("captioner", source, "one that is invoked: imported captions cost nothing more")
