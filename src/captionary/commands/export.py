"""`captionary export`: one ranker of a finished run, folded for serving."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["export"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=_PATH)
@click.option("--arm", metavar="NAME", help="Default: the arm that the run's verdict is about.")
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=_PATH, help="Folder of the artefact. Default: export in the run's folder.")
def export(config: Path, arm: str | None, seed: int, out: Path | None) -> None:
    """Fold what is constant per item into one row of numbers, and write what it takes to score candidates.

    CONFIG is that of a run whose rankers are trained. The folder is what `captionary.rank.served.ServingRanker` loads.
    """
    from captionary.exporting import export_run
    from captionary.settings import load_run

    run = load_run(config)
    made = export_run(run, out or run.folder / "export", arm=arm, seed=seed)
    click.echo(f"{made.to_string()}\nexport: {made.folder}")
