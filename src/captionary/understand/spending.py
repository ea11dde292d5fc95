"""A hard cap on requests, tokens and money: set aside before the call, settled after it.

    reserve ──▶ request ──▶ settle(what it cost; all that was set aside where nobody knows)
       └── nothing left: wait for what is in flight to come in below its reserve, else CapReachedError

What is in flight is counted at its dearest, so the cap holds with any number of requests at once. `Account` counts,
`SpendingCap` waits; where several processes spend under one cap, see `captionary.understand.spending_shared`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple, Protocol

from captionary.understand.captioner import StoppedError
from captionary.understand.endpoint import EndpointConfig

__all__ = ["Account", "Cap", "CapReachedError", "Reserve", "SpendingCap", "Spent"]


class CapReachedError(StoppedError):
    """The next request might go beyond a cap."""


class Spent(NamedTuple):
    """What a captioner has used so far."""

    requests: int = 0
    """Retries included."""
    input_tokens: int = 0
    """Read by the server: prompts and pictures."""
    output_tokens: int = 0
    """Written by it."""
    cost: float = 0.0
    """By the prices of the config, in their currency."""


class Reserve(NamedTuple):
    """The dearest that one request may come to."""

    input_tokens: int
    output_tokens: int


class Account:
    """What may be used, what was used, and what is set aside for requests in flight, each by a name of its own.

    Args:
        config: the caps and prices.
        max_new_tokens: the most that a request may write.
    """

    def __init__(self, config: EndpointConfig, max_new_tokens: int) -> None:
        self.config = config
        self.spent = Spent()
        self.flying: dict[str, Reserve] = {}
        self._each = Reserve(config.input_tokens, max_new_tokens)
        self._told = False

    def ask(self, name: str) -> bool:
        """Set aside what a request may cost; False: not before something in flight comes in.

        Asked twice by one name it sets aside once.

        Raises:
            CapReachedError: there is not enough left, and nothing in flight that could come in cheaper.
        """
        if name in self.flying:
            return True
        over = self._over()
        # Until an answer has said what a prompt costs, one at a time finds out.
        guess = self.config.max_cost is not None and not self._told
        if not over and not (guess and self.flying):
            self.flying[name] = self._each
            self.spent = self.spent._replace(requests=self.spent.requests + 1)
            return True
        if not self.flying:
            raise CapReachedError(over)
        return False

    def settle(self, name: str, used: Reserve | None) -> None:
        """Book what a request cost; None where it is unknown: then all that was set aside. Once for each name."""
        reserve = self.flying.pop(name, None)
        if reserve is None:
            return
        cost = used or reserve
        read = self.spent.input_tokens + cost.input_tokens
        written = self.spent.output_tokens + cost.output_tokens
        self.spent = Spent(self.spent.requests, read, written, self._money(read, written))
        if used is not None and used != (0, 0):
            self._told = True
            # A server that counts more than expected is expected to go on so.
            self._each = Reserve(*map(max, self._each, used))

    def state(self) -> dict[str, Any]:
        """What `restored` needs, ready for JSON."""
        return {"spent": self.spent, "flying": self.flying, "each": self._each, "told": self._told}

    def restored(self, state: Mapping[str, Any]) -> Account:
        """An account of the same caps with the state of another."""
        other = Account(self.config, self._each.output_tokens)
        other.spent, other._each, other._told = Spent(*state["spent"]), Reserve(*state["each"]), state["told"]
        other.flying = {name: Reserve(*reserve) for name, reserve in state["flying"].items()}
        return other

    def _money(self, read: int, written: int) -> float:
        return (read * self.config.input_price + written * self.config.output_price) / 1e6

    def _over(self) -> str:
        """Which cap one more request might break, in words; empty where none."""
        config, spent = self.config, self.spent
        if config.max_requests is not None and spent.requests + 1 > config.max_requests:
            return f"max_requests == {config.max_requests}, must be more to go on; {spent.requests} were made"
        ahead = [*self.flying.values(), self._each]
        read = spent.input_tokens + sum(reserve.input_tokens for reserve in ahead)
        written = spent.output_tokens + sum(reserve.output_tokens for reserve in ahead)
        cap = config.max_output_tokens
        if cap is not None and written > cap:
            say = (
                f"{spent.output_tokens} were written and one more answer may have {self._each.output_tokens}"
            )
            return f"max_output_tokens == {cap}, must be more to go on; {say}"
        if config.max_cost is not None and self._money(read, written) > config.max_cost:
            one = self._money(*self._each)
            say = f"{spent.cost:.6g} was spent and one more request may cost {one:.6g}"
            return f"max_cost == {config.max_cost:g}, must be more to go on; {say}"
        return ""


class Cap(Protocol):
    """Keeps requests within a cap."""

    def open(self) -> None:
        """Take up work in the running event loop."""
        ...

    async def reserve(self) -> str:
        """Set aside what a request may cost, as soon as there is enough; the name under which it is settled.

        Raises:
            CapReachedError: there is not enough left, and nothing in flight that could come in cheaper.
        """
        ...

    async def settle(self, name: str, used: Reserve | None) -> None:
        """Book what a request cost; None where it is unknown: then all that was set aside."""
        ...

    @property
    def spent(self) -> Spent:
        """What was used so far, by all who share the cap."""
        ...


class SpendingCap:
    """The cap of one captioner in one process. One event loop at a time: `open` it there first."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._names = map(str, count())
        self._changed = asyncio.Condition()

    def open(self) -> None:
        """Take up work in the running event loop; what was in flight in the one before was settled there."""
        self.account.flying.clear()
        self._changed = asyncio.Condition()

    async def reserve(self) -> str:
        """See `Cap`."""
        name = next(self._names)
        async with self._changed:
            while not self.account.ask(name):
                await self._changed.wait()
        return name

    async def settle(self, name: str, used: Reserve | None) -> None:
        """See `Cap`."""
        async with self._changed:
            self.account.settle(name, used)
            self._changed.notify_all()

    @property
    def spent(self) -> Spent:
        """What was used so far."""
        return self.account.spent
