"""The built-in sound tagger: 50 everyday sounds, on a CPU, without a download.

    16 kHz mono ──5 s windows──▶ log-mel picture ──convolutions──▶ 3 levels ──pooled──▶ [3248] ──linear──▶ [50]

The convolutions are the first eleven blocks of an EfficientNet-Lite0 that was trained on ImageNet (Apache-2.0):
edges, textures and repetitions of a spectrogram are the same to it as those of a photograph. Only the linear map
was fitted to sounds. `sound_training.py` makes the checkpoint; its card says how well it does on clips held out.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from captionary.errors import bad_value
from captionary.understand.encoder import EfficientNetLite0

__all__ = [
    "CHECKPOINT",
    "FEATURES",
    "WINDOW_SECONDS",
    "SoundTagger",
    "SpectrogramEncoder",
    "log_mel",
    "window_starts",
]

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "sounds"
SAMPLE_RATE = 16_000
WINDOW_SECONDS = 5
BLOCKS = 11
_TAPS = {5: 40, 8: 80, 11: 112}
"""Blocks after which features are taken, and their channels."""
_BANDS = 7
"""Frequency bands in which features are pooled: how high a sound is matters, when it comes does not."""
FEATURES = 2 * _BANDS * sum(_TAPS.values())
_MELS, _FFT, _HOP = 128, 1024, 160
_PICTURE = (224, 384)
_RANGE = 8.0
"""Decades of power below a clip's peak that are shown: 80 dB."""
_ACTIVE = 6.0
"""Decades of power below a clip's peak from which on a moment counts as sound: 60 dB."""


def window_starts(samples: int, length: int) -> list[int]:
    """Where the windows of a sound begin: one after another, and a last one that ends with the sound.

    A rest of less than a fifth of a window has none of its own; a sound that is shorter than a window has one.
    """
    starts = list(range(0, samples - length + 1, length)) or [0]
    if samples - (starts[-1] + length) >= length / 5:
        starts.append(samples - length)
    return starts


def log_mel(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """log10 of the power in 128 mel bands, 40 to 8,000 Hz, every 10 ms, of sound brought to full scale: [T, 128]."""
    loud = np.asarray(samples, np.float64)
    loud = loud / (np.abs(loud).max(initial=0.0) + 1e-9)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(loud, _FFT // 2), _FFT)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FFT), axis=1)) ** 2
    return np.log10(power @ _mel_bank().T + 1e-8).astype(np.float32)


@functools.cache
def _mel_bank() -> npt.NDArray[np.float64]:
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (40.0, 8000.0))
    edges = 700 * (10 ** (np.linspace(low, high, _MELS + 2) / 2595) - 1)
    bins = np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rising, falling))
    scaled: npt.NDArray[np.float64] = bank / np.maximum(bank.sum(1, keepdims=True), 1e-9)
    return scaled


class SpectrogramEncoder(nn.Module):
    """Log-mel spectrograms to pooled features of three levels: [T, 128] → [3248]."""

    def __init__(self, source: EfficientNetLite0 | None = None) -> None:
        super().__init__()
        network = source or EfficientNetLite0()
        self.stem = network.stem
        self.blocks = nn.Sequential(*list(network.blocks)[:BLOCKS])

    @torch.inference_mode()
    def forward(self, mel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Mean and deviation over the moments with sound, a level, channel and band."""
        top = mel.max()
        shown = np.clip((mel - top + _RANGE) / _RANGE, 0, 1).T[::-1]  # high sounds at the top
        picture = torch.from_numpy(np.ascontiguousarray(shown, np.float32))[None, None]
        picture = nn.functional.interpolate(picture, _PICTURE, mode="bilinear")
        sounding = torch.from_numpy((mel.max(1) > top - _ACTIVE).astype(np.float32))[None, None, None]
        x: Tensor = nn.functional.relu6(self.stem(((picture * 255 - 127) / 128).expand(1, 3, -1, -1)))
        pooled: list[Tensor] = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)  # [1, C, H, W]
            if number in _TAPS:
                weight = nn.functional.interpolate(sounding, (1, x.shape[-1]), mode="area")
                weight = weight / weight.sum().clamp_min(1e-9)
                mean = (x * weight).sum(-1)  # [1, C, H]
                spread = (((x - mean[..., None]) ** 2) * weight).sum(-1).sqrt()
                pooled += [
                    part.reshape(part.shape[1], _BANDS, -1).mean(2).flatten() for part in (mean, spread)
                ]
        features: npt.NDArray[np.float32] = torch.cat(pooled).numpy()
        return features


class Tag(NamedTuple):
    """One sound that was heard."""

    label: str
    score: float
    """Probability, 0 to 1."""
    at_seconds: float
    """Where the window in which it is clearest begins."""


class SoundTagger:
    """Sound in, probabilities of 50 sounds out.

    Args:
        checkpoint: a folder written by ``captionary sounds train``.

    Attributes:
        labels: in words, as `clock alarm`.

    Raises:
        CaptionaryError: the folder is not such a checkpoint.
    """

    def __init__(self, checkpoint: Path = CHECKPOINT) -> None:
        try:
            config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            weights = load_file(checkpoint / "model.safetensors")
            self.labels: list[str] = list(config["labels"])
            self._sharpness = float(config["sharpness"])
            self._map = weights["map"].astype(np.float32)  # [3248, 50]
            self._bias = weights["bias"].astype(np.float32)
            self.encoder = SpectrogramEncoder().eval()
            state = {
                name.removeprefix("encoder."): torch.from_numpy(value.astype(np.float32))
                for name, value in weights.items()
                if name.startswith("encoder.")
            }
            self.encoder.load_state_dict(state)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            rule = "a folder written by `captionary sounds train`"
            where = " ".join(str(error).split())[:200]
            raise bad_value("sounds", str(checkpoint), rule, where=where) from None
        if self._map.shape != (FEATURES, len(self.labels)):
            raise bad_value("map", self._map.shape, f"{FEATURES} × {len(self.labels)}", where=str(checkpoint))

    def probabilities(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One row for each of `window_starts`, [W, 50]. A sound shorter than 5 s is filled up with silence."""
        length = WINDOW_SECONDS * SAMPLE_RATE
        windows = [samples[start : start + length] for start in window_starts(len(samples), length)]
        rows = [self.encoder(log_mel(np.pad(window, (0, length - len(window))))) for window in windows]
        logits = (np.stack(rows) @ self._map + self._bias) * self._sharpness
        odds = np.exp(logits - logits.max(1, keepdims=True))
        result: npt.NDArray[np.float32] = odds / odds.sum(1, keepdims=True)
        return result

    def tag(self, samples: npt.NDArray[np.float32], least: float, most: int) -> list[Tag]:
        """The sounds whose probability reaches `least` in some window, the likeliest first, up to `most`."""
        if not len(samples) or float(np.abs(samples).max()) < 1e-3:
            return []
        table = self.probabilities(samples)
        starts = window_starts(len(samples), WINDOW_SECONDS * SAMPLE_RATE)
        best = table.max(0)
        order = np.argsort(-best, kind="stable")[:most]
        return [
            Tag(self.labels[k], round(float(best[k]), 4), starts[int(table[:, k].argmax())] / SAMPLE_RATE)
            for k in order
            if best[k] >= least
        ]
