"""What a request's candidates share, once and in microseconds: in arrays, where calls of torch would cost more.

A request is a handful of vectors. Each call of torch takes longer than the arithmetic that it does on them, and a
profile must not be seen in the time that a request takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from captionary.errors import bad_value
from captionary.rank.artefact import as_lists
from captionary.rank.bags import Lists
from captionary.rank.batches import _FAR
from captionary.rank.folding import RequestState, Served
from captionary.rank.kernels import compiled
from captionary.represent.jagged import Jagged
from captionary.represent.profiles import ProfileList

__all__ = ["RequestInputs", "RequestSide"]

Floats = npt.NDArray[np.float32]
_EPSILON = 1e-5  # of torch's layer_norm
_NO_TOKENS, _NO_WEIGHTS = np.empty(0, np.int32), np.empty(0, np.float32)


class RequestInputs(NamedTuple):
    """One request as the ranker reads it."""

    rows: Sequence[int]
    """Rows of the user table and of each context column's, in the order of the schema."""
    numeric: Sequence[float]
    """Of the numeric columns that are not of items, raw; NaN: the mean."""
    vectors: Mapping[str, Floats]
    """Key → [D], of those that belong to users; one that is missing: zeros."""
    profiles: Sequence[ProfileList | None]
    """E profiles; None: an empty one."""


class RequestSide:
    """The request's part of a ranker, in the arithmetic of `numpy`; parity with the ranker's own modules is tested.

    Args:
        served: the ranker.
    """

    def __init__(self, served: Served) -> None:
        ranker, schema = served.ranker, served.schema
        self.served, self.width = served, served.width
        names = ["user", *(f"context.{name}" for name in schema.context)]
        self.tables = [_array(ranker.tables[name.replace(".", "/")]) for name in names]
        places = served.of_request.tolist()
        self.standard = [(float(ranker.mean[place]), float(ranker.scale[place])) for place in places]
        layers = [layer for layer in ranker.bottom if isinstance(layer, nn.Linear)]
        self.layers = [(np.ascontiguousarray(_array(one.weight).T), _array(one.bias)) for one in layers]
        if served.mixes:
            weight, bias = self.layers[0]
            self.layers = [(np.ascontiguousarray(weight[places]), bias)]
        self.keys = [name for name in schema.vectors if name not in served.item_vectors]
        self.pooled = bool(schema.events) and not served.attends
        if self.pooled:
            self.tokens = _token_table(served)
            self.mean = ranker.config.profile_pooling == "mean"
            self.scale = ranker.config.bag_scale / (self.width**0.5 if self.mean else 1.0)
            _pool(
                self.tokens, _NO_TOKENS, _NO_WEIGHTS, self.mean, self.scale, np.empty(self.width, np.float32)
            )
        if served.folds:
            self.pairs = served.of_request_alone.pairs.numpy()
            self.within, self.start = _array(served.of_request_alone.weight), _array(served.start)
            self.cross = _array(served.cross)
            if served.by_pairs:
                self.pair_request, self.pair_item = _array(served.pair_request), _array(served.pair_item)
            if served.mixes:
                self.dense_request = _array(served.dense_request)
                self.dense_field = _array(served.dense_field)

    def state(self, inputs: RequestInputs) -> RequestState:
        """What all candidates of the request share.

        Raises:
            CaptionaryError: a profile whose weights are not finite or not one a token, a vector of another width.
        """
        served, width = self.served, self.width
        fields = np.empty((len(served.sides.request), width), np.float32)
        bias = np.zeros(served.tasks, np.float32)
        dense, at = self._dense(inputs.numeric), 0
        if not served.mixes:
            fields[0], at = dense, 1
        for table, row in zip(self.tables, inputs.rows, strict=True):
            vector = table[row]
            fields[at] = vector[:width]
            if len(vector) > width:
                bias += vector[width:]
            at += 1
        for key in self.keys:
            fields[at], at = self._vector(key, inputs.vectors.get(key)), at + 1
        if self.pooled:
            for event, profile in zip(served.schema.events, inputs.profiles, strict=True):
                self._bag(event, profile, fields[at])
                at += 1
        empty = torch.empty(0)
        share = torch.from_numpy(dense) if served.mixes else empty
        shared = torch.from_numpy(fields), torch.from_numpy(bias)
        if not served.folds:
            lists = self.lists(inputs.profiles) if served.attends else None
            return RequestState(*shared, empty, empty, share, empty, lists)
        matrix = empty
        if served.by_pairs:  # [D, 1, P] · [I, P] → [D I, P]
            turned = fields[self.pair_request].T[:, None] * self.pair_item
            matrix = torch.from_numpy(turned.reshape(-1, turned.shape[-1]))
        elif served.crosses:  # [D, U] [U, I H] → [D I, H]
            matrix = torch.from_numpy((fields.T @ self.cross).reshape(-1, served.hidden))
        dots = (fields @ fields.T).ravel()[self.pairs]
        start = np.concatenate([dots, fields.ravel()]) @ self.within + self.start
        weights = empty
        if served.mixes:
            weights = torch.from_numpy(fields.T @ self.dense_request + self.dense_field)
        return RequestState(*shared, matrix, torch.from_numpy(start), share, weights, None)

    def _dense(self, numeric: Sequence[float]) -> Floats:
        """The dense vector; of a mixed one the request's share of its first layer."""
        values = [
            0.0 if math.isnan(value) else min(max((value - mean) / scale, -_FAR), _FAR)
            for value, (mean, scale) in zip(numeric, self.standard, strict=True)
        ]
        found = np.array(values, np.float32)
        for depth, (weight, bias) in enumerate(self.layers):
            found = (np.maximum(found, 0) if depth else found) @ weight + bias
        return found

    def _vector(self, key: str, vector: Floats | None) -> Floats:
        served = self.served
        size = served.schema.vectors[key]
        given = np.zeros(size, np.float32) if vector is None else np.asarray(vector, np.float32)
        if given.shape != (size,) or not np.isfinite(given).all():
            raise bad_value(f"vector {key}", f"shape {given.shape}", f"{size} finite numbers")
        layer = served.ranker.vectors[key.replace(".", "/")]
        found: Floats = layer(torch.from_numpy(given).unsqueeze(0))[0].detach().numpy()
        return found

    def _bag(self, event: str, profile: ProfileList | None, out: Floats) -> None:
        ids, weights = _checked(event, profile)
        if not _pool(self.tokens, ids, weights, self.mean, self.scale, out):
            raise bad_value(f"weights of profile {event}", "NaN or infinite", "finite")

    def lists(self, profiles: Sequence[ProfileList | None]) -> Lists:
        """The profiles' tokens that the ranker knows, E lists."""
        parts = [
            _checked(event, profile)
            for event, profile in zip(self.served.schema.events, profiles, strict=True)
        ]
        offsets = np.cumsum([0, *(len(ids) for ids, _ in parts)])
        weights = np.concatenate([_NO_WEIGHTS, *(weights for _, weights in parts)])
        if not np.isfinite(weights).all():
            raise bad_value("weights of a profile", "NaN or infinite", "finite")
        lists = Jagged(np.concatenate([_NO_TOKENS, *(ids for ids, _ in parts)]), offsets, weights)
        return as_lists(lists, self.served.schema.vocabulary)


