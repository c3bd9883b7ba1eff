"""What searches measured of single groups serves later ones: with another budget, after a killed driver, and nobody else."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from automl_prune.evaluation import cuts
from automl_prune.evaluation.evaluator import CandidateEvaluator
from automl_prune.evaluation.setup import MEASURED
from automl_prune.execution.inline import InlineExecutor
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.loop.standing import BASE, SEARCH
from automl_prune.storage.memory import MemoryStore
from automl_prune.strategies.base import MEASURES
from automl_prune.trial import Trial

SCAN: dict[str, Any] = {"name": "sensitivity", "preset": "published"}
ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 4},
    "dataset": {"name": "digits", "select_size": 100, "report_size": 100, "batch_size": 100},
    "strategy": SCAN,
    "budgets": [{"metric": "macs", "max_ratio": 0.6}],
    "recipe": {"inherit": "l1", "recalibrate_batches": 1},
    "base_training": {"epochs": 2},
    "trials": {"max": 26},
    "controls": [],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}
TIGHT = {"budgets": [{"metric": "macs", "max_ratio": 0.3}]}


class Killed(BaseException):
    """As abrupt as a process can be ended from within."""


class Home:
    """Folders that several searches share, as those of one server do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots = Roots(folder / "data", folder / "weights", folder / "cache")

    def copy(self, folder: Path) -> "Home":
        """Another server that knows the same."""
        shutil.copytree(self.folder, folder)
        return Home(folder)

    def plan(self, **changes: Any) -> Plan:
        return make_plan(SearchSpec.parse(ORDER | changes), self.roots)

    def run(
        self, name: str, *, dies: Callable[[Trial], bool] = lambda t: False, meanwhile: Callable[[], None], **changes: Any
    ) -> tuple[SearchJob, list[Trial]]:
        """A search whose driver dies after a trial, and what is done before the next one goes on."""
        store = MemoryStore()
        search = store.add_search(ORDER | changes, name=None, labels={}).id

        def live(on_trial: Callable[[Trial], None]) -> None:
            job = store.claim(lease_seconds=600)
            assert job is not None
            run_search(self.plan(**changes), job, store, InlineExecutor(), self.folder / name, on_trial=on_trial)

        def die(trial: Trial) -> None:
            if dies(trial):
                raise Killed

        try:
            live(die)
        except Killed:
            store.release(search, 1, reason="killed", lost=True)
            meanwhile()
            live(lambda trial: None)
        ended = store.get_search(search)
        assert ended.state is SearchState.SUCCEEDED, ended.state_reason
        return ended, [t.trial for t in store.trials(search)]

    def search(self, name: str, **changes: Any) -> tuple[SearchJob, list[Trial]]:
        return self.run(name, meanwhile=lambda: None, **changes)

    def known(self, name: str, **changes: Any) -> list[dict[str, Any]]:
        """What a search with this order would be told."""
        plan = self.plan(**changes)
        evaluate, full = CandidateEvaluator(plan.setup(self.folder / name)), plan.problem.space.full
        evaluate(Trial(0, full, arm="preparation"))
        found: list[dict[str, Any]] = evaluate(Trial(1, full, arm=BASE, origin={MEASURED: True})).details[MEASURED]
        return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, list[Trial]]:
    """A server that one search has used."""
    home = Home(tmp_path_factory.mktemp("first"))
    return home, home.search("first")[1]


@pytest.fixture
def home(first: tuple[Home, list[Trial]], tmp_path: Path) -> Home:
    """A copy of it."""
    return first[0].copy(tmp_path / "copy")


def measured(trials: list[Trial]) -> list[Trial]:
    return [t for t in trials if t.arm == SEARCH and MEASURES in t.origin]


def said(trials: list[Trial]) -> list[Any]:
    return [(t.number, t.arm, t.candidate, t.origin, t.state, t.metrics) for t in trials]


def test_another_budget_is_searched_on_the_same_curves(first: tuple[Home, list[Trial]], home: Home, tmp_path: Path) -> None:
    ours, trials = home.search("tight", **TIGHT)
    alone, alone_trials = Home(tmp_path / "alone").search("tight", **TIGHT)
    assert len(measured(alone_trials)) == len(measured(first[1])) > 10
    assert measured(trials) == []
    assert [t.candidate for t in trials if t.arm == SEARCH] == [
        t.candidate for t in alone_trials if t.arm == SEARCH and MEASURES not in t.origin
    ]
    assert ours.result is not None
    assert alone.result is not None
    assert ours.result["channels"] == alone.result["channels"]
    spent, spent_alone = (r["provenance"]["search_cost"] for r in (ours.result, alone.result))
    assert (spent["measured_before"], spent_alone["measured_before"]) == (len(measured(first[1])), 0)
    assert spent["by_arm"]["search"]["evaluations"] == spent_alone["by_arm"]["search"]["evaluations"] - len(
        measured(first[1])
    )


