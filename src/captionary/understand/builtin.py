"""The built-in captioner: a checkpoint of `mmllm.py`, the shipped one or another, on a CPU or a CUDA device.

On a CPU each thread has pictures of its own; on a device all of a batch go together:

    pictures ─squares, in threads─▶ uint8, pinned ─▶ device: scaled ─▶ encoder ─▶ Q-Former ─▶ decoder ─▶ tokens
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor

from captionary.understand.captioner import Caption
from captionary.understand.decoding import GreedyDecoder
from captionary.understand.device import choose_device
from captionary.understand.device_decoding import DeviceDecoder
from captionary.understand.encoder import EfficientNetLite0, ImageEncoder, weights_digest
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.quantised import QuantisedEncoder, quantised_encoder
from captionary.understand.querying import QueryReader

__all__ = ["CHECKPOINT", "BuiltinCaptioner"]

CHECKPOINT = Path(__file__).parent / "checkpoints" / "builtin"
_DECODING = "greedy-3"
"""Raise the number when a change of code may change a caption."""
_FEW = 32
"""Pictures that a CPU looks at together: more would not stay in its cache. It decodes more at a time."""
_RESIZING = 8
"""Threads at most that make squares of pictures for a device, which would wait for one."""
_BEGINNING = threading.Lock()
"""Held while lanes begin, which sets what is the process's: see `_Lanes`."""

_Read = tuple[list[Caption], npt.NDArray[np.float32]]


