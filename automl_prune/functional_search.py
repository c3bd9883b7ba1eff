"""A whole search as a function, for a caller's own module and data; no service, no registered names."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.errors import DatasetError, UserError
from automl_prune.evaluation.augmentation import Augment
from automl_prune.evaluation.datasets.base import ImageSet
from automl_prune.evaluation.given import GivenData, given_data
from automl_prune.evaluation.modes import device_of
from automl_prune.evaluation.setup import Given
from automl_prune.evaluation.splits import REPORT_SHARE
from automl_prune.evaluation.weights import fit_file, save_safetensors
from automl_prune.execution.inline import InlineExecutor
from automl_prune.functional import checked_output, copied
from automl_prune.loop.job import SearchState
from automl_prune.loop.plan import Plan, Roots, make_plan, read_recipe
from automl_prune.loop.run import MODEL_FILE, run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.networks import NetworkDefinition
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.surgery.slicing import materialise
from automl_prune.trial import Trial

WEIGHTS_FILE = "as-given.safetensors"
_FOREVER = 1e9


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        model: The small network, recovered as ordered, in evaluation mode, on the device of the given one.
        result: The architecture JSON, as a service would return it: scores, controls, splits, provenance.
        trials: Every candidate that was evaluated, the controls' too, in order.
        architecture: The given module's channel groups.
    """

    model: nn.Module
    result: Mapping[str, Any] = field(repr=False)
    trials: tuple[Trial, ...] = field(repr=False)
    architecture: Architecture = field(repr=False)

    @property
    def channels(self) -> dict[str, int]:
        """Output channels of every layer, by its name; :func:`automl_prune.prune` takes them."""
        return dict(self.result["channels"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores on the report split, and costs."""
        return dict(self.result["metrics"])


def search(
    model: nn.Module,
    data: object,
    *,
    budget: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    strategy: str | Mapping[str, Any] = "auto",
    trials: int = 20,
    objective: str = "top1",
    seed: int = 0,
    search_space: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    controls: Sequence[str] = ("uniform", "random"),
    finish: Mapping[str, Any] | None = None,
    base_training: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    augment: Augment | None = None,
    max_seconds: float | None = None,
    device: str | torch.device | None = None,
    folder: str | Path | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> SearchResult:
    """Search a classifier's widths under a budget, in this process, with the same controls as the service has.

    The module is not touched: a copy of it is traced, cut, scored and trained. Candidates are chosen on one part of the
    data, trained on another, and reported on a third. Nothing is sent to other processes, because modules and datasets that
    a program defines cannot be relied on to be there too; one candidate is evaluated at a time.

    Args:
        model: Takes one tensor ``[n, …]`` and gives scores ``[n, classes]``, in float32.
        data: (inputs, labels), a torch dataset of such pairs, or a mapping of ``fit``, ``select`` and ``report`` to them;
            see :func:`~automl_prune.evaluation.given.given_data`. What is not given apart is drawn from ``fit``, stratified
            and seeded.
        budget: One or more, as in a SearchSpec: ``{"metric": "macs", "max_ratio": 0.5}``.
        strategy: Its name, or ``{"name": …, "preset": …, "options": …}``; ``auto`` is for those who do not want to choose.
        trials: Candidates that the strategy may evaluate; the random control gets as many.
        objective: top1, top5 or loss.
        seed: Of everything that is drawn.
        search_space: ``round_to``, ``min_ratio``, ``frozen`` …, as in a SearchSpec.
        recipe: How candidates are made: overrides of the strategy's own recipe.
        controls: Some of uniform, random and global, or none.
        finish: How the best are recovered: ``{"top_k": 3, "recovery": "fine_tune", "epochs": 1, "lr": 0.01}``, unless the
            strategy has a finish of its own.
        base_training: ``{"epochs": …, "lr": …}`` to train a copy of the module first (from newly drawn weights where
            candidates are trained from scratch, too); None takes it as it is.
        dataset: ``select_size``, ``report_size``, ``fit_size``, ``batch_size``, and ``mean`` and ``std`` for bytes.
        augment: Changes training batches, as they were given, at random.
        max_seconds: Ends the strategy's part of the search.
        device: cpu or cuda; None: where the module is.
        folder: A new folder for the files of the search; None keeps none.
        on_trial: Called with every trial that ends.

    Raises:
        UserError: Something of this cannot be done; SpecError names fields as in a SearchSpec.
        EvaluationError: No candidate could be scored and recovered.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"The model is of type {type(model).__name__}; pass a torch.nn.Module.")
    given_set = given_data(data, augment)
    order: dict[str, Any] = {
        "seed": seed,
        "search_space": {**(search_space or {}), "name": type(model).__name__},
        "weights": WEIGHTS_FILE if base_training is None else None,
        "base_training": dict(base_training or {}),
        "dataset": {"select_size": _select_size(given_set), **(dataset or {}), "name": GivenData.name},
        "strategy": {"name": strategy} if isinstance(strategy, str) else strategy,
        "objective": objective,
        "budgets": [budget] if isinstance(budget, Mapping) else budget,
        "recipe": dict(recipe or {}),
        "controls": list(controls),
        "finish": dict(finish or {}),
        "trials": {"max": trials, "parallel": 1, "max_seconds": max_seconds},
        "execution": "inline",
        "resources": {"gpu": int(_on_cuda(model, device))},
    }
    spec = SearchSpec.parse(order)
    strategy_type = STRATEGIES.get(spec.strategy.name, pointer="/strategy/name")
    from_scratch = "scratch" in (spec.finish.recovery, read_recipe(strategy_type, spec).inherit)
    template = _template(model)
    with _workplace(folder) as (artifacts, roots), _generators_kept():
        given = _given(template, given_set, from_scratch=from_scratch)
        save_safetensors(template, roots.weights / WEIGHTS_FILE)
        plan = make_plan(spec, roots, given=given)
        return _run(plan, template, artifacts, device_of(model), on_trial)


def _run(
    plan: Plan, template: nn.Module, artifacts: Path, device: torch.device, on_trial: Callable[[Trial], None]
) -> SearchResult:
    store = MemoryStore()
    store.add_search(plan.spec.model_dump(mode="json"), name=None, labels={})
    job = store.claim(lease_seconds=_FOREVER)
    if job is None:
        raise RuntimeError("A search that was just added is not there.")
    ended = run_search(plan, job, store, InlineExecutor(), artifacts, on_trial=on_trial)
    if ended.state is not SearchState.SUCCEEDED or ended.result is None:
        raise RuntimeError(f"The search ended as {ended.state}.")
    kept = {g["name"]: g["kept"] for g in ended.result["groups"] if g["kept"] is not None}
    small = materialise(template, plan.architecture, kept)
    fit_file(small, artifacts / MODEL_FILE)
    found = tuple(stored.trial for stored in store.trials(job.id))
    return SearchResult(small.eval().to(device), ended.result, found, plan.architecture)


def _template(model: nn.Module) -> nn.Module:
    """A copy on the CPU; raises UserError for what a search cannot take."""
    others = sorted({str(p.dtype) for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32})
    if others:
        raise UserError(
            f"{type(model).__name__} has {', '.join(others)} parameters; a search works in float32: model.float()."
        )
    return copied(model).cpu().eval()


def _classes(model: nn.Module, data: GivenData) -> int:
    """How many classes a module gives scores for, which must be enough for the data; raises UserError."""
    sample = _example(data)
    scores = checked_output(model, sample)
    scores = scores[0] if isinstance(scores, tuple) and scores else scores
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(sample):
        came = f"{list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise UserError(f"{type(model).__name__} gives {came} for {len(sample)} samples; a classifier gives [n, classes].")
    needed = max(found.num_classes for found in (data.train, data.test) if found is not None)
    if needed > scores.shape[1]:
        raise DatasetError(
            f"The labels go up to {needed - 1}, and {type(model).__name__} gives scores for {scores.shape[1]} classes. Give "
            f"it {needed} outputs, or other labels."
        )
    return int(scores.shape[1])


def _given(template: nn.Module, data: GivenData, *, from_scratch: bool) -> Given:
    """The caller's module as a network that can be built again and again, and its data."""
    classes, shape = _classes(template, data), data.train.sample_shape
    if from_scratch:
        _check_initialised_anew(template)

    def build(num_classes: int) -> nn.Module:
        built = copied(template)
        if from_scratch:
            _initialise(built)
        return built

    network = NetworkDefinition(
        name=type(template).__name__,
        build=build,
        input_shape=shape,
        num_classes=classes,
        mean=(0.0,) * shape[0],
        std=(1.0,) * shape[0],
    )
    return Given(network, data)


def _example(data: GivenData) -> Tensor:
    """Two samples as the network takes them in."""
    return data.train.images[:2].float() / (255 if isinstance(data.train, ImageSet) else 1)


def _select_size(data: GivenData) -> int:
    """All that was set aside to select on, else the usual share."""
    aside = data.train.select
    return len(aside) if aside is not None else max(1, round(REPORT_SHARE * len(data.train)))


def _check_initialised_anew(model: nn.Module) -> None:
    """Raise UserError when a module has parameters that nothing can draw again."""
    stuck = [name or type(model).__name__ for name, m in model.named_modules() if _own(m) and _reset(m) is None]
    if stuck:
        raise UserError(
            f"Training from scratch draws weights anew, but {', '.join(stuck[:5])} of {type(model).__name__} has parameters "
            f"and no reset_parameters(). Define it, or inherit weights.",
            pointer="/finish/recovery",
        )


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if _own(module) and (reset := _reset(module)):
            reset()


def _own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _reset(module: nn.Module) -> Callable[[], object] | None:
    found = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return found if callable(found) else None


def _on_cuda(model: nn.Module, device: str | torch.device | None) -> bool:
    try:
        chosen = torch.device(device) if device is not None else device_of(model)
    except (RuntimeError, AttributeError) as error:
        raise UserError(f"{device!r} is no device: {str(error).splitlines()[0]}") from None
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"A search cannot run on {chosen}; use cpu, or cuda where there is one.")
    return chosen.type == "cuda"


@contextmanager
def _workplace(folder: str | Path | None) -> Iterator[tuple[Path, Roots]]:
    """The folder for the files of the search, and folders that do not outlive it."""
    with tempfile.TemporaryDirectory(prefix="automl-prune-") as name:
        home = Path(name)
        artifacts = home / "artifacts" if folder is None else Path(folder).absolute()
        artifacts.mkdir(parents=True, exist_ok=True)
        if any(artifacts.iterdir()):
            raise UserError(f"{artifacts} is not empty; name a new folder.")
        yield artifacts, Roots(data=home / "data", weights=home / "weights", cache=home / "cache")


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Evaluators seed torch's global generators; the caller's are given their state back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
