"""`captionary captioner pretrain`: one of BLIP-2's two training stages, from a recipe."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["pretrain"]

_PATH = click.Path(path_type=Path)


@click.command("pretrain")
@click.argument("recipe")
@click.option("--photos", type=_PATH, help="Folder with captions.csv and images/; in place of the recipe's.")
@click.option("--scenes", type=int, help="World scenes to train on; in place of the recipe's.")
@click.option("--out", type=_PATH, help="Work folder; a run killed there continues.")
@click.option("--start", type=_PATH, help="Stage 2: the result of stage 1, or a captioner to go on from.")
@click.option("--encoder", type=_PATH, help="Local Hugging Face folder with a vision tower.")
@click.option("--decoder", type=_PATH, help="Stage 2: local Hugging Face folder with a LLaMA-family decoder.")
@click.option("--steps", type=int, help="Optimiser steps; in place of the recipe's.")
@click.option("--threads", type=int, default=0, help="CPU threads; default: torch's choice.")
def pretrain(
    recipe: str,
    photos: Path | None,
    scenes: int | None,
    out: Path | None,
    start: Path | None,
    encoder: Path | None,
    decoder: Path | None,
    steps: int | None,
    threads: int,
) -> None:
    """Train by RECIPE, a YAML file or a shipped one: stage1, stage2, stage1-llama2-1.5b, stage2-llama2-1.5b.

    On several GPUs: accelerate launch --num_processes 8 -m captionary captioner pretrain RECIPE …
    """
    import torch

    from captionary.understand.pretrain import pretrain as run
    from captionary.understand.pretrain_recipe import load_recipe

    if threads:
        torch.set_num_threads(threads)
    given = {"out": out, "start": start, "encoder": encoder, "decoder": decoder}
    config = load_recipe(
        recipe,
        data={"photos": photos and str(photos), "scenes": scenes},
        steps=steps,
        **{key: value and str(value) for key, value in given.items()},
    )
    click.echo(run(config).to_string())
