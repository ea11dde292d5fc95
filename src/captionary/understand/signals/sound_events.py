"""Sound events: by the built-in tagger, or by any audio-classification model of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.understand.signals.settings import SignalsConfig, weights_fingerprint
from captionary.understand.signals.signal import Signal, clean
from captionary.understand.signals.sound_tagger import (
    CHECKPOINT,
    SAMPLE_RATE,
    WINDOW_SECONDS,
    SoundTagger,
    window_starts,
)
from captionary.understand.signals.video import Sound

__all__ = ["SoundEvents"]

_WINDOW_SECONDS = 10
"""Of a `transformers` model: AudioSet's clips are that long."""


class _Classifier(Protocol):
    labels: list[str]

    def probabilities(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


class SoundEvents:
    """Sound in, the events that are likely enough out.

    Args:
        config: `sounds` names the model; `sound_score` and `sound_events` bound what is said.

    Raises:
        CaptionaryError: the model cannot be loaded, or does not listen to sound of 16 kHz.
    """

    def __init__(self, config: SignalsConfig) -> None:
        self._config = config
        if config.sounds == "builtin":
            self._classifier: _Classifier = SoundTagger()
            self._window = WINDOW_SECONDS * SAMPLE_RATE
            self.origin = f"sounds builtin {weights_fingerprint(str(CHECKPOINT))}"
        else:
            model = config.sounds.removeprefix("hf:")
            self._classifier = _Transformers(model)
            self._window = _WINDOW_SECONDS * SAMPLE_RATE
            name = Path(model).name if Path(model).is_dir() else model
            self.origin = f"sounds {name} {weights_fingerprint(model)}"

    def recognize(self, sound: Sound) -> list[Signal]:
        """Events by probability, each at the window in which it is clearest; none in silence."""
        if sound.is_silent:
            return []
        table = self._classifier.probabilities(sound.samples)  # [W, K]
        starts = window_starts(len(sound.samples), self._window)
        best = table.max(0)
        order = np.argsort(-best, kind="stable")[: self._config.sound_events]
        return [
            Signal(
                "sound", clean(self._classifier.labels[k]), self.origin, round(float(best[k]), 4),
                round(starts[int(table[:, k].argmax())] / SAMPLE_RATE, 3),
            )
            for k in order
            if best[k] >= self._config.sound_score
        ]  # fmt: skip


class _Transformers:
    """Probabilities of an audio-classification model (AST, Wav2Vec2, HuBERT, WavLM, Whisper, …) a window of 10 s."""

    def __init__(self, model: str) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        extractor: Any = AutoFeatureExtractor  # its methods have no types
        try:
            self._extractor: Any = extractor.from_pretrained(model)
            self._model: Any = AutoModelForAudioClassification.from_pretrained(model).eval()
        except (
            Exception
        ) as error:  # OSError, ValueError, and what a broken weights file makes a library raise
            rule = "builtin, or hf: and a folder or Hub id of an audio-classification model"
            where = " ".join(str(error).split())[:200]
            raise bad_value("sounds", f"hf:{model}", rule, where=where) from None
        rate = getattr(self._extractor, "sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise bad_value("sampling_rate", rate, f"{SAMPLE_RATE}", where=f"hf:{model}")
        names = self._model.config.id2label
        self.labels = [str(names[k]).replace("_", " ").lower() for k in range(len(names))]
        self._several = self._model.config.problem_type == "multi_label_classification"

    def probabilities(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import torch

        length = _WINDOW_SECONDS * SAMPLE_RATE
        rows = []
        for start in window_starts(len(samples), length):
            window = samples[start : start + length]
            window = np.pad(window, (0, max(0, SAMPLE_RATE - len(window))))
            inputs = self._extractor(window, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**inputs).logits[0].float()
            rows.append((logits.sigmoid() if self._several else logits.softmax(-1)).numpy())
        table: npt.NDArray[np.float32] = np.stack(rows)
        return table
