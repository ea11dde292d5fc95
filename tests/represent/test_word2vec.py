"""Token vectors: near words are near on the world's captions, and nothing is learnt of held-out items."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.represent.jagged import Jagged
from captionary.represent.normalize import normalize
from captionary.represent.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer
from captionary.represent.vectors import TokenVectors
from captionary.represent.word2vec import Word2VecConfig, learn_token_vectors
from captionary.world.grammar import reference_captions
from captionary.world.scenes import COLOURS, PLACES, draw_scenes

pytest.importorskip("gensim", reason="gensim learns the vectors; it comes with the extra vectors")

CONFIG = Word2VecConfig(dimensions=16)


@pytest.fixture(scope="module")
def world() -> tuple[Tokenizer, Jagged]:
    scenes = draw_scenes(np.random.default_rng(0), 1500)
    captions = [normalize(caption) for row in range(1500) for caption in reference_captions(scenes, row, 2)]
    tokenizer = make_tokenizer(TokenizerConfig(kind="concepts", phrases=False)).fit(captions)
    return tokenizer, tokenizer.encode(captions)


@pytest.fixture(scope="module")
def learnt(world) -> TokenVectors:
    tokenizer, lists = world
    return learn_token_vectors(
        lists,
        np.ones(lists.rows, bool),
        vocabulary=len(tokenizer.vocabulary),
        tokenizer=tokenizer.fingerprint(),
        config=CONFIG,
    )


def test_near_words_are_near(world, learnt) -> None:
    """The nearest tokens of a colour are colours, of a place places: nobody has said which words are which."""
    vocabulary = world[0].vocabulary
    places = {place.removesuffix("s") if place == "mountains" else place for place in PLACES}
    for group in (set(COLOURS), places & set(vocabulary)):
        for word in group:
            near = [vocabulary[token] for token in learnt.nearest(vocabulary.index(word), 4)]
            assert len(group.intersection(near)) >= 3, (word, near)


def test_the_same_lists_give_the_same_vectors(world, learnt) -> None:
    tokenizer, lists = world
    few = np.arange(lists.rows) < 300
    size = len(tokenizer.vocabulary)
    first, again = (
        learn_token_vectors(lists, few, vocabulary=size, tokenizer="x", config=CONFIG) for _ in range(2)
    )
    assert np.array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, learnt.vectors)


def test_held_out_items_teach_nothing() -> None:
    lists = Jagged.from_lists([[1, 2, 0], [2, 1], [2, 1, 4], [3, 3, 3, 3]])
    known = np.array([True, True, True, False])
    config = Word2VecConfig(dimensions=4, min_count=2, sample=0)
    learnt = learn_token_vectors(lists, known, vocabulary=6, tokenizer="x", config=config)
    # 3 is of the held-out item alone, 4 occurs once, 5 never, and 0 is no word
    assert learnt.known.tolist() == [False, True, True, False, False, False]
    assert not learnt.vectors[~learnt.known].any()
    alone = learn_token_vectors(
        lists.take(np.arange(3)), known[:3], vocabulary=6, tokenizer="x", config=config
    )
    assert np.array_equal(alone.vectors, learnt.vectors)


def test_mistakes_are_named(monkeypatch) -> None:
    lists, known = Jagged.from_lists([[1, 2]]), np.ones(1, bool)
    with pytest.raises(CaptionaryError, match="vocabulary == 2, must be > 2"):
        learn_token_vectors(lists, known, vocabulary=2, tokenizer="x")
    with pytest.raises(CaptionaryError, match="min_count == 3, must be <= 1"):
        learn_token_vectors(lists, known, vocabulary=3, tokenizer="x")
    with pytest.raises(CaptionaryError, match="window == 0"):
        Word2VecConfig(window=0)
    honest = builtins.__import__

    def without(name, *rest):
        if name.startswith("gensim"):
            raise ImportError(name)
        return honest(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CaptionaryError, match=r"pip install 'captionary\[vectors\]'"):
        learn_token_vectors(lists, known, vocabulary=3, tokenizer="x")
