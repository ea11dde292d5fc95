"""What the service measures of itself, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from captionary import __version__
from captionary.errors import CaptionaryError

__all__ = ["FALLBACKS", "Telemetry"]

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
FALLBACKS = {
    "no_user": "the request names no user",
    "unknown_user": "a user whom the ranker was not trained with: their profile counts, their id does not",
    "no_profile": "the store has no events of the user",
    "row_of_export": "items without a row in the store: ranked by that of the export",
    "unknown_item": "items without a row anywhere: ranked as an unseen item without content",
    "store_unavailable": "the store did not answer: no profile, rows of the export",
    "unknown_context": "context that the ranker does not read, though another one does",
}
"""Reason → what was missing, and how the answer came about all the same."""


class Telemetry:
    """The metrics of one service, in a registry of its own.

    Args:
        versions: ranker → version.
        backlogs: asks the log: topic → (entries, age of the oldest in seconds).
    """

    def __init__(
        self, versions: Mapping[str, str], backlogs: Callable[[], Mapping[str, tuple[int, float]]]
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "captionary_requests", "Answers.", ("route", "method", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "captionary_request_seconds",
            "From the request's headers to the answer's.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "captionary_stage_seconds",
            "Of a ranking request: queue, assign, features, score, explain, encode.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.candidates = Histogram(
            "captionary_candidates",
            "Of a ranking request.",
            buckets=(1, 10, 50, 100, 200, 300, 500, 750, 1000),
            registry=self.registry,
        )
        self.ranked = Counter(
            "captionary_ranked", "Ranking requests, by ranker.", ("ranker",), registry=self.registry
        )
        self.fallbacks = Counter(
            "captionary_fallbacks",
            "Ranking requests with something missing.",
            ("reason",),
            registry=self.registry,
        )
        self.refused = Counter(
            "captionary_refused", "Requests that were not taken on.", ("reason",), registry=self.registry
        )
        self.exposures = Counter(
            "captionary_exposures", "First exposures.", ("experiment", "arm"), registry=self.registry
        )
        self.events = Counter("captionary_events", "Events acknowledged.", ("event",), registry=self.registry)
        self.uploads = Counter(
            "captionary_uploads", "Media, by what became of them.", ("outcome",), registry=self.registry
        )
        self.inside = Gauge("captionary_inside", "Requests in hand.", ("pool",), registry=self.registry)
        info = Gauge(
            "captionary_ranker_info", "1 for each ranker.", ("ranker", "version"), registry=self.registry
        )
        for ranker, version in versions.items():
            info.labels(ranker, version).set(1)
        Gauge("captionary_info", "1.", ("version",), registry=self.registry).labels(__version__).set(1)
        for reason in FALLBACKS:  # a counter that is there before it is first needed can be watched
            self.fallbacks.labels(reason)
        self.registry.register(_Backlogs(backlogs))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - began)

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """(text, content type) for Prometheus. Blocks: the log is asked."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind


class _Backlogs(Collector):
    """The log's backlog at the time of asking; nothing where the log does not answer."""

    def __init__(self, ask: Callable[[], Mapping[str, tuple[int, float]]]) -> None:
        self.ask = ask

    def describe(self) -> Iterable[Metric]:
        return []  # so that registering does not ask

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("captionary_backlog", "Entries without an effect yet.", labels=["topic"])
        oldest = GaugeMetricFamily(
            "captionary_backlog_seconds", "Age of the oldest of them.", labels=["topic"]
        )
        reachable = GaugeMetricFamily("captionary_log_up", "Whether the log answers.")
        try:
            found = self.ask()
        except CaptionaryError:
            reachable.add_metric([], 0)
            yield reachable
            return
        reachable.add_metric([], 1)
        for topic, (entries, age) in found.items():
            waiting.add_metric([topic], entries)
            oldest.add_metric([topic], age)
        yield from (waiting, oldest, reachable)
