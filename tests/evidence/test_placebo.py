"""Placebos keep what says nothing of an item (which have tokens, how many) and lose what does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.placebo import constant, make_placebo, random, shuffled
from captionary.represent.jagged import Jagged

REAL = Jagged.from_lists([[1, 2], [3], [], [1, 4], [5, 6, 7], []])


def lists(tokens: Jagged) -> list[tuple[int, ...]]:
    return [tuple(map(int, tokens.row(i))) for i in range(tokens.rows)]


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_deals_every_list_to_another_item(seed: int) -> None:
    dealt = shuffled(REAL, seed=seed)
    assert Counter(lists(dealt)) == Counter(lists(REAL))
    moved = [a != b for a, b in zip(lists(dealt), lists(REAL), strict=True)]
    assert moved == [True, True, False, True, True, False]


def test_shuffled_depends_on_the_seed_alone() -> None:
    real = Jagged.from_lists([[i] for i in range(100)])
    assert lists(shuffled(real, seed=1)) == lists(shuffled(real, seed=1))
    assert lists(shuffled(real, seed=1)) != lists(shuffled(real, seed=2))


def test_shuffled_moves_weights_with_their_tokens() -> None:
    real = Jagged(np.array([1, 2, 3], np.int32), np.array([0, 2, 3]), np.array([0.25, 0.75, 1.0], np.float32))
    dealt = shuffled(real, seed=0)
    assert lists(dealt) == [(3,), (1, 2)]
    assert dealt.weights is not None
    assert dealt.weights.tolist() == [1.0, 0.25, 0.75]


def test_a_single_list_has_nowhere_to_go() -> None:
    assert lists(shuffled(Jagged.from_lists([[], [4]]), seed=0)) == [(), (4,)]


def test_random_keeps_lengths_and_draws_the_whole_vocabulary_alike() -> None:
    real = Jagged.from_lists([[1] * (i % 7) for i in range(3000)])
    drawn = random(real, vocabulary_size=11, seed=0)
    assert drawn.lengths.tolist() == real.lengths.tolist()
    counts = np.bincount(drawn.values, minlength=11)
    assert counts[0] == 0  # id 0 is [UNK]
    expected = len(drawn.values) / 10
    assert np.all(np.abs(counts[1:] - expected) < 5 * np.sqrt(expected))
    # Neither the place in a list nor the item decides the token.
    firsts = drawn.values[drawn.offsets[:-1][drawn.lengths > 0]]
    assert len(set(firsts.tolist())) == 10


def test_random_tokens_of_an_item_do_not_depend_on_later_items() -> None:
    fewer = random(REAL.take(np.arange(4)), vocabulary_size=50, seed=3)
    assert lists(random(REAL, vocabulary_size=50, seed=3))[:4] == lists(fewer)
    assert lists(random(REAL, vocabulary_size=50, seed=4))[:4] != lists(fewer)


def test_constant_gives_the_most_typical_list_to_every_item_that_has_one() -> None:
    real = Jagged.from_lists([[9], [1, 2], [], [1, 2, 8], [1], [2, 1]])
    # Shares of the 6 items: token 1 4/6, token 2 3/6, token 8 1/6; a cosine is their sum over √(distinct).
    assert max(4 / 6, (8 / 6) / 3**0.5) < (4 / 6 + 3 / 6) / 2**0.5
    assert lists(constant(real)) == [(1, 2), (1, 2), (), (1, 2), (1, 2), (1, 2)]


@pytest.mark.parametrize("kind", ["shuffled", "random", "constant"])
def test_items_without_tokens_stay_without(kind: str) -> None:
    placebo = make_placebo(kind, REAL, vocabulary_size=8, seed=0)  # type: ignore[arg-type]
    assert (placebo.lengths > 0).tolist() == (REAL.lengths > 0).tolist()
    nothing = Jagged.from_lists([[], []])
    assert lists(make_placebo(kind, nothing, vocabulary_size=8, seed=0)) == [(), ()]  # type: ignore[arg-type]


def test_bad_placebos_are_refused() -> None:
    with pytest.raises(
        CaptionaryError, match="placebo == reversed, must be one of shuffled, random, constant"
    ):
        make_placebo("reversed", REAL, vocabulary_size=8, seed=0)  # type: ignore[arg-type]
    with pytest.raises(CaptionaryError, match="vocabulary size == 1"):
        random(REAL, vocabulary_size=1, seed=0)
