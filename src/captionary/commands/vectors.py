"""`captionary vectors`: semantic ids of a run's items, and profiles of its users in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["vectors"]

_PATH = click.Path(path_type=Path)


@click.group()
def vectors() -> None:
    """Semantic ids of a run's items, and profiles of its users in words."""


@vectors.command("semantic")
@click.argument("config", type=_PATH)
@click.option("--levels", type=int, default=3, show_default=True, help="Codes of an item.")
@click.option("--codes", type=int, default=128, show_default=True, help="Codes to choose from at each level.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the initial centres.")
def semantic(config: Path, levels: int, codes: int, seed: int) -> None:
    """Fit semantic ids on the visual vectors of CONFIG's finished run, and print how the codes are used.

    Nothing is written: choose levels and codes here, then set them under `vectors: semantic:` in CONFIG.
    """
    import numpy as np

    from captionary.contract import open_dataset
    from captionary.errors import bad_value
    from captionary.pipeline import training_items
    from captionary.represent.semantic_ids import SemanticIdConfig, SemanticIds
    from captionary.settings import load_run

    run = load_run(config)
    chosen = SemanticIdConfig(levels=levels, codes=codes, seed=seed)
    path = run.folder / "captions" / "vectors.npz"
    if not path.is_file():
        raise bad_value("run", str(run.folder), "captioned", todo=f"captionary caption {config}")
    dataset = open_dataset(run.data.path or run.folder / "data" / "world")
    with np.load(path, allow_pickle=False) as stored:
        found, present = stored["vectors"].astype(np.float32), stored["present"]
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    fitted = present & training_items(run, dataset)
    if not fitted.any():
        raise bad_value("visual vectors", 0, "of at least one item known in training", where=str(path))
    ids = SemanticIds.fit(unit[fitted], chosen)
    click.echo(ids.report(unit, present).to_markdown())


@vectors.command("profiles")
@click.argument("config", type=_PATH)
@click.option("--writer", required=True, metavar="CAPTIONER", help="hf:FOLDER or openai:URL#MODEL.")
@click.option("--out", type=_PATH, help="Parquet file. Default: text_profiles.parquet in the run's folder.")
@click.option("--moments", type=click.IntRange(1), default=4, show_default=True, help="Times to write as of.")
@click.option(
    "--items", type=int, default=10, show_default=True, help="Most items a profile is written from."
)
@click.option("--max-new-tokens", type=int, default=96, show_default=True, help="Length of a profile.")
def profiles(
    config: Path, writer: str, out: Path | None, moments: int, items: int, max_new_tokens: int
) -> None:
    """Let a language model say what each user of CONFIG's run likes, from the captions of the user's items.

    Written as of evenly spaced quantiles of the training impressions, the last as of the first evaluation impression.
    Answers are kept in text_profiles.sqlite beside the run's captions: what was written once is not paid for again.
    """
    import dataclasses

    import pyarrow.parquet as pq

    from captionary.contract import open_dataset, write_table
    from captionary.errors import bad_value
    from captionary.represent.text_profiles import (
        Completer,
        TextProfileConfig,
        TextStore,
        liked_captions,
        write_profiles,
    )
    from captionary.settings import load_run
    from captionary.understand.captioner import fingerprint_of, load_captioner
    from captionary.understand.prompts import load

    run = load_run(config)
    path = run.folder / "captions" / "captions.parquet"
    if not path.is_file():
        raise bad_value("run", str(run.folder), "captioned", todo=f"captionary caption {config}")
    asked = dataclasses.replace(run.captioner, source=writer, max_new_tokens=max_new_tokens, prompt="")
    if asked.kind not in ("hf", "openai"):
        raise bad_value("--writer", writer, "hf:ID-or-folder or openai:URL#model")
    base = run.data.path or Path()
    model = load_captioner(asked, base)
    complete = getattr(model, "complete", None)
    if complete is None:
        raise bad_value("--writer", writer, "a model that answers without a picture")
    dataset = open_dataset(run.data.path or run.folder / "data" / "world")
    table = pq.read_table(path, columns=["item_id", "normalized"])
    events = tuple(run.profiles.event_types or dataset.spec.event_types)
    said = liked_captions(
        _events(run, dataset),
        table["item_id"],
        table["normalized"],
        _moments(run, dataset, moments),
        TextProfileConfig(event_types=events, items=items, min_items=min(2, items)),
    )
    prompt = load("user_profile")
    completer = Completer(
        complete,
        fingerprint_of(asked, base),
        lambda captions: prompt.fill(history=captions),
        failures=_failures(asked.kind),
    )
    with TextStore(run.runs / "text_profiles.sqlite") as store:
        written = write_profiles(said, completer, store, progress=True)
    target = write_table(written, out or run.folder / "text_profiles.parquet")
    failed = written["text"].null_count
    click.echo(f"{target}: {len(written) - failed:,} profiles" + (f", {failed:,} failed" if failed else ""))


def _moments(run: Any, dataset: Any, count: int) -> list[int]:
    """Microseconds: from within training, the same share of its impressions after each, to the start of evaluation."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from captionary.pipeline import split_of

    column = dataset.spec.splits[split_of(run, dataset)].column
    impressions = dataset.impressions(["timestamp", column])

    def times(part: str) -> Any:
        chosen = pc.fill_null(pc.equal(impressions[column], part), False)
        return impressions["timestamp"].filter(chosen).cast(pa.int64()).to_numpy()

    within = [np.quantile(times("train"), place / count, method="lower") for place in range(1, count)]
    return sorted({*map(int, within), int(times("eval").min())})


def _events(run: Any, dataset: Any) -> Any:
    """The events that a profile may see: with held-out items, all but theirs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from captionary.pipeline import split_of

    events, split = dataset.events(), split_of(run, dataset)
    if dataset.spec.splits[split].kind != "items":
        return events
    held_out = dataset.items(["item_id"])["item_id"].filter(pa.array(dataset.items_in(split, "eval")))
    return events.filter(pc.invert(pc.is_in(events["item_id"], value_set=held_out.combine_chunks())))


def _failures(kind: str) -> tuple[type[Exception], ...]:
    """Errors of one prompt, not of the whole model."""
    if kind == "hf":
        return ()
    from captionary.understand.openai import EndpointError

    return (EndpointError,)
