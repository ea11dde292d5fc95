"""What a ranker reads, gathered from the finished stages: ids, features, tokens, profiles and the rows to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captionary.evidence.placebo import make_placebo
from captionary.pipeline import Stages, split_of
from captionary.represent.jagged import Jagged
from captionary.represent.tables import read_item_tokens
from captionary.represent.tokenizers import load_tokenizer

__all__ = ["evaluation_rows", "item_tokens", "profile_folder", "training_rows"]


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
    """Token lists of all items, real (key ``A``) or placebo (``A:shuffled``), and the inverse document frequencies that profiles weigh them by.

    A placebo's frequencies are those of its own lists among training items, as the real ones' are.
    """
    assert stages.tokens is not None
    letter, _, kind = key.partition(":")
    folder = stages.tokens.folder / letter
    tokenizer = load_tokenizer(folder)
    tokens = read_item_tokens(folder / "item_tokens.parquet")[1]
    if not kind:
        return tokens, tokenizer.idf()
    made = make_placebo(
        kind,  # type: ignore[arg-type]
        tokens,
        vocabulary_size=len(tokenizer.vocabulary),
        seed=stages.config.evidence.seed,
    )
    return made, _idf(made, len(tokenizer.vocabulary))


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
