"""`captionary fit`: train a ranker from shards on disk, continue where it was killed, or with tomorrow's shards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from captionary.rank.fit import Trainer
    from captionary.rank.fit_settings import FitConfig

__all__ = ["chosen_config", "fit", "say"]

_PATH = click.Path(path_type=Path)


@click.command("fit")
@click.argument("shards", type=_PATH)
@click.option(
    "--out", type=_PATH, required=True, help="Gets checkpoints and the log; a run killed there continues."
)
@click.option("--config", type=_PATH, help="YAML with ranker, optimizer, features, stream: docs/training.md.")
@click.option(
    "--from", "start", type=_PATH, help="A checkpoint, or the --out of an earlier training, to go on from."
)
@click.option("--epochs", type=int, help="Passes over the shards; in place of the config's.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="What to train on; auto: CUDA where it is there.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option("--threads", type=int, default=0, help="CPU threads of torch; default: its choice.")
@click.option("--tensorboard", is_flag=True, help="Also write scalars for TensorBoard.")
@click.option(
    "--calibrate",
    type=click.Choice(["platt", "temperature", "isotonic"]),
    help="Calibrate each task on the earlier half of the eval shards, measure on the later, and write OUT/ranker.",
)
def fit(
    shards: Path,
    out: Path,
    config: Path | None,
    start: Path | None,
    epochs: int | None,
    device: str,
    seed: int,
    threads: int,
    tensorboard: bool,
    calibrate: str | None,
) -> None:
    """Train a ranker on SHARDS, a folder that `captionary shards` wrote, and measure it on its eval shards.

    Given again, the same command continues at the last checkpoint in --out.
    """
    import torch

    from captionary.rank.devices import choose_device
    from captionary.rank.fit import fit as run
    from captionary.rank.shards import open_shards

    if threads:
        torch.set_num_threads(threads)
    where = choose_device(device)
    chosen = _changed(chosen_config(config, start), epochs, tensorboard)
    opened = open_shards(shards)
    fitted = run(opened, out, chosen, seed, start=start, device=where, say=say)
    if math.isnan(fitted.samples_per_second):
        click.echo("nothing to do: this training is finished")
    else:
        click.echo(f"{fitted.samples_per_second:,.0f} samples/s")
    half = opened.rows("eval") // 2 if calibrate else 0
    if opened.rows("eval"):
        _measure(fitted.trainer, half)
    if calibrate:
        from captionary.rank.checkpoint import save_ranker

        fitted.trainer.calibrate(calibrate, stop=half)  # type: ignore[arg-type]
        click.echo(f"calibrated by {calibrate} on the {half:,} eval rows before these:")
        _measure(fitted.trainer, half)
        save_ranker(fitted.trainer.model, out / "ranker", fitted.trainer.vocabularies)
        click.echo(f"ranker: {out / 'ranker'}")
    click.echo(f"checkpoint: {fitted.checkpoint}")


def chosen_config(config: Path | None, start: Path | None) -> FitConfig:
    """What the file says; without one, what the earlier training was done with."""
    from captionary.rank.fit_settings import FitConfig, load_fit
    from captionary.rank.state import latest, read_said

    if config is not None:
        return load_fit(config)
    return read_said(latest(start)).config if start is not None else FitConfig()


def say(line: dict[str, Any]) -> None:
    """A line of a training's log, for people."""
    speed = f"{line['samples_per_second']:10,.0f} samples/s"
    click.echo(f"step {line['step']:,} of {line['steps']:,}  loss {line['loss']:.5f}  {speed}", err=True)


def _changed(chosen: FitConfig, epochs: int | None, tensorboard: bool) -> FitConfig:
    import dataclasses

    if epochs is not None:
        chosen = dataclasses.replace(chosen, ranker=dataclasses.replace(chosen.ranker, epochs=epochs))
    if tensorboard:
        chosen = dataclasses.replace(chosen, stream=dataclasses.replace(chosen.stream, tensorboard=True))
    return chosen


def _measure(trainer: Trainer, start: int) -> None:
    """AUC and NE of binary tasks on the eval rows from `start`; of all, what was predicted and what came."""
    import numpy as np

    from captionary.evidence.metrics import auc, normalized_entropy

    scores, labels = trainer.predict("eval", start)
    schema = trainer.model.schema
    click.echo(f"{'task':<20} {'rows':>10} {'AUC':>8} {'NE':>8} {'predicted':>10} {'actual':>10}")
    for place, (task, kind) in enumerate(zip(schema.tasks, schema.task_kinds, strict=True)):
        given = ~np.isnan(labels[:, place])
        found, known = scores[given, place].astype(np.float64), labels[given, place].astype(np.float64)
        measured = ["-", "-"]
        if kind == "binary" and np.isin(known, (0, 1)).all():
            measured = [f"{auc(known, found):.5f}", f"{normalized_entropy(known, found):.5f}"]
        means = [f"{each.mean():.5g}" if len(each) else "-" for each in (found, known)]
        click.echo(
            f"{task:<20} {len(known):>10,} {measured[0]:>8} {measured[1]:>8} {means[0]:>10} {means[1]:>10}"
        )
