"""What a user orders: the SearchSpec, its fields and their limits. Names are a contract with clients."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic.config import JsonDict

from automl_prune.errors import FieldError, SpecError
from automl_prune.evaluation.recipe import DatasetSpec, FineTune, Recipe, Strict
from automl_prune.granularity import Override
from automl_prune.loop.job import HIGHEST_PRIORITY
from automl_prune.strategies.base import STRATEGIES
from automl_prune.strict import escaped, read, said

Name = Annotated[str, Field(min_length=1, max_length=200)]
Label = Annotated[str, Field(max_length=200)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class OverrideSpec(Strict):
    """What differs for the groups that a pattern names; the later of two that match the same group wins, field by field."""

    match: Name = Field(description="A glob for group names or layers that put a group out, as in layer3.*.")
    round_to: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="Widths are multiples of this.")
    min_ratio: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="Least part of the full width.")
    max_ratio: Ratio | None = Field(None, description="Most that a cut leaves of the full width; full stays allowed.")
    widths: Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=1, max_length=4096)] | None = Field(
        None, description="The widths themselves, instead of steps and limits; the full width is added."
    )
    frozen: bool | None = Field(None, description="true keeps the groups whole; false undoes a preset or frozen.")

    def override(self) -> Override:
        """The same as the space takes it."""
        return Override(**self.model_dump())


class SearchSpaceSpec(Strict):
    """Which network, and which widths of it are searched."""

    name: Name
    preset: Name | None = Field(None, description="A declaration published with the space; see GET /v1/search-spaces.")
    round_to: Annotated[int, Field(ge=1, le=1024)] | None = None
    min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    frozen: Annotated[list[Name], Field(max_length=256)] = Field(default_factory=list)
    overrides: Annotated[list[OverrideSpec], Field(max_length=256)] = Field(
        default_factory=list, description="Granularity of single groups; read in order after everything else."
    )
    num_classes: Annotated[int, Field(ge=2, le=100_000)] | None = None


class StrategySpec(Strict):
    """Which strategy, with which preset and options."""

    name: Name
    preset: Name | None = None
    options: Annotated[dict[Name, Any], Field(max_length=256)] = Field(default_factory=dict)


def _given(*names: str) -> JsonDict:
    """The JSON schema of objects that give all these numbers."""
    return {"required": list(names), "properties": {name: {"type": "number"} for name in names}}


_ONE_FORM_EACH: JsonDict = {
    "anyOf": [_given(name) for name in ("max", "max_ratio", "min", "min_ratio")],
    "allOf": [{"not": _given("max", "max_ratio")}, {"not": _given("min", "min_ratio")}],
}


class BudgetSpec(Strict):
    """Bounds on one metric, absolute (``max``, ``min``) or relative to the full network (``max_ratio``, ``min_ratio``)."""

    model_config = ConfigDict(json_schema_extra=_ONE_FORM_EACH)

    metric: Name
    max: Annotated[float, Field(gt=0)] | None = None
    max_ratio: Ratio | None = None
    min: Annotated[float, Field(ge=0)] | None = None
    min_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    device: Name | None = Field(None, description="Of latency_ms: where it is measured; null for the server's own machine.")

    @model_validator(mode="after")
    def _one_form_each(self) -> "BudgetSpec":
        if (self.max is None) == (self.max_ratio is None) and self.max is not None:
            raise ValueError("give max or max_ratio, not both")
        if self.min is not None and self.min_ratio is not None:
            raise ValueError("give min or min_ratio, not both")
        if self.max is None and self.max_ratio is None and self.min is None and self.min_ratio is None:
            raise ValueError("give max, max_ratio, min or min_ratio")
        return self

    def bounds(self, whole: float) -> tuple[float, float]:
        """Least and most in absolute terms, where the full network has ``whole``; an open side is 0 or infinite."""
        least = self.min if self.min is not None else (self.min_ratio or 0.0) * whole
        most = self.max if self.max is not None else float("inf") if self.max_ratio is None else self.max_ratio * whole
        return least, most


Batch = Annotated[int, Field(ge=1, le=4096)]
Threads = Annotated[int, Field(ge=1, le=256)]
DType = Literal["float32", "bfloat16", "float16"]


class ConditionsSpec(Strict):
    """How networks are run where their latency is measured."""

    runtime: Name = Field("torch", description="What runs them: torch, torch-compile, torch-cuda or onnxruntime.")
    batch: Batch = Field(1, description="Samples in one call; the latency is that of the call.")
    threads: Threads = 1
    dtype: DType = "float32"


class DeviceConditionsSpec(Strict):
    """What differs on one device; null is as on all."""

    runtime: Name | None = None
    batch: Batch | None = None
    threads: Threads | None = None
    dtype: DType | None = None


class LatencySpec(ConditionsSpec):
    """The conditions on all devices, but for what single ones have of their own."""

    devices: Annotated[dict[Name, DeviceConditionsSpec], Field(max_length=16)] = Field(
        default_factory=dict,
        description="What differs on a device, by name: {server: {runtime: torch-cuda, batch: 64}}.",
    )

    def on(self, device: str) -> ConditionsSpec:
        """The conditions on one device."""
        own = self.devices.get(device, DeviceConditionsSpec()).model_dump(exclude_none=True)
        return ConditionsSpec(**{**self.model_dump(exclude={"devices"}), **own})

    def pointer(self, device: str, field: str) -> str:
        """JSON pointer to where a device's condition was ordered."""
        own = self.devices.get(device)
        inside = f"/devices/{escaped(device)}" if own and getattr(own, field) is not None else ""
        return f"/latency{inside}/{field}"


