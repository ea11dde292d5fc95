"""`captionary shards`: a run's impressions, tokens and profiles as a folder to train from, of any size."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from captionary.errors import bad_value

__all__ = ["shards"]

_PATH = click.Path(path_type=Path)


@click.command("shards")
@click.argument("config", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="The folder of shards.")
@click.option("--tokens", metavar="LETTER", help="The tokenizer, or none; default: the first.")
@click.option("--no-visual", is_flag=True, help="Leave the items' visual vectors out.")
@click.option(
    "--vectors",
    metavar="KIND",
    multiple=True,
    help="sentence, profile_text or word2vec, of those the run was made with; repeatable. Default: those of --like.",
)
@click.option("--since", metavar="TIME", help="Only impressions from then on, as 2025-01-31T00:00:00+00:00.")
@click.option("--until", metavar="TIME", help="Only impressions before then.")
@click.option("--like", type=_PATH, help="Earlier shards: a ranker trained on them can go on with these.")
@click.option("--shard-rows", type=int, default=1_048_576, show_default=True, help="Impressions of a shard.")
def shards(
    config: Path,
    out: Path,
    tokens: str | None,
    no_visual: bool,
    vectors: tuple[str, ...],
    since: str | None,
    until: str | None,
    like: Path | None,
    shard_rows: int,
) -> None:
    """Write the impressions of CONFIG's split, in the order of time, with all that a ranker reads."""
    from captionary.settings import load_run
    from captionary.sharding import Between, make_shards

    made = make_shards(
        load_run(config),
        out,
        letter=None if tokens == "none" else tokens,
        tokens=tokens != "none",
        visual=not no_visual,
        vectors=vectors or None,
        between=Between(_moment("--since", since), _moment("--until", until)),
        like=like,
        shard_rows=shard_rows,
    )
    for part in ("train", "eval"):
        files = made.train if part == "train" else made.eval
        click.echo(f"{part}: {made.rows(part):,} impressions in {len(files)} shards")
    click.echo(f"shards: {out}")


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    rule = "a time with its zone, as 2025-01-31T00:00:00+00:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise bad_value(option, text, rule) from None
    if moment.tzinfo is None:
        raise bad_value(option, text, rule)
    return moment
