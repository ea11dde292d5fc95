"""The exported ranker's folder: what is in it, and how raw features of items become what the ranker reads.

artefact.json      format, version, provenance, names of the look-ups, sizes of all files
ranker/            config and weights, as `captionary.rank.checkpoint` writes them
rows.npy           float32 [1 + I, R], memory-mapped; row 0 is an unseen item without content
tokens.npz         the items' token lists, for explanations
whitening.npz      from the encoder's visual vector to the ranker's, where it has one and the run fitted it
lookups/N.parquet  raw ids and categories with their rows
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captionary.errors import bad_value, nearest
from captionary.publish import atomic_folder
from captionary.rank.bags import Lists
from captionary.rank.batches import _FAR
from captionary.rank.checkpoint import load_ranker, load_vocabularies, save_ranker
from captionary.rank.folding import ItemInputs
from captionary.rank.lookup import Lookup
from captionary.rank.model import Ranker
from captionary.rank.vocabulary import Vocabulary
from captionary.represent.jagged import Jagged
from captionary.represent.vectors import Whitening

__all__ = [
    "Artefact",
    "ItemFeatures",
    "as_lists",
    "item_inputs",
    "read_artefact",
    "standardise",
    "write_artefact",
]

Floats = npt.NDArray[np.float32]
_FORMAT = 1


class ItemFeatures(NamedTuple):
    """The content of n items to fold, which the artefact need not have seen; what is missing is unseen or empty."""

    ids: Sequence[int | str] | npt.NDArray[Any]
    """[n] raw ids; those of training have a vector of their own, others share that of unseen items."""
    categorical: Mapping[str, Sequence[Any]] = MappingProxyType({})
    """Item column → n raw categories."""
    numeric: Mapping[str, npt.NDArray[Any]] = MappingProxyType({})
    """Item column → [n]; NaN: the training rows' mean."""
    visual: Floats | None = None
    """[n, encoder's D] as the captioner's encoder gives it: the artefact holds the whitening; a row of NaN for none."""
    tokens: Jagged | None = None
    """n lists of the artefact's tokenizer; an id beyond its vocabulary is left out."""
    vectors: Mapping[str, Floats] = MappingProxyType({})
    """Key → [n, D], as the ranker was trained on."""


class Artefact(NamedTuple):
    """What the folder holds, read."""

    ranker: Ranker
    rows: Floats
    """[1 + I, R]."""
    item_rows: Lookup
    """Raw item id → row of `rows`."""
    lookups: Mapping[str, Lookup]
    """`user`, `item`, `context.COLUMN` and `item.COLUMN` → rows of the ranker's tables."""
    item_vectors: frozenset[str]
    """Which of the ranker's further dense vectors belong to items."""
    whitening: Whitening | None
    """None: visual vectors are given as the ranker was trained on them."""
    tokens: Jagged | None
    """[I] lists, None where the ranker reads no item tokens."""
    provenance: Mapping[str, Any]
    """Run, arm, seed, fingerprints of the stages, and whatever else the export was told."""
    version: str = ""

    def tokens_of(self, items: Sequence[Any] | npt.NDArray[Any]) -> Jagged:
        """The token lists of items, empty for those that are not known."""
        places = self.item_rows.rows(items) - 1
        if self.tokens is None:
            return Jagged(np.empty(0, np.int32), np.zeros(len(places) + 1, np.int64))
        lengths = np.where(places < 0, 0, self.tokens.lengths[places])
        found = self.tokens.take(places[places >= 0])
        return Jagged(found.values, np.concatenate([[0], np.cumsum(lengths)]), found.weights)