class BaseTraining(Strict):
    """How the full network is trained when no weights are given."""

    epochs: Annotated[int, Field(ge=1, le=1000)] = 5
    lr: Annotated[float, Field(gt=0, le=10)] = 0.1


class FinishSpec(Strict):
    """What happens to the best candidates at the end."""

    top_k: Annotated[int, Field(ge=1, le=50)] = 3
    recovery: Literal["none", "fine_tune", "scratch"] = Field(
        "fine_tune",
        description="Left out, the strategy's own finish counts where it has one, changed by the fields that are given; see "
        "default_finish of GET /v1/strategies.",
    )
    epochs: Annotated[float, Field(ge=0, le=1000)] = Field(1.0, description="Passes over the fit split; fractions allowed.")
    lr: Annotated[float, Field(gt=0, le=10)] = 0.01
    distill: bool = Field(False, description="Distillation is not available yet.", json_schema_extra={"const": False})

    @field_validator("distill")
    @classmethod
    def _not_yet(cls, distill: bool) -> bool:
        if distill:
            raise ValueError("distillation is not available yet: leave it out, or say false")
        return distill


class TrialsSpec(Strict):
    """How many candidates the strategy may evaluate, and how many at once."""

    max: Annotated[int, Field(ge=1, le=100_000)] = 100
    parallel: Annotated[int, Field(ge=1, le=256)] = 2
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="End the strategy's part after so many complete trials within the budgets without a better one."
    )
    early_stop: Literal["asha", "median"] | None = Field(
        None,
        description="Stop trials of the strategy that lag behind while they are trained, by scores on a part of the select "
        "split after 1/8, 1/4 and 1/2 of their steps: asha keeps the better half each time, median what beats the median of "
        "the others. Runs on Ray Tune.",
    )


class Resources(Strict):
    """What one trial occupies; a hundredth is the least, as smaller parts are lost on Ray."""

    cpu: Annotated[float, Field(ge=0.01, le=256)] = 1
    gpu: Annotated[
        float, Field(ge=0, le=64, json_schema_extra={"anyOf": [{"minimum": 0.01, "maximum": 1}, {"multipleOf": 1}]})
    ] = 0

    @field_validator("gpu")
    @classmethod
    def _whole_or_part(cls, gpu: float) -> float:
        if gpu != int(gpu) and not 0.01 <= gpu <= 1:
            raise ValueError("several GPUs are whole ones; a part is at most 1, and at least 0.01")
        return gpu


