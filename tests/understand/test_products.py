"""Linear maps in the processor's layout give what torch's own give."""

import pytest
import torch
from torch import nn

from captionary.understand import products
from captionary.understand.products import Product, QuantisedProduct, weight_in_steps, widest_behind


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (7,), (64,), (3, 33)])
def test_bfloat16_is_torchs(rows: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(24, 40).bfloat16(), torch.randn(*rows, 40).bfloat16()
    added = torch.randn(24).bfloat16() if bias else None
    with torch.inference_mode():
        found = Product(weight, added)(x)
        torch.testing.assert_close(found, nn.functional.linear(x, weight, added), rtol=2**-7, atol=2**-6)
    assert found.shape == (*rows, 24)


def test_other_types_and_processors_keep_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(4, 6)
    assert Product(weight).weight is weight
    x = torch.randn(3, 6)
    assert torch.equal(Product(weight)(x), nn.functional.linear(x, weight))
    monkeypatch.setattr(products, "_PACKS", False)
    rough = weight.bfloat16()
    assert Product(rough).weight is rough


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this processor multiplies no 8-bit integers")
def test_integers_are_near_and_do_not_depend_on_the_rows_beside() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(40)
    with torch.no_grad():
        norm.weight.add_(torch.randn(40) * 0.1)
        norm.bias.add_(torch.randn(40) * 0.1)
    weight, bias = torch.randn(24, 40), torch.randn(24)
    with torch.inference_mode():
        x = norm(torch.randn(3, 33, 40)).bfloat16()
        quick = QuantisedProduct(weight, bias, widest_behind(norm))
        found, expected = quick(x), nn.functional.linear(x.float(), weight, bias)
        assert found.shape == (3, 33, 24)
        assert found.dtype == torch.bfloat16
        error = (found.float() - expected).norm() / expected.norm()
        assert 0.001 < error < 0.02
        assert torch.equal(quick(x[1:2, 5:6]), found[1:2, 5:6])
        assert torch.equal(quick(x.expand(2, *x.shape)[1]), found)
        # What is wider than the widest is cut there, not turned round.
        far = torch.full((1, 40), 1e4).bfloat16()
        limit = torch.full((1, 40), widest_behind(norm))
        torch.testing.assert_close(
            quick(far).float(), nn.functional.linear(limit, weight, bias), rtol=0.02, atol=2.0
        )


def test_each_output_has_its_step() -> None:
    weight = torch.tensor([[1.27, -0.5], [0.0, 0.0], [100.0, 127.0]])
    rounded, steps = weight_in_steps(weight)
    assert rounded.tolist() == [[127, -50], [0, 0], [100, 127]]
    torch.testing.assert_close(steps, torch.tensor([0.01, 1e-8 / 127, 1.0]))


def test_a_kernels_sum_is_kept() -> None:
    torch.manual_seed(0)
    weight = torch.randn(200, 1, 3, 3)
    rounded, steps = weight_in_steps(weight, keep_sums=True)
    assert rounded.shape == weight.shape
    exact = weight / steps.view(-1, 1, 1, 1)
    assert (rounded.flatten(1).sum(1) - exact.flatten(1).sum(1)).abs().max() <= 0.5 + 1e-3
    assert (rounded - exact).abs().max() <= 1.0  # to the next integer on the other side at most
    nearest, _ = weight_in_steps(weight)
    assert (nearest.flatten(1).sum(1) - exact.flatten(1).sum(1)).abs().max() > 1.0
    assert 0.8 < (rounded == nearest).float().mean() < 1
