"""Routes of searches: order and look."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Response

from automl_prune.costs import METRICS
from automl_prune.errors import StateConflictError, UnknownNameError, UserError
from automl_prune.loop.job import SearchJob, SearchState, Submission
from automl_prune.loop.spec import SearchSpec
from automl_prune.loop.standing import cost_name
from services.api import idempotency, limits, views
from services.api.context import NO_NUL, Context, InContext, Limit, PageToken, SearchId, Spec, Text
from services.api.estimates import estimate
from services.api.openapi import SPEC_BODY
from services.api.paging import page, read_search_token
from services.api.standings import objective

router = APIRouter(prefix="/v1", tags=["searches"])

LabelText = Annotated[
    str | None,
    Query(min_length=1, max_length=200, pattern=NO_NUL, json_schema_extra={"pattern": r"^[^:\x00]+:[^\x00]*$"}),
]

Costs = Annotated[
    list[Annotated[str, Query(min_length=1, max_length=200, pattern=NO_NUL)]] | None,
    Query(max_length=8, description="Metrics to keep low, latency_ms@DEVICE for a device's; the first budget's by default."),
]


@router.post("/searches", status_code=201, openapi_extra=SPEC_BODY)
async def submit(
    spec: Spec, context: InContext, response: Response, idempotency_key: idempotency.Key = None
) -> dict[str, Any]:
    """Order a search; it is durable once this answers, and its life is followed at the Location."""
    placed = None if idempotency_key is None else await to_thread.run_sync(_replayed, context, spec, idempotency_key)
    if placed is None:
        found = await _reviewed(context, spec)
        placed = await to_thread.run_sync(_place, context, spec, idempotency_key, found)
    response.headers["Location"] = views.search_path(placed.job, context.settings.public_url)
    if placed.replayed:
        response.headers[idempotency.REPLAYED] = "true"
    return views.search(idempotency.as_ordered(placed.job, spec), {}, {}, base_url=context.settings.public_url)


def _replayed(context: Context, spec: SearchSpec, key: str) -> Submission | None:
    """The search that the same order made before, whatever else would be refused by now."""
    job = context.store.ordered_before(idempotency.once(key, spec))
    return None if job is None else Submission(job, replayed=True)


async def _reviewed(context: Context, spec: SearchSpec) -> Mapping[str, Any]:
    """What an order amounts to; what it may not have is refused before the long work."""
    limits.check(spec, context.settings, context.key_limits)
    return await context.reviews.of(spec, context.principal.tenant)


def _place(context: Context, spec: SearchSpec, key: str | None, found: Mapping[str, Any]) -> Submission:
    # what was checked is what will be searched: the driver refuses weights that are replaced in the meantime
    body = spec.model_dump(mode="json") | {"weights_sha256": found.get("weights_sha256")}
    queue = limits.of_queue(context.settings, context.key_limits)
    told: dict[str, Any] = {"name": spec.name, "labels": spec.labels, "priority": spec.priority, "queue": queue}
    if key is None:
        return Submission(context.store.add_search(body, **told), replayed=False)
    return context.store.add_search_once(body, **told, idempotency=idempotency.once(key, spec))


@router.post("/searches:validate", openapi_extra=SPEC_BODY)
async def validate(spec: Spec, context: InContext) -> Mapping[str, Any]:
    """Check an order without placing it: the space's size, what the full network costs, the budgets in absolute terms.

    ``time`` says how long its evaluations would take, where earlier searches tell.
    """
    found = await _reviewed(context, spec)
    time = await to_thread.run_sync(estimate, spec, context.store, context.settings)
    return {**found, "time": time}


@router.get("/searches")
def list_searches(
    context: InContext,
    state: Annotated[list[SearchState] | None, Query(description="Any of these.")] = None,
    strategy: Text = None,
    label: LabelText = None,
    limit: Limit = 50,
    page_token: PageToken = None,
) -> dict[str, Any]:
    """Searches, newest first; label is written key:value."""
    found = context.store.list_searches(
        states=state or (),
        strategy=strategy,
        label=_label(label),
        limit=limit + 1,
        before=read_search_token(page_token),
    )
    shown = dict(zip([job.id for job in found], context.searches_json(found), strict=True))
    return page(found, limit, lambda job: shown[job.id], lambda job: job.id)


@router.get("/searches/{search_id:id}/best")
def get_best(search_id: SearchId, context: InContext) -> Mapping[str, Any]:
    """The best architecture as JSON, once the search has finished it."""
    job = context.store.get_search(search_id)
    if job.result is None:
        when = "and will have none" if job.state.is_terminal else "yet; it is ready when the state is 'succeeded'"
        raise StateConflictError(f"Search {job.id!r} is {job.state} and has no result {when}.")
    return job.result


@router.get("/searches/{search_id:id}/pareto")
async def get_pareto(search_id: SearchId, context: InContext, cost: Costs = None) -> dict[str, Any]:
    """The trade-off between the objective and costs, for the search and for its controls."""
    return await to_thread.run_sync(_pareto, context, search_id, cost or (), limiter=context.standings.threads)


def _pareto(context: Context, search_id: str, chosen: Sequence[str]) -> dict[str, Any]:
    job = context.store.get_search(search_id)
    aim, costs = objective(job), _costs(job, chosen)
    fronts = context.standings.fronts(job, costs, context.store.progress(job.id))
    return views.pareto(job, aim, costs, fronts)


def _costs(job: SearchJob, chosen: Sequence[str]) -> tuple[str, ...]:
    """The metrics of a front, each once; raises UnknownNameError for one that the search's trials do not report."""
    ordered = [cost_name(budget) for budget in job.spec["budgets"]]
    known = dict.fromkeys([*METRICS, *ordered])
    for place, metric in enumerate(chosen):
        if metric not in known:
            raise UnknownNameError("cost metric of this search", metric, known, pointer=f"/query/cost/{place}")
    return tuple(dict.fromkeys(chosen)) or (ordered[0],)


def _label(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    key, colon, value = text.partition(":")
    if not key or not colon:
        raise UserError("label is written key:value, as in label=team:edge.", pointer="/query/label")
    return key, value
