"""Which moments of a video say most with fewest pictures: shots are told apart, and one frame of each is kept.

    moments ──thumbnails──▶ differences ──adaptive threshold──▶ shots ──unlike each other──▶ key frames

The threshold follows the idea of PySceneDetect's adaptive detector: a cut is a difference that stands out from those
around it, so that a moving camera is not taken for many cuts. A slow dissolve has no such peak; it is found because
the picture has become another one than that with which the shot began.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["THUMBNAIL", "Frame", "is_blank", "key_moments", "thumbnail"]

THUMBNAIL = 32
"""Width and height to which a picture is reduced before it is compared, pixels."""
_LEAST_CUT = 18.0
"""Smallest difference of two thumbnails, of 255, that can be a cut."""
_SURE_CUT = 50.0
"""A difference from which it is a cut whatever is around it."""
_PEAK = 3.0
"""A cut is at least this many times the median difference around it."""
_AROUND = 2
_ALIKE = 14.0
"""Two frames below this difference show the same."""
_FLAT = 6.0
"""Standard deviation of a thumbnail, of 255, below which there is nothing to see."""


class Frame(NamedTuple):
    """One picture of a video or an animation."""

    image: Image.Image
    """Upright RGB."""
    at_seconds: float
    """When it is shown, from the beginning."""
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """Among the frames that were kept, from 0."""


def thumbnail(picture: Image.Image) -> npt.NDArray[np.float32]:
    """The picture as float32 [32, 32, 3] in 0…255, each value the mean of what lies below it."""
    small = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small.convert("RGB"), np.float32)


def is_blank(small: npt.NDArray[np.float32]) -> bool:
    """Whether a thumbnail is one flat colour: black before the film, white between scenes."""
    return float(small.std((0, 1)).max()) < _FLAT


def key_moments(thumbnails: list[npt.NDArray[np.float32]], most: int) -> list[int]:
    """Choose which moments to keep, in their order.

    The first moment with something to see is always among them. Of each further shot the first settled moment is a
    candidate; those are taken that differ most from all taken before, until `most` are there or none is different.

    Args:
        thumbnails: of moments in the order of time.
        most: how many to keep, >= 1.

    Returns:
        Indices into `thumbnails`; empty only where there are none. Where every moment is blank, the first.
    """
    if not thumbnails:
        return []
    shots = _shots(thumbnails)
    candidates = [at for shot in shots if (at := _settled(thumbnails, shot)) is not None]
    good = next((i for i, small in enumerate(thumbnails) if not is_blank(small)), None)
    if good is None:
        return [0]
    chosen = [good]
    nearest = [_difference(thumbnails[at], thumbnails[good]) for at in candidates]
    while len(chosen) < most and nearest:
        best = int(np.argmax(nearest))
        if nearest[best] < _ALIKE:
            break
        chosen.append(candidates[best])
        for i, at in enumerate(candidates):
            nearest[i] = min(nearest[i], _difference(thumbnails[at], thumbnails[candidates[best]]))
    return sorted(chosen)


def _difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Root mean square: another object in the same place counts, the noise of compression hardly does."""
    return float(np.sqrt(np.square(one - other).mean()))


def _shots(thumbnails: list[npt.NDArray[np.float32]]) -> list[range]:
    steps = np.array([_difference(a, b) for a, b in pairwise(thumbnails)])
    starts = [0]
    for i, step in enumerate(steps):
        near = np.concatenate([steps[max(0, i - _AROUND) : i], steps[i + 1 : i + 1 + _AROUND]])
        stands_out = step >= _LEAST_CUT and (not near.size or step >= _PEAK * float(np.median(near)))
        drifted = _difference(thumbnails[i + 1], thumbnails[starts[-1]]) >= _SURE_CUT
        if stands_out or step >= _SURE_CUT or drifted:
            starts.append(i + 1)
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(thumbnails)], strict=True)]


def _settled(thumbnails: list[npt.NDArray[np.float32]], shot: range) -> int | None:
    """The first moment of a shot that is not blank and that stays: not the middle of a transition."""
    seen = [i for i in shot if not is_blank(thumbnails[i])]
    for i in seen:
        if i + 1 < shot.stop and _difference(thumbnails[i], thumbnails[i + 1]) < _ALIKE:
            return i
    return seen[len(seen) // 2] if seen else None
