"""`captionary export`: one ranker of a finished run, or of a training from shards, folded for serving."""

from __future__ import annotations

from pathlib import Path

import click

from captionary.errors import bad_value

__all__ = ["export"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("source", metavar="CONFIG_OR_RANKER", type=_PATH)
@click.option("--arm", metavar="NAME", help="Of a run. Default: the arm that its verdict is about.")
@click.option("--seed", metavar="N", type=click.IntRange(min=0), help="Of a run: which training. Default: 0.")
@click.option(
    "--shards", type=_PATH, help="Of a ranker of captionary fit: the shards whose items are folded."
)
@click.option(
    "--out",
    type=_PATH,
    help="Folder of the artefact. Default: export in the folder of the run or the training.",
)
def export(source: Path, arm: str | None, seed: int | None, shards: Path | None, out: Path | None) -> None:
    """Fold what is constant per item into one row of numbers, and write what it takes to score candidates.

    CONFIG_OR_RANKER is the config of a run whose rankers are trained, or the --out of captionary fit, or a checkpoint
    in it. The folder is what `captionary.rank.served.ServingRanker` loads.
    """
    from captionary.exporting import export_run, export_trained
    from captionary.settings import load_run

    if source.is_dir() or not source.exists():
        _left_out("a ranker of captionary fit", {"--arm": arm, "--seed": seed})
        made = export_trained(source, shards, out)
    else:
        _left_out("the config of a run", {"--shards": shards})
        run = load_run(source)
        made = export_run(run, out or run.folder / "export", arm=arm, seed=seed or 0)
    click.echo(f"{made.to_string()}\nexport: {made.folder}")


def _left_out(given: str, options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise bad_value(name, str(value), f"left out with {given}")