def _checked(event: str, profile: ProfileList | None) -> tuple[npt.NDArray[np.int32], Floats]:
    if profile is None:
        return _NO_TOKENS, _NO_WEIGHTS
    ids = np.ascontiguousarray(profile.token_ids, np.int32)
    weights = np.ascontiguousarray(profile.weights, np.float32)
    if ids.shape != weights.shape or ids.ndim != 1:
        raise bad_value(f"weights of profile {event}", weights.shape, f"{ids.shape}, one a token")
    return ids, weights


@torch.no_grad()
def _token_table(served: Served) -> Floats:
    """A vector for every token; of a hashed table they are put together once."""
    ranker = served.ranker
    if ranker.config.token_table == "hash":
        found: Floats = ranker.token_hash.rows(torch.arange(served.schema.vocabulary)).numpy()
        return found
    return _array(ranker.token_table)


def _array(tensor: torch.Tensor) -> Floats:
    found: Floats = tensor.detach().numpy()
    return found


@compiled
def _pool(table: Floats, ids: Any, weights: Floats, mean: bool, scale: float, out: Floats) -> bool:
    """One list's bag into `out` [D], as `Ranker._bags` makes it; ids outside the table are left out."""
    width = table.shape[1]
    out[:] = 0
    mass, count = np.float32(0), 0
    for place in range(len(ids)):
        token, weight = ids[place], weights[place]
        if not np.isfinite(weight):
            return False
        if 0 <= token < len(table):
            mass += weight
            count += 1
            for d in range(width):
                out[d] += weight * table[token, d]
    if mean:
        centre = np.float32(0)
        for d in range(width):
            centre += out[d]
        centre /= np.float32(width)
        spread = np.float32(0)
        for d in range(width):
            out[d] -= centre
            spread += out[d] * out[d]
        factor = np.float32(scale) / np.sqrt(spread / np.float32(width) + np.float32(_EPSILON))
    else:
        factor = np.float32(scale) * np.float32(count) / (mass if mass != 0 else np.float32(1))
    for d in range(width):
        out[d] *= factor
    return True
