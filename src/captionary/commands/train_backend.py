"""`captionary train`, also in many processes with TorchRec, and `captionary checkpoint`: theirs as one's, and back."""

from __future__ import annotations

import math
from pathlib import Path

import click
from click.core import ParameterSource

from captionary.commands.fit import chosen_config, say

__all__ = ["checkpoint", "train"]

_PATH = click.Path(path_type=Path)


@click.command("train")
@click.argument("source", metavar="CONFIG_OR_SHARDS", type=_PATH)
@click.option(
    "--backend", type=click.Choice(["torchrec"]), help="Train on shards, in processes that torchrun starts."
)
@click.option(
    "--out", type=_PATH, help="torchrec: gets checkpoints and the log; a run killed there continues."
)
@click.option(
    "--config", type=_PATH, help="torchrec: YAML with ranker, optimizer, features, stream, as of fit."
)
@click.option(
    "--from",
    "start",
    type=_PATH,
    help="torchrec: a checkpoint, or the --out of an earlier training, of fit or of train, to go on from.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="torchrec: what to train on; auto: CUDA where it is there, a GPU for each process of a machine.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="torchrec: of all that is random.")
@click.option(
    "--threads", type=int, default=0, help="torchrec: CPU threads of each process; default: torch's choice."
)
@click.option(
    "--place",
    multiple=True,
    metavar="TABLE=HOW",
    help="torchrec: how a table is laid out, table_wise or row_wise; the planner chooses for the others.",
)
@click.option(
    "--read",
    type=click.Choice(["own", "all"]),
    default="own",
    show_default=True,
    help="torchrec: a process reads its own part of the shards, or all, and makes the batches that one would make.",
)
def train(
    source: Path,
    backend: str | None,
    out: Path | None,
    config: Path | None,
    start: Path | None,
    device: str,
    seed: int,
    threads: int,
    place: tuple[str, ...],
    read: str,
) -> None:
    """Train the ranker of every arm and seed of CONFIG; or, with --backend torchrec, one ranker on SHARDS.

    For tables that no device can keep, see docs/distributed.md:
    torchrun --nproc-per-node 8 -m captionary train SHARDS --backend torchrec --out DIR
    """
    from captionary.errors import bad_value

    if backend is None:
        from captionary.pipeline import run
        from captionary.settings import load_run

        _refuse_options()
        run(load_run(source), last="train")
        return
    if out is None:
        raise bad_value("--out", "missing", "a folder for checkpoints and the log, with --backend torchrec")
    import torch

    from captionary.rank.fit_distributed import fit_distributed
    from captionary.rank.processes import processes
    from captionary.rank.shards import open_shards

    if threads:
        torch.set_num_threads(threads)
    chosen = chosen_config(config, start)
    opened, placement = open_shards(source), _placement(place)
    with processes(device) as team:
        fitted = fit_distributed(
            opened, out, chosen, seed, team=team, start=start, reading=read, placement=placement, say=say
        )
        if team.rank:
            return
    speed = fitted.samples_per_second
    click.echo(fitted.plan)
    click.echo("nothing to do: this training is finished" if math.isnan(speed) else f"{speed:,.0f} samples/s")
    click.echo(f"checkpoint: {fitted.checkpoint}")


@click.group("checkpoint")
def checkpoint() -> None:
    """Checkpoints of many processes as those of one, and back."""


@checkpoint.command("gather")
@click.argument("folder", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Becomes the checkpoint.")
def gather(folder: Path, out: Path) -> None:
    """Make one process's checkpoint of FOLDER, which `captionary train --backend torchrec` wrote."""
    from captionary.rank.sharded_state import gather_checkpoint
    from captionary.rank.state import latest

    gather_checkpoint(latest(folder), out)
    click.echo(f"checkpoint: {out}")


@checkpoint.command("scatter")
@click.argument("folder", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Becomes the checkpoint.")
def scatter(folder: Path, out: Path) -> None:
    """Make of FOLDER, which `captionary fit` wrote, a checkpoint that any number of processes can load."""
    from captionary.rank.sharded_state import scatter_checkpoint
    from captionary.rank.state import latest, load_checkpoint

    scatter_checkpoint(load_checkpoint(latest(folder)), out)
    click.echo(f"checkpoint: {out}")


def _refuse_options() -> None:
    """What is of the backend alone is not passed over without it."""
    from captionary.errors import bad_value

    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if isinstance(option, click.Option) and context.get_parameter_source(name) != ParameterSource.DEFAULT:
            raise bad_value(option.opts[0], str(context.params[name]), "left out without --backend torchrec")


def _placement(place: tuple[str, ...]) -> dict[str, str]:
    from captionary.errors import bad_value

    found = {}
    for each in place:
        name, equals, how = each.partition("=")
        if not equals:
            raise bad_value("--place", each, "TABLE=HOW, as in user=row_wise")
        found[name] = how
    return found
