"""Text that is seen in pictures, read by rapidocr (PP-OCR on ONNX Runtime; its models ship with the package)."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from captionary.errors import bad_value
from captionary.understand.signals.settings import SignalsConfig
from captionary.understand.signals.shots import Frame
from captionary.understand.signals.signal import Signal, clean

__all__ = ["ScreenText"]

_LEAST_LETTERS = 3
_SAME = 0.85
"""Two strings with this share of letters in common, in order, are the same one read twice."""


class _Line(NamedTuple):
    top: float
    left: float
    height: float
    text: str
    score: float


class ScreenText:
    """Frames in, the strings that stand in them out.

    Args:
        config: `text_score` is the least score of a string.

    Raises:
        CaptionaryError: rapidocr or onnxruntime is not installed.
    """

    def __init__(self, config: SignalsConfig) -> None:
        try:
            import onnxruntime  # noqa: F401  # rapidocr would ask for it only when it reads its first picture
            from rapidocr import RapidOCR
        except ImportError:
            raise bad_value(
                "screen_text",
                True,
                "false without rapidocr and onnxruntime",
                todo="pip install 'captionary[ocr]'",
            ) from None
        self._least = config.text_score
        self._reader: Any = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": config.text_score,
                "EngineConfig.onnxruntime.intra_op_num_threads": config.threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        self.origin = f"screen_text rapidocr {importlib.metadata.version('rapidocr')}"

    def read(self, frames: Sequence[Frame], *, still: bool = False) -> list[Signal]:
        """The strings of all frames, each once with its best score, from the frame in which it is first seen.

        Within a frame they come from top to bottom, then from left to right. Strings with fewer than three letters
        or digits, or with a lower score than is asked for, are dropped.

        Args:
            frames: upright RGB, in the order of time.
            still: a still picture: no times are stated.
        """
        signals: list[Signal] = []
        for frame in frames:
            for line in self._lines(frame):
                at = None if still else frame.at_seconds
                new = Signal("screen_text", line.text, self.origin, round(line.score, 4), at, frame.index)
                for number, known in enumerate(signals):
                    if _same(known.text, new.text):
                        if new.score > known.score:  # the clearer reading, where it was first seen
                            signals[number] = known._replace(text=new.text, score=new.score)
                        break
                else:
                    signals.append(new)
        return signals

    def _lines(self, frame: Frame) -> list[_Line]:
        # rapidocr takes arrays as BGR, the order of OpenCV.
        found = self._reader(np.ascontiguousarray(np.asarray(frame.image.convert("RGB"))[..., ::-1]))
        if found.txts is None or found.boxes is None:
            return []
        lines = []
        for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
            text = clean(text)
            if score < self._least or sum(letter.isalnum() for letter in text) < _LEAST_LETTERS:
                continue
            corners = np.asarray(box, float)  # [4, 2] of x, y
            (left, top), (_, bottom) = corners.min(0), corners.max(0)
            lines.append(_Line(float(top), float(left), float(bottom - top), text, float(score)))
        return _in_reading_order(lines)


def _in_reading_order(lines: list[_Line]) -> list[_Line]:
    """Top to bottom; boxes whose middles are less than half a height apart stand in one row, left to right."""
    rows: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: line.top + line.height / 2):
        middle = line.top + line.height / 2
        if rows and abs(middle - (rows[-1][0].top + rows[-1][0].height / 2)) < rows[-1][0].height / 2:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.left)]


def _same(one: str, other: str) -> bool:
    a, b = ("".join(filter(str.isalnum, text.casefold())) for text in (one, other))
    if a == b:
        return True
    if sorted(filter(str.isdigit, a)) != sorted(filter(str.isdigit, b)):  # 50 % and 70 % are not one string
        return False
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= _SAME
