"""A Ray cluster on this machine for a test, of which no part outlives it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def local_cluster(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Iterator[Any]:
    """Two workers, with `environment` besides; gives the module `ray`, which the caller has seen to be installed."""
    import ray

    for name, value in {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **environment}.items():
        monkeypatch.setenv(name, value)
    ray.init(
        address="local",  # not a cluster that another test has started meanwhile
        num_cpus=2,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()
