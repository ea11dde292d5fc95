"""Token vectors learnt from the captions alone: word2vec's skip-gram with negative sampling (paper ref. [11]).

Tokens that stand beside each other in captions get near vectors (Mikolov et al. 2013, "Distributed Representations of
Words and Phrases and their Compositionality"). A ranker's token table that starts from them knows that a couch is
nearly a sofa before it has seen a single click on either. Learnt by gensim, in the extra ``vectors``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.represent.jagged import Jagged
from captionary.represent.vectors import TokenVectors

__all__ = ["Word2VecConfig", "learn_token_vectors"]


@dataclass(frozen=True, kw_only=True)
class Word2VecConfig:
    """How token vectors are learnt."""

    dimensions: int = 64
    """Width of the vectors, >= 1; a ranker's narrower table takes their leading principal directions."""
    window: int = 5
    """Tokens to each side that count as neighbours, >= 1."""
    negative: int = 5
    """Drawn tokens that each neighbour is told from, >= 1."""
    epochs: int = 20
    """Passes over the lists, >= 1: captions are short, and few beside word2vec's billions of words."""
    min_count: int = 3
    """Fewest occurrences of a token that gets a vector, >= 1."""
    sample: float = 1e-3
    """Share of all tokens beyond which a frequent one is thinned out, >= 0; 0 keeps all."""
    seed: int = 0
    """Decides the initial vectors and the draws."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise bad_value(field.name, value, "finite")
        for name in ("dimensions", "window", "negative", "epochs", "min_count"):
            if getattr(self, name) < 1:
                raise bad_value(name, getattr(self, name), ">= 1")
        for name in ("sample", "seed"):
            if getattr(self, name) < 0:
                raise bad_value(name, getattr(self, name), ">= 0")


def learn_token_vectors(
    item_tokens: Jagged,
    known: npt.NDArray[np.bool_],
    *,
    vocabulary: int,
    tokenizer: str,
    config: Word2VecConfig | None = None,
) -> TokenVectors:
    """Learn a vector for each token from the lists of the items known in training, and of no other.

    One worker, so that the same lists, config and version of gensim give the same vectors to the bit.

    Args:
        item_tokens: lists of I items, in the order of their captions' words.
        known: bool [I], which items occur in training.
        vocabulary: V, size of the tokenizer's vocabulary.
        tokenizer: the tokenizer's fingerprint, saved with the vectors.
        config: default: `Word2VecConfig()`.

    Returns:
        Vectors [V, D]; id 0, [UNK], and tokens of fewer than `min_count` occurrences are not known.

    Raises:
        CaptionaryError: gensim is missing, an id is beyond the vocabulary, or no token occurs often enough.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError:
        rule = "installed, as word2vec needs it"
        raise bad_value("gensim", "missing", rule, todo="pip install 'captionary[vectors]'") from None
    config = config or Word2VecConfig()
    if known.shape != (item_tokens.rows,):
        raise bad_value("known", str(known.shape), f"a value for each of {item_tokens.rows} items")
    largest = int(item_tokens.values.max(initial=0))
    if largest >= vocabulary:
        raise bad_value("vocabulary", vocabulary, f"> {largest}, an id that occurs")
    lists = item_tokens.take(np.flatnonzero(known))
    counts = np.bincount(lists.values, minlength=vocabulary)
    counts[0] = 0  # [UNK] is not one word
    if not (counts >= config.min_count).any():
        raise bad_value(
            "min_count", config.min_count, f"<= {counts.max()}, how often the most frequent token occurs"
        )
    corpus = _Corpus(lists)
    model = Word2Vec(
        sg=1,
        hs=0,
        vector_size=config.dimensions,
        window=config.window,
        negative=config.negative,
        min_count=config.min_count,
        sample=config.sample,
        seed=config.seed,
        workers=1,
    )
    model.build_vocab(corpus)
    model.train(corpus, total_examples=model.corpus_count, epochs=config.epochs)
    vectors = np.zeros((vocabulary, config.dimensions), np.float32)
    ids = np.array([int(token) for token in model.wv.index_to_key], np.int64)
    vectors[ids] = model.wv.vectors
    learnt = np.zeros(vocabulary, bool)
    learnt[ids] = True
    return TokenVectors(vectors, learnt, tokenizer)


class _Corpus:
    """Lists as gensim reads them, as often as it likes: names of tokens, since to gensim a number is a place."""

    def __init__(self, lists: Jagged) -> None:
        self.lists = lists
        self.names = [str(token) for token in range(int(lists.values.max(initial=0)) + 1)]

    def __iter__(self) -> Iterator[list[str]]:
        values, offsets = self.lists.values.tolist(), self.lists.offsets.tolist()
        for start, end in pairwise(offsets):
            yield [self.names[token] for token in values[start:end] if token]
