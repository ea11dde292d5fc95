"""Exporting a run: its tokens and its log, as Parquet for other systems."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from captionary.contract import open_dataset
from captionary.errors import bad_value, nearest
from captionary.interchange.parquet import Export, Source, export_features
from captionary.pipeline import run, split_of
from captionary.represent.tables import read_item_tokens
from captionary.represent.tokenizers import load_tokenizer
from captionary.settings import RunConfig

__all__ = ["export_run", "run_source"]


def export_run(
    config: RunConfig,
    out: Path,
    *,
    letter: str | None = None,
    as_of: Sequence[datetime] = (),
    impressions: bool = False,
    held_out: bool = False,
) -> Export:
    """Export what a run knows; its captions and tokens are brought up to date first.

    Args:
        config: the run.
        out: a new folder, or one that an earlier export wrote.
        letter: the tokenizer; None: the first, which carries the run's profiles.
        as_of: moments of the users' snapshots; (): right after the last event.
        impressions: whether to write the point-in-time profiles of the data set's impressions too.
        held_out: whether profiles see the events of items that the run's split holds out, as a live system would.
            False: what the run's rankers saw.

    Raises:
        CaptionaryError: see `export_features` and `captionary.pipeline.run`; no such tokenizer; no captions.
    """
    source = run_source(config, letter, held_out=held_out)
    asked = None
    if impressions:
        dataset = open_dataset(config.data.path or config.folder / "data" / "world")
        asked = dataset.impressions(["impression_id", "user_id", "timestamp"])
    return export_features(out, source, as_of=as_of, impressions=asked)


def run_source(config: RunConfig, letter: str | None = None, *, held_out: bool = False) -> Source:
    """Catalogue, tokenizer and log of a run; for the arguments and errors see `export_run`."""
    chosen = letter or next(iter(config.tokenizers))
    if chosen not in config.tokenizers:
        raise bad_value("tokenizer", chosen, nearest(chosen, config.tokenizers), where=f"run {config.name}")
    run(config, "tokenize")
    folder = config.folder / "tokens" / chosen
    if not folder.exists():
        raise bad_value("captions", "none", "at least one to export tokens of", where=str(config.folder))
    dataset = open_dataset(config.data.path or config.folder / "data" / "world")
    item_ids, tokens = read_item_tokens(folder / "item_tokens.parquet")
    items = dataset.items(["item_id", "created_at"])
    place = pc.index_in(item_ids, value_set=items["item_id"].combine_chunks())
    events = dataset.events() if dataset.spec.event_types else None
    split = split_of(config, dataset)
    if events is not None and not held_out and dataset.spec.splits[split].kind == "items":
        unseen = items["item_id"].filter(pa.array(dataset.items_in(split, "eval")))
        events = events.filter(pc.invert(pc.is_in(events["item_id"], value_set=unseen)))
    types = config.profiles.event_types or dataset.spec.event_types
    return Source(
        item_ids=item_ids,
        item_tokens=tokens,
        tokenizer=load_tokenizer(folder),
        created_at=items["created_at"].take(place),
        events=events,
        profiles=dataclasses.replace(config.profiles, event_types=types),
    )
