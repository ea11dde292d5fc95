"""What a stream of uploads may cost: so many captioned items a day, over all workers together.

A bucket of a day's items that fills evenly: after a quiet day a day's worth may come at once, and over a long time no
more than that a day. It is kept in the online store, so that workers share it and a restart does not fill it.
"""

from __future__ import annotations

import time

import msgspec

from captionary.errors import bad_value
from captionary.online import keys
from captionary.online.keyvalue import Transaction
from captionary.online.store import OnlineStore

__all__ = ["Allowance"]

_DAY = 86_400e6


class _Bucket(msgspec.Struct, frozen=True, array_like=True):
    left: float
    at: int
    """Microseconds since 1970."""


_decode = msgspec.msgpack.Decoder(_Bucket).decode


class Allowance:
    """The bucket of a store; of several workers.

    Args:
        store: where it is kept.
        per_day: items, >= 1.

    Raises:
        CaptionaryError: fewer than one.
    """

    def __init__(self, store: OnlineStore, per_day: int) -> None:
        if per_day < 1:
            raise bad_value("items per day", per_day, ">= 1")
        self.store, self.per_day = store, per_day

    def take(self, wanted: int, *, at: int | None = None) -> int:
        """Take items out, as many as there are; how many.

        Args:
            wanted: items, >= 0.
            at: the moment, microseconds since 1970; None: now.

        Raises:
            StoreUnavailableError: no answer; nothing was taken.
        """
        return self._change(wanted, time.time_ns() // 1000 if at is None else at)

    def give_back(self, unused: int, *, at: int | None = None) -> None:
        """Put back what was not needed after all, as of media that had a caption already."""
        if unused:
            self._change(-unused, time.time_ns() // 1000 if at is None else at)

    def _change(self, wanted: int, present: int) -> int:
        def work(transaction: Transaction) -> int:
            (packed,) = transaction.get_many([keys.ALLOWANCE])
            bucket = _Bucket(float(self.per_day), present) if packed is None else _decode(packed)
            passed = max(0, present - bucket.at)
            left = min(bucket.left + passed * self.per_day / _DAY, self.per_day)
            taken = min(wanted, int(left + 1e-9))
            left = min(left - taken, float(self.per_day))
            transaction.put(keys.ALLOWANCE, msgspec.msgpack.encode(_Bucket(left, max(present, bucket.at))))
            return taken

        return self.store.engine.update(work) if wanted else 0
