"""The five tasks of the marketplace, as in the paper (§4.1): how often users respond, and to what."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from captionary.spec import Task

__all__ = ["CONSUMPTION", "EVENTS", "LONG_SECONDS", "TASKS", "TASTE_WEIGHTS", "TIME_SPENT", "WorldTask"]


class WorldTask(NamedTuple):
    """One way in which a user responds to an impression."""

    name: str
    base_rate: float
    """Share of positive impressions under the logging policy."""
    taste: tuple[float, float, float]
    """Logit per unit of affinity to the objects, the place and the composition, at strength 1."""
    event: str | None = None
    """The event that a positive response leaves in the log."""
    at: float | None = None
    """Of a duration, seconds: the label is 1 from here on."""

    @property
    def spec(self) -> Task:
        """How dataset.yaml names the task."""
        return Task(name=self.name, at=self.at)


LONG_SECONDS = 12.0
"""From here on, time spent counts as a positive response."""

TASKS: tuple[WorldTask, ...] = (
    WorldTask("comment", 0.03, (0.65, 0.35, 1.3), event="comment"),
    WorldTask("like", 0.15, (1.1, 0.65, 1.1), event="like"),
    WorldTask("share", 0.04, (0.75, 0.55, 1.3), event="share"),
    WorldTask("time_spent", 0.35, (1.0, 1.0, 0.75), at=LONG_SECONDS),
    WorldTask("consumption", 0.25, (1.2, 0.65, 0.65), event="complete"),
)
TIME_SPENT, CONSUMPTION = 3, 4
EVENTS: tuple[str, ...] = tuple(task.event for task in TASKS if task.event)

TASTE_WEIGHTS = np.array([task.taste for task in TASKS], np.float32)
"""[T, 3] `WorldTask.taste` of all tasks."""
