"""What the rival arms read, made beside a run's tokens.

    tokens stage ─┬─ A/, B/ …                              the run's own tokenizers
                  ├─ items/, category/, labels/, text/     item_tokens.parquet, words.json (what each id means)
                  ├─ semantic/  item_tokens.parquet, semantic.npz, report.json
                  ├─ sentence/  vectors.npz
                  ├─ profile_text/  vectors.npz, profiles.parquet
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
import pyarrow as pa
import pyarrow.parquet as pq

from captionary.errors import bad_value, nearest
from captionary.evidence.arms import RivalKind
from captionary.imagenet import KEPT
from captionary.represent.semantic_ids import SemanticIdConfig, SemanticIds
from captionary.represent.vectors import TokenVectors, Whitening
from captionary.represent.word2vec import Word2VecConfig, learn_token_vectors

if TYPE_CHECKING:
    from captionary.rank.data import DenseVectors
    from captionary.represent.jagged import Jagged
    from captionary.represent.tokenizers import TokenizerConfig

__all__ = [
    "Catalogue",
    "VectorsConfig",
    "read_lists",
    "read_profile_text",
    "read_sentence",
    "read_token_vectors",
    "write_rivals",
]

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
    categories: tuple[str, ...] = ()
    """Columns of items whose values (one, or a list of them) are the rival `category`."""
    text: str = ""
    """Column of items whose text is the rival `text`."""
    labels: int = 8
    """ImageNet labels of a picture for the rival `labels`, 1 … 32."""
    profile_text: str = "text_profiles.parquet"
    """What `captionary vectors profiles` wrote, for the rival `profile_text`; relative to the run's folder."""

    def __post_init__(self) -> None:
        if not 1 <= self.labels <= KEPT:
            raise bad_value("labels", self.labels, f"in 1…{KEPT}")
        if self.sentence_dimensions < 1:
            raise bad_value("sentence_dimensions", self.sentence_dimensions, ">= 1")


class Catalogue(NamedTuple):
    """What a data set itself says of its items, and where a run is."""

    items: pa.Table
    """All columns, one row an item, [I]."""
    pictures: Sequence[Path | None]
    """The first local picture of each item, [I]."""
    tokenizer: TokenizerConfig
    """The first tokenizer's settings, with which the catalogue's text is tokenised too."""
    run: Path = Path()
    """Folder of the run."""


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
    catalogue: Catalogue | None = None,
) -> dict[str, Any]:
    """Make the inputs of rival arms inside the tokens stage.

    Args:
        kinds: those asked for; `hash` needs nothing.
        config: how they are made.
        captions: folder of the captions stage.
        tokens: folder of the tokens stage, which has the tokenizers already.
        letter: the first tokenizer; empty where nothing is captioned, and then the rivals need no captions.
        known: bool [I], items known in training.
        base: where a relative `sentence_model` starts.
        cache: folder of sentence embeddings and labels, shared by runs.
        catalogue: of the data set; needed by `items`, `category`, `labels`, `text` and `profile_text`.

    Returns:
        Facts by kind, plain JSON values.

    Raises:
        CaptionaryError: a missing package, model, column or file, or nothing to fit on.
    """
    facts: dict[str, Any] = {}
    if catalogue is not None:
        for kind in kinds:
            if kind in ("items", "category", "labels", "text"):
                facts[kind] = _write_lists(kind, config, catalogue, known, tokens / kind, cache)
        if "profile_text" in kinds:
            facts["profile_text"] = _profile_texts(
                config, catalogue.run / config.profile_text, tokens / "profile_text", base, cache
            )
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


def read_lists(tokens: Path, kind: str, known: Flags) -> tuple[Jagged, Floats]:
    """(a rival's token lists of all items, their inverse document frequencies over the `known` items)."""
    from captionary.represent.frequency import inverse_document_frequency
    from captionary.represent.tables import read_item_tokens

    lists = read_item_tokens(tokens / kind / "item_tokens.parquet")[1]
    return lists, inverse_document_frequency(lists, known)


def read_profile_text(
    tokens: Path, users: Any, timestamps: Any, train: npt.NDArray[np.int64], dimensions: int
) -> DenseVectors:
    """What a language model said of each impression's user before it, as a vector whitened over training impressions.

    Args:
        tokens: folder of the tokens stage.
        users, timestamps: of all impressions, [N].
        train: the training rows.
        dimensions: most principal components.
    """
    from captionary.rank.data import DenseVectors
    from captionary.represent.text_profiles import rows_as_of

    with np.load(tokens / "profile_text" / "vectors.npz", allow_pickle=False) as stored:
        vectors, present = stored["vectors"], stored["present"]
    row = rows_as_of(pq.read_table(tokens / "profile_text" / "profiles.parquet"), users, timestamps)
    seen = np.unique(row[train])
    fitted = seen[present[seen]]
    if not len(fitted):
        todo = "write profiles as of moments within training (--moments)"
        raise bad_value("profile_text", 0, "a profile of at least one training impression", todo=todo)
    return DenseVectors(Whitening.fit(vectors[fitted], dimensions).apply(vectors, present), row)


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


