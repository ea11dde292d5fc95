"""`captionary serve` and `captionary keys`: the ranking service, and who may use it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from captionary.errors import bad_value

__all__ = ["keys", "serve"]

_PATH = click.Path(path_type=Path)
_FILE = click.option(
    "--file",
    type=_PATH,
    default=Path("online/keys.json"),
    show_default=True,
    help="The file that serve.yaml names as `keys`.",
)


@click.command()
@click.argument("config", type=_PATH)
@click.option("--host", help="Address to listen on; default: as the config says.")
@click.option("--port", type=click.IntRange(0, 65535), help="0: a free one.")
@click.option("--check", is_flag=True, help="Open everything, say what was found, and stop.")
@click.option(
    "--demo",
    type=_PATH,
    metavar="DIR",
    help="CONFIG is that of a finished run: fill DIR with its rankers, items and events, and serve those.",
)
def serve(config: Path, host: str | None, port: int | None, check: bool, demo: Path | None) -> None:
    """Rank over HTTP with exported rankers, and take events and media.

    CONFIG is a serve.yaml, see docs/service.md. SIGTERM ends it when all that was begun is answered.
    """
    from captionary.online.service.redaction import watch_logs
    from captionary.online.service.settings import load_serve

    if demo is not None:
        from captionary.online.explorer.demo import make_demo

        config = make_demo(config, demo)
    chosen = load_serve(config, host=host, port=port)
    watch_logs()
    try:
        from captionary.online.service.server import serve as run
        from captionary.online.service.services import Services
    except ModuleNotFoundError as error:
        todo = "pip install 'captionary[serve]'"
        raise bad_value(f"package {error.name}", "missing", "installed to serve", todo=todo) from None
    services = Services.open(chosen)
    for name, version in services.rankers.versions.items():
        mark = " (default)" if name == services.rankers.default else ""
        items = services.rankers[name].ranker.items
        said = "" if services.has_rows(name) else "; none of them in the store: captionary ingest rows CONFIG"
        click.echo(f"ranker {name}{mark}: version {version}, {items:,} items{said}", err=True)
    if services.keys is None:
        click.echo("keys: none are asked for; only this machine reaches the service", err=True)
    elif not len(services.keys):
        click.echo("keys: none yet; captionary keys new NAME --scopes rank", err=True)
    if check:
        services.close()
        return
    run(services)


@click.group()
def keys() -> None:
    """API keys of the ranking service: make, list, revoke."""


@keys.command("new")
@click.argument("name")
@click.option("--scopes", required=True, help="Some of rank,events,items,read,erase,admin.")
@click.option("--days", type=float, help="How long it is good for; default: until it is revoked.")
@click.option("--rate", type=float, default=100.0, show_default=True, help="Requests a second; 0: no limit.")
@click.option("--burst", type=float, help="Requests at once; default: those of two seconds.")
@_FILE
def keys_new(
    name: str, scopes: str, days: float | None, rate: float, burst: float | None, file: Path
) -> None:
    """Make a key for NAME and show it, this once: the file holds its hash alone."""
    from captionary.online.service.keys import KeyFile, new_key

    if days is not None and not 0 < days < 36_500:
        raise bad_value("days", days, "> 0")
    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    key, secret = new_key(name, wanted, expires_at=expires, per_second=rate or None, burst=burst)
    with KeyFile.changing(file):
        KeyFile(keys=(*KeyFile.read(file).keys, key)).write(file)
    click.echo(f"key {key.id} for {name}: {', '.join(key.scopes)}; it is not shown again", err=True)
    click.echo(secret)


@keys.command("list")
@_FILE
def keys_list(file: Path) -> None:
    """Say which keys there are; not what they are."""
    from captionary.online.service.keys import KeyFile

    for key in KeyFile.read(file).keys:
        until = "until revoked" if key.expires_at is None else f"until {key.expires_at:%Y-%m-%d %H:%M} UTC"
        over = " (over)" if key.expired else ""
        rate = "any rate" if key.per_second is None else f"{key.per_second:g}/s"
        click.echo(f"{key.id}  {key.name}  {','.join(key.scopes)}  {rate}  {until}{over}")


@keys.command("revoke")
@click.argument("key")
@_FILE
def keys_revoke(key: str, file: Path) -> None:
    """Take the key with the id KEY back; services know within a second."""
    from captionary.online.service.keys import KeyFile

    with KeyFile.changing(file):
        KeyFile.read(file).without(key).write(file)
    click.echo(f"key {key} is revoked")
