import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.represent.jagged import Jagged
from captionary.understand.gate_lookalike import lend, metadata_space, neighbours, visual_space


def scenes(n: int = 200, kinds: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Jagged]:
    """Vectors that show one of `kinds` things, the thing of each, and a token list that names it (and token 0)."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, n)
    centres = rng.normal(size=(kinds, 16))
    vectors = (centres[kind] + 0.2 * rng.normal(size=(n, 16))).astype(np.float32)
    return vectors, kind, Jagged.from_lists([[0, 1 + k] for k in kind])


def test_neighbours_are_the_likest_and_never_oneself() -> None:
    vectors, kind, _ = scenes()
    found = neighbours(visual_space(vectors, np.ones(200, bool), dimensions=4), 5)
    rows = np.repeat(np.arange(200), np.diff(found.offsets))
    assert (rows != found.lender).all()
    assert (kind[rows] == kind[found.lender]).mean() > 0.95
    for row in range(200):
        part = found.similarity[found.offsets[row] : found.offsets[row + 1]]
        assert (np.diff(part) <= 0).all()


def test_buckets_find_nearly_what_all_pairs_find() -> None:
    vectors, kind, _ = scenes(400)
    space = visual_space(vectors, np.ones(400, bool), dimensions=4)
    found = neighbours(space, 3, bucketed=200)
    rows = np.repeat(np.arange(400), np.diff(found.offsets))
    assert set(rows) == set(range(400))
    assert (kind[rows] == kind[found.lender]).mean() > 0.9


def test_items_without_a_vector_have_no_neighbours() -> None:
    vectors, _, _ = scenes()
    present = np.arange(200) != 7
    found = neighbours(visual_space(vectors, present), 5)
    assert found.offsets[8] == found.offsets[7]
    assert 7 not in found.lender


def test_categories_stand_in_for_pictures() -> None:
    found = neighbours(metadata_space([np.array([0, 0, 1, 1, -1]), np.array([5, 5, 5, 6, -1])]), 1)
    assert found.lender[found.offsets[0]] == 1
    assert found.offsets[5] == found.offsets[4]  # of the last item nothing is known


def test_lent_tokens_are_those_of_look_alikes_and_paid_ones_stay() -> None:
    vectors, kind, tokens = scenes()
    paid = np.arange(200) < 60
    lent = lend(tokens, paid, vectors, np.ones(200, bool), vocabulary=6)
    right = sum(lent.tokens.row(i).tolist() == [0, 1 + kind[i]] for i in range(60, 200))
    assert right / 140 > 0.95
    assert all(lent.tokens.row(i).tolist() == tokens.row(i).tolist() for i in range(60))
    assert lent.lent.sum() == 140


def test_what_was_not_paid_for_is_not_looked_at() -> None:
    vectors, _, tokens = scenes()
    paid = np.arange(200) < 60
    blank = Jagged.from_lists([tokens.row(i).tolist() if i < 60 else [5, 5, 5] for i in range(200)])
    for one, other in ((tokens, blank),):
        a = lend(one, paid, vectors, np.ones(200, bool), vocabulary=6).tokens
        b = lend(other, paid, vectors, np.ones(200, bool), vocabulary=6).tokens
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.offsets, b.offsets)


def test_too_few_teachers_lend_nothing() -> None:
    vectors, _, tokens = scenes()
    lent = lend(tokens, np.arange(200) < 10, vectors, np.ones(200, bool), vocabulary=6)
    assert lent.tokens.lengths.tolist() == [2] * 10 + [0] * 190
    assert not lent.lent.any()


def test_bad_arguments() -> None:
    vectors, _, tokens = scenes()
    with pytest.raises(CaptionaryError, match="threshold"):
        lend(tokens, np.ones(200, bool), vectors, np.ones(200, bool), vocabulary=6, threshold=0)
    with pytest.raises(CaptionaryError, match="the same"):
        lend(tokens, np.ones(3, bool), vectors, np.ones(200, bool), vocabulary=6)
    with pytest.raises(CaptionaryError, match="neighbours"):
        neighbours(vectors, 0)
