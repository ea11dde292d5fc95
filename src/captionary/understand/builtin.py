"""The built-in captioner: the shipped checkpoint of `mmllm.py`, on a CPU, without a download."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image

from captionary.understand.captioner import Caption
from captionary.understand.decoding import GreedyDecoder
from captionary.understand.encoder import EfficientNetLite0
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.querying import QueryReader

__all__ = ["CHECKPOINT", "BuiltinCaptioner"]

CHECKPOINT = Path(__file__).parent / "checkpoints" / "builtin"
_DECODING = "greedy-2"
"""Raise the number when a change of code may change a caption."""


class BuiltinCaptioner:
    """Pictures in, captions and pooled visual vectors out, from one encoder pass.

    Args:
        batch_size: pictures per forward pass.
        max_new_tokens: at which a caption is cut.
        threads: CPU threads, each with pictures of its own; 0 for as many as torch would use.
        checkpoint: a folder written by ``captionary captioner train``.
    """

    size = EfficientNetLite0.size
    """Pixels of a picture's shorter side that it has use for."""

    def __init__(
        self, batch_size: int = 32, max_new_tokens: int = 32, threads: int = 0, checkpoint: Path = CHECKPOINT
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.name = "builtin"
        self.lanes = torch.get_num_threads()
        """Forward passes at a time, on one thread each: small products gain little from several threads."""
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        model = MultimodalLLM.load(checkpoint)
        self.image_size = model.encoder.size
        self.vector_size = model.encoder.head_width
        seen = hashlib.blake2b(digest_size=12)
        for name, tensor in sorted(model.encoder.state_dict().items()):
            seen.update(name.encode() + tensor.numpy().tobytes())
        self.encoder_fingerprint = "efficientnet-lite0-mean-" + seen.hexdigest()
        # bf16 is a property of the machine, not of the captioner: it is not part of the fingerprint, so that captions
        # made on one machine are not paid for again on another.
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        self._dtype = torch.bfloat16 if fast else torch.float32
        self._model = model
        self._encoder = model.encoder.to(memory_format=torch.channels_last, dtype=self._dtype)  # type: ignore[call-overload]
        self._reader = QueryReader(model, self._dtype)
        self._decoder = GreedyDecoder(model.decoder, self._dtype)
        weights = hashlib.blake2b((checkpoint / "model.safetensors").read_bytes(), digest_size=16).hexdigest()
        config = json.loads((checkpoint / "config.json").read_text())
        config.pop("facts", None)
        words = (checkpoint / "tokenizer.json").read_text()
        said = json.dumps([weights, config, words, _DECODING, max_new_tokens], sort_keys=True)
        self.fingerprint = "builtin-" + hashlib.blake2b(said.encode(), digest_size=12).hexdigest()

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """One caption per picture, in order."""
        return self.caption_and_embed(images)[0]

    @torch.inference_mode()
    def draw(
        self, images: Sequence[Image], samples: int, *, max_new_tokens: int = 16, seed: int = 0
    ) -> list[list[str]]:
        """`samples` captions of each picture, drawn from the model: what it holds possible, as often as it does."""
        grid = self._encoder(self._model.encoder.to_pixels(images).to(self._dtype))
        prefix = self._reader(grid).repeat_interleave(samples, 0)
        lines = self._decoder.decode(
            prefix,
            self._model.prompt_ids,
            self._model.end_id,
            max_new_tokens,
            temperature=1.0,
            generator=torch.Generator().manual_seed(seed),
        )
        texts = [text.strip() for text in self._model.tokenizer.decode_batch(lines)]
        return [texts[i : i + samples] for i in range(0, len(texts), samples)]

    @torch.inference_mode()
    def embed(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """The visual vectors of `caption_and_embed` alone: float32 [B, 1280]."""
        pixels = self._model.encoder.to_pixels(images)
        vectors: npt.NDArray[np.float32] = self._encoder.pool(
            self._encoder(pixels.to(self._dtype)).float()
        ).numpy()
        return vectors

    def caption_and_embed(self, images: Sequence[Image]) -> tuple[list[Caption], npt.NDArray[np.float32]]:
        """Captions, and the mean of each picture's grid features: float32 [B, 1280]."""
        each = max(1, min(self.batch_size, -(-len(images) // self.lanes)))
        parts = [images[start : start + each] for start in range(0, len(images), each)]
        if len(parts) < 2 or self.lanes < 2:
            found = [self._read(part) for part in parts]
        else:
            usual = torch.get_num_threads()
            with ThreadPoolExecutor(min(self.lanes, len(parts)), "captionary-lane") as lanes:
                found = list(lanes.map(self._read_alone, parts))
            torch.set_num_threads(usual)  # what a thread sets is the default of those to come
        vectors = [vectors for _, vectors in found] or [np.zeros((0, self.vector_size), np.float32)]
        return [caption for captions, _ in found for caption in captions], np.concatenate(vectors)

    def _read_alone(self, images: Sequence[Image]) -> tuple[list[Caption], npt.NDArray[np.float32]]:
        torch.set_num_threads(1)  # of this thread
        return self._read(images)

    @torch.inference_mode()
    def _read(self, images: Sequence[Image]) -> tuple[list[Caption], npt.NDArray[np.float32]]:
        """One forward pass."""
        prompt = self._model.prompt_ids
        grid = self._encoder(self._model.encoder.to_pixels(images).to(self._dtype))  # [B, 49, 1728]
        lines = self._decoder.decode(self._reader(grid), prompt, self._model.end_id, self.max_new_tokens)
        read = self._model.config.queries + len(prompt)
        texts = self._model.tokenizer.decode_batch(lines)
        said = [Caption(text.strip(), read, len(line) + 1) for line, text in zip(lines, texts, strict=True)]
        return said, self._encoder.pool(grid.float()).numpy()