def _write_lists(
    kind: RivalKind,
    config: VectorsConfig,
    catalogue: Catalogue,
    known: Flags,
    out: Path,
    cache: Path | None,
) -> dict[str, Any]:
    """Token lists of one rival: what each item is said to be, in words, then as ids of the words of known items."""
    from captionary.represent.jagged import Jagged
    from captionary.represent.tables import write_item_tokens

    if kind == "text":
        lists, words = _text_tokens(config.text, catalogue, known)
    else:
        if kind == "items":
            said = [[f"item {one}"] for one in catalogue.items["item_id"].to_pylist()]
        elif kind == "category":
            said = _categories(config, catalogue)
        else:
            said = _labels(config, catalogue, cache)
        seen = {word for row in np.flatnonzero(known) for word in said[row]}
        words = ["[UNK]", *sorted(seen)]
        ids = {word: place for place, word in enumerate(words)}
        # What no known item has, no ranker can have learnt.
        lists = Jagged.from_lists([[ids[word] for word in each if word in ids] for each in said])
    if not lists.lengths[known].any():
        raise bad_value(f"rival {kind}", "(empty)", "something that items known in training have")
    out.mkdir(parents=True)
    write_item_tokens(out / "item_tokens.parquet", catalogue.items["item_id"], lists)
    (out / "words.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    some = lists.lengths[lists.lengths > 0]
    return {"vocabulary": len(words), "tokens_per_item": round(float(some.mean()), 2)}


def _categories(config: VectorsConfig, catalogue: Catalogue) -> list[list[str]]:
    if not config.categories:
        todo = "name columns of items, such as `vectors: {categories: [genres]}`"
        raise bad_value("categories", "(empty)", "given for the rival category", todo=todo)
    said: list[list[str]] = [[] for _ in range(catalogue.items.num_rows)]
    for name in config.categories:
        for words, value in zip(said, _column(catalogue.items, "categories", name), strict=True):
            values = value if isinstance(value, list) else [value]
            words += [f"{name} {one}" for one in values if one is not None]
    return said


def _labels(config: VectorsConfig, catalogue: Catalogue, cache: Path | None) -> list[list[str]]:
    from captionary.imagenet import labels_of

    found = labels_of(catalogue.pictures, config.labels, cache=cache)
    return [[f"imagenet-{one}" for one in each] for each in found]


def _text_tokens(name: str, catalogue: Catalogue, known: Flags) -> tuple[Jagged, list[str]]:
    from captionary.represent.normalize import normalize
    from captionary.represent.tokenizers import make_tokenizer

    if not name:
        todo = "name a column of items, such as `vectors: {text: plot}`"
        raise bad_value("text", "(empty)", "given for the rival text", todo=todo)
    values = _column(catalogue.items, "text", name)
    lines = [" ".join(value) if isinstance(value, list) else str(value or "") for value in values]
    lines = [normalize(line) for line in lines]
    tokenizer = make_tokenizer(catalogue.tokenizer)
    tokenizer.fit([line for line, seen in zip(lines, known, strict=True) if seen and line])
    return tokenizer.encode(lines), list(tokenizer.vocabulary)


def _column(items: pa.Table, setting: str, name: str) -> list[Any]:
    if name not in items.column_names:
        raise bad_value(setting, name, nearest(name, items.column_names), where="columns of items")
    values: list[Any] = items[name].to_pylist()
    return values


def _profile_texts(
    config: VectorsConfig, written: Path, out: Path, base: Path, cache: Path | None
) -> dict[str, Any]:
    """Embed profiles in words; one row more, of no profile."""
    from captionary.represent.sentence import SentenceModel, embed_texts

    if not written.is_file():
        todo = "captionary vectors profiles CONFIG --writer …"
        raise bad_value("profile_text", str(written), "a file of profiles in words", todo=todo)
    model = _sentence_model(config, base)
    profiles = pq.read_table(written)
    made = embed_texts([*profiles["text"].to_pylist(), None], SentenceModel(model), cache=cache)
    out.mkdir(parents=True)
    np.savez(out / "vectors.npz", vectors=made.vectors, present=made.present)
    pq.write_table(profiles.select(["user_id", "as_of", "text"]), out / "profiles.parquet")
    dimensions = made.vectors.shape[1]
    return {"model": made.fingerprint, "profiles": profiles.num_rows, "dimensions": dimensions}


def _sentence_model(config: VectorsConfig, base: Path) -> Path:
    if not config.sentence_model:
        todo = "name the folder of a sentence-transformers model"
        raise bad_value("sentence_model", "(empty)", "given for rivals of sentence embeddings", todo=todo)
    return base / Path(config.sentence_model).expanduser()


class _Present(NamedTuple):
    vectors: Floats
    present: Flags


def _sentences(
    config: VectorsConfig, captions: Path, base: Path, cache: Path | None
) -> tuple[_Present, dict[str, Any]]:
    from captionary.represent.sentence import SentenceModel, embed_texts

    model = SentenceModel(_sentence_model(config, base))
    table = pq.read_table(captions / "captions.parquet", columns=["normalized"])
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
