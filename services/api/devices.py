"""Routes of devices: agents make them known, come for work, and bring measurements. The service never calls out to one."""

import asyncio
import time
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from automl_prune import strict
from automl_prune.errors import FieldError, MeasurementError, SpecError, StateConflictError
from automl_prune.latency.conditions import LONGEST_FACT, MOST_FACTS, Conditions, DeviceDescription
from automl_prune.latency.devices import LOCAL
from automl_prune.latency.kept import KeptTimes
from automl_prune.latency.registered import Measurement
from automl_prune.latency.timing import Timing
from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.loop.spec import ConditionsSpec, field_errors
from automl_prune.storage.device_rules import NAME
from automl_prune.storage.sql.devices import SqlDevices
from services.api.bodies import read_json
from services.api.claims import WaitingClaims
from services.api.context import Context, InContext
from services.api.device_views import local, shown, work
from services.api.openapi import body

router = APIRouter(prefix="/v1/devices", tags=["devices"])

LOOK_SECONDS = 0.5
"""How often a waiting agent's work is looked for."""
LONGEST_WAIT = 8.0
"""Less than a server that stops waits for what it is answering."""
MOST_CLAIMED = 32
PAGE = 200
"""Searches that are read at once where all are looked at."""

M = TypeVar("M", bound=BaseModel)
Text = Annotated[str, StringConstraints(max_length=LONGEST_FACT)]
FactName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Fact = Text | Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(gt=0, le=1e9)]
Spread = Annotated[float, Field(ge=0, le=1e9)]
Attempt = Annotated[int, Field(ge=1, le=1000)]
Epoch = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$"),
    Field(description="That registering answered; 409 (another_agent) once another agent has registered under the name."),
]
MeasurementId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class _Strict(BaseModel):
    model_config = strict.STRICT


class Description(_Strict):
    """What a device is."""

    fingerprint: Annotated[dict[FactName, Fact], Field(max_length=MOST_FACTS)] = Field(
        description="What its speed depends on: processor, cores, memory …"
    )
    runtimes: Annotated[dict[FactName, Text], Field(max_length=MOST_FACTS)] = Field(
        description="Versions of what can run networks there, by name."
    )


class DeviceOrder(_Strict):
    """A device that an agent speaks for."""

    name: Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
    description: Description


class DeviceClaim(_Strict):
    """What an agent comes for."""

    epoch: Epoch
    most: Annotated[int, Field(ge=1, le=MOST_CLAIMED)] = 4
    wait_seconds: Annotated[float, Field(ge=0, le=LONGEST_WAIT)] = Field(
        0, description="How long to wait where there is none."
    )


class Held(_Strict):
    """A measurement that an agent is at."""

    id: MeasurementId
    attempt: Attempt


class DeviceRenewal(_Strict):
    """What an agent is still at."""

    epoch: Epoch
    measurements: Annotated[list[Held], Field(max_length=MOST_CLAIMED)] = Field(default_factory=list)


class DeviceTiming(_Strict):
    """What was measured, in milliseconds; the ratio is to the reference that was timed in turn with it."""

    ms: Amount
    iqr_ms: Spread
    ratio: Amount
    ratio_iqr: Spread
    reference_ms: Amount
    samples: Annotated[int, Field(ge=1, le=10**6)]
    settled: bool


_EITHER: dict[str, Any] = {
    "oneOf": [
        {"required": [name], "properties": {name: {"type": kind}}}
        for name, kind in (("timing", "object"), ("error", "string"))
    ]
}


class DeviceReport(_Strict):
    """What came of a measurement: a timing, or an error that says why there is none."""

    model_config = ConfigDict(json_schema_extra=_EITHER)

    epoch: Epoch
    attempt: Attempt
    conditions: ConditionsSpec
    timing: DeviceTiming | None = None
    error: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "DeviceReport":
        if (self.timing is None) == (self.error is None):
            raise ValueError("give timing or error, and not both")
        return self


BODIES = (DeviceOrder, DeviceClaim, DeviceRenewal, DeviceReport)


def _devices(request: Request) -> SqlDevices:
    devices: SqlDevices = request.app.state.devices
    return devices


def _kept(request: Request) -> KeptTimes:
    kept: KeptTimes = request.app.state.kept_times
    return kept


InKept = Annotated[KeptTimes, Depends(_kept)]
InDevices = Annotated[SqlDevices, Depends(_devices)]
DeviceName = Annotated[str, Path(description="As it was registered.")]


@router.get("")
def list_devices(context: InContext, devices: InDevices, kept: InKept) -> dict[str, Any]:
    """What latency can be measured on: the machine that drives searches, and the devices that agents speak for."""
    found = [shown(device, context.settings, kept) for device in devices.devices(context.principal.tenant)]
    return {"items": [local(kept), *found], "next_page_token": None}


@router.get("/{device:id}")
def get_device(device: DeviceName, context: InContext, devices: InDevices, kept: InKept) -> dict[str, Any]:
    """One device: what it is, when it was last heard of, and what it measured; ``timed`` says what is kept of that."""
    if device == LOCAL:
        return local(kept)
    return shown(devices.device(context.principal.tenant, device), context.settings, kept)


