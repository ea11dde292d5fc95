"""`captionary verify`: do logged ranking requests again offline, and show any difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["verify"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=_PATH)
@click.option(
    "--requests", type=_PATH, help="Folder of logged requests; default: online/requests of the run."
)
@click.option("--store", help="Online store, as of `captionary ingest`.")
@click.option("--log", help="Log, as of `captionary ingest`.")
@click.option(
    "--ranker", type=_PATH, help="Folder of the exported ranker; without it features alone are compared."
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
    ranker: Path | None,
    tolerance: float,
    as_json: bool,
) -> None:
    """Do the logged ranking requests of the run of CONFIG again: exit code 1 where features or scores differ."""
    from captionary.online.request_log import read_requests
    from captionary.online.site import Site, messages_of
    from captionary.online.verify import verify as run_verify
    from captionary.settings import load_run

    site = Site(load_run(config), store=store, log=log)
    more: dict[str, Any] = {}
    if ranker is not None:
        from captionary.rank.served import ScoringRequest, ServingRanker

        served = ServingRanker.load(ranker)

        def scorer(request: Any, lists: Any, rows: Any) -> Any:
            return served.score(
                ScoringRequest(user=request.user_id, rows=rows, context=request.context, profiles=lists)
            )

        more = {"scorer": scorer, "version": served.version, "width": served.row_width}
    with site.open_store() as opened:
        found = run_verify(
            read_requests(requests or site.requests_folder),
            opened,
            site.open_log(),
            history=messages_of(site.history()),
            tolerance=tolerance,
            **more,
        )
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else found.to_string())
    if not found.clean:
        raise SystemExit(1)
