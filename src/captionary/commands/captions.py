"""`captionary captions`: look into a caption store, take captions out of it and into it, forget some."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from captionary.errors import bad_value, nearest

__all__ = ["captions"]

_PATH = click.Path(path_type=Path)


@click.group()
def captions() -> None:
    """Look into a caption store, take captions out of it and into it, forget some.

    STORE is captions.sqlite in the folder of runs.
    """


@captions.command("stats")
@click.argument("store", type=_PATH)
def captions_stats(store: Path) -> None:
    """Count STORE's records by captioner."""
    from captionary.understand.store import CaptionStore
    from captionary.understand.transfer import stats_of

    with CaptionStore(_existing(store)) as opened:
        found = stats_of(opened)
    for each in found:
        click.echo(each.to_string())
    if not found:
        click.echo(f"{store}: empty")


@captions.command("export")
@click.argument("store", type=_PATH)
@click.argument("file", type=_PATH)
@click.option("--captioner", help="Only records under this fingerprint.")
@click.option("--vectors/--no-vectors", default=True, show_default=True, help="With visual vectors.")
def captions_export(store: Path, file: Path, captioner: str | None, vectors: bool) -> None:
    """Write STORE's records to FILE, a .parquet or .jsonl file."""
    from captionary.understand.store import CaptionStore
    from captionary.understand.transfer import export_captions

    with CaptionStore(_existing(store)) as opened:
        written = export_captions(opened, file, captioner=captioner, vectors=vectors)
    click.echo(f"{file}: {written:,} records")


@captions.command("import")
@click.argument("store", type=_PATH)
@click.argument("file", type=_PATH)
@click.option(
    "--conflict",
    default="keep",
    show_default=True,
    help="Where both have a caption: keep, replace, newest or error.",
)
@click.option("--dry-run", is_flag=True, help="Count only.")
def captions_import(store: Path, file: Path, conflict: str, dry_run: bool) -> None:
    """Take the records of FILE, which `captions export` wrote, into STORE; it is made where absent."""
    from captionary.understand.store import CaptionStore
    from captionary.understand.transfer import import_captions

    with CaptionStore(store) as opened:
        report = import_captions(opened, file, conflict=conflict, dry_run=dry_run)
    click.echo(report.to_string() + (" (dry run: nothing was written)" if dry_run else ""))


@captions.command("forget")
@click.argument("store", type=_PATH)
@click.option("--captioner", required=True, help="Only records under this fingerprint; see `captions stats`.")
@click.option("--failed", is_flag=True, help="Only failures, so that they are tried again.")
@click.option("--reason", help="Only failures for this reason.")
@click.option("--before", type=click.DateTime(), help="Only records made before this time, UTC.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def captions_forget(
    store: Path, captioner: str, failed: bool, reason: str | None, before: datetime | None, yes: bool
) -> None:
    """Delete records of STORE, so that their media are captioned again. What they cost is then paid again."""
    from captionary.understand.store import CaptionStore

    with CaptionStore(_existing(store)) as opened:
        known = opened.captioners()
        if captioner not in known:
            raise bad_value("captioner", captioner, nearest(captioner, known), where=str(store))
        limit = before.replace(tzinfo=UTC) if before is not None else None
        keys = [
            record.media_digest
            for _, record in opened.rows(captioner)
            if (not (failed or reason) or record.status == "failed")
            and (reason is None or record.reason == reason)
            and (limit is None or record.created_at < limit)
        ]
        if not keys:
            click.echo("nothing to forget")
        elif yes or click.confirm(f"forget {len(keys):,} records of {captioner}?", abort=True):
            click.echo(f"{opened.forget(captioner, keys):,} records forgotten")


def _existing(store: Path) -> Path:
    if not store.is_file():
        todo = "name captions.sqlite in the folder of runs"
        raise bad_value("store", str(store), "an existing caption store", todo=todo)
    return store
