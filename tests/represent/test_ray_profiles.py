from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from tests.represent.profile_logs import IDF, ITEMS, TOKENS, capped

from captionary.errors import CaptionaryError
from captionary.represent.profiles import build_profiles
from captionary.represent.ray_profiles import build_on_ray

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'captionary[ray]'")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def test_ray_gives_what_one_process_gives() -> None:
    rng = np.random.default_rng(0)
    n = 500
    events = pa.table(
        {
            "user_id": rng.integers(0, 12, n),
            "item_id": pa.array(rng.choice([*ITEMS, "gone"], n)),
            "event": pa.array(np.where(np.arange(n) == 7, "share", "like")),  # in one shard alone
            "timestamp": pa.array(rng.integers(0, 10**12, n), pa.timestamp("us", "UTC")),
            "value": rng.random(n),
        }
    )
    reads = pa.table(
        {
            "user_id": rng.integers(0, 14, n),
            "timestamp": pa.array(rng.integers(0, 10**12, n), pa.timestamp("us")),
        }
    )
    config = capped({"last_events": 5})
    local = build_profiles(events, reads, ITEMS, TOKENS, config, IDF)
    far = build_on_ray(events, reads, ITEMS, TOKENS, config, IDF, shards=3)
    assert far.keys() == local.keys()
    for event, one in local.items():
        for a, b in ((one.lists, far[event].lists),):
            assert np.array_equal(a.values, b.values)
            assert np.array_equal(a.offsets, b.offsets)
            assert np.array_equal(a.weights, b.weights)  # type: ignore[arg-type]
        assert np.array_equal(one.mass, far[event].mass)
    wrong = events.set_column(4, "value", pa.array(-rng.random(n)))
    with pytest.raises(CaptionaryError, match="value == -"):
        build_profiles(wrong, reads, ITEMS, TOKENS, config, IDF, engine="ray")
