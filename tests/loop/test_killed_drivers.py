"""Every strategy's search, with drivers that are killed (SIGKILL) at random moments, against one that none disturbed."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import Roots
from automl_prune.loop.standing import SEARCH
from automl_prune.storage.sql import SqlStore
from automl_prune.strategies.base import STRATEGIES
from automl_prune.trial import Trial
from tests.loop import mortal

MOST = 12
ORDER: dict[str, Any] = {
    "search_space": {"name": "digits_resnet", "round_to": 4},
    "dataset": {"name": "digits", "select_size": 100, "report_size": 100, "batch_size": 100},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    "base_training": {"epochs": 2},
    "trials": {"max": MOST},
    "controls": ["uniform"],
    "finish": {"top_k": 1, "recovery": "none"},
    "execution": "inline",
}
FORWARD_ONLY = {"recalibrate_batches": 1, "fine_tune": {"steps": 0}}
MADE = {"recalibrate_batches": 1, "hypernetwork": {"epochs": 1, "least_ratio": 0}}
CASES: dict[str, dict[str, Any]] = {
    "abc": {"options": {"population": 3}},
    "amc": {"options": {"warmup": 5, "hidden": 8}},
    "auto": {},
    "evolution": {"options": {"population": 4}},
    "metapruning": {"options": {"population": 4}},
    "netadapt": {"options": {"initial_reduction": 0.3}},
    "nsga2": {"options": {"population": 4}},
    "optuna": {"options": {"startup": 5}},
    "random": {},
    "sensitivity": {"options": {"points": 1, "share": 0.5}},
    "uniform": {},
}
RECIPES = {"metapruning": MADE}
ALWAYS = ("abc", "amc", "auto", "metapruning", "netadapt")
"""Strategies that are tested without being asked for; the others keep their state as one of them does."""


class Search:
    """A search and its drivers; each but the last is killed."""

    def __init__(self, folder: Path, roots: Roots, strategy: str, deaths: list[int]) -> None:
        folder.mkdir()
        for measured in roots.cache.glob("curves-*"):
            shutil.rmtree(measured)  # another search's measurements would spare this one its own
        self.folder, self.lives = folder, 1
        with closing(SqlStore.open(mortal.url(folder), upgrade=True)) as store:
            recipe = RECIPES.get(strategy, FORWARD_ONLY)
            order = ORDER | {"strategy": {"name": strategy, **CASES[strategy]}, "recipe": recipe}
            search = store.add_search(order, name=None, labels={}).id
            for death in deaths:
                if not mortal.live(folder, roots, death):
                    break
                self.lives += 1
                job = store.get_search(search)
                store.release(search, job.attempt, reason="killed")
            else:
                assert not mortal.live(folder, roots, None)
            self.job: SearchJob = store.get_search(search)
            self.trials: list[Trial] = [stored.trial for stored in store.trials(search)]

    @property
    def diary(self) -> list[str]:
        return (self.folder / "diary").read_text().splitlines()

    @property
    def said(self) -> list[Any]:
        """What was asked and what came of it."""
        return [(t.number, t.arm, t.candidate, t.parent, t.origin, t.repaired, t.state, t.metrics) for t in self.trials]

    @property
    def files(self) -> set[str]:
        return {f.name for f in (self.folder / "artifacts").iterdir()}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    folder = tmp_path_factory.mktemp("roots")
    return Roots(folder / "data", folder / "weights", folder / "cache")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
@pytest.mark.parametrize("strategy", [s if s in ALWAYS else pytest.param(s, marks=pytest.mark.slow) for s in CASES])
def test_killed_drivers_are_continued_as_if_nothing_had_happened(
    strategy: str, seed: int, roots: Roots, tmp_path: Path
) -> None:
    whole = Search(tmp_path / "whole", roots, strategy, [])
    assert whole.job.state is SearchState.SUCCEEDED, whole.job.state_reason
    moments = 2 * len(whole.diary)
    deaths = np.random.default_rng([seed, *strategy.encode()]).integers(moments // 8, moments // 3, size=3).tolist()
    broken = Search(tmp_path / "broken", roots, strategy, deaths)
    assert broken.lives == broken.job.attempt == 4

    assert broken.said == whole.said
    assert sum(t.arm == SEARCH for t in broken.trials) <= MOST
    assert broken.job.state is SearchState.SUCCEEDED
    assert broken.files == whole.files
    for number in range(len(broken.trials)):
        written = [line for line in broken.diary if line in (f"start {number}", f"outcome {number}")]
        assert written.count(f"outcome {number}") == 1
        assert written[-1] == f"outcome {number}", "a finished trial was started again"
    assert broken.job.result is not None
    assert whole.job.result is not None
    alike = ("trial", "channels", "kept_channels", "metrics", "controls", *({"family"} & set(whole.job.result)))
    assert {key: broken.job.result[key] for key in alike} == {key: whole.job.result[key] for key in alike}


def test_no_strategy_is_left_out() -> None:
    assert set(CASES) == set(STRATEGIES)
