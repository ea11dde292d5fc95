"""What a simulated marketplace is made of: its sizes, its seed and its dials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from captionary.errors import CaptionaryError, bad_value

__all__ = ["WorldConfig"]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A marketplace; the defaults are the demo."""

    seed: int = 0
    """Of everything: the same config gives the same world. 0 to 2³² − 1."""
    items: int = 3_000
    """Items whose picture is sound. >= 20."""
    broken_media: int = 6
    """Further items whose file is damaged, missing or no picture, by turns. 0 to `items`."""
    users: int = 4_000
    """>= 2."""
    impressions: int = 200_000
    """Of all days together. >= 100."""
    days: int = 32
    """Length of the log; its last eighth is for evaluation. 8 to 3,650 days."""
    compositions: int = 150
    """How many compositions (subject, relation, object) the catalogue shows. 1 to 1,500."""
    stock: float = 0.4
    """Share of the items that are older than the log; the others come in, day after day. > 0, <= 1."""
    semantic_strength: float = 1.0
    """How much taste follows what pictures show; at 0 neither responses nor exposure do. 0 to 10."""
    shared_taste: float = 0.2
    """Spread of what all users like or dislike alike, beside personal tastes of about 1. 0 to 5."""
    taste_drift: float = 0.5
    """Standard deviation of a taste over time, as a share of its mean. 0 to 5."""
    taste_memory: float = 0.97
    """Correlation of a taste's wandering part with that of the day before (AR(1)). 0 to 1."""
    policy_affinity: float = 1.0
    """How strongly the logging policy follows the part of taste that it sees. 0 to 10."""
    pictures: bool = True
    """False: items without media, for tests of scale."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, 2**32 - 1),
            ("items", 20, math.inf),
            ("broken_media", 0, self.items),
            ("users", 2, math.inf),
            ("impressions", 100, math.inf),
            ("days", 8, 3650),
            ("compositions", 1, 1500),
            ("semantic_strength", 0, 10),
            ("shared_taste", 0, 5),
            ("taste_drift", 0, 5),
            ("taste_memory", 0, 1),
            ("policy_affinity", 0, 10),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # a NaN is refused too
                raise _out_of_range(name, value, low, high)
        if not 0 < self.stock <= 1:
            raise bad_value("stock", self.stock, "> 0 and <= 1")

    @property
    def eval_days(self) -> int:
        """How many days at the end of the log are for evaluation: an eighth, 7:1 as in the paper (§4.1)."""
        return max(1, round(self.days / 8))

    @property
    def catalogue_size(self) -> int:
        """All items, those with broken media included."""
        return self.items + self.broken_media

    @classmethod
    def tiny(cls, **changes: Any) -> WorldConfig:
        """A world for tests, made in under a second: 60 items, 80 users, 2,000 impressions, 16 days."""
        sizes = {"items": 60, "broken_media": 0, "users": 80, "impressions": 2_000, "days": 16}
        return cls(**(sizes | {"compositions": 12} | changes))


def _out_of_range(name: str, value: object, low: float, high: float) -> CaptionaryError:
    return bad_value(name, value, f">= {low}" if math.isinf(high) else f"{low} to {high}")
