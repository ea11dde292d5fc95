"""Visual vectors as the ranker takes them: principal components of the encoder's pooled features, whitened."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value

__all__ = ["Whitening"]

Floats = npt.NDArray[np.float32]


class Whitening(NamedTuple):
    """A projection to the leading principal components, each of unit variance over the vectors it was fitted on."""

    mean: Floats
    """[D]"""
    components: Floats
    """[D, d], scaled so that each component has unit variance."""

    @classmethod
    def fit(cls, vectors: Floats, dimensions: int) -> Whitening:
        """Fit on `vectors` [N, D], the items known in training; d is `dimensions`, or less where N or D is.

        Raises:
            CaptionaryError: no vectors, or `dimensions` < 1.
        """
        if dimensions < 1:
            raise bad_value("dimensions", dimensions, ">= 1")
        if not len(vectors):
            raise bad_value("vectors", 0, "at least one to fit on")
        exact = vectors.astype(np.float64)
        mean = exact.mean(0)
        covariance = np.cov(exact - mean, rowvar=False, bias=True).reshape(exact.shape[1], -1)
        variances, directions = np.linalg.eigh(covariance)
        # Directions of no variance would be blown up to unit noise.
        kept = np.argsort(variances)[::-1][:dimensions]
        kept = kept[variances[kept] > 1e-6 * max(variances.max(), 1e-12)]
        components = directions[:, kept] / np.sqrt(variances[kept])
        # An eigenvector's sign is arbitrary: fix it, so that equal inputs give equal vectors everywhere.
        components *= np.sign(components[np.abs(components).argmax(0), np.arange(len(kept))])
        return cls(mean.astype(np.float32), components.astype(np.float32))

    def apply(self, vectors: Floats, present: npt.NDArray[np.bool_]) -> Floats:
        """Project vectors [I, D] to [I, d]; rows that are not `present` [I] become zeros, the mean."""
        projected = (vectors - self.mean) @ self.components
        return np.where(present[:, None], projected, 0).astype(np.float32)
