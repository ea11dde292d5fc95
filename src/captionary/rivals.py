"""What the rival arms read: semantic ids, sentence embeddings and token vectors of a run, made beside its tokens.

    tokens stage ─┬─ A/, B/ …                              the run's own tokenizers
                  ├─ semantic/  item_tokens.parquet, semantic.npz, report.json
                  ├─ sentence/  vectors.npz
                  └─ word2vec/  A.npz                      token vectors of the first tokenizer

All are fitted on the items known in training alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from captionary.errors import bad_value
from captionary.evidence.arms import RivalKind
from captionary.represent.semantic_ids import SemanticIdConfig, SemanticIds
from captionary.represent.vectors import TokenVectors, Whitening
from captionary.represent.word2vec import Word2VecConfig, learn_token_vectors

if TYPE_CHECKING:
    from captionary.rank.data import DenseVectors
    from captionary.represent.jagged import Jagged

__all__ = ["VectorsConfig", "read_semantic", "read_sentence", "read_token_vectors", "write_rivals"]

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class VectorsConfig:
    """Vectors of captions, items and tokens, for the rival arms that `evidence: {rivals: […]}` asks for."""

    semantic: SemanticIdConfig = field(default_factory=SemanticIdConfig)
    """Sizes of semantic ids."""
    semantic_of: Literal["visual", "sentence"] = "visual"
    """Which vectors the semantic ids are fitted on: those of the pictures, or those of the captions."""
    word2vec: Word2VecConfig = field(default_factory=Word2VecConfig)
    """How token vectors are learnt."""
    sentence_model: str = ""
    """Folder of a sentence-transformers or transformers model; relative to `data.path`."""
    sentence_dimensions: int = 64
    """Principal components of the sentence embedding that the ranker sees, >= 1."""

    def __post_init__(self) -> None:
        if self.sentence_dimensions < 1:
            raise bad_value("sentence_dimensions", self.sentence_dimensions, ">= 1")


def write_rivals(
    kinds: Sequence[RivalKind],
    config: VectorsConfig,
    *,
    captions: Path,
    tokens: Path,
    letter: str,
    known: Flags,
    base: Path = Path(),
    cache: Path | None = None,
) -> dict[str, Any]:
    """Make the inputs of rival arms inside the tokens stage.

    Args:
        kinds: those asked for; `hash` needs nothing.
        config: how they are made.
        captions: folder of the captions stage.
        tokens: folder of the tokens stage, which has the tokenizers already.
        letter: the first tokenizer.
        known: bool [I], items known in training.
        base: where a relative `sentence_model` starts.
        cache: folder of sentence embeddings, shared by runs.

    Returns:
        Facts by kind, plain JSON values.

    Raises:
        CaptionaryError: a missing package or model, or no vectors to fit semantic ids on.
    """
    facts: dict[str, Any] = {}
    sentence: _Present | None = None
    if "sentence" in kinds or ("semantic" in kinds and config.semantic_of == "sentence"):
        sentence, facts["sentence"] = _sentences(config, captions, base, cache)
        (tokens / "sentence").mkdir()
        np.savez(tokens / "sentence" / "vectors.npz", vectors=sentence.vectors, present=sentence.present)
    if "semantic" in kinds:
        facts["semantic"] = _semantic(
            config, sentence or _visual(captions), captions, tokens / "semantic", known
        )
    if "word2vec" in kinds:
        from captionary.represent.tables import read_item_tokens
        from captionary.represent.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(tokens / letter)
        learnt = learn_token_vectors(
            read_item_tokens(tokens / letter / "item_tokens.parquet")[1],
            known,
            vocabulary=len(tokenizer.vocabulary),
            tokenizer=tokenizer.fingerprint(),
            config=config.word2vec,
        )
        learnt.save(tokens / "word2vec" / f"{letter}.npz")
        facts["word2vec"] = {"tokens": int(learnt.known.sum()), "dimensions": learnt.vectors.shape[1]}
    return facts


def read_semantic(tokens: Path, known: Flags) -> tuple[Jagged, Floats]:
    """(semantic ids of all items as token lists, their inverse document frequencies over the `known` items)."""
    from captionary.represent.frequency import inverse_document_frequency
    from captionary.represent.tables import read_item_tokens

    lists = read_item_tokens(tokens / "semantic" / "item_tokens.parquet")[1]
    vocabulary = SemanticIds.load(tokens / "semantic" / "semantic.npz").vocabulary
    return lists, inverse_document_frequency(lists, known, vocabulary)


def read_sentence(tokens: Path, shown: npt.NDArray[np.int64], dimensions: int) -> DenseVectors:
    """Sentence embeddings of all items, whitened over the items `shown` in training; those without a caption have
    zeros, the mean."""
    from captionary.rank.data import DenseVectors

    with np.load(tokens / "sentence" / "vectors.npz", allow_pickle=False) as stored:
        vectors, present = stored["vectors"], stored["present"]
    fitted = shown[present[shown]]
    return DenseVectors(Whitening.fit(vectors[fitted], dimensions).apply(vectors, present))


def read_token_vectors(tokens: Path, letter: str) -> TokenVectors:
    """The vectors of a tokenizer's tokens, checked to be of that tokenizer."""
    from captionary.represent.tokenizers import load_tokenizer

    return TokenVectors.load(
        tokens / "word2vec" / f"{letter}.npz", load_tokenizer(tokens / letter).fingerprint()
    )


class _Present(NamedTuple):
    vectors: Floats
    present: Flags


def _sentences(
    config: VectorsConfig, captions: Path, base: Path, cache: Path | None
) -> tuple[_Present, dict[str, Any]]:
    from captionary.represent.sentence import SentenceModel, embed_texts

    if not config.sentence_model:
        todo = "name the folder of a sentence-transformers model"
        raise bad_value("sentence_model", "(empty)", "given for rivals of sentence embeddings", todo=todo)
    table = pq.read_table(captions / "captions.parquet", columns=["normalized"])
    model = SentenceModel(base / Path(config.sentence_model).expanduser())
    made = embed_texts(table["normalized"].to_pylist(), model, cache=cache)
    facts = {"model": model.fingerprint, "dimensions": made.vectors.shape[1], "new": made.new}
    return _Present(made.vectors, made.present), facts


def _visual(captions: Path) -> _Present:
    with np.load(captions / "vectors.npz", allow_pickle=False) as stored:
        return _Present(stored["vectors"].astype(np.float32), stored["present"])


def _semantic(
    config: VectorsConfig, source: _Present, captions: Path, out: Path, known: Flags
) -> dict[str, Any]:
    from captionary.represent.tables import write_item_tokens

    if not (source.present & known).any():
        where = f"no item known in training has a {config.semantic_of} vector"
        raise bad_value("semantic_of", config.semantic_of, "a kind of vector that items have", where=where)
    # At length 1, so that clusters are of what a vector says and not of how loudly.
    lengths = np.linalg.norm(source.vectors, axis=1, keepdims=True)
    unit = source.vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    ids = SemanticIds.fit(unit[source.present & known], config.semantic)
    out.mkdir()
    ids.save(out / "semantic.npz")
    item_ids = pq.read_table(captions / "captions.parquet", columns=["item_id"])["item_id"]
    write_item_tokens(out / "item_tokens.parquet", item_ids, ids.tokens(ids.assign(unit, source.present)))
    report = ids.report(unit, source.present)
    (out / "report.json").write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    return {"of": config.semantic_of, "vocabulary": ids.vocabulary, **report.to_dict()}
