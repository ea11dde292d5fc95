"""One seed, many independent streams: each kind of entity has its own, so that none disturbs another."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Stream", "generator"]


class Stream(IntEnum):
    """What is drawn. A number is never given to anything else: that would change every published world."""

    MIX = 0
    SCENES = 1
    ARRIVALS = 2
    QUALITY = 3
    REACH = 4
    TITLES = 5
    APPEAL = 6
    COMMUNITIES = 7
    SUPPORT = 8
    WEIGHTS = 9
    DRIFT = 10
    BIAS = 11
    ACTIVITY = 12
    DEVICE = 13
    CONTEXT = 14
    PILOT = 15
    TRAFFIC = 16
    POLICY = 17
    RESPONSE = 18
    EVENTS = 19


def generator(seed: int, stream: Stream, *part: int) -> np.random.Generator:
    """The generator of one stream, or of a part of it such as a day.

    Arrays over users are drawn with the user as the first axis, so that a larger world begins with the users
    of a smaller one.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *part)))