class BuiltinCaptioner:
    """Pictures in, captions and pooled visual vectors out, from one encoder pass.

    Args:
        batch_size: pictures per forward pass.
        max_new_tokens: at which a caption is cut.
        threads: CPU threads, each with pictures of its own; 0 for as many as torch would use.
        device: `auto` (CUDA where torch has it, else the CPU), `cpu`, `cuda` or `cuda:1`.
        checkpoint: a folder written by ``captionary captioner train``, ``adapt`` or ``pretrain``.

    Raises:
        CaptionaryError: no such device, a damaged checkpoint, or a decoder with parts that are not decoded here.
    """

    size = EfficientNetLite0.size
    """Pixels of a picture's shorter side that it has use for."""

    def __init__(
        self,
        batch_size: int = 64,
        max_new_tokens: int = 32,
        threads: int = 0,
        device: str = "auto",
        checkpoint: Path = CHECKPOINT,
    ) -> None:
        self.device = choose_device(device)
        if threads:
            torch.set_num_threads(threads)
        self.name = "builtin"
        on_cpu = self.device.type == "cpu"
        self.lanes = torch.get_num_threads() if on_cpu else 1
        """Forward passes at a time, on one CPU thread each: small products gain little from several threads."""
        self._threads: _Lanes | None = None
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        model = MultimodalLLM.load(checkpoint)
        self.image_size = model.encoder.size
        self.vector_size = model.encoder.head_width
        self.encoder_fingerprint = f"efficientnet-lite0-mean-{weights_digest(model.encoder.state_dict(), 12)}"
        # Device and types are properties of the machine, not of the captioner: they are not part of the fingerprint, so
        # that captions made on one machine are not paid for again on another.
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        self._dtype = torch.bfloat16 if fast or not on_cpu else torch.float32
        self._model = model
        small_numbers = on_cpu and self._dtype == torch.bfloat16
        quantised = quantised_encoder(model.encoder) if small_numbers else None
        self._looks: ImageEncoder | QuantisedEncoder = quantised or model.encoder
        # A decoder of our own: a LLaMA from elsewhere has single values far out.
        small = quantised is not None and not model.config.decoder_settings
        self._reader = QueryReader(model, self._dtype, self.device, quantised=quantised is not None)
        self._decoder = (
            GreedyDecoder(model.decoder, self._dtype, quantised=small)
            if on_cpu
            else DeviceDecoder(model.decoder, self._dtype, self.device)
        )
        self._encoder = model.encoder.to(self.device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        del model.decoder, model.qformer  # of which reader and decoder have what they need
        weights = hashlib.blake2b((checkpoint / "model.safetensors").read_bytes(), digest_size=16).hexdigest()
        config = json.loads((checkpoint / "config.json").read_text())
        config.pop("facts", None)
        words = (checkpoint / "tokenizer.json").read_text()
        said = json.dumps([weights, config, words, _DECODING, max_new_tokens], sort_keys=True)
        self.fingerprint = "builtin-" + hashlib.blake2b(said.encode(), digest_size=12).hexdigest()

    def caption(self, images: Sequence[Image]) -> list[Caption]:
        """One caption per picture, in order."""
        return self.caption_and_embed(images)[0]

    def draw(
        self, images: Sequence[Image], samples: int, *, max_new_tokens: int = 16, seed: int = 0
    ) -> list[list[str]]:
        """`samples` captions of each picture, drawn from the model: what it holds possible, as often as it does."""
        with torch.inference_mode():
            prefix = self._reader(self._see(images)).repeat_interleave(samples, 0)
            lines = self._decoder.decode(
                prefix,
                self._model.prompt_ids,
                self._model.end_id,
                max_new_tokens,
                temperature=1.0,
                generator=torch.Generator(self.device).manual_seed(seed),
            )
        texts = [text.strip() for text in self._model.tokenizer.decode_batch(lines)]
        return [texts[i : i + samples] for i in range(0, len(texts), samples)]

    def embed(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """The visual vectors of `caption_and_embed` alone: float32 [B, 1280]."""
        with torch.inference_mode():
            return self._pool(self._see(images))

    def caption_and_embed(self, images: Sequence[Image]) -> _Read:
        """Captions, and the mean of each picture's grid features: float32 [B, 1280]."""
        each = max(1, min(self.batch_size, -(-len(images) // self.lanes)))
        parts = [images[start : start + each] for start in range(0, len(images), each)]
        if len(parts) < 2 or self.lanes < 2:
            found = [self._read(part) for part in parts]
        else:
            with _BEGINNING:
                if self._threads is None or self._threads.lanes != self.lanes:
                    self._threads = _Lanes(self.lanes)
                threads = self._threads
            found = threads.each(self._read, parts)
        vectors = [vectors for _, vectors in found] or [np.zeros((0, self.vector_size), np.float32)]
        return [caption for captions, _ in found for caption in captions], np.concatenate(vectors)

    def _read(self, images: Sequence[Image]) -> _Read:
        """One forward pass."""
        model = self._model
        with torch.inference_mode():
            prefixes, vectors = [], []
            few = _FEW if self.device.type == "cpu" else len(images)
            for start in range(0, len(images), few):
                grid = self._see(images[start : start + few])
                prefixes.append(self._reader(grid))
                vectors.append(self._pool(grid))
            lines = self._decoder.decode(
                torch.cat(prefixes), model.prompt_ids, model.end_id, self.max_new_tokens
            )
        read = model.config.queries + len(model.prompt_ids)
        most = min(
            self.max_new_tokens, model.config.max_length - read
        )  # a line as long was cut before its end
        texts = model.tokenizer.decode_batch(lines)
        said = [
            Caption(text.strip(), read, len(line) + (len(line) < most))
            for line, text in zip(lines, texts, strict=True)
        ]
        return said, np.concatenate(vectors)

    def _see(self, images: Sequence[Image]) -> Tensor:
        """The encoder's features, on the device in its type: [B, cells, E]."""
        encoder = self._model.encoder
        if self.device.type == "cpu":
            few = [
                images[start : start + encoder.in_cache] for start in range(0, len(images), encoder.in_cache)
            ]
            fine = [self._looks.lower(encoder.to_pixels(part).to(self._dtype)) for part in few]
            return self._looks.upper(torch.cat(fine))
        size = -(-len(images) // min(_RESIZING, os.cpu_count() or 1))
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        with ThreadPoolExecutor(
            len(parts), "captionary-squares"
        ) as threads:  # Pillow lets go of the interpreter
            squares = torch.from_numpy(np.concatenate(list(threads.map(encoder.squares, parts))))
        pixels = encoder.scaled(squares.pin_memory().to(self.device, non_blocking=True))
        return self._encoder(pixels.to(self._dtype))  # type: ignore[no-any-return]

    def _pool(self, grid: Tensor) -> npt.NDArray[np.float32]:
        vectors: npt.NDArray[np.float32] = self._encoder.pool(grid.float()).cpu().numpy()
        return vectors


class _Lanes:
    """Threads of one CPU thread each, which wait for pictures; callers at once take turns by the part.

    The number that a thread gives torch is also what every later thread of the process takes for its own. So lanes
    begin together, and as soon as they have their number, the process gets its own back, from a thread that learnt it.
    Made one at a time, under `_BEGINNING`.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        begun = threading.Barrier(lanes + 1)

        def begin() -> None:
            torch.get_num_threads()  # a thread's first look takes the process's number, whatever was set before
            torch.set_num_threads(1)
            begun.wait()

        self._pool = ThreadPoolExecutor(lanes, "captionary-lane", begin)
        with ThreadPoolExecutor(1, "captionary-threads") as plain:
            usual = plain.submit(torch.get_num_threads).result()
            try:
                for _ in range(lanes):
                    self._pool.submit(int)  # which starts a thread, since those before still begin
                begun.wait()
            except BaseException:  # a thread that could not be started would be waited for
                begun.abort()
                self._pool.shutdown()
                raise
            finally:
                plain.submit(torch.set_num_threads, usual).result()

    def each(self, read: Callable[[Sequence[Image]], _Read], parts: Sequence[Sequence[Image]]) -> list[_Read]:
        """`read` of all parts, in order."""
        return list(self._pool.map(read, parts))
