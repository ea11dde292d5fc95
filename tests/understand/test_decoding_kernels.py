"""Kernels of the decoder beside torch's own operations, in float32 and in the bits of bfloat16."""

import numpy as np
import pytest
import torch
from torch import nn

from captionary.understand.bfloat import bits_of
from captionary.understand.decoding_kernels import _exponentials, attend, keep_rows, normalise

TYPES = pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)], ids=["float32", "bfloat16"]
)


@TYPES
def test_the_norm_is_torchs_and_the_stream_keeps_the_sum(dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    stream, added, weight = torch.randn(5, 48), torch.randn(5, 48).to(dtype), torch.rand(48) + 0.5
    expected_stream = stream + added.float()
    out = torch.empty(5, 48, dtype=dtype)
    normalise(stream.numpy(), bits_of(added), weight.numpy(), 1e-5, bits_of(out))
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
    normalise(scaled.numpy(), bits_of(zero), np.ones(values.shape[1], np.float32), 1.0, bits_of(out))
    torch.testing.assert_close(out, scaled.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(("first", "length", "asked"), [(6, 1, 1), (0, 7, 7), (0, 7, 1), (2, 5, 3)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@TYPES
def test_attention_is_torchs(
    heads: tuple[int, int], dtype: torch.dtype, close: float, first: int, length: int, asked: int
) -> None:
    """One token at a position, all that a row begins with, and the last of them only."""
    torch.manual_seed(1)
    asking, kept = heads
    rows, width, room = 3, 16, 9
    end = first + length
    qkv = torch.randn(rows, length, (asking + 2 * kept) * width).to(dtype)
    angle = torch.rand(room, width // 2).repeat(1, 2) * 3
    cosine, sine = angle.cos(), angle.sin()
    cache = torch.randn(2, rows + 1, kept, room, width).to(dtype)
    before = cache.clone()
    out = torch.empty(rows, asked, asking * width, dtype=dtype)
    keys, values = bits_of(cache)
    attend(bits_of(qkv), cosine.numpy(), sine.numpy(), first, keys, values, bits_of(out))

    def turned(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return x * cosine[first:end] + torch.cat([-right, left], -1) * sine[first:end]

    parts = qkv.float().view(rows, length, -1, width).transpose(1, 2).split([asking, kept, kept], 1)
    q, k, v = parts  # [B, heads, T, E]
    torch.testing.assert_close(cache[0, :rows, :, first:end].float(), turned(k), rtol=close, atol=close)
    torch.testing.assert_close(cache[1, :rows, :, first:end].float(), v, rtol=0, atol=0)
    untouched = [at for at in range(room) if not first <= at < end]
    assert torch.equal(cache[:, :, :, untouched], before[:, :, :, untouched])
    seen = cache[:, :rows, :, :end].float()
    until = torch.ones(length, end, dtype=torch.bool).tril(first)
    expected = nn.functional.scaled_dot_product_attention(
        turned(q), seen[0], seen[1], attn_mask=until, enable_gqa=True
    )[:, :, length - asked :]
    torch.testing.assert_close(
        out.float(), expected.transpose(1, 2).flatten(2), rtol=4 * close, atol=4 * close
    )


def test_exponentials_and_their_sum() -> None:
    values = np.concatenate([np.linspace(-300, 5, 4001), [5.0]]).astype(np.float32)
    expected = np.exp(values.astype(np.float64) - 5)
    total = _exponentials(values, np.empty(len(values), np.float32))
    assert np.abs(values - expected).max() < 1e-6
    assert total == pytest.approx(expected.sum(), rel=1e-5)


def test_rows_move_to_the_front() -> None:
    kept = np.arange(4 * 2 * 3 * 2, dtype=np.float32).reshape(4, 2, 3, 2)
    before = kept.copy()
    keep_rows(kept, np.array([1, 3]), 2)
    assert (kept[:2, :, :2] == before[[1, 3], :, :2]).all()
    assert (kept[:, :, 2] == before[:, :, 2]).all()
