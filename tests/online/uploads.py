"""Pictures to upload, a tokenizer for what a fake captioner says of them, and a ranker's rows to recognise."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tests.online.worlds import VOCABULARY
from tests.understand.fake import FakeCaptioner

from captionary.online.ingest import IngestRecipe, MediaPipeline
from captionary.online.log import MediaMessage
from captionary.online.spool import Spool
from captionary.represent.normalize import normalize
from captionary.represent.tokenizers import Tokenizer, TokenizerConfig, make_tokenizer
from captionary.understand.media import decode
from captionary.understand.store import CaptionStore


def tokenizer() -> Tokenizer:
    return make_tokenizer(TokenizerConfig(kind="hash", vocabulary_size=VOCABULARY, ngrams=1)).fit([])


def picture(seed: int, size: int = 8) -> bytes:
    """A PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=0)
    return out.getvalue()


def tokens_of(data: bytes, captioner: FakeCaptioner) -> list[int]:
    """What ingest must make of a picture."""
    (caption,) = captioner.caption([decode(data, captioner.image_size)])
    return tokenizer().encode([normalize(caption.text)]).row(0).tolist()


def pipeline(folder: Path, captioner: Any, **recipe: Any) -> MediaPipeline:
    spool = Spool(folder / "spool")
    return MediaPipeline(
        captioner,
        CaptionStore(folder / "captions.sqlite"),
        spool,
        IngestRecipe(tokenizer=tokenizer(), **recipe),
    )


class SumFolder:
    """Rows of (number of tokens, their sum, the item's price)."""

    version = "v1"

    def fold(self, items: Any) -> npt.NDArray[np.float32]:
        rows = []
        for row, price in enumerate(items.numeric.get("price", np.zeros(len(items.ids)))):
            tokens = items.tokens.row(row)
            rows.append([len(tokens), tokens.sum(), price])
        return np.array(rows, np.float32)


def upload(item_id: int | str, *media: str, **more: Any) -> MediaMessage:
    return MediaMessage(item_id=item_id, media=media, **more)
