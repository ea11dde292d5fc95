"""Captioner replicas on a local cluster, which takes long to start: run with CAPTIONARY_RAY=1."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from tests.ray_cluster import local_cluster
from tests.understand.fake import FakeCaptioner

from captionary.errors import CaptionaryError
from captionary.online.replicas import ReplicaCaptioner, start_replicas


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(count)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if os.environ.get("CAPTIONARY_RAY") != "1":
        pytest.skip("a Ray cluster takes long to start: CAPTIONARY_RAY=1 runs it")
    pytest.importorskip("ray", reason="the replicas need ray[serve]")
    serve = pytest.importorskip("ray.serve", reason="the replicas need ray[serve]", exc_type=ImportError)
    with local_cluster(monkeypatch):
        yield
        serve.shutdown()


def make() -> FakeCaptioner:
    return FakeCaptioner(vector_size=4)


def test_replicas_say_what_their_captioner_says(cluster: None) -> None:
    asked = start_replicas(make, replicas=2, cpus=0.5)
    plain = make()
    assert (asked.fingerprint, asked.image_size, asked.vector_size) == (plain.fingerprint, 32, 4)
    captions, vectors = asked.caption_and_embed(pictures(5))
    want, wanted = plain.caption_and_embed(pictures(5))
    assert captions == want
    assert np.array_equal(vectors, wanted)


def test_without_a_replica_there_is_nothing() -> None:
    with pytest.raises(CaptionaryError, match="replicas == 0"):
        start_replicas(make, replicas=0)
    with pytest.raises(CaptionaryError, match="patience_seconds"):
        ReplicaCaptioner(None, patience_seconds=0)
