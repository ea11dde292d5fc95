"""`captionary export-features`: item tokens and profiles for other systems."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from captionary.errors import bad_value

__all__ = ["export_features"]

_PATH = click.Path(path_type=Path)


@click.command("export-features")
@click.argument("config", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--tokenizer", metavar="LETTER", help="Default: the first, which carries the run's profiles.")
@click.option(
    "--as-of",
    metavar="TIME",
    multiple=True,
    help="Moment of a snapshot of all users, as 2025-01-31T00:00:00+00:00; may be given again. "
    "Default: right after the last event.",
)
@click.option("--impressions", is_flag=True, help="Also the point-in-time profiles of every impression.")
@click.option(
    "--held-out", is_flag=True, help="Profiles see the events of items that the run's split holds out."
)
@click.option("--feast", type=_PATH, help="Write a Feast repository over the export into this folder.")
@click.option("--project", default="captionary", show_default=True, help="Feast's name of the project.")
@click.option(
    "--ttl-days",
    type=float,
    default=30.0,
    show_default=True,
    help="Feast: how old a profile may be to be joined to a row of a training table; 0: any age.",
)
def export_features(
    config: Path,
    out: Path,
    tokenizer: str | None,
    as_of: tuple[str, ...],
    impressions: bool,
    held_out: bool,
    feast: Path | None,
    project: str,
    ttl_days: float,
) -> None:
    """Write the item tokens and users' profiles of CONFIG's run as Parquet into OUT."""
    from captionary.interchange.feast import write_repository
    from captionary.interchange.run import export_run
    from captionary.settings import load_run

    made = export_run(
        load_run(config),
        out,
        letter=tokenizer,
        as_of=[_moment(text) for text in as_of],
        impressions=impressions,
        held_out=held_out,
    )
    click.echo(made.to_string())
    if made.as_of:
        click.echo("profiles as of " + ", ".join(moment.isoformat() for moment in made.as_of))
    click.echo(f"export: {made.folder}")
    if feast is not None:
        repository = write_repository(feast, out, project=project, ttl_days=ttl_days)
        click.echo(f"Feast: {repository.folder}\n{repository.to_string()}")


def _moment(text: str) -> datetime:
    rule = "a time with its zone, as 2025-01-31T00:00:00+00:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise bad_value("--as-of", text, rule) from None
    if moment.tzinfo is None:
        raise bad_value("--as-of", text, rule)
    return moment
