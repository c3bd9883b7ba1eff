"""What routes work with, handed over by ``create_app``, and the few things that they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Path, Query, Request
from starlette.convertors import StringConvertor, register_url_convertor

from automl_prune.loop.audit import HERE, Origin
from automl_prune.loop.job import SearchJob, SearchState, StoredTrial
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
from services.settings import Settings

Review = Callable[[SearchSpec, str], Mapping[str, Any]]
"""Maps a spec, and the tenant that orders it, to what it amounts to."""

_MOST_AT_ONCE = 17


class Reviews:
    """Reviews specs, each in a thread, and no more than a few; how many of them work at once is up to the review."""

    def __init__(self, review: Review) -> None:
        self._review = review
        self._threads = CapacityLimiter(_MOST_AT_ONCE)
        self._here = 0

    async def of(self, spec: SearchSpec, tenant: str) -> Mapping[str, Any]:
        """The review of a tenant's spec; raises UserError, or RequestError (503) when too many are waiting for theirs."""
        # Counted here and not by the limiter, which a task joins only after others had a chance to run.
        if self._here >= _MOST_AT_ONCE:
            raise RequestError(503, "busy", "Too many searches are being checked at once; try again.", retry_after=5)
        self._here += 1
        try:
            return await to_thread.run_sync(self._review, spec, tenant, limiter=self._threads)
        except BusyError as error:
            raise RequestError(503, "busy", str(error), retry_after=30) from None
        finally:
            self._here -= 1


@dataclass(frozen=True)
class Context:
    """The parts of one app.

    Attributes:
        reviews: Say what a spec amounts to.
        catalog: What can be named in a spec, by kind.
        principal: Who asks; the store of a request's context holds nothing but what is its tenant's.
        origin: Where the changes come from that are made in it; that store knows it too.
    """

    store: Store
    settings: Settings
    reviews: Reviews
    catalog: Mapping[str, Any]
    standings: Standings
    principal: Principal = ANYBODY
    origin: Origin = HERE

    def search_json(self, job: SearchJob) -> dict[str, Any]:
        """A search with how far it is and how well it does."""
        return self._json(job, self.store.progress(job.id), self.standings.best_by_arm(job), None)

    def searches_json(self, jobs: Sequence[SearchJob]) -> list[dict[str, Any]]:
        """The same of several, for which the store is asked once."""
        progress = self.store.progress_of([job.id for job in jobs])
        queued = [job.id for job in jobs if job.state is SearchState.QUEUED]
        ahead = self.store.ahead_of(queued) if queued else {}
        best = self.standings.best_of(jobs)
        return [self._json(job, progress[job.id], best[job.id], ahead) for job in jobs]

    def _json(
        self,
        job: SearchJob,
        progress: views.Progress,
        best: Mapping[str, StoredTrial],
        ahead: Mapping[str, int] | None,
    ) -> dict[str, Any]:
        why = waiting.reason(job, self.store, self.settings, self.key_limits.running, ahead)
        return views.search(replace(job, state_reason=why), progress, best, base_url=self.settings.public_url)

    @property
    def key_limits(self) -> KeyLimits:
        """How much the one who asks may have."""
        return self.principal.key.limits if self.principal.key else KeyLimits()


class _Id(StringConvertor):
    """An id in a path: no colon, so that ``/searches/ID:cancel`` is never taken for an id."""

    regex = "[A-Za-z0-9_-]{1,64}"


class _Number(StringConvertor):
    """A trial number in a path, small enough for any database."""

    regex = "[0-9]{1,9}"


register_url_convertor("id", _Id())
register_url_convertor("number", _Number())


def _context(request: Request) -> Context:
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
