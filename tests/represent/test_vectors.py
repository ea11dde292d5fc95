import numpy as np
import pytest

from captionary.errors import CaptionaryError
from captionary.represent.vectors import Whitening


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
