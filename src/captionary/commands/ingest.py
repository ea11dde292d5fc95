"""`captionary ingest`: fill the online store, work off uploads and events, see and revive what was given up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captionary.errors import bad_value

if TYPE_CHECKING:
    from captionary.online.site import Site

__all__ = ["ingest"]

_PATH = click.Path(path_type=Path)
_CONFIG = click.argument("config", type=_PATH)
_STORE = click.option(
    "--store",
    envvar="CAPTIONARY_STORE",
    show_envvar=True,
    help="Online store: a folder (LMDB) or redis://…; default: online/store of the run.",
)
_LOG = click.option(
    "--log",
    envvar="CAPTIONARY_LOG",
    show_envvar=True,
    help="Log: a file (SQLite) or redis://…; default: online/log.sqlite of the run.",
)
_SPOOL = click.option("--spool", type=_PATH, help="Folder of uploads; default: online/spool of the run.")
_RANKER = click.option(
    "--ranker",
    "rankers",
    type=_PATH,
    multiple=True,
    help="Folder of an exported ranker that rows are made for; may be given several times.",
)
_TOPIC = click.option("--topic", type=click.Choice(["media", "events"]), default="media", show_default=True)


@click.group()
def ingest() -> None:
    """Media and events from the log into the online store, in near real time."""


@ingest.command("seed")
@_CONFIG
@_STORE
@_RANKER
def ingest_seed(config: Path, store: str | None, rankers: tuple[Path, ...]) -> None:
    """Fill an empty online store with the items and events of the run of CONFIG."""
    from captionary.online.site import seed

    site = _site(config, store=store)
    with site.open_store() as opened:
        click.echo(seed(site, opened, _rankers(rankers)).to_string())


@ingest.command("rows")
@_CONFIG
@_STORE
@_RANKER
def ingest_rows(config: Path, store: str | None, rankers: tuple[Path, ...]) -> None:
    """Add the rows of a new RANKER to a store that is live: begin workers with it first, then serve it."""
    from captionary.online.site import add_rows

    if not rankers:
        raise bad_value("--ranker", "(absent)", "given", todo="name the folder that captionary export wrote")
    site = _site(config, store=store)
    with site.open_store() as opened:
        click.echo(f"{add_rows(site, opened, _rankers(rankers)):,} items")


@ingest.command("run")
@_CONFIG
@_STORE
@_LOG
@_SPOOL
@_RANKER
@click.option("--batch-size", type=int, default=32, show_default=True, help="Most uploads at once.")
@click.option(
    "--target-seconds", type=float, default=0.4, show_default=True, help="What a micro-batch may take."
)
@click.option(
    "--items-per-day",
    type=click.IntRange(min=1),
    help="Most uploads captioned a day, by all workers together; in the place of the gate's limits for the run.",
)
@click.option("--only-events", is_flag=True, help="Leave uploads to other workers: no captioner is loaded.")
@click.option(
    "--drain", is_flag=True, help="Stop when nothing is left to do, or when it cannot go on for a minute."
)
def ingest_run(
    config: Path,
    store: str | None,
    log: str | None,
    spool: Path | None,
    rankers: tuple[Path, ...],
    batch_size: int,
    target_seconds: float,
    items_per_day: int | None,
    only_events: bool,
    drain: bool,
) -> None:
    """Run a worker until it is told to stop (SIGTERM, Ctrl-C); it ends what is in hand first."""
    import signal

    from captionary.online.allowance import Allowance
    from captionary.online.ingest import IngestRecipe, MediaPipeline, gate_of_stream
    from captionary.online.worker import IngestWorker, WorkerOptions
    from captionary.understand.captioner import load_captioner
    from captionary.understand.store import CaptionStore

    site = _site(config, store=store, log=log, spool=spool)
    run = site.config
    pipeline = None
    if not only_events:
        pipeline = MediaPipeline(
            load_captioner(run.captioner, config.parent),  # type: ignore[arg-type]
            CaptionStore(run.runs / "captions.sqlite"),
            site.spool(),
            IngestRecipe(
                tokenizer=site.tokenizer,
                normalize=run.normalize,
                media=run.media,
                signals=run.signals,
                gate=gate_of_stream(run.gate, items_per_day),
                columns=site.columns,
                batch_size=run.captioner.pictures,
            ),
        )
    with site.open_store() as opened:
        if pipeline is not None and items_per_day is not None:
            pipeline.allowance = Allowance(opened, items_per_day)
        worker = IngestWorker(
            site.open_log(),
            opened,
            pipeline,
            folders=_rankers(rankers),
            columns=site.columns,
            options=WorkerOptions(batch_size=batch_size, target_seconds=target_seconds),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        click.echo(f"worker {worker.name}: {site.log_url_shown} → {site.store_url_shown}", err=True)
        worker.run(drain=drain)
        click.echo(
            f"{worker.items:,} items, {worker.failed:,} failed, {worker.skipped:,} held back, {worker.events:,} events",
            err=True,
        )


@ingest.command("status")
@_CONFIG
@_STORE
@_LOG
def ingest_status_(config: Path, store: str | None, log: str | None) -> None:
    """Say what waits, what was given up, and who works."""
    from captionary.online.status import ingest_status

    site = _site(config, store=store, log=log)
    with site.open_store() as opened:
        click.echo(ingest_status(opened, site.open_log()).to_string())


@ingest.command("dead")
@_CONFIG
@_LOG
@_TOPIC
@click.option("--most", type=int, default=100, show_default=True, help="Letters to show.")
def ingest_dead(config: Path, log: str | None, topic: str, most: int) -> None:
    """List what was given up: position, reason, key, detail."""
    site = _site(config, log=log)
    for letter in site.open_log().dead(topic, most=most):
        click.echo(f"{letter.entry.position}\t{letter.reason}\t{letter.entry.key}\t{letter.detail}")


@ingest.command("revive")
@_CONFIG
@_LOG
@_TOPIC
@click.argument("positions", type=int, nargs=-1)
def ingest_revive(config: Path, log: str | None, topic: str, positions: tuple[int, ...]) -> None:
    """Try dead letters again: those at POSITIONS, or all."""
    site = _site(config, log=log)
    click.echo(f"{site.open_log().revive(topic, positions or None):,} revived")


def _site(config: Path, **where: Any) -> Site:
    from captionary.online.site import Site
    from captionary.settings import load_run

    return Site(load_run(config), **where)


def _rankers(folders: tuple[Path, ...]) -> list[Any]:
    from captionary.rank.served import ServingRanker

    return [ServingRanker.load(folder) for folder in folders]
