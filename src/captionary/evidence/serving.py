"""How long a trained ranker takes to answer a request, arm by arm in turns, and what it has to read for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from captionary.errors import bad_value
from captionary.rank.data import Ints, RankingData
from captionary.rank.features import FeatureSet

__all__ = ["bytes_read", "time_requests"]

Answer = Callable[[Ints], object]
"""Scores the rows of one request."""


def time_requests(
    arms: Mapping[str, Answer],
    rows: Ints,
    *,
    request: int = 100,
    requests: int = 50,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, list[float]]]:
    """Arm → ``p50_ms`` and ``p99_ms`` of its requests in each round, as `captionary.evidence.cost` takes them.

    In a round the arms answer the same requests, each request by all arms before the next, so that a busy machine is
    busy for all of them alike. One request goes unmeasured before.

    Args:
        arms: what answers.
        rows: evaluation rows to make requests of, in their order, again from the start where they do not suffice.
        request: rows that are scored together: the candidates of one page, >= 1.
        requests: in a round, >= 2.
        rounds: for the interval, >= 1.
        clock: in seconds.

    Raises:
        CaptionaryError: a number below its least, or no rows.
    """
    for name, value, least in (("request", request, 1), ("requests", requests, 2), ("rounds", rounds, 1)):
        if value < least:
            raise bad_value(name, value, f">= {least}")
    if not len(rows):
        raise bad_value("rows to serve", 0, ">= 1")
    for answer in arms.values():
        answer(rows[:request])
    names = list(arms)
    found: dict[str, dict[str, list[float]]] = {name: {"p50_ms": [], "p99_ms": []} for name in names}
    for turn in range(rounds):
        took: dict[str, list[float]] = {name: [] for name in names}
        for number in range(requests):
            asked = rows[(np.arange(request) + (turn * requests + number) * request) % len(rows)]
            # Who goes first finds cold caches: everybody does, in turn.
            for name in names[number % len(names) :] + names[: number % len(names)]:
                began = clock()
                arms[name](asked)
                took[name].append(1000 * (clock() - began))
        for name, times in took.items():
            found[name]["p50_ms"].append(float(np.percentile(times, 50)))
            found[name]["p99_ms"].append(float(np.percentile(times, 99)))
    return found


def bytes_read(data: RankingData, features: FeatureSet, rows: Ints) -> float:
    """Mean bytes of features that one of `rows` [M] brings to the ranker: ids 8 each, all else 4."""
    features.check(data)
    ids = 2 + len(data.context_categorical) + len(data.item_categorical)
    total = 8.0 * ids + 4.0 * len(data.numeric)
    items: npt.NDArray[np.int64] = data.item[rows]
    if features.visual and data.visual is not None:
        total += 4.0 * data.visual.shape[1]
    if features.tokens:
        total += 4.0 * float(data.item_tokens[features.tokens].lengths[items].mean())
    if features.profiles:
        for lists in data.profiles[features.profiles].values():
            total += (4.0 if lists.weights is None else 8.0) * float(lists.lengths[rows].mean())
    return total
