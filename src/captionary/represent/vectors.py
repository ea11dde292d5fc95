"""Vectors as the ranker takes them: dense ones of items and users whitened, those of tokens to start a table from."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.publish import atomic_file

__all__ = ["TokenVectors", "Whitening"]

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


class TokenVectors(NamedTuple):
    """A vector for each token of one version of a vocabulary."""

    vectors: Floats
    """[V, D]; zeros where not `known`."""
    known: npt.NDArray[np.bool_]
    """[V] which tokens have one: the others were too rare to learn anything of."""
    fingerprint: str
    """Of the tokenizer whose ids these are."""

    def nearest(self, token: int, count: int) -> npt.NDArray[np.int64]:
        """The `count` known tokens of the highest cosine with `token`, the nearest first, itself left out."""
        if not self.known[token]:
            return np.empty(0, np.int64)
        ids = np.flatnonzero(self.known)
        ids = ids[ids != token]
        lengths = np.maximum(np.linalg.norm(self.vectors[ids], axis=1), np.finfo(np.float32).tiny)
        cosine = self.vectors[ids] @ self.vectors[token] / lengths
        found: npt.NDArray[np.int64] = ids[np.argsort(-cosine, kind="stable")[:count]]
        return found

    def save(self, path: Path) -> Path:
        """Write them as .npz; the file is whole or not there."""
        with atomic_file(path) as file:
            np.savez(file, vectors=self.vectors, known=self.known, fingerprint=np.array(self.fingerprint))
        return path

    @classmethod
    def load(cls, path: Path, tokenizer: str | None = None) -> TokenVectors:
        """Read what `save` wrote.

        Args:
            path: the file.
            tokenizer: the fingerprint that the vectors must be of; None: any.

        Raises:
            CaptionaryError: no such file, or of another shape, or of another tokenizer.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                read = cls(stored["vectors"], stored["known"], str(stored["fingerprint"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            said = str(error)[:200] or type(error).__name__
            raise bad_value(
                "token vectors", str(path), "a file that TokenVectors.save wrote", where=said
            ) from None
        if tokenizer is not None and read.fingerprint != tokenizer:
            todo = "learn them anew: ids of one tokenizer mean nothing to another"
            raise bad_value(
                "tokenizer of the vectors", read.fingerprint, tokenizer, where=str(path), todo=todo
            )
        return read
