"""The users of a marketplace: how active, how generous, on which device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captionary.world.randomness import Stream, generator
from captionary.world.settings import WorldConfig
from captionary.world.tasks import TASKS

__all__ = ["DEVICES", "Users", "draw_users"]

DEVICES: tuple[str, ...] = ("phone", "tablet", "desktop")
_DEVICE_SHARES = (0.7, 0.1, 0.2)
# Standard deviation, logits, and the share of its variance that all tasks have in common.
_BIAS, _BIAS_IN_COMMON = 0.4, 0.4
_ACTIVITY = 0.6  # standard deviation of the logarithm


class Users(NamedTuple):
    """U users; a user's index is their id. Their tastes are in `tastes.py`."""

    bias: npt.NDArray[np.float32]
    """[U, T] Logits: how readily a user likes, comments, … whatever they see."""
    activity: npt.NDArray[np.float64]
    """[U] Share of all sessions."""
    device: npt.NDArray[np.int8]
    """[U] Index into DEVICES."""

    @property
    def size(self) -> int:
        """The number of users."""
        return len(self.activity)


def draw_users(config: WorldConfig) -> Users:
    """Draw the users of a world."""
    draw = generator(config.seed, Stream.BIAS).normal(size=(config.users, 1 + len(TASKS)))
    common, own = np.sqrt(_BIAS_IN_COMMON), np.sqrt(1 - _BIAS_IN_COMMON)
    bias = _BIAS * (common * draw[:, :1] + own * draw[:, 1:])
    activity = np.exp(generator(config.seed, Stream.ACTIVITY).normal(0, _ACTIVITY, config.users))
    device = np.searchsorted(
        np.cumsum(_DEVICE_SHARES[:-1]), generator(config.seed, Stream.DEVICE).random(config.users)
    )
    return Users(bias.astype(np.float32), activity / activity.sum(), device.astype(np.int8))