Priority = Annotated[
    int, Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY, description="Searches of higher priority are started first.")
]


class SearchSpec(Strict):
    """A complete order for one search."""

    name: Annotated[str, Field(max_length=200)] | None = None
    labels: Annotated[dict[Name, Label], Field(max_length=32)] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    search_space: SearchSpaceSpec
    weights: Name | None = Field(None, description="A file below the server's weights root; null trains the network first.")
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="Of that file, which no other then replaces; noted when a search is ordered, if it is not given."
    )
    base_training: BaseTraining = BaseTraining()
    dataset: DatasetSpec
    strategy: StrategySpec = Field(StrategySpec(name="auto"), description="auto is for those who do not want to choose.")
    objective: Literal["top1", "top5", "loss"] = "top1"
    budgets: Annotated[list[BudgetSpec], Field(min_length=1, max_length=16)]
    latency: LatencySpec = LatencySpec()
    recipe: dict[str, Any] = Field(
        default_factory=dict, description="Overrides of the strategy's own recipe; see GET /v1/strategies."
    )
    controls: Annotated[list[Literal["uniform", "random", "global"]], Field(max_length=16)] = Field(
        default_factory=lambda: list[Literal["uniform", "random", "global"]](("uniform", "random")),
        description="uniform: one ratio for all groups. random: as many random candidates as the strategy evaluates. "
        "global: all channels ranked at once, the least important cut until the budget is met.",
    )
    finish: FinishSpec = FinishSpec()
    trials: TrialsSpec = TrialsSpec()
    priority: Priority = 0
    execution: Literal["auto", "tune", "actors", "inline"] = "auto"
    resources: Resources = Resources()

    @field_validator("controls")
    @classmethod
    def _each_once(cls, controls: list[str]) -> list[str]:
        return list(dict.fromkeys(controls))

    @model_validator(mode="after")
    def _select_is_not_report(self) -> "SearchSpec":
        if self.dataset.report_on == "select":
            said = "candidates chosen on the select split cannot be reported on it; use 'report'"
            raise SpecError([FieldError("/dataset/report_on", f"It is 'select': {said}.", "select_is_report")])
        return self

    @classmethod
    def parse(cls, data: object) -> "SearchSpec":
        """Read a spec from JSON data; raises SpecError with a JSON pointer per faulty field."""
        if not isinstance(data, Mapping):
            raise SpecError([FieldError("", f"A SearchSpec is an object, not {type(data).__name__}.")])
        try:
            return read(cls, _with_finish(data))
        except ValidationError as error:
            raise SpecError(field_errors(error)) from None


def _with_finish(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The order with its strategy's own finish where it names no recovery; what is wrong with it stays as it is."""
    strategy, finish = data.get("strategy"), data.get("finish", {})
    if not isinstance(strategy, Mapping) or not isinstance(finish, Mapping) or "recovery" in finish:
        return data
    name, preset = strategy.get("name"), strategy.get("preset")
    if not isinstance(name, str) or not isinstance(preset, str | None) or name not in STRATEGIES:
        return data
    own = STRATEGIES.get(name).finish(preset)
    return {**data, "finish": {**own, **finish}} if own else data


def field_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """Pydantic's findings as JSON pointers, in its words."""
    found = []
    for item in error.errors(include_url=False):
        pointer = prefix + "".join(f"/{escaped(str(part))}" for part in item["loc"])
        found.append(FieldError(pointer[:300], said(item), item["type"]))
    return found


__all__ = [
    "BaseTraining",
    "BudgetSpec",
    "ConditionsSpec",
    "DatasetSpec",
    "DeviceConditionsSpec",
    "FineTune",
    "FinishSpec",
    "LatencySpec",
    "OverrideSpec",
    "Recipe",
    "Resources",
    "SearchSpaceSpec",
    "SearchSpec",
    "StrategySpec",
    "TrialsSpec",
    "field_errors",
]