def test_a_finer_map_asks_only_for_what_is_missing(first: tuple[Home, list[Trial]], home: Home) -> None:
    finer = {"name": "sensitivity", "options": {"points": 6, "share": 0.5}}
    _, trials = home.search("finer", strategy=finer, **TIGHT)
    assert len(measured(trials)) > 2, "what was known before does not use up this search's share"
    assert not {t.candidate for t in measured(trials)} & {t.candidate for t in measured(first[1])}


@pytest.mark.parametrize("after", [BASE, SEARCH])
def test_a_driver_that_died_goes_on_with_what_was_known_when_it_began(home: Home, after: str, tmp_path: Path) -> None:
    order = {"strategy": {"name": "sensitivity", "options": {"points": 6, "share": 0.2}}, **TIGHT}
    whole = home.copy(tmp_path / "undisturbed").search("search", **order)
    more = {"name": "sensitivity", "options": {"points": 9, "share": 0.9, "explore": False}}

    def grow() -> None:
        before = len(home.known("before"))
        home.search("meanwhile", strategy=more)
        assert len(home.known("after")) > before + 5

    broken = home.run("search", dies=lambda t: t.arm == after, meanwhile=grow, **order)
    assert broken[0].attempt == 2
    assert measured(broken[1])
    assert said(broken[1]) == said(whole[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"base_training": {"epochs": 1}},
        {"recipe": ORDER["recipe"] | {"recalibrate_batches": 2}},
        {"recipe": ORDER["recipe"] | {"select_images": 50}},
        {"recipe": ORDER["recipe"] | {"inherit": "l2"}},
        {"seed": 1},
        {"dataset": ORDER["dataset"] | {"select_size": 101}},
        {"search_space": {"name": "digits_resnet", "round_to": 4, "frozen": ["conv1"]}},
    ],
)
def test_other_weights_recipes_and_images_share_nothing(home: Home, changes: dict[str, Any]) -> None:
    assert home.known("equal") != []
    assert home.known("other", **changes) == []


def test_another_seed_or_device_shares_nothing(first: tuple[Home, list[Trial]]) -> None:
    evaluate = CandidateEvaluator(first[0].plan().setup(first[0].folder / "first"))
    other = [replace(evaluate.setup, **changes) for changes in ({"seed": 1}, {"gpu": 1.0})]
    folders = {cuts.KeptCuts(setup, evaluate.images, []).folder for setup in (evaluate.setup, *other)}
    assert len(folders) == 3


def test_widths_that_the_space_lacks_are_left_out(home: Home) -> None:
    known = home.known("equal")
    coarser = home.known("coarser", search_space={"name": "digits_resnet", "round_to": 8})
    assert 1 < len(coarser) < len(known)
    assert {cut["width"] for cut in coarser if cut["group"] is not None} <= set(range(0, 65, 8))


def test_who_wants_to_measure_anew_does(first: tuple[Home, list[Trial]], home: Home) -> None:
    job, trials = home.search("anew", strategy=SCAN | {"options": {"reuse": False}})
    assert [t.metrics for t in measured(trials)] == [t.metrics for t in measured(first[1])]
    assert job.result is not None
    assert job.result["provenance"]["search_cost"]["measured_before"] == 0


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"group": "conv1", "width": 4, "scores": {"top1": NaN}}'])
def test_a_spoiled_file_is_ignored_and_measured_anew(home: Home, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (folder,) = home.roots.cache.glob("curves-*")
    file = sorted(folder.glob("0-*.json"))[0]
    whole = file.read_bytes()
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="automl_prune.evaluation.cuts"):
        _, trials = home.search("spoiled", **TIGHT)
    assert f"{file.name} in the cache holds no measurement" in caplog.text
    assert len(measured(trials)) == 1
    assert file.read_bytes() == whole


def test_what_cannot_be_kept_is_no_reason_to_fail(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cuts, "write_whole", full)
    with caplog.at_level(logging.WARNING, logger="automl_prune.evaluation.cuts"):
        home.search("full", strategy=SCAN | {"options": {"reuse": False}}, trials={"max": 9})
    assert "is not kept for later searches" in caplog.text
