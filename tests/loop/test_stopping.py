"""Patience, and which orders may ask for trials to be stopped early."""

from typing import Any

import pytest

from automl_prune.errors import SpecError
from automl_prune.loop.arms import plan_arms
from automl_prune.loop.controller import Controller
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.spec import SearchSpec
from automl_prune.loop.stopping import Patience
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.testing.strategy import toy_problem
from automl_prune.trial import Outcome, Trial, TrialState

PROBLEM = toy_problem()
SMALL = PROBLEM.widest_uniform
ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 8},
    "dataset": {"name": "digits", "select_size": 300, "batch_size": 64},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
}


def scored(number: int, top1: float, *, arm: str = "search", full: bool = False) -> Trial:
    candidate = PROBLEM.space.full if full else SMALL
    return Trial(number, candidate, arm=arm).with_outcome(Outcome(TrialState.COMPLETE, {"top1": top1}))


def test_patience_counts_complete_feasible_trials_of_the_search_without_a_better_one() -> None:
    patience = Patience(PROBLEM, 2)
    for trial, over in [
        (scored(0, 0.5), False),
        (scored(1, 0.4), False),
        (scored(2, 0.6), False),
        (scored(3, 0.6), False),
        (scored(4, 0.1, arm="random"), False),
        (scored(5, 0.9, full=True), False),
        (Trial(6, SMALL).with_outcome(Outcome.failed("broken")), False),
        (Trial(7, SMALL).with_outcome(Outcome(TrialState.STOPPED)), False),
        (scored(8, 0.5), True),
    ]:
        patience.tell(trial)
        assert patience.over is over, trial.number


def test_patience_goes_by_what_ranks_the_trials() -> None:
    patience = Patience(PROBLEM, 2, loss=lambda candidate, metrics: -sum(candidate.widths) - metrics["top1"])
    narrow = Trial(2, PROBLEM.space.narrowest).with_outcome(Outcome(TrialState.COMPLETE, {"top1": 0.9}))
    for trial, over in [(scored(0, 0.5), False), (scored(1, 0.6), False), (narrow, False), (narrow, True)]:
        patience.tell(trial)
        assert patience.over is over


def test_without_a_number_patience_never_ends() -> None:
    patience = Patience(PROBLEM, None)
    for number in range(50):
        patience.tell(scored(number, 0.5))
    assert not patience.over


def controller(store: MemoryStore, search_id: str, attempt: int) -> Controller:
    def make() -> Any:
        return STRATEGIES.get("random").create(PROBLEM, seed=3)

    arms = plan_arms(PROBLEM, make, max_trials=500, controls=("random",), top_k=1, train_base=False, seed=3)
    return Controller(store, search_id, attempt, PROBLEM, arms, patience=6)


def score(trial: Trial) -> Outcome:
    top1 = 0.5 if trial.number > 4 else 0.1 * trial.number
    return Outcome(TrialState.COMPLETE, {"top1": top1}, details={"before": {}})


@pytest.mark.parametrize("killed_after", [None, 3, 9])
def test_a_search_without_progress_goes_on_to_its_controls(killed_after: int | None) -> None:
    store = MemoryStore()
    store.add_search({"strategy": {"name": "random"}}, name=None, labels={})
    job = store.claim(lease_seconds=60)
    assert job is not None
    running, arms = controller(store, job.id, job.attempt), []
    while (trial := running.next()) is not None:
        running.complete(trial, score(trial))
        arms.append(trial.arm)
        if len(arms) == killed_after:
            store.release(job.id, job.attempt, reason="killed")
            job = store.claim(lease_seconds=60)
            assert job is not None
            running = controller(store, job.id, job.attempt)
    assert arms.count("search") == 5 + 6, "trials 1 to 5 are better each time; six are not"
    assert arms.count("random") == arms.count("search"), "a control spends what the search spent"
    assert arms[-1] == "report"


def test_stopping_early_needs_training_and_ray_tune(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("early")
    roots = Roots(folder, folder, folder)
    trained = {"fine_tune": {"steps": 2}}
    early = {"early_stop": "asha"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"trials": early}, "nothing_to_stop"),
        ({"trials": early, "recipe": {"fine_tune": {"steps": 1}}}, "nothing_to_stop"),
        ({"trials": early, "recipe": trained, "execution": "actors"}, "needs_tune"),
        ({"trials": early, "recipe": trained, "execution": "inline"}, "needs_tune"),
    ]
    for changes, code in cases:
        with pytest.raises(SpecError) as caught:
            make_plan(SearchSpec.parse(ORDER | changes), roots)
        (error,) = caught.value.errors
        assert (error.pointer, error.code) == ("/trials/early_stop", code)
    make_plan(SearchSpec.parse(ORDER | {"trials": early, "recipe": trained}), roots)
