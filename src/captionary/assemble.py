"""What a ranker reads, gathered from the finished stages: ids, features, tokens, profiles, rows to learn from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.evidence.arms import LISTS
from captionary.evidence.placebo import make_placebo
from captionary.pipeline import Stages, split_of, training_items
from captionary.rank.data import DenseVectors, RankingData
from captionary.rank.features import FeatureSet
from captionary.represent.jagged import Jagged
from captionary.represent.tables import read_item_tokens, read_profiles
from captionary.represent.tokenizers import load_tokenizer
from captionary.represent.vectors import Whitening
from captionary.rivals import read_lists, read_profile_text, read_sentence, read_token_vectors

__all__ = [
    "evaluation_rows",
    "item_tokens",
    "profile_folder",
    "ranking_data",
    "training_rows",
    "with_features",
]


def ranking_data(stages: Stages) -> RankingData:
    """Everything that all arms share: ids, context, item columns, activity and visual vectors; no tokens yet.

    Ids, categories and the projection of visual vectors are fitted on training rows and their items alone.
    """
    assert stages.captions is not None
    assert stages.profiles is not None
    config, dataset = stages.config, stages.dataset
    spec, impressions, items = dataset.spec, dataset.impressions(), dataset.items()
    train = training_rows(stages, impressions)
    item = pc.index_in(impressions["item_id"].combine_chunks(), value_set=items["item_id"].combine_chunks())
    keys = stages.profiles.facts["keys"] or ["activity"]
    masses = read_profiles(profile_folder(stages.profiles.folder, keys[0]))[1]
    activity = [np.log1p(masses[event].mass) for event in masses]
    item_index = item.to_numpy(zero_copy_only=False).astype(np.int64)
    shown = np.unique(item_index[train])
    return RankingData.from_arrays(
        tasks=tuple(task.name for task in spec.tasks),
        task_kinds=tuple(task.kind for task in spec.tasks),
        task_weights=tuple(task.weight for task in spec.tasks),
        users=impressions["user_id"],
        item=item_index,
        items=items.num_rows,
        item_keys=items["item_id"],
        min_rows=config.ranker.id_min_rows,
        hash_rows=config.ranker.id_hash_rows,
        category_min_rows=config.ranker.category_min_rows,
        category_hash_rows=config.ranker.category_hash_rows,
        labels=dataset.labels(impressions),
        train=train,
        eval=evaluation_rows(stages, impressions),
        context_categorical={name: impressions[name] for name in spec.context.categorical},
        context_numeric={name: _numbers(impressions[name], train) for name in spec.context.numeric},
        item_categorical={name: items[name] for name in spec.item_features.categorical},
        item_numeric={name: _numbers(items[name], shown) for name in spec.item_features.numeric},
        events=tuple(masses),
        activity=np.column_stack(activity).astype(np.float32) if activity else None,
        visual=_visual(stages.captions.folder, shown, config.visual_dimensions),
    )


def with_features(stages: Stages, shared: RankingData, features: FeatureSet) -> RankingData:
    """`shared` with the item tokens and profiles of one arm, read from their stages."""
    assert stages.profiles is not None
    tokens = {features.tokens: item_tokens(stages, features.tokens)[0]} if features.tokens else {}
    profiles = {}
    if features.profiles:
        built = read_profiles(profile_folder(stages.profiles.folder, features.profiles))[1]
        profiles = {features.profiles: {event: profile.lists for event, profile in built.items()}}
    assert stages.tokens is not None
    vectors, learnt, folder = {}, {}, stages.tokens.folder
    if "sentence" in features.vectors:
        shown = np.unique(shared.item[shared.train])
        vectors["sentence"] = read_sentence(folder, shown, stages.config.vectors.sentence_dimensions)
    for key in features.vectors:
        if key.startswith("visual:"):
            vectors[key] = _dealt(
                shared.visual, seed=stages.config.evidence.seed, draw=int(key.split(":")[2])
            )
    if "profile_text" in features.vectors:
        seen = stages.dataset.impressions(["user_id", "timestamp"])
        dimensions = stages.config.vectors.sentence_dimensions
        vectors["profile_text"] = read_profile_text(
            folder, seen["user_id"], seen["timestamp"], shared.train, dimensions
        )
    if features.token_vectors:
        learnt[features.token_vectors] = read_token_vectors(folder, features.token_vectors)
    return dataclasses.replace(
        shared, item_tokens=tokens, profiles=profiles, vectors=vectors, token_vectors=learnt
    )


def training_rows(stages: Stages, impressions: pa.Table) -> npt.NDArray[np.int64]:
    """Rows of `impressions` to learn from, in time order."""
    return _rows(stages, impressions, "train")


def evaluation_rows(stages: Stages, impressions: pa.Table) -> npt.NDArray[np.int64]:
    """Rows of `impressions` to measure on, in time order."""
    return _rows(stages, impressions, "eval")


def profile_folder(profiles: Path, key: str) -> Path:
    """Where the profile stage keeps the profiles of a tokenizer's letter or of one of its placebos."""
    return profiles / key.replace(":", "-")


