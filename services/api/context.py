"""What routes work with, handed over by ``create_app``, and the few things that they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Path, Query, Request
from starlette.convertors import StringConvertor, register_url_convertor

from automl_prune.loop.audit import HERE, Origin
from automl_prune.loop.job import HIGHEST_PRIORITY, SearchJob, SearchState, StoredTrial
from automl_prune.loop.ports import Store
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.keys import KeyLimits
from services.admission import BusyError
from services.api import views, waiting
from services.api.access import ANYBODY, Principal, origin_of, principal_of
from services.api.bodies import read_json
from services.api.paging import MAX_LIMIT
from services.api.problems import RequestError
from services.api.standings import Standings
from services.api.tenancy import of_tenant
from services.launcher.liveness import Seen, launchers
from services.settings import Settings

Review = Callable[[SearchSpec, str], Mapping[str, Any]]
"""Maps a spec, and the tenant that orders it, to what it amounts to."""

_MOST_AT_ONCE = 17
"""Orders of one tenant that are checked, or wait for it."""
_THREADS = 8
"""Of these, those that have a thread: more than may wait for an admission."""


class _Seats:
    """Where one tenant's orders are checked."""

    def __init__(self) -> None:
        self.threads, self.taken = CapacityLimiter(_THREADS), 0


class Reviews:
    """Reviews specs, each in a thread, and a few of each tenant; how many of them work at once is up to the review."""

    def __init__(self, review: Review) -> None:
        self._review = review
        self._tenants: dict[str, _Seats] = {}

    async def of(self, spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        """The review of a tenant's spec; raises UserError, or RequestError (503) when too many of its orders wait."""
        seats = self._tenants.setdefault(tenant, _Seats())
        # Counted here and not by the limiter, which a task joins only after others had a chance to run.
        if seats.taken >= _MOST_AT_ONCE:
            raise RequestError(503, "busy", "Too many searches are being checked at once; try again.", retry_after=5)
        seats.taken += 1
        try:
            return await to_thread.run_sync(self._review, spec, tenant, limiter=seats.threads)
        except BusyError as error:
            raise RequestError(503, "busy", str(error), retry_after=30) from None
        finally:
            seats.taken -= 1
            if not seats.taken:
                del self._tenants[tenant]


@dataclass(frozen=True)
class Context:
    """The parts of one app.

    Attributes:
        reviews: Say what a spec amounts to.
        catalog: What can be named in a spec, by kind.
        running_limits: Tells how many searches an API key may have running at once, by its id, for those with a limit.
        principal: Who asks; the store of a request's context holds nothing but what is its tenant's.
        origin: Where the changes come from that are made in it; that store knows it too.
    """

    store: Store
    settings: Settings
    reviews: Reviews
    catalog: Mapping[str, Any]
    standings: Standings
    running_limits: Callable[[], Mapping[str, int]]
    principal: Principal = ANYBODY
    origin: Origin = HERE

    def search_json(self, job: SearchJob) -> dict[str, Any]:
        """A search with how far it is and how well it does."""
        best, limits, seen = self.standings.best_by_arm(job), self._limits([job]), self._launchers([job])
        return self._json(job, self.store.progress(job.id), best, limits, None, seen)

    def searches_json(self, jobs: Sequence[SearchJob]) -> list[dict[str, Any]]:
        """The same of several, for which the store is asked once."""
        progress = self.store.progress_of([job.id for job in jobs])
        queued = [job.id for job in jobs if job.state is SearchState.QUEUED]
        ahead = self.store.ahead_of(queued) if queued else {}
        best, limits, seen = self.standings.best_of(jobs), self._limits(jobs), self._launchers(jobs)
        return [self._json(job, progress[job.id], best[job.id], limits, ahead, seen) for job in jobs]

    def _limits(self, jobs: Sequence[SearchJob]) -> Mapping[str, int]:
        """Of the keys that matter for what these searches wait for."""
        return self.running_limits() if any(job.state is SearchState.QUEUED and job.key_id for job in jobs) else {}

    def _launchers(self, jobs: Sequence[SearchJob]) -> Sequence[Seen]:
        """Those that matter for what these searches wait for."""
        return launchers(self.settings) if any(job.state is SearchState.QUEUED for job in jobs) else ()

    def _json(
        self,
        job: SearchJob,
        progress: views.Progress,
        best: Mapping[str, StoredTrial],
        limits: Mapping[str, int],
        ahead: Mapping[str, int] | None,
        seen: Sequence[Seen],
    ) -> dict[str, Any]:
        why = waiting.reason(job, self.store, seen, limits, ahead)
        return views.search(replace(job, state_reason=why), progress, best, base_url=self.settings.public_url)

    @cached_property
    def key_limits(self) -> KeyLimits:
        """How much the one who asks may have."""
        return self.principal.key.limits if self.principal.key else KeyLimits(priority=HIGHEST_PRIORITY)


class _Id(StringConvertor):
    """An id in a path: no colon, so that ``/searches/ID:cancel`` is never taken for an id."""

    regex = "[A-Za-z0-9_-]{1,64}"


class _Number(StringConvertor):
    """A trial number in a path, small enough for any database."""

    regex = "[0-9]{1,9}"


register_url_convertor("id", _Id())
register_url_convertor("number", _Number())


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    principal, origin = principal_of(request), origin_of(request)
    store = of_tenant(context.store, principal.tenant, origin)
    return replace(context, store=store, principal=principal, origin=origin)


InContext = Annotated[Context, Depends(_context)]


async def _spec(request: Request, context: InContext) -> SearchSpec:
    return SearchSpec.parse(await read_json(request, context.settings.max_body_bytes))


NO_NUL = r"^[^\x00]*$"
"""U+0000 is the one character that PostgreSQL cannot look for."""

Spec = Annotated[SearchSpec, Depends(_spec)]
SearchId = Annotated[str, Path(description="As POST /v1/searches returned it.")]
Text = Annotated[str | None, Query(min_length=1, max_length=200, pattern=NO_NUL)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most items of a page.")]
PageToken = Annotated[str | None, Query(max_length=200, description="The next_page_token of the previous page.")]
