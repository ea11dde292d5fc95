"""From a ranker that was trained on shards, and the catalogue of some, to an artefact that `ServingRanker` loads.

    checkpoint of captionary fit   weights, vocabularies ──┐
    OUT/ranker                     calibration ────────────┼──▶ rows, look-ups, whitening
    shards                         items.parquet ──────────┘

The shards need not be those that the ranker was trained on: tomorrow's, made `--like` them, bring new items.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from captionary.errors import bad_value
from captionary.rank.artefact import Artefact, as_lists, standardise
from captionary.rank.checkpoint import load_ranker
from captionary.rank.data import Ints
from captionary.rank.export import fold_items
from captionary.rank.folding import ItemInputs
from captionary.rank.lookup import Lookup
from captionary.rank.shards import Shards
from captionary.rank.state import Checkpoint, checkpoints, load_any

__all__ = ["Trained", "artefact_of_shards", "find_training", "load_trained"]


class Trained(NamedTuple):
    """A ranker of `captionary fit`."""

    checkpoint: Checkpoint
    """Its model is calibrated where that was asked for."""
    folder: Path
    """Of the checkpoint."""
    home: Path
    """The training's --out; of a checkpoint that was moved, the folder around it."""


def find_training(folder: Path) -> tuple[Path, Path] | None:
    """(checkpoint, the training's --out) of any folder of a training: its --out, a checkpoint, the ranker in either."""
    folder = folder.resolve()
    if folder.name == "ranker" and not checkpoints(folder):
        folder = folder.parent
    found = checkpoints(folder)
    if not found:
        return None
    parent = found[-1].parent
    return found[-1], parent.parent if parent.name == "checkpoints" else parent


def load_trained(folder: Path) -> Trained:
    """Read the checkpoint that `folder` is or has, the last where it has several, with its calibration.

    A calibration that `captionary fit --calibrate` left in the training's --out is of the last checkpoint: an earlier
    one, asked for by name, has none.

    Raises:
        CaptionaryError: no training there, a checkpoint that is damaged, or a calibration of other weights.
    """
    found = find_training(folder)
    if found is None:
        rule = "the config of a run, the --out of captionary fit, or a checkpoint in it"
        raise bad_value("ranker", str(folder), rule)
    path, home = found
    checkpoint = load_any(path)
    calibrated = home / "ranker"
    if checkpoint.model.calibration is None and checkpoints(home)[-1:] == [path] and calibrated.is_dir():
        ranker, weights = load_ranker(calibrated), checkpoint.model.state_dict()
        kept = ranker.state_dict()
        if kept.keys() != weights.keys() or not all(torch.equal(kept[name], weights[name]) for name in kept):
            todo = "calibrate again: captionary fit SHARDS --out … --calibrate platt"
            raise bad_value("ranker", str(calibrated), f"of the weights in {path.name}", todo=todo)
        checkpoint.model.calibration = ranker.calibration
    return Trained(checkpoint, path, home)


def artefact_of_shards(
    checkpoint: Checkpoint, shards: Shards, *, provenance: Mapping[str, Any] | None = None
) -> Artefact:
    """Fold every item of the shards' catalogue.

    Args:
        checkpoint: its model is in evaluation mode.
        shards: with the columns, tokenizer and projections of those that the ranker was trained on; items that it never
            saw share its vector of the unseen, tokens that it does not know are left out.
        provenance: kept beside, for people.

    Raises:
        CaptionaryError: shards that do not fit; weights that are not finite; item ids that are not unique.
    """
    model, schema = checkpoint.model, checkpoint.model.schema
    shards.schema.check_continues(
        checkpoint.schema,
        str(shards.root),
        those="the shards that the ranker was trained on",
        todo="make them with --like those",
    )
    items, vocabularies = shards.items(), checkpoint.vocabularies
    of_items = frozenset(name for name in schema.vectors if shards.schema.vectors[name].of == "item")
    index = {"item": vocabularies["item"].index(items.ids)}
    for name in schema.item_categories:
        index[f"item.{name}"] = vocabularies[f"item.{name}"].index(items.categorical[name])
    places = [place for place, name in enumerate(schema.numeric) if name.startswith("item.")]
    mean, scale = model.mean.numpy()[places], model.scale.numpy()[places]
    numbers = [items.numeric[schema.numeric[place].removeprefix("item.")] for place in places]
    numeric = np.stack(numbers, axis=1) if numbers else np.empty((len(items.ids), 0))
    tokens = items.tokens if schema.tokens else None

    def inputs(chosen: Ints) -> ItemInputs:
        visual = items.visual[chosen] if schema.visual and items.visual is not None else None
        return ItemInputs(
            ids={name: torch.from_numpy(rows[chosen]) for name, rows in index.items()},
            numeric=torch.from_numpy(standardise(numeric[chosen], mean, scale)),
            visual=None if visual is None else torch.from_numpy(visual),
            tokens=None if tokens is None else as_lists(tokens.take(chosen), schema.vocabulary),
            vectors={
                name: torch.from_numpy(items.vectors[name][chosen])
                for name in schema.vectors
                if name in of_items
            },
        )

    rows, item_rows = fold_items(model, of_items, items.ids, len(items.ids), inputs)
    return Artefact(
        ranker=model,
        rows=rows,
        item_rows=item_rows,
        lookups={
            name: Lookup(vocabulary, name.replace(".", " column ", 1))
            for name, vocabulary in vocabularies.items()
        },
        item_vectors=of_items,
        whitening=shards.projection() if schema.visual else None,
        tokens=tokens,
        provenance=provenance or {},
    )