def item_tokens(stages: Stages, key: str) -> tuple[Jagged, npt.NDArray[np.float32]]:
    """Token lists of all items, real (key ``A``) or placebo (``A:shuffled:0``), and their idf, which profiles use.

    A placebo's frequencies are those of its own lists, over all items: they know of no real caption.
    """
    assert stages.tokens is not None
    if key in LISTS:
        return read_lists(stages.tokens.folder, key, training_items(stages.config, stages.dataset))
    letter, kind, draw = (*key.split(":"), "", "")[:3]
    folder = stages.tokens.folder / letter
    tokenizer = load_tokenizer(folder)
    tokens = read_item_tokens(folder / "item_tokens.parquet")[1]
    if not kind:
        return tokens, tokenizer.idf()
    made = make_placebo(
        kind,  # type: ignore[arg-type]
        tokens,
        vocabulary_size=len(tokenizer.vocabulary),
        seed=1000 * stages.config.evidence.seed + 10 * int(draw or 0),
    )
    return made, _idf(made, len(tokenizer.vocabulary))


def _numbers(column: pa.ChunkedArray, fitted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """A numeric column, its nulls replaced by the mean of the rows that the ranker is fitted on."""
    values = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    known = values[fitted][~np.isnan(values[fitted])]
    return np.where(np.isnan(values), known.mean() if len(known) else 0.0, values)


def _visual(captions: Path, shown: npt.NDArray[np.int64], dimensions: int) -> npt.NDArray[np.float32] | None:
    """Whitened visual vectors of all items [I, d], fitted on the items `shown` in training; None without any."""
    with np.load(captions / "vectors.npz") as stored:
        vectors, present = stored["vectors"].astype(np.float32), stored["present"]
    fitted = shown[present[shown]]
    return Whitening.fit(vectors[fitted], dimensions).apply(vectors, present) if len(fitted) else None


def _dealt(visual: npt.NDArray[np.float32] | None, *, seed: int, draw: int) -> DenseVectors:
    """The visual vectors of the items that have one, dealt anew among them."""
    assert visual is not None
    order, rows = np.arange(len(visual)), np.flatnonzero(visual.any(axis=1))
    order[rows] = np.random.default_rng((seed, draw)).permutation(rows)
    return DenseVectors(visual[order])


def _idf(tokens: Jagged, size: int) -> npt.NDArray[np.float32]:
    rows = np.repeat(np.arange(tokens.rows), tokens.lengths)
    pairs = np.unique(np.stack([rows, tokens.values]), axis=1) if len(rows) else np.zeros((2, 0), int)
    frequency = np.bincount(pairs[1], minlength=size)
    return (np.log((1 + tokens.rows) / (1 + frequency)) + 1).astype(np.float32)


def _rows(stages: Stages, impressions: pa.Table, part: str) -> npt.NDArray[np.int64]:
    column = stages.dataset.spec.splits[split_of(stages.config, stages.dataset)].column
    chosen = np.flatnonzero(pc.fill_null(pc.equal(impressions[column], part), False).to_numpy())
    times: Any = impressions["timestamp"].cast(pa.int64()).to_numpy()[chosen]
    return chosen[np.argsort(times, kind="stable")]
