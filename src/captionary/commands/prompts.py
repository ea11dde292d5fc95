"""`captionary prompts`: what captioners are asked."""

from __future__ import annotations

import click

__all__ = ["prompts"]


@click.command("prompts")
@click.argument("name", required=False)
def prompts(name: str | None) -> None:
    """List the prompts that come with the package, or print the one called NAME (or a file's, checked)."""
    from captionary.understand.prompts import load, names

    if name:
        click.echo(load(name).text)
        return
    for known in names():
        click.echo(f"{known:14}{load(known).text.splitlines()[0][:90]}")
