"""Speech recognised by faster-whisper (CTranslate2), from a size, a Hub id or a local folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from captionary.errors import bad_value
from captionary.understand.signals.settings import SignalsConfig, weights_fingerprint
from captionary.understand.signals.signal import Signal, clean
from captionary.understand.signals.video import Sound

__all__ = ["SpeechRecognizer"]

_REPEATS = 2.4
"""Text that gzip shrinks by more than this is a decoder in a loop (Radford et al. 2022, § 4.5)."""


class SpeechRecognizer:
    """Sound in, one signal a spoken segment out.

    Greedy decoding at temperature 0: the same sound always gives the same words.

    Args:
        config: `speech` names the model; language, voice activity and thresholds are its neighbours.

    Raises:
        CaptionaryError: faster-whisper is not installed, the model cannot be loaded, or the language is unknown to it.
    """

    def __init__(self, config: SignalsConfig) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise bad_value(
                "speech",
                config.speech,
                "empty without faster-whisper",
                todo="pip install 'captionary[speech]'",
            ) from None
        self._config = config
        try:
            # "default" keeps the numbers as they were converted: int8 is chosen when a model is converted, not here.
            self._model: Any = WhisperModel(
                config.speech, device="auto", compute_type="default", cpu_threads=config.threads
            )
        except Exception as error:  # RuntimeError of CTranslate2, ValueError, errors of the Hub client
            where = " ".join(str(error).split())[:200]
            rule = "a faster-whisper size, a Hub id, or a folder converted by ct2-transformers-converter"
            raise bad_value("speech", config.speech, rule, where=where) from None
        known = list(self._model.supported_languages)
        if config.language and config.language not in known:
            raise bad_value("language", config.language, f"one of {', '.join(known)}", where=config.speech)
        folder = Path(config.speech)
        name = folder.name if folder.is_dir() else config.speech
        self.origin = f"speech {name} {weights_fingerprint(config.speech)}"

    def recognize(self, sound: Sound) -> list[Signal]:
        """The spoken segments in the order of time; none where nobody speaks.

        A segment that is rather no speech, or of which the model is unsure, or that repeats itself as a decoder in a
        loop does, is dropped.
        """
        if sound.is_silent:
            return []
        config = self._config
        segments, _ = self._model.transcribe(
            sound.samples,
            language=config.language or None,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=config.voice_activity,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
            without_timestamps=False,
        )
        signals = []
        for segment in segments:
            text = clean(segment.text)
            doubtful = (
                segment.no_speech_prob > config.no_speech
                or segment.avg_logprob < config.least_log_probability
                or segment.compression_ratio > _REPEATS
            )
            if doubtful or not any(letter.isalnum() for letter in text):
                continue
            score = round(min(1.0, math.exp(segment.avg_logprob)), 4)
            signals.append(Signal("speech", text, self.origin, score, round(float(segment.start), 3)))
        return signals
