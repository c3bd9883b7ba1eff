"""``/metrics`` for Prometheus: what this process answered, and what the database holds."""

import logging
import threading
import time
from collections.abc import Iterator

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from automl_prune.loop.job import SearchState
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.statistics import Figures, Statistics
from automl_prune.trial import TrialState
from services.api.feed import Feed
from services.api.problems import STORE_ERRORS

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
"""For how long figures of the database are good enough to be told again."""

_TRIAL_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 30, 60, 300, 900, 3600, 4 * 3600)

router = APIRouter(tags=["probes"])


class Metrics:
    """Everything that is counted here.

    Args:
        registry: Where others of this process count, too.
        store: What is counted in the database.
        feed: Whose streams are counted.
    """

    def __init__(self, registry: CollectorRegistry, store: SqlStore, feed: Feed) -> None:
        self._registry = registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        registry.register(_Process(feed))
        registry.register(_Database(Statistics(store)))

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Process(Collector):
    """What is open in this process."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def collect(self) -> Iterator[Metric]:
        """Count them."""
        yield GaugeMetricFamily("automl_prune_event_streams", "Open event streams.", value=self._feed.streams)


class _Database(Collector):
    """What the database holds, read at most every few seconds; when it is away, only that."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._lock = threading.Lock()
        self._read = 0.0
        self._figures: Figures | None = None
        self._seconds = Histogram(
            "automl_prune_trial_seconds",
            "Time of a trial from its start to its record, of trials that ended while this process watched.",
            ("state",),
            buckets=_TRIAL_SECONDS,
            registry=None,
        )
        self._overhead = Counter(
            "automl_prune_executor_overhead_seconds",
            "Of that time, what was not evaluation.",
            registry=None,
        )

    def describe(self) -> Iterator[Metric]:
        """Nothing: names need not be looked up in a database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """What is there now."""
        figures = self._fresh()
        yield from self._seconds.collect()
        yield from self._overhead.collect()
        yield GaugeMetricFamily("automl_prune_database_up", "Whether the database answers.", value=figures is not None)
        if figures is None:
            return
        searches, trials = figures.searches, figures.trials
        yield _by_state("automl_prune_searches", "Searches by state.", {s.value: searches.get(s, 0) for s in SearchState})
        yield _by_state("automl_prune_trials", "Trials by state.", {s.value: trials.get(s, 0) for s in TrialState})
        queued = searches.get(SearchState.QUEUED, 0)
        yield GaugeMetricFamily("automl_prune_queue_length", "Searches that wait for a driver.", value=queued)
        yield GaugeMetricFamily(
            "automl_prune_queue_wait_seconds", "Age of the oldest search that waits.", value=figures.waiting_seconds
        )
        yield CounterMetricFamily("automl_prune_lease_losses", "Drivers that were lost.", value=figures.lost)

    def _fresh(self) -> Figures | None:
        with self._lock:
            if self._figures is None or time.monotonic() - self._read > FRESH_SECONDS:
                try:
                    self._figures = self._statistics.figures()
                    self._count_ended()
                    self._read = time.monotonic()
                except STORE_ERRORS as error:
                    log.warning("the database cannot be counted (%s)", type(error).__name__)
                    self._figures = None
            return self._figures

    def _count_ended(self) -> None:
        for trial in self._statistics.ended():
            self._seconds.labels(trial.state).observe(trial.seconds)
            self._overhead.inc(max(0.0, trial.seconds - trial.evaluated))


def _by_state(name: str, help_text: str, counts: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=["state"])
    for state, count in counts.items():
        family.add_metric([state], count)
    return family


@router.get("/metrics", response_class=Response)
async def get_metrics(request: Request) -> Response:
    """Counts for Prometheus: requests, searches and trials by state, durations; no names of tenants."""
    metrics: Metrics = request.app.state.metrics
    text = await to_thread.run_sync(metrics.text, limiter=request.app.state.probe_threads)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
