"""The HTTP service as one ASGI app."""

from importlib.metadata import version
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry

from automl_prune import plugins
from automl_prune.latency.kept import KeptTimes
from automl_prune.storage.keys import ApiKeys
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.sql.devices import SqlDevices
from automl_prune.storage.watching import Watcher
from automl_prune.storage.webhooks import Webhooks
from services.api import (
    audit,
    changes,
    control,
    devices,
    log_files,
    metrics,
    openapi,
    probes,
    problems,
    searches,
    site,
    streams,
    trials,
    webhooks,
)
from services.api.access import OPEN, PROBES, Door, Gate
from services.api.catalog import catalog
from services.api.claims import WaitingClaims
from services.api.context import Context, Review, Reviews
from services.api.feed import Feed
from services.api.headers import Envelope
from services.api.heads import Heads
from services.api.ranges import Ranges
from services.api.standings import Standings
from services.api.telemetry import RequestMetrics, Telemetry
from services.settings import Settings


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, completed once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.complete(
                super().openapi(), changes.Change, webhooks.WebhookOrder, *devices.BODIES, is_open=PROBES | OPEN
            )
        return self.openapi_schema


def create_app(store: SqlStore, settings: Settings, review: Review) -> FastAPI:
    """An app that takes searches into ``store`` and shows what is there; it runs none itself.

    Args:
        store: Where searches live; called from several threads.
        settings: Limits, the artifact folder and the public address.
        review: Maps a SearchSpec and whose it is to what it amounts to, as JSON, or raises a UserError.
    """
    plugins.allow(settings.plugins)
    app = _App(
        title="automl-prune",
        summary="Channel pruning as architecture search over widths.",
        version=version("automl-prune"),
        docs_url=None,
        redoc_url=None,
        responses=openapi.PROBLEM_RESPONSE,
    )
    keys = ApiKeys(store.database)
    app.state.context = Context(store, settings, Reviews(review), catalog(), Standings(store), keys.running_limits)
    door = Door(keys, settings)
    app.state.feed = Feed(store, Watcher(store.database), settings.max_streams, door.still_admits)
    app.state.probe_threads = CapacityLimiter(probes.AT_ONCE)
    app.state.webhooks = Webhooks(store)
    app.state.addresses = webhooks.Addresses(settings.webhook_hosts)
    app.state.devices, app.state.waiting_claims = SqlDevices(store.database), WaitingClaims()
    app.state.kept_times = KeptTimes(settings.cache_dir / "latency")
    problems.install(app)
    app.add_exception_handler(streams.NothingMoreError, streams.answer_nothing_more)
    registry = CollectorRegistry()
    app.state.metrics = metrics.Metrics(registry, store, app.state.feed)
    app.add_middleware(streams.Leavers)
    app.add_middleware(Ranges)
    app.add_middleware(Heads)
    app.add_middleware(Gate, door=door)
    app.add_middleware(Telemetry, metrics=RequestMetrics(registry))
    app.add_middleware(Envelope)
    routes = (searches, changes, control, trials, streams, log_files, webhooks, devices, audit, metrics, probes, site)
    for module in routes:
        app.include_router(module.router)
    app.mount("/web", StaticFiles(directory=site.WEB), name="web")
    return app
