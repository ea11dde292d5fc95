"""From the event log to a number per user: what each did since their first exposure, and what they did before.

    events       user_id, event, timestamp, value       → any event type, counted or summed
    impressions  user_id, timestamp                     → impressions
    requests     user_id, timestamp, latency_ms, error  → requests, latency_ms, slow_requests, errors

`sources.py` reads these tables. Everything is read once; any number of looks at the experiment is then a masked sum
each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from captionary.errors import bad_value, nearest
from captionary.online.experiments.exposure import Exposed
from captionary.online.experiments.settings import MEASURES, Experiment, Metric

__all__ = ["DAY", "Entries", "Log", "Measures", "Sample"]

Floats = npt.NDArray[np.float64]
DAY = 86_400_000_000
"""Microseconds."""


class Log(NamedTuple):
    """What was written down, as Arrow or Polars tables; user ids may be integers or strings."""

    events: Any = None
    """user_id, event, timestamp; value where there is one."""
    impressions: Any = None
    """user_id, timestamp."""
    requests: Any = None
    """user_id, timestamp, latency_ms, error (bool)."""


class Sample(NamedTuple):
    """A metric's numbers of N users at one moment."""

    arm: npt.NDArray[np.int8]
    """[N] Index of the arm."""
    numerator: Floats
    """[N] What is measured."""
    denominator: Floats | None = None
    """[N] What it is divided by, in a ratio of sums; None: users."""
    numerator_before: Floats | None = None
    """[N] The same before exposure; None without CUPED."""
    denominator_before: Floats | None = None
    """[N] The same of the denominator."""


class Entries(NamedTuple):
    """E entries of the log that belong to users of the experiment."""

    row: npt.NDArray[np.int64]
    """[E] Which user."""
    time: npt.NDArray[np.int64]
    """[E] Microseconds since 1970."""
    value: Floats
    """[E] What it counts."""


class Measures:
    """All that an experiment's metrics need of the log, by user."""

    def __init__(self, exposed: Exposed, log: Log, experiment: Experiment) -> None:
        """Read the log.

        Raises:
            CaptionaryError: a metric asks for an event type or a table that is not in the log.
        """
        self.exposed, self._experiment = exposed, experiment
        self._entries: dict[tuple[str, bool], Entries] = {}
        users = pl.DataFrame({"user_id": exposed.users, "row": np.arange(len(exposed.users))})
        for metric in experiment.metrics:
            for name, value in _asked(metric):
                if (name, value) not in self._entries:
                    where = f"metric {metric.name} of experiment {experiment.name}"
                    self._entries[name, value] = _entries(users, log, name, value, experiment.slow_ms, where)

    @classmethod
    def of_entries(
        cls, exposed: Exposed, experiment: Experiment, entries: dict[tuple[str, bool], Entries]
    ) -> Measures:
        """From entries that are at hand: (measure, whether values are summed) → entries of the exposed users."""
        made = cls.__new__(cls)
        made.exposed, made._experiment, made._entries = exposed, experiment, entries
        return made

    @property
    def primary(self) -> Metric:
        """The experiment's primary metric."""
        return self._experiment.primary()

    @property
    def begin(self) -> int:
        """The first exposure of all, in microseconds since 1970."""
        return int(self.exposed.first.min())

    @property
    def last(self) -> int:
        """The moment after the last entry or exposure."""
        ends = [int(entries.time.max()) for entries in self._entries.values() if len(entries.time)]
        return max([*ends, int(self.exposed.first.max())]) + 1

    def entries(self, name: str, *, value: bool = False) -> Entries:
        """What was read of one measure."""
        return self._entries[name, value]

    def sample(self, metric: Metric, until: int) -> Sample:
        """The metric's numbers of the users who were exposed before `until`, from what happened before it.

        Args:
            metric: one of the experiment's.
            until: microseconds since 1970.
        """
        there = self.exposed.first < until
        own, *others = [self._since(name, value, until)[there] for name, value in _asked(metric)]
        result = Sample(self.exposed.arm[there], own, others[0] if others else None)
        if not metric.cuped:
            return result
        before = [self._before(name, value)[there] for name, value in _asked(metric)]
        # What never varied before exposure explains nothing: the log does not go back so far.
        if before[0].std() == 0 or (len(before) > 1 and before[1].sum() == 0):
            return result
        return result._replace(
            numerator_before=before[0], denominator_before=before[1] if len(before) > 1 else None
        )

    def _since(self, name: str, value: bool, until: int) -> Floats:
        entries = self._entries[name, value]
        kept = (entries.time >= self.exposed.first[entries.row]) & (entries.time < until)
        return self._sums(entries, kept)

    def _before(self, name: str, value: bool) -> Floats:
        entries = self._entries[name, value]
        first = self.exposed.first[entries.row]
        begin = first - int(self._experiment.covariate_days * DAY)
        return self._sums(entries, (entries.time < first) & (entries.time >= begin))

    def _sums(self, entries: Entries, kept: npt.NDArray[np.bool_]) -> Floats:
        size = len(self.exposed.users)
        return np.bincount(entries.row[kept], entries.value[kept], size).astype(np.float64)


def _asked(metric: Metric) -> list[tuple[str, bool]]:
    """(measure, whether values are summed) of the numerator, and of the denominator where there is one."""
    return [(metric.of, metric.value), *([(metric.per, False)] if metric.per else [])]


def _entries(users: pl.DataFrame, log: Log, name: str, value: bool, slow_ms: float, where: str) -> Entries:
    if name == "impressions":
        frame = _frame(log.impressions, "impressions", ("user_id", "timestamp"), where)
        amount = pl.lit(1.0)
    elif name in MEASURES:
        frame = _frame(log.requests, "requests", ("user_id", "timestamp", "latency_ms", "error"), where)
        amount = {
            "requests": pl.lit(1.0),
            "latency_ms": pl.col("latency_ms").cast(pl.Float64),
            "slow_requests": (pl.col("latency_ms") > slow_ms).cast(pl.Float64),
            "errors": pl.col("error").cast(pl.Float64),
        }[name]
    else:
        frame = _frame(log.events, "events", ("user_id", "event", "timestamp"), where)
        types = frame["event"].cast(pl.String).unique().to_list()
        if name not in types:
            raise bad_value("measure", name, nearest(name, [*types, *MEASURES]), where=where)
        frame = frame.filter(pl.col("event").cast(pl.String) == name)
        summed = value and "value" in frame.columns
        amount = pl.col("value").cast(pl.Float64).fill_null(1.0) if summed else pl.lit(1.0)
    kept = frame.select(
        pl.col("user_id").cast(pl.String),
        pl.col("timestamp").dt.epoch("us").alias("time"),
        amount.alias("value"),
    ).join(users, on="user_id", how="inner")
    return Entries(kept["row"].to_numpy(), kept["time"].to_numpy(), kept["value"].to_numpy())


def _frame(table: Any, name: str, columns: tuple[str, ...], where: str) -> pl.DataFrame:
    if table is None:
        raise bad_value(name, "(absent)", "among the log's tables", where=where)
    found = table if isinstance(table, pl.DataFrame) else pl.from_arrow(table)
    if not isinstance(found, pl.DataFrame):
        raise bad_value(name, type(table).__name__, "a table", where=where)
    for column in columns:
        if column not in found.columns:
            raise bad_value("column", column, f"among those of {name}", where=where)
    return found
