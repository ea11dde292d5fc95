"""Logits of candidates from their folded rows in one pass: blocks of them stay in the processor's cache throughout.

Layer by layer over all candidates, as torch does it, each of ten passes goes through memory. Here a block of
candidates is looked up and goes through all layers before the next. The products are the BLAS's own, which numba calls
by `np.dot`. `benchmarks/serving.py` measures this beside torch, torch.export and ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from captionary.rank.folding import RequestState, Served
from captionary.rank.kernels import compiled

__all__ = ["FoldedScorer"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_FEW, _MANY = 64, 256
"""Candidates at a time: few, whose layers stay in the first cache; many where the weights do not stay in the second,
so that these are read less often."""
_SMALL = 1 << 17  # weights


class FoldedScorer:
    """Of a ranker with dot products, one shared bottom, and no numeric columns of items; see `takes`.

    Args:
        served: the ranker.
    """

    def __init__(self, served: Served) -> None:
        ranker, tasks = served.ranker, served.tasks
        top = [layer for layer in ranker.top if isinstance(layer, nn.Linear)]
        layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in top]
        layers.append((ranker.tower_in.detach().numpy(), ranker.tower_in_bias.detach().numpy()))
        out = ranker.tower_out.detach().numpy()  # [T, tower]
        last = np.zeros((out.size, tasks), np.float32)  # of all towers side by side
        for task in range(tasks):
            last[task * out.shape[1] : (task + 1) * out.shape[1], task] = out[task]
        layers.append((last, ranker.tower_out_bias.detach().numpy()))
        self.pairs = served.pair_weight.numpy() if served.by_pairs else np.empty((0, 0), np.float32)
        self.weights = tuple(np.ascontiguousarray(weight) for weight, _ in layers)
        self.biases = tuple(np.ascontiguousarray(bias) for _, bias in layers)
        first = served.vectors * served.hidden
        self.block = _FEW if first + sum(weight.size for weight in self.weights) < _SMALL else _MANY

    @staticmethod
    def takes(served: Served) -> bool:
        """Whether a ranker is one that this is written for; others run by torch."""
        shared = served.ranker.config.towers == "shared_bottom"
        return served.folds and served.crosses and not served.mixes and shared

    def __call__(self, rows: Floats, index: Ints, state: RequestState) -> Floats:
        """Logits [C, T] of the candidates whose rows are ``rows[index]``: rows [n, R], index [C] within 0 to n - 1."""
        found: Floats = _score(
            rows,
            index,
            state.matrix.numpy(),
            self.pairs,
            state.start.numpy(),
            state.bias.numpy(),
            self.weights,
            self.biases,
            self.block,
        )
        return found


@compiled
def _score(
    rows: Floats,
    index: Ints,
    matrix: Floats,
    pairs: Floats,
    start: Floats,
    bias: Floats,
    weights: tuple[Floats, ...],
    biases: tuple[Floats, ...],
    block: int,
) -> Any:
    count, vectors, hidden, tasks = len(index), matrix.shape[0], len(start), len(bias)
    found = np.empty((count, tasks), np.float32)
    read = np.zeros((block, vectors), np.float32)
    dots = np.empty((block, matrix.shape[1]), np.float32)
    first = np.empty((block, hidden), np.float32)
    for at in range(0, count, block):
        size = min(block, count - at)
        for place in range(size):
            row = index[at + place]
            for column in range(vectors):
                read[place, column] = rows[row, column]
        if len(pairs):
            np.dot(read, matrix, dots)
            np.dot(dots, pairs, first)
        else:
            np.dot(read, matrix, first)
        for place in range(size):
            row = index[at + place]
            for column in range(hidden):
                value = first[place, column] + rows[row, vectors + column] + start[column]
                first[place, column] = max(value, np.float32(0))
        inputs = first
        for layer in range(len(weights)):
            outputs = np.empty((block, weights[layer].shape[1]), np.float32)
            np.dot(inputs, weights[layer], outputs)
            if layer == len(weights) - 1:
                for place in range(size):
                    row = index[at + place]
                    for task in range(tasks):
                        of_ids = rows[row, vectors + hidden + task] + bias[task]
                        found[at + place, task] = outputs[place, task] + biases[layer][task] + of_ids
            else:
                for place in range(size):
                    for column in range(outputs.shape[1]):
                        value = outputs[place, column] + biases[layer][column]
                        outputs[place, column] = max(value, np.float32(0))
            inputs = outputs
    return found
