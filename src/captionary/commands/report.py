"""`captionary report`: two finished runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["report"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("a", metavar="A", type=_PATH)
@click.argument("b", metavar="B", type=_PATH)
@click.option(
    "--out", type=_PATH, help="Folder of the pages. Default: A-vs-B, by the names of the runs, here."
)
def report(a: Path, b: Path, out: Path | None) -> None:
    """Compare the finished runs A and B, arm by arm: differences of AUC gain with their errors, settings, provenance.

    A and B are folders of runs (runs/NAME), of reports, or evidence.json files. Writes index.html, report.md and
    comparison.json.
    """
    from captionary.evidence.report import write_texts
    from captionary.evidence.side_by_side import read_evidence, side_by_side

    found = side_by_side(read_evidence(a), read_evidence(b))
    folder = out or Path(f"{found.a}-vs-{found.b}".replace("/", "-"))
    write_texts(
        {
            folder / "index.html": found.to_html(),
            folder / "report.md": found.to_markdown(),
            folder / "comparison.json": found.to_json(),
        }
    )
    click.echo(found.sentence)
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(f"\n{folder}: index.html, report.md, comparison.json")
