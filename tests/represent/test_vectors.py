import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.represent.vectors import TokenVectors, Whitening


def test_components_are_uncorrelated_with_unit_variance() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)
    out = Whitening.fit(vectors, 4).apply(vectors, np.ones(500, bool))
    assert out.shape == (500, 4)
    np.testing.assert_allclose(np.cov(out, rowvar=False, bias=True), np.eye(4), atol=1e-3)


def test_absent_rows_are_the_mean_and_do_not_leak() -> None:
    vectors = np.array([[1, 0], [3, 0], [99, 99]], np.float32)
    out = Whitening.fit(vectors[:2], 2).apply(vectors, np.array([True, True, False]))
    # mean (2, 0), one direction of variance ((1-2)² + (3-2)²) / 2 = 1
    assert out.tolist() == [[-1.0], [1.0], [0.0]]


def test_refuses_nothing_to_fit_on() -> None:
    with pytest.raises(CaptionaryError, match="at least one"):
        Whitening.fit(np.zeros((0, 3), np.float32), 2)


def test_token_vectors_keep_their_tokenizer(tmp_path) -> None:
    made = TokenVectors(np.eye(3, 2, dtype=np.float32), np.array([False, True, True]), "concepts-1")
    path = made.save(tmp_path / "A.npz")
    again = TokenVectors.load(path, "concepts-1")
    assert np.array_equal(again.vectors, made.vectors)
    assert np.array_equal(again.known, made.known)
    with pytest.raises(CaptionaryError, match="tokenizer of the vectors == concepts-1, must be concepts-2"):
        TokenVectors.load(path, "concepts-2")
    path.write_bytes(b"nothing")
    with pytest.raises(CaptionaryError, match=r"TokenVectors\.save"):
        TokenVectors.load(path)


def test_nearest_tokens_by_cosine() -> None:
    vectors = np.array([[9, 9], [1, 0], [5, 1], [0, 1], [-1, 0]], np.float32)
    made = TokenVectors(vectors, np.array([False, True, True, True, True]), "")
    assert made.nearest(1, 2).tolist() == [2, 3]
    assert made.nearest(1, 9).tolist() == [2, 3, 4]
    assert made.nearest(0, 2).tolist() == []
