"""`captionary captioner`: train the built-in captioner, or score one."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["captioner"]

_PATH = click.Path(path_type=Path)


@click.group()
def captioner() -> None:
    """Train the built-in captioner, or score one."""


@captioner.command("train")
@click.option("--photos", type=_PATH, required=True, help="Folder with captions.csv and images/.")
@click.option("--out", type=_PATH, required=True, help="Work folder; a run killed there continues.")
@click.option("--scenes", type=int, default=32_000, show_default=True, help="World scenes to train on.")
@click.option(
    "--minutes", type=float, default=100.0, show_default=True, help="Wall-clock budget of training."
)
@click.option("--start", type=_PATH, help="A checkpoint folder to begin with; default: from scratch.")
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads.")
def captioner_train(
    photos: Path, out: Path, scenes: int, minutes: float, start: Path | None, threads: int
) -> None:
    """Reproduce the built-in captioner: train on photographs and world scenes, score, write OUT/checkpoint/."""
    import torch

    from captionary.understand.recipe import make_builtin

    torch.set_num_threads(threads)
    click.echo(make_builtin(photos, out, scenes=scenes, minutes=minutes, start=start).to_string())


@captioner.command("score")
@click.option(
    "--photos", type=_PATH, help="Folder with captions.csv and images/; their val photographs are used."
)
@click.option("--scenes", type=int, default=1000, show_default=True, help="Unseen world scenes to caption.")
@click.option(
    "--checkpoint", type=_PATH, help="A folder written by `captioner train`; default: the built-in one."
)
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads.")
def captioner_score(photos: Path | None, scenes: int, checkpoint: Path | None, threads: int) -> None:
    """Score a checkpoint on unseen scenes, and on held-out photographs where they are at hand."""
    from captionary.understand.builtin import CHECKPOINT, BuiltinCaptioner
    from captionary.understand.recipe import score

    built = BuiltinCaptioner(threads=threads, checkpoint=checkpoint or CHECKPOINT)
    click.echo(score(built, photos, scenes=scenes).to_string())
