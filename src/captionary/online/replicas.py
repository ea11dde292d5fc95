"""Captioner replicas on Ray Serve, for ingest workers whose own machine is too slow. Never on the ranking path.

    worker ──pixels──▶ router ──▶ CaptionerReplica × n (a model each) ──captions, vectors──▶ worker

A worker takes a `ReplicaCaptioner` for its captioner: it has the fingerprint of what the replicas load, so the caption
store is the same with and without them. A replica that dies is replaced; what it was asked is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from captionary.errors import bad_value
from captionary.understand.captioner import Caption, Captioner, embeds

__all__ = ["CaptionerReplica", "ReplicaCaptioner", "start_replicas"]


class CaptionerReplica:
    """One model, in a process of its own on the cluster."""

    def __init__(self, load: Callable[[], Captioner]) -> None:
        self.captioner = load()

    def describe(self) -> dict[str, Any]:
        """What a `ReplicaCaptioner` says of itself."""
        captioner = self.captioner
        said: dict[str, Any] = {
            "name": captioner.name,
            "fingerprint": captioner.fingerprint,
            "image_size": int(getattr(captioner, "image_size", 0)),
            "encoder_fingerprint": "",
            "vector_size": 0,
        }
        if embeds(captioner):
            said["encoder_fingerprint"] = captioner.encoder_fingerprint
            said["vector_size"] = captioner.vector_size
        return said

    def caption(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> tuple[list[Caption], Any]:
        """Captions of pictures [H, W, 3], and vectors float32 [B, D] or None."""
        images = [Image.fromarray(picture) for picture in pixels]
        if embeds(self.captioner):
            return self.captioner.caption_and_embed(images)
        return self.captioner.caption(images), None


class ReplicaCaptioner:
    """A captioner that has replicas do the work; as `understand.captioner.EmbeddingCaptioner`.

    Args:
        handle: of the deployment, as `start_replicas` gives it.
        patience_seconds: for one batch, > 0.

    Raises:
        Exception: whatever a replica raises on a batch; the caption job then asks picture by picture.
    """

    def __init__(self, handle: Any, *, patience_seconds: float = 300.0) -> None:
        if not patience_seconds > 0:
            raise bad_value("patience_seconds", patience_seconds, "> 0")
        self._handle, self._patience = handle, patience_seconds
        told = handle.describe.remote().result(timeout_s=patience_seconds)
        self.name: str = told["name"]
        self.fingerprint: str = told["fingerprint"]
        self.image_size: int = told["image_size"]
        self.encoder_fingerprint: str = told["encoder_fingerprint"]
        self.vector_size: int = told["vector_size"]

    def caption(self, images: Sequence[Image.Image]) -> list[Caption]:
        """One caption per picture."""
        return self.caption_and_embed(images)[0]

    def caption_and_embed(
        self, images: Sequence[Image.Image]
    ) -> tuple[list[Caption], npt.NDArray[np.float32]]:
        """Captions, and vectors float32 [B, D]; D is 0 without an encoder."""
        pixels = [np.asarray(image) for image in images]
        captions, vectors = self._handle.caption.remote(pixels).result(timeout_s=self._patience)
        # A tuple loses its type on some ways through the cluster.
        found = [Caption(*caption) for caption in captions]
        return found, np.zeros((len(found), 0), np.float32) if vectors is None else vectors


def start_replicas(
    load: Callable[[], Captioner],
    *,
    replicas: int = 2,
    cpus: float = 1.0,
    gpus: float = 0.0,
    name: str = "captionary-captioner",
) -> ReplicaCaptioner:
    """Start (or renew) the deployment on the Ray cluster that this process is connected to, and wait for it.

    Args:
        load: builds the captioner inside each replica, such as `partial(load_captioner, config)`.
        replicas: models, >= 1.
        cpus: of each.
        gpus: of each.
        name: of the application on the cluster.

    Raises:
        CaptionaryError: the package is missing, or no replica is asked for.
    """
    if replicas < 1:
        raise bad_value("replicas", replicas, ">= 1")
    try:
        from ray import serve
    except ImportError:
        todo = "pip install 'captionary[ray]' 'ray[serve]'"
        raise bad_value("package ray[serve]", "missing", "installed", todo=todo) from None
    deployment = serve.deployment(
        name="captioner",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=2,  # one at work, one on its way: the rest waits in the log
    )(CaptionerReplica)
    handle = serve.run(deployment.bind(load), name=name, route_prefix=None)
    return ReplicaCaptioner(handle)
