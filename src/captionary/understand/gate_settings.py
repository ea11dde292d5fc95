"""The gate's settings: the policy, what may be spent, what it expects."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from captionary.errors import bad_value

__all__ = ["POLICIES", "GateConfig", "Policy"]

Policy = Literal["always", "rules", "budget", "learned", "random", "popular"]
POLICIES: tuple[Policy, ...] = ("always", "rules", "budget", "learned", "random", "popular")


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Which items the captioner is invoked for."""

    policy: Policy = "always"
    """always, rules, budget, learned; random and popular are for comparison."""
    share: float | None = None
    """Most items captioned, as a share of those that have media and no caption yet, > 0, <= 1; None: no such limit."""
    items: int | None = None
    """Most items captioned, >= 0; None: no such limit."""
    seconds: float | None = None
    """Most seconds of the captioner, >= 0; None: no such limit."""
    money: float | None = None
    """Most money spent, in the unit of the prices, >= 0; None: no such limit."""
    seconds_per_item: float | None = None
    """What each picture of an item takes that is captioned (of a video each key frame), > 0; None: as measured on
    captions in the store."""
    price_per_item: float = 0.0
    """Money for each picture of an item that is captioned (of a video each key frame), >= 0."""
    price_per_second: float = 0.0
    """Money for a second of the captioner, >= 0: the machine's price."""
    horizon_days: float = 7.0
    """How far ahead exposure is forecast, > 0."""
    half_life_days: float = 4.0
    """After which a day's impressions count half in the forecast, > 0."""
    new_days: float | None = None
    """rules: an item that came in longer ago is not new, > 0; None: any that is not captioned is new."""
    thin_text: float = 0.5
    """rules: text that says less of what a caption would say is too thin, > 0, <= 1."""
    min_traffic: float = 0.0
    """rules: fewest impressions a day that must be expected, >= 0."""
    cold: float = 0.25
    """budget: by how much a caption is worth more to an item that was never shown, >= 0."""
    lend: bool = True
    """Lend items that are left out the tokens that look-alikes teach, see `captionary.understand.gate_lookalike`."""
    trust: float = 0.6
    """budget: how much of its own caption an item expects of a look-alike of similarity 1, 0 to 1."""
    model: Path | None = None
    """learned: the file written by `captionary gate fit`; None: that of the run."""
    seed: int = 0
    """Of random."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise bad_value(field.name, value, "finite")
        if self.policy not in POLICIES:
            raise bad_value("policy", self.policy, "one of " + ", ".join(POLICIES))
        for name in (
            "items",
            "seconds",
            "money",
            "price_per_item",
            "price_per_second",
            "min_traffic",
            "cold",
        ):
            if (value := getattr(self, name)) is not None and value < 0:
                raise bad_value(name, value, ">= 0")
        for name in ("seconds_per_item", "horizon_days", "half_life_days", "new_days"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise bad_value(name, value, "> 0")
        for name in ("share", "thin_text"):
            if (value := getattr(self, name)) is not None and not 0 < value <= 1:
                raise bad_value(name, value, "a share above 0 and up to 1")
        if not 0 <= self.trust <= 1:
            raise bad_value("trust", self.trust, "0 to 1")
        if self.money and not (self.price_per_item or self.price_per_second):
            todo = "give price_per_item or price_per_second"
            raise bad_value("money", self.money, "absent where nothing has a price", todo=todo)

    @property
    def decides(self) -> bool:
        """Whether anything may be left out: any policy but `always`, and that one too where it has a limit."""
        return self.policy != "always" or any(
            limit is not None for limit in (self.share, self.items, self.seconds, self.money)
        )

    @property
    def lends(self) -> bool:
        """Whether anything is left out that could be lent tokens."""
        return self.lend and self.decides
