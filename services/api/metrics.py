"""``/metrics`` for Prometheus: what this process answered, and what the database holds."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

router = APIRouter(tags=["probes"])


class Metrics:
    """Everything that is counted here.

    Args:
        registry: Where others of this process count, too.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


@router.get("/metrics", response_class=Response)
def get_metrics(request: Request) -> Response:
    """Counts for Prometheus: requests, searches and trials by state, durations; no names of tenants."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
