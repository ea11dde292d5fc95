import numpy as np
import pytest
import torch

from captionary.rank.bags import Lists, pool
from captionary.rank.request_side import _pool

MEMORY = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
TABLE = MEMORY[:12]  # what lies behind must not be read


@pytest.mark.parametrize("ids", [[3, 5, 3], [3, 15, -1, 5, 12], [], [15]])
@pytest.mark.parametrize("mean", [True, False])
def test_a_bag_is_what_torch_makes_of_the_tokens_in_the_table(ids, mean):
    weights = np.linspace(0.2, 1, len(ids)).astype(np.float32)
    found = np.full(8, np.nan, np.float32)
    assert _pool(TABLE, np.array(ids, np.int32), weights, mean, 0.5, found)
    known = [place for place, token in enumerate(ids) if 0 <= token < 12]
    values = torch.tensor([ids[place] for place in known], dtype=torch.int64)
    kept = torch.from_numpy(weights[known])
    bag = pool(torch.from_numpy(TABLE), Lists(values, torch.tensor([0, len(known)]), kept))[0]
    if mean:
        expected = 0.5 * torch.nn.functional.layer_norm(bag, (8,))
    else:
        expected = 0.5 * bag * (len(known) / float(kept.sum()) if known else 1.0)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_weight_that_is_not_finite_is_told():
    out = np.empty(8, np.float32)
    assert not _pool(TABLE, np.array([1], np.int32), np.array([np.inf], np.float32), True, 1.0, out)
