"""`captionary tune`: search a small space of a ranker's settings on the end of the training rows."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["tune"]

_PATH = click.Path(path_type=Path)


@click.command("tune")
@click.argument("data", type=_PATH)
@click.option(
    "--out", type=_PATH, required=True, help="Gets the study and best.yaml; a search killed there goes on."
)
@click.option(
    "--config", type=_PATH, help="YAML as of captionary fit: what is not searched, and the first trial."
)
@click.option(
    "--trials", type=int, default=30, show_default=True, help="To have finished, earlier ones included."
)
@click.option(
    "--tail", type=float, default=0.1, show_default=True, help="Share of the training rows to validate on."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of training and search.")
@click.option("--threads", type=int, default=0, help="CPU threads of torch; default: its choice.")
def tune(
    data: Path, out: Path, config: Path | None, trials: int, tail: float, seed: int, threads: int
) -> None:
    """Search the settings of a ranker on DATA: a folder of shards, or a run's config, whose shards are made in --out.

    The evaluation rows are never looked at. What was best is printed as YAML, and kept in --out.
    """
    import dataclasses

    import torch

    from captionary.rank.fit_settings import FitConfig, load_fit
    from captionary.rank.shards import open_shards
    from captionary.settings import load_run
    from captionary.sharding import make_shards
    from captionary.tuning import to_yaml
    from captionary.tuning import tune as search

    if threads:
        torch.set_num_threads(threads)
    base = load_fit(config) if config is not None else FitConfig()
    if data.is_dir():
        shards = open_shards(data)
    else:
        run = load_run(data)
        if config is None:
            base = dataclasses.replace(base, ranker=run.ranker)
        made = out / "shards"
        shards = open_shards(made) if (made / "shards.json").exists() else make_shards(run, made)
    best = search(
        shards, out, base, trials=trials, tail=tail, seed=seed, say=lambda line: click.echo(line, err=True)
    )
    click.echo(
        f"# best of {best.trials} trials, {best.pruned} of them stopped early: loss {best.loss:.5f} on the last"
    )
    click.echo(
        f"# {tail:.0%} of the training rows; {best.first:.5f} with the settings that the search began with"
    )
    click.echo(to_yaml(best.config), nl=False)
