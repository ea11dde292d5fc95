import numpy as np
import pytest
import torch
from torch import nn

from captionary.rank import table_kernels
from captionary.rank.optimizers import EPSILON, table_optimizer

F32 = np.float32


def gradient(rows: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, rows, 40)
    grads = rng.normal(size=(40, width)).astype(F32)
    grads[index == index[0]] = 0  # a row that occurs and learns nothing
    return index, grads


def test_gradients_of_the_same_row_are_added_up():
    stamps = np.zeros(9, np.int64)
    index, grads = np.array([7, 2, 7, 7]), np.arange(8, dtype=F32).reshape(4, 2)

    rows, merged = table_kernels.merge_rows(index, grads, stamps, 1)

    assert rows.tolist() == [7, 2]
    assert merged.tolist() == [[0 + 4 + 6, 1 + 5 + 7], [2, 3]]


def test_scratch_of_an_earlier_table_does_not_matter():
    stamps = np.zeros(9, np.int64)
    table_kernels.merge_rows(np.array([8, 3, 1]), np.ones((3, 2), F32), stamps, 1)

    rows, merged = table_kernels.merge_rows(np.array([3, 3]), np.ones((2, 2), F32), stamps, 1 + 3)

    assert rows.tolist() == [3]
    assert merged.tolist() == [[2, 2]]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adagrad", "rowwise_adagrad", "sgd"])
def test_steps_are_those_of_the_dense_optimizer(name, decay):
    rows, width, lr, scale = 12, 5, 0.3, 40.0
    start = np.random.default_rng(0).normal(size=(rows, width)).astype(F32)
    parameter = nn.Parameter(torch.from_numpy(start.copy()))
    expected = table_optimizer(name, [parameter], lr=lr, damping=0.0 if name == "sgd" else 0.2, decay=decay)
    table = start.copy()
    sums = np.full((rows, width) if name == "adagrad" else rows, 0.2, F32)
    stamps, turn = np.zeros(rows, np.int64), 1

    for step, factor in enumerate((1.0, 0.5, 0.25)):
        index, grads = gradient(rows, width, step)
        parameter.grad = torch.zeros(rows, width).index_add(
            0, torch.from_numpy(index), torch.from_numpy(grads)
        )
        expected.step(factor, scale)
        found, merged = table_kernels.merge_rows(index, grads, stamps, turn)
        turn += len(index)
        rate, fade = F32(lr * factor), F32(1 - lr * factor * decay)
        if name == "sgd":
            table_kernels.sgd_rows(table, found, merged, F32(scale), rate, fade)
        else:
            kernel = getattr(table_kernels, f"{name}_rows")
            kernel(table, sums, found, merged, F32(scale), rate, F32(EPSILON), fade)

    np.testing.assert_allclose(table, parameter.detach().numpy(), rtol=2e-5, atol=2e-6)
    if name != "sgd":
        np.testing.assert_allclose(sums, expected.sums[0].numpy(), rtol=2e-5)