@router.delete("/{device:id}", status_code=204)
def remove_device(device: DeviceName, context: InContext, devices: InDevices) -> None:
    """Forget a device, and all that it was asked to time. An agent that still runs makes it known again: end it first.

    409 for the machine that drives searches, and for a device that is alive while a search that has not ended has a budget
    on it. One that is not heard of any more can always be removed; the searches that wait for it fail then.
    """
    if device == LOCAL:
        raise StateConflictError(f"{LOCAL!r} is the machine that drives searches; it cannot be removed.")
    found = devices.device(context.principal.tenant, device)
    alive = found.silent_seconds <= context.settings.device_silent_seconds
    if alive and (search := _search_on(device, context.store)):
        raise StateConflictError(
            f"Search {search!r} has a budget on {device!r}, which is alive; cancel it or let it end, or end the agent first."
        )
    devices.remove(context.principal.tenant, device, origin=context.origin)


def _search_on(device: str, store: Store) -> str | None:
    """A search that has not ended and has a budget on a device."""
    states, before = [state for state in SearchState if not state.is_terminal], None
    while jobs := store.list_searches(states=states, limit=PAGE, before=before):
        for job in jobs:
            if any(budget.get("device") == device for budget in job.spec.get("budgets", ())):
                return job.id
        before = jobs[-1].id
    return None


@router.post("", openapi_extra=body("DeviceOrder"))
async def register_device(request: Request, context: InContext, devices: InDevices, kept: InKept) -> dict[str, Any]:
    """Make a device known under a name, or say that its agent has started again; what that one was at is handed out anew.

    A name that is known with another description means another machine: what it was asked to time then fails. The answer
    has an ``epoch``, which all that this agent says from now on carries: from the next registration on, claims, renewals and
    reports under an earlier one are refused. 409 for the machine that drives searches, and for one device too many.
    """
    order = await _read(request, context, DeviceOrder)
    about = DeviceDescription(order.description.fingerprint, order.description.runtimes)
    register = partial(devices.register, origin=context.origin)
    made = await to_thread.run_sync(register, context.principal.tenant, order.name, about)
    lease = context.settings.device_lease_seconds
    terms = {"epoch": made.epoch, "lease_seconds": lease, "longest_wait_seconds": LONGEST_WAIT}
    return {**await to_thread.run_sync(shown, made, context.settings, kept), **terms}


@router.post("/{device:id}/claims", openapi_extra=body("DeviceClaim"))
async def claim_measurements(request: Request, device: DeviceName, context: InContext, devices: InDevices) -> dict[str, Any]:
    """Work for the device's agent, each piece with its attempt and under a lease; after a while none where there is none.

    Of one device one claim waits: a newer one takes its place, and it is answered without work.
    409 for an agent after whom another one registered under the name.
    """
    tenant = context.principal.tenant
    await to_thread.run_sync(devices.device, tenant, device)
    wanted = await _read(request, context, DeviceClaim)
    give_up, feed = time.monotonic() + wanted.wait_seconds, request.app.state.feed
    waiting: WaitingClaims = request.app.state.waiting_claims
    lease = context.settings.device_lease_seconds

    def claim() -> list[Measurement]:
        return devices.claim(tenant, device, epoch=wanted.epoch, most=wanted.most, lease_seconds=lease)

    with waiting.place(tenant, device) as is_newest:
        found = await to_thread.run_sync(claim)
        while not (found or feed.closed) and time.monotonic() < give_up and not await request.is_disconnected():
            await asyncio.sleep(LOOK_SECONDS)
            if not is_newest():
                break
            if await to_thread.run_sync(devices.has_work, tenant, device, limiter=waiting.threads) and is_newest():
                found = await to_thread.run_sync(claim)
    return {"items": [work(one) for one in found], "lease_seconds": lease}


@router.post("/{device:id}:renew", openapi_extra=body("DeviceRenewal"))
async def renew_measurements(request: Request, device: DeviceName, context: InContext, devices: InDevices) -> dict[str, Any]:
    """Extend the leases of what the agent is at; ``lost`` names what it need not go on with.

    409 for an agent after whom another one registered under the name.
    """
    tenant = context.principal.tenant
    await to_thread.run_sync(devices.device, tenant, device)
    order = await _read(request, context, DeviceRenewal)
    held = {one.id: one.attempt for one in order.measurements}
    lease = context.settings.device_lease_seconds
    lost = await to_thread.run_sync(lambda: devices.renew(tenant, device, held, epoch=order.epoch, lease_seconds=lease))
    return {"lost": lost, "lease_seconds": lease}


@router.post("/{device:id}/measurements/{measurement_id:id}", openapi_extra=body("DeviceReport"))
async def record_measurement(
    request: Request, device: DeviceName, measurement_id: str, context: InContext, devices: InDevices
) -> dict[str, Any]:
    """Bring what came of a measurement; the same once more is no error.

    409 when it was handed out again since, was cancelled, or has another outcome (late_outcome), and for an agent after whom
    another one registered under the name (another_agent); 422 for what is no measurement, or one under other conditions than
    those that were ordered.
    """
    tenant = context.principal.tenant
    await to_thread.run_sync(devices.device, tenant, device)
    report = await _read(request, context, DeviceReport)

    def record() -> Measurement:
        timing = None if report.timing is None else Timing(**report.timing.model_dump())
        conditions = Conditions(**report.conditions.model_dump())
        about = (tenant, device, measurement_id, report.attempt)
        return devices.record(*about, epoch=report.epoch, conditions=conditions, timing=timing, error=report.error)

    try:
        return work(await to_thread.run_sync(record))
    except MeasurementError as error:
        raise SpecError([FieldError("", str(error), error.code)]) from None


async def _read(request: Request, context: Context, model: type[M]) -> M:
    data = await read_json(request, context.settings.max_body_bytes)
    if not isinstance(data, dict):
        raise SpecError([FieldError("", "The body is a JSON object.", "dict_type")])
    try:
        return strict.read(model, data)
    except ValidationError as error:
        raise SpecError(field_errors(error)) from None
