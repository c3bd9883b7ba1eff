"""Leaders scored on a part of the select split are scored on more of it before they are recovered."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from automl_prune.evaluation.setup import SELECT_IMAGES
from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.arms import finalists, leaders, plan_arms, reported
from automl_prune.loop.confirmation import rounds
from automl_prune.loop.controller import Controller
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.space import Candidate
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies.auto import Auto
from automl_prune.strategies.base import STRATEGIES, Proposal
from automl_prune.strategies.random import RandomOptions, RandomSearch
from automl_prune.testing.strategy import toy_problem
from automl_prune.trial import Outcome, Trial, TrialState
from tests.loop.test_run import ORDER

PARTLY: dict[str, Any] = ORDER | {
    "strategy": {"name": "auto"},
    "recipe": {"recalibrate_batches": 4, "select_images": 80},
    "controls": ["random", "global"],
    "trials": {"max": 7},
    "finish": {"top_k": 2, "epochs": 0.5},
}


@pytest.mark.parametrize(
    ("images", "whole", "expected"),
    [(None, 5000, []), (5000, 5000, []), (9000, 5000, []), (1250, 5000, [2500, 5000]), (1000, 5000, [2000, 4000, 5000])],
)
def test_images_double_until_all_are_used(images: int | None, whole: int, expected: list[int]) -> None:
    assert rounds(images, whole) == expected


def scored(number: int, width: int, top1: float, arm: str = "search", origin: Mapping[str, Any] | None = None) -> Trial:
    trial = Trial(number, Candidate((width,)), arm=arm, origin=origin or {}, parent=7 if width == 3 else None)
    return trial.with_outcome(Outcome(TrialState.COMPLETE, {"top1": top1}))


def rescored(number: int, arm: str, asked: Sequence[Proposal], scores: Sequence[float]) -> list[Trial]:
    pairs = enumerate(zip(asked, scores, strict=True), number)
    return [scored(n, p.candidate.widths[0], score, arm, p.origin) for n, (p, score) in pairs]


def test_each_round_takes_the_best_of_the_round_before() -> None:
    one_group = toy_problem(groups=1, budget=None)
    searched = [scored(n, n + 1, top1) for n, top1 in enumerate([0.1, 0.5, 0.4, 0.6, 0.3])]
    control = [scored(10, 2, 0.2, "random")]
    first = leaders(one_group, 1, [*searched, *control], keep=4, images=20)
    assert [p.origin["of"] for p in first] == [3, 1, 2, 4, 10]
    assert {p.origin[SELECT_IMAGES] for p in first} == {20}
    assert next(p for p in first if p.origin["of"] == 2).parent == 7
    again = rescored(20, "confirm-1", first, [0.41, 0.42, 0.44, 0.43, 0.2])
    second = leaders(one_group, 2, [*searched, *control, *again], keep=2, images=40)
    assert [p.origin["of"] for p in second] == [2, 4, 10]
    last = rescored(30, "confirm-2", second, [0.40, 0.45, 0.2])
    final = finalists(one_group, [*searched, *control, *again, *last], 1, rounds=2)
    assert [(p.origin["of"], p.origin["arm"]) for p in final] == [(4, "search"), (10, "random")]


def test_what_the_strategy_ranks_by_chooses_leaders_finalists_and_the_one_reported() -> None:
    """Here the narrowest counts, whatever it scored; of the random control as well."""
    one_group = toy_problem(groups=1, budget=None)

    def narrowest(candidate: Candidate, metrics: Mapping[str, float]) -> float:
        return candidate.widths[0]

    searched = [scored(n, width, 0.1 * width) for n, width in enumerate([5, 2, 4, 3])]
    control = [scored(10, 7, 0.7, "random"), scored(11, 6, 0.6, "random")]
    first = leaders(one_group, 1, [*searched, *control], keep=2, images=20, loss=narrowest)
    assert [p.origin["of"] for p in first] == [1, 3, 11, 10]
    again = rescored(20, "confirm-1", first, [0.2, 0.3, 0.6, 0.7])
    final = finalists(one_group, [*searched, *control, *again], 2, rounds=1, loss=narrowest)
    assert [p.origin["of"] for p in final] == [1, 3, 11, 10]
    recovered = rescored(30, "final", final, [0.8, 0.9, 0.8, 0.9])
    chosen = reported(one_group, recovered, loss=narrowest)
    assert [p.origin.get("of") for p in chosen] == [None, 1, 11]


def test_a_search_is_ranked_by_its_strategy() -> None:
    """All arms of a real loop, scored by a formula in which the widest score best."""

    class Narrowest(RandomSearch):
        def ranking_loss(self, candidate: Candidate, metrics: Mapping[str, float]) -> float:
            return sum(candidate.widths)

    problem, store = toy_problem(), MemoryStore()
    job = store.add_search({}, name=None, labels={})
    job = store.claim(lease_seconds=600) or job

    def make() -> Narrowest:
        return Narrowest(problem, RandomOptions(), seed=3)

    arms = plan_arms(problem, make, max_trials=8, controls=[], top_k=3, train_base=False, seed=3, rounds=[20, 40])
    controller = Controller(store, job.id, job.attempt, problem, arms)
    InlineExecutor().run(controller, lambda: lambda trial, report=None: formula(trial))
    of = {arm: [t for t in controller.history if t.arm == arm] for arm in ("search", "confirm-2", "final", "report")}
    ranked = sorted({t.candidate for t in of["search"]}, key=lambda c: sum(c.widths))
    for arm in ("confirm-2", "final"):
        assert {t.candidate for t in of[arm]} == set(ranked[:3]), arm
    assert of["report"][1].candidate == ranked[0]


def formula(trial: Trial) -> Outcome:
    return Outcome(TrialState.COMPLETE, {"top1": sum(trial.candidate.widths) / 200})


def test_a_search_confirms_what_it_recovers(partly: tuple[SearchJob, list[Trial]]) -> None:
    job, trials = partly
    assert job.state is SearchState.SUCCEEDED
    arms = list(dict.fromkeys(t.arm for t in trials))
    assert arms == ["preparation", "base", "search", "global", "random", "confirm-1", "confirm-2", "final", "report"]
    images = {arm: {t.outcome.cost["images"] for t in trials if t.arm == arm and t.outcome} for arm in arms}
    assert images["search"] == images["random"] == {80 + 4 * 64}
    assert images["confirm-1"] == {160 + 4 * 64}
    assert images["confirm-2"] == {300 + 4 * 64}
    of = {arm: [t.origin["of"] for t in trials if t.arm == arm and t.origin["arm"] == "search"] for arm in arms[5:8]}
    assert len(of["confirm-1"]) == 4
    assert set(of["final"]) == set(of["confirm-2"]) < set(of["confirm-1"])
    assert job.result is not None
    assert job.result["trial"] in of["final"]


def test_a_score_says_its_standard_error(partly: tuple[SearchJob, list[Trial]]) -> None:
    job, trials = partly
    for trial in (t for t in trials if t.arm == "search"):
        top1 = trial.metrics["top1"]
        assert trial.metrics["top1_standard_error"] == pytest.approx((top1 * (1 - top1) / 80) ** 0.5)
    assert job.result is not None
    assert job.result["metrics"]["search"]["top1_standard_error"] >= 0


def test_auto_starts_from_uniform_and_from_the_global_ranking(partly: tuple[SearchJob, list[Trial]]) -> None:
    _, trials = partly
    searched = [t for t in trials if t.arm == "search"]
    ranked = next(t for t in trials if t.arm == "global")
    assert [t.origin["phase"] for t in searched[:2]] == ["uniform", "start"]
    assert searched[1].candidate == ranked.candidate


def test_only_auto_has_all_channels_ranked_for_it() -> None:
    assert [name for name in STRATEGIES if STRATEGIES.get(name).wants_starts] == [Auto.name]


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchJob, list[Trial]]:
    folder = tmp_path_factory.mktemp("partly")
    store = MemoryStore()
    plan = make_plan(SearchSpec.parse(PARTLY), Roots(folder / "data", folder / "weights", folder / "cache"))
    store.add_search(PARTLY, name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    ended = run_search(plan, job, store, InlineExecutor(), folder / "artifacts")
    return ended, [t.trial for t in store.trials(job.id)]
