"""`captionary captioner adapt`: fine-tune a captioner on the text that a catalogue has for some of its items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from captionary.errors import bad_value, nearest

__all__ = ["adapt"]

_PATH = click.Path(path_type=Path)


@click.command("adapt")
@click.argument("dataset", type=_PATH)
@click.option("--text", required=True, help="Columns of items to learn from, separated by commas.")
@click.option("--out", type=_PATH, required=True, help="Work folder; a run killed there continues.")
@click.option("--split", help="Split whose training items may be learnt from; default: the data set's.")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="Wall-clock budget of training.")
@click.option(
    "--captioner",
    default="builtin",
    show_default=True,
    help="What to adapt: builtin, builtin:FOLDER, or hf:FOLDER (by LoRA).",
)
@click.option("--threads", type=int, default=0, show_default=True, help="CPU threads, 0 for all cores.")
def adapt(
    dataset: Path, text: str, out: Path, split: str | None, minutes: float, captioner: str, threads: int
) -> None:
    """Adapt a captioner to DATASET's own text, on the training items of a split only; write OUT/checkpoint/.

    A large model of transformers is adapted by LoRA (extra `adapt`).
    """
    import pyarrow as pa
    import torch

    from captionary.contract import open_dataset
    from captionary.understand.adapt import AdaptConfig, adapt_large, catalogue_of, readable
    from captionary.understand.adapt import adapt as run
    from captionary.understand.adapt_lora import LoraSettings
    from captionary.understand.builtin import CHECKPOINT
    from captionary.understand.hf import HfCaptioner

    if threads:
        torch.set_num_threads(threads)
    data = open_dataset(dataset)
    columns = [name.strip() for name in text.split(",") if name.strip()]
    name = split or data.spec.default_split
    if name not in data.spec.splits:
        raise bad_value("--split", name, nearest(name, data.spec.splits), where=str(dataset))
    items, learnt = data.items(), data.items_in(name, "train")
    shown, unseen = (
        readable(catalogue_of(items.filter(pa.array(side)), columns, data.media_path))
        for side in (learnt, data.items_in(name, "eval") & ~learnt)
    )
    kind, _, folder = captioner.partition(":")
    said: dict[str, Any] = {"name": data.spec.name, "columns": columns}
    if kind == "hf" and Path(folder).is_dir():
        settings = LoraSettings(minutes=minutes)
        loaded = HfCaptioner(folder, threads=threads)
        result = adapt_large(shown, unseen, out, settings, captioner=loaded, source=Path(folder), **said)
    elif kind == "builtin":
        start = Path(folder) if folder else CHECKPOINT
        result = run(shown, unseen, out, AdaptConfig(minutes=minutes), start=start, **said)
    else:
        raise bad_value(
            "--captioner", captioner, "builtin, builtin:FOLDER or hf:FOLDER of a folder that exists"
        )
    click.echo(result.to_markdown() or "running text only: nothing to count")
    click.echo(f"learnt from {result.training_items:,} items; scored on {result.held_out_items:,} others")
    click.echo(f'{out / "checkpoint"}: use it with `captioner: {{source: "{kind}:{out / "checkpoint"}"}}`')
