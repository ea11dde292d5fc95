"""`captionary verify`: do logged ranking requests again offline, and show any difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from captionary.online.verify import Scoring

__all__ = ["verify"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=_PATH)
@click.option(
    "--requests", type=_PATH, help="Folder of logged requests; default: online/requests of the run."
)
@click.option(
    "--store", envvar="CAPTIONARY_STORE", show_envvar=True, help="Online store, as of `captionary ingest`."
)
@click.option("--log", envvar="CAPTIONARY_LOG", show_envvar=True, help="Log, as of `captionary ingest`.")
@click.option(
    "--ranker",
    "rankers",
    type=_PATH,
    multiple=True,
    help="Folder of an exported ranker, one for each that served; without any, features alone are compared.",
)
@click.option(
    "--tolerance", type=float, default=0.0, show_default=True, help="Difference of a score that is let pass."
)
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
def verify(
    config: Path,
    requests: Path | None,
    store: str | None,
    log: str | None,
    rankers: tuple[Path, ...],
    tolerance: float,
    as_json: bool,
) -> None:
    """Do the logged ranking requests of the run of CONFIG again: exit code 1 where features or scores differ."""
    from captionary.online.request_log import read_requests
    from captionary.online.site import Site, messages_of
    from captionary.online.verify import verify as run_verify
    from captionary.settings import load_run

    site = Site(load_run(config), store=store, log=log)
    with site.open_store() as opened:
        found = run_verify(
            read_requests(requests or site.requests_folder),
            opened,
            site.open_log(),
            history=messages_of(site.history()),
            scorings=_scorings(rankers),
            tolerance=tolerance,
        )
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else found.to_string())
    if not found.clean:
        raise SystemExit(1)


def _scorings(folders: tuple[Path, ...]) -> dict[str, Scoring]:
    from captionary.online.service.rankers import Rankers
    from captionary.online.verify import Scoring

    if not folders:
        return {}
    rankers = Rankers.load({str(folder): folder for folder in folders}, str(folders[0]))
    loaded = rankers.loaded.values()
    return {one.version: Scoring(one.score_again, one.ranker.row_width) for one in loaded}
