"""Kernels of the decoder beside torch's own operations, in float32 and in the bits of bfloat16."""

import numpy as np
import pytest
import torch
from torch import nn

from captionary.understand.decoding_kernels import _exponentials, attend, keep_rows, normalise

TYPES = pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)], ids=["float32", "bfloat16"]
)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@TYPES
def test_the_norm_is_torchs_and_the_stream_keeps_the_sum(dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    stream, added, weight = torch.randn(5, 48), torch.randn(5, 48).to(dtype), torch.rand(48) + 0.5
    expected_stream = stream + added.float()
    out = torch.empty(5, 48, dtype=dtype)
    normalise(stream.numpy(), as_numpy(added), weight.numpy(), 1e-5, as_numpy(out))
    torch.testing.assert_close(stream, expected_stream)
    expected = nn.functional.rms_norm(expected_stream, (48,), weight, 1e-5)
    torch.testing.assert_close(out.float(), expected, rtol=close, atol=close)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    values = torch.cat([torch.randn(4000), torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 0.0, -0.0])])[None]
    out, zero = (
        torch.empty(1, values.shape[1], dtype=torch.bfloat16),
        torch.zeros(1, values.shape[1]).bfloat16(),
    )
    # A row whose root mean square is 1 by its epsilon: the norm leaves values as they are.
    scaled = values.clone() / 1e20
    normalise(scaled.numpy(), as_numpy(zero), np.ones(values.shape[1], np.float32), 1.0, as_numpy(out))
    torch.testing.assert_close(out, scaled.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@TYPES
def test_attention_is_torchs(heads: tuple[int, int], dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(1)
    asking, kept = heads
    rows, width, position, room = 3, 16, 6, 9
    qkv = torch.randn(rows, (asking + 2 * kept) * width).to(dtype)
    angle = torch.rand(room, width // 2).repeat(1, 2) * 3
    cosine, sine = angle.cos(), angle.sin()
    cache = torch.randn(2, rows + 1, kept, room, width).to(dtype)
    before = cache.clone()
    out = torch.empty(rows, asking * width, dtype=dtype)
    keys, values = as_numpy(cache)
    attend(as_numpy(qkv), cosine.numpy(), sine.numpy(), keys, values, position, as_numpy(out))

    def turned(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return x * cosine[position] + torch.cat([-right, left], -1) * sine[position]

    q, k, v = qkv.float().view(rows, -1, width).split([asking, kept, kept], 1)
    torch.testing.assert_close(cache[0, :rows, :, position].float(), turned(k), rtol=close, atol=close)
    torch.testing.assert_close(cache[1, :rows, :, position].float(), v, rtol=0, atol=0)
    untouched = [at for at in range(room) if at != position]
    assert torch.equal(cache[:, :, :, untouched], before[:, :, :, untouched])
    seen = cache[:, :rows, :, : position + 1].float()
    expected = nn.functional.scaled_dot_product_attention(
        turned(q)[:, :, None], seen[0], seen[1], enable_gqa=True
    )
    torch.testing.assert_close(out.float(), expected.flatten(1), rtol=4 * close, atol=4 * close)


def test_exponentials_and_their_sum() -> None:
    values = np.concatenate([np.linspace(-300, 5, 4001), [5.0]]).astype(np.float32)
    expected = np.exp(values.astype(np.float64) - 5)
    bits = np.empty(len(values), np.uint32)
    total = _exponentials(values, bits, bits.view(np.float32))
    assert np.abs(values - expected).max() < 1e-6
    assert total == pytest.approx(expected.sum(), rel=1e-5)


def test_rows_move_to_the_front() -> None:
    kept = np.arange(4 * 2 * 3 * 2, dtype=np.float32).reshape(4, 2, 3, 2)
    before = kept.copy()
    keep_rows(kept, np.array([1, 3]), 2)
    assert (kept[:2, :, :2] == before[[1, 3], :, :2]).all()
    assert (kept[:, :, 2] == before[:, :, 2]).all()