def write_artefact(parts: Artefact, out: Path) -> str:
    """Write the folder, whole or not at all; returns the version: a digest of everything but the provenance.

    Raises:
        CaptionaryError: `out` cannot be written, or holds files of another maker.
    """
    with atomic_folder(out) as partial:
        vocabularies = {name: lookup.vocabulary for name, lookup in parts.lookups.items()}
        save_ranker(parts.ranker, partial / "ranker", vocabularies)
        (partial / "ranker" / ".captionary.json").unlink(missing_ok=True)  # the whole folder has one
        np.save(partial / "rows.npy", parts.rows)
        if parts.tokens is not None:
            lists = as_lists(parts.tokens, parts.ranker.schema.vocabulary)
            values, offsets, weights = (part.numpy() for part in lists)
            np.savez(partial / "tokens.npz", values=values.astype(np.int32), offsets=offsets, weights=weights)
        if parts.whitening is not None:
            np.savez(
                partial / "whitening.npz", mean=parts.whitening.mean, components=parts.whitening.components
            )
        parts.item_rows.vocabulary.save(partial / "items.parquet")
        files = {
            path.relative_to(partial).as_posix(): path.stat().st_size
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        version = _digest(partial, files)
        said = {
            "format": _FORMAT,
            "version": version,
            "item_vectors": sorted(parts.item_vectors),
            "files": files,
            "provenance": dict(parts.provenance),
        }
        (partial / "artefact.json").write_text(json.dumps(said, indent=1, default=str), encoding="utf-8")
    return version


def read_artefact(folder: Path) -> Artefact:
    """Read what `write_artefact` wrote; its files' sizes are checked, and its rows mapped into memory, not read.

    Raises:
        CaptionaryError: a file is missing, damaged, or of another format.
    """
    path = folder / "artefact.json"
    todo = "export the ranker again"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != _FORMAT:
            raise bad_value("format", said["format"], str(_FORMAT), where=str(path), todo=todo)
        for name, size in said["files"].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise bad_value(f"size of {name}", found, f"{size} bytes", where=str(folder), todo=todo)
        # copy-on-write: torch takes no read-only memory, and nothing is ever written
        rows = np.load(folder / "rows.npy", mmap_mode="c")
        tokens = whitening = None
        if "tokens.npz" in said["files"]:
            with np.load(folder / "tokens.npz") as stored:
                tokens = Jagged(stored["values"], stored["offsets"], stored["weights"])
        if "whitening.npz" in said["files"]:
            with np.load(folder / "whitening.npz") as stored:
                whitening = Whitening(stored["mean"], stored["components"])
        version, provenance, of_items = said["version"], said["provenance"], frozenset(said["item_vectors"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        where = str(error) or type(error).__name__
        raise bad_value(
            "artefact", str(folder), "what captionary export wrote", where=where, todo=todo
        ) from None
    return Artefact(
        ranker=load_ranker(folder / "ranker"),
        rows=rows,
        item_rows=Lookup(Vocabulary.load(folder / "items.parquet"), "item"),
        lookups={
            name: Lookup(vocabulary, name.replace(".", " column ", 1))
            for name, vocabulary in load_vocabularies(folder / "ranker").items()
        },
        item_vectors=of_items,
        whitening=whitening,
        tokens=tokens,
        provenance=provenance,
        version=version,
    )


def item_inputs(items: ItemFeatures, parts: Artefact) -> ItemInputs:
    """Raw features of n items as the ranker reads them.

    Raises:
        CaptionaryError: an unknown column, lengths that disagree, an infinite number.
    """
    schema, count = parts.ranker.schema, len(items.ids)
    own = [name.removeprefix("item.") for name in schema.numeric if name.startswith("item.")]
    kinds: tuple[tuple[str, Mapping[str, Any], Collection[str]], ...] = (
        ("categorical", items.categorical, schema.item_categories),
        ("numeric", items.numeric, own),
        ("vectors", items.vectors, parts.item_vectors),
    )
    for kind, given, known in kinds:
        for name, column in given.items():
            if name not in known:
                raise bad_value(f"{kind} column of items", name, nearest(name, known))
            if len(column) != count:
                raise bad_value(f"length of item column {name}", len(column), str(count))
    ids = {"item": parts.lookups["item"].rows(items.ids)}
    for name in schema.item_categories:
        raw = items.categorical.get(name)
        key = f"item.{name}"
        ids[key] = np.zeros(count, np.int64) if raw is None else parts.lookups[key].rows(raw)
    return ItemInputs(
        ids={name: torch.from_numpy(index) for name, index in ids.items()},
        numeric=torch.from_numpy(_numeric(items, own, parts)),
        visual=_visual(items, parts),
        tokens=_tokens(items, parts),
        vectors={name: _vectors(items, name, parts) for name in schema.vectors if name in parts.item_vectors},
    )


def standardise(
    values: npt.NDArray[np.float64], mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]
) -> Floats:
    """As in training; NaN is the mean."""
    standard = np.nan_to_num((values - mean) / scale, nan=0.0)
    return np.clip(standard, -_FAR, _FAR).astype(np.float32)


def as_lists(lists: Jagged, vocabulary: int) -> Lists:
    """Lists for the ranker; tokens outside its vocabulary are left out, unweighted lists are means."""
    values, offsets, weights = lists
    known = (values >= 0) & (values < vocabulary)
    if not known.all():
        offsets = np.concatenate([[0], np.cumsum(known)])[offsets]
        values, weights = values[known], None if weights is None else weights[known]
    if weights is None:
        lengths = np.diff(offsets)
        weights = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    flat = values.astype(np.int64)
    return Lists(
        torch.from_numpy(flat), torch.from_numpy(offsets.astype(np.int64)), torch.from_numpy(weights)
    )


def _numeric(items: ItemFeatures, names: Sequence[str], parts: Artefact) -> Floats:
    count = len(items.ids)
    columns = []
    for name in names:
        column = np.asarray(items.numeric.get(name, np.full(count, np.nan)), np.float64)
        if np.isinf(column).any():
            raise bad_value(f"item column {name}", "infinite", "finite, or NaN where missing")
        columns.append(column)
    places = [parts.ranker.schema.numeric.index(f"item.{name}") for name in names]
    values = np.stack(columns, axis=1) if columns else np.empty((count, 0))
    return standardise(values, parts.ranker.mean.numpy()[places], parts.ranker.scale.numpy()[places])


def _visual(items: ItemFeatures, parts: Artefact) -> torch.Tensor | None:
    size, count = parts.ranker.schema.visual, len(items.ids)
    if not size:
        return None
    if items.visual is None:
        return torch.zeros(count, size)
    given = size if parts.whitening is None else len(parts.whitening.mean)
    vectors = np.asarray(items.visual, np.float32)
    if vectors.shape != (count, given):
        raise bad_value("shape of visual", vectors.shape, f"({count}, {given})")
    present = np.asarray(~np.isnan(vectors).all(axis=1))
    if not np.isfinite(vectors[present]).all():
        raise bad_value("visual", "not finite", "finite, or a row of NaN for no picture")
    filled = np.where(present[:, None], vectors, 0)
    if parts.whitening is None:
        return torch.from_numpy(filled)
    return torch.from_numpy(parts.whitening.apply(filled, present))


def _tokens(items: ItemFeatures, parts: Artefact) -> Lists | None:
    schema, count = parts.ranker.schema, len(items.ids)
    if not schema.tokens:
        return None
    tokens = items.tokens
    if tokens is None:
        tokens = Jagged(np.empty(0, np.int32), np.zeros(count + 1, np.int64))
    if tokens.rows != count:
        raise bad_value("lists of tokens", tokens.rows, str(count))
    return as_lists(tokens, schema.vocabulary)


def _vectors(items: ItemFeatures, name: str, parts: Artefact) -> torch.Tensor:
    shape = (len(items.ids), parts.ranker.schema.vectors[name])
    vectors = items.vectors.get(name)
    if vectors is None:
        return torch.zeros(shape)
    found = np.asarray(vectors, np.float32)
    if found.shape != shape or not np.isfinite(found).all():
        raise bad_value(f"vectors {name}", f"shape {found.shape}", f"{shape}, finite")
    return torch.from_numpy(found)


def _digest(folder: Path, files: Mapping[str, int]) -> str:
    digest = hashlib.blake2b(str(_FORMAT).encode(), digest_size=12)
    for name in sorted(files):
        digest.update(name.encode())
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
