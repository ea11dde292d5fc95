"""How users respond: for each task the logit of a positive response, and a draw from it.

    logit = base + context (page, hour, device) + user's bias + item's quality
          + strength · (affinity to the item's objects, place, composition) · (the task's weights)

One code for the log and for live simulation: what a ranker shows is answered by the users of its log.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from captionary.errors import bad_value
from captionary.world.catalogue import Catalogue
from captionary.world.randomness import Stream, generator
from captionary.world.settings import WorldConfig
from captionary.world.tasks import CONSUMPTION, LONG_SECONDS, TASKS, TASTE_WEIGHTS, TIME_SPENT
from captionary.world.tastes import Tastes
from captionary.world.traffic import SURFACES
from captionary.world.users import DEVICES, Users

__all__ = ["Context", "ResponseModel", "Responses"]

Index = npt.NDArray[np.integer]

_SURFACE_SPREAD, _DEVICE_SPREAD, _HOUR_SPREAD = 0.25, 0.15, 0.15
_SECONDS_SPREAD, _SHARE_SPREAD = 0.5, 0.5
_LONGEST = 600.0


class Context(NamedTuple):
    """Where and when N impressions take place."""

    surface: npt.NDArray[np.int8]
    """Index into traffic.SURFACES."""
    hour: npt.NDArray[np.int8]


class Responses(NamedTuple):
    """What N impressions led to."""

    probabilities: npt.NDArray[np.float64]
    """[N, T] The truth: the chance of a positive label, in the order of tasks.TASKS."""
    labels: npt.NDArray[np.bool_]
    """[N, T] The draw."""
    seconds: npt.NDArray[np.float32]
    """[N] Time spent, in tenths of a second; the label of time_spent says whether it reaches LONG_SECONDS."""
    watched: npt.NDArray[np.float32]
    """[N] Share of the item that was watched, 1 where the label of consumption is true."""


class ResponseModel:
    """The truth of a world. Its base is calibrated once: who shows better things then sees better rates."""

    def __init__(self, config: WorldConfig, catalogue: Catalogue, users: Users, tastes: Tastes) -> None:
        self._strength = config.semantic_strength
        self._catalogue, self._users, self._tastes = catalogue, users, tastes
        draw = generator(config.seed, Stream.CONTEXT)
        self._surface = draw.normal(0, _SURFACE_SPREAD, (len(SURFACES), len(TASKS)))
        self._device = draw.normal(0, _DEVICE_SPREAD, (len(DEVICES), len(TASKS)))
        peak = draw.uniform(0, 24, len(TASKS))
        turn = 2 * np.pi * (np.arange(24)[:, None] - peak) / 24
        self._hour = np.sqrt(2) * _HOUR_SPREAD * np.cos(turn)  # [24, T]
        self._base = logit(np.array([task.base_rate for task in TASKS]))

    def calibrate(self, user: Index, item: Index, day: int, context: Context) -> None:
        """Set the base so that the mean probability of the pilot's impressions is each task's base rate."""
        logits = self.logits(user, item, day, context) - self._base
        for task, kind in enumerate(TASKS):
            low, high = -30.0, 30.0
            for _ in range(50):
                middle = (low + high) / 2
                if expit(logits[:, task] + middle).mean() < kind.base_rate:
                    low = middle
                else:
                    high = middle
            self._base[task] = (low + high) / 2

    def logits(
        self, user: Index, item: Index, day: int, context: Context | None = None
    ) -> npt.NDArray[np.float64]:
        """Log odds of positive responses, [N, T] float64. Without a context, those of an average one.

        Raises:
            CaptionaryError: users and items are not equally many, or one of them does not exist.
        """
        for name, index, size in (("user", user, self._users.size), ("item", item, self._catalogue.size)):
            if len(index) != len(user):
                raise bad_value(f"{name}s", len(index), f"as many as users, {len(user)}")
            if len(index) and not (index.min() >= 0 and index.max() < size):
                raise bad_value(name, f"{index.min()} to {index.max()}", f"0 to {size - 1}")
        result = self._base + self._users.bias[user] + self._catalogue.quality[item]
        result += self._device[self._users.device[user]]
        if context is not None:
            result += self._surface[context.surface] + self._hour[context.hour]
        if self._strength > 0:
            result += self._strength * (self._tastes.affinity(user, item, day) @ TASTE_WEIGHTS.T)
        return np.asarray(result, np.float64)

    def respond(
        self, user: Index, item: Index, day: int, rng: np.random.Generator, context: Context | None = None
    ) -> Responses:
        """Let N users respond to N items on a day, each response on its own given the truth.

        Args:
            user: indices of users, [N].
            item: indices of items, [N].
            day: since the log began; tastes go on drifting after its end. Cheapest in order.
            rng: where chance comes from.
            context: where and when; None for an average one.

        Raises:
            CaptionaryError: users and items are not equally many, one does not exist, or `day` is negative.
        """
        logits = self.logits(user, item, day, context)
        # Logistic noise: logit + noise > 0 with probability expit(logit). How far above or below 0 says
        # how long an item held its user.
        latent = logits + rng.logistic(size=logits.shape)
        seconds = LONG_SECONDS * np.exp(_SECONDS_SPREAD * latent[:, TIME_SPENT])
        seconds = np.floor(np.clip(seconds, 0.1, _LONGEST) * 10) / 10
        labels = latent >= 0
        labels[:, TIME_SPENT] = seconds >= LONG_SECONDS
        watched = np.exp(_SHARE_SPREAD * np.minimum(latent[:, CONSUMPTION], 0.0))
        return Responses(expit(logits), labels, seconds.astype(np.float32), watched.astype(np.float32))
