"""A search under latency budgets keeps the predictions and bounds that it was planned with, whoever drives it later."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from automl_prune.errors import DeviceChangedError
from automl_prune.execution.inline import InlineExecutor
from automl_prune.latency import conditions
from automl_prune.latency.conditions import DeviceDescription
from automl_prune.latency.sampling import network_sample
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.loop.job import SearchJob, SearchState
from automl_prune.loop.plan import Plan, Roots, make_plan
from automl_prune.loop.run import run_search
from automl_prune.loop.spec import SearchSpec
from automl_prune.storage.memory import MemoryStore
from automl_prune.trial import Trial
from tests.latency.clockwork import Clockwork
from tests.loop.test_latencies import ORDER, lookup

MOST = {"netadapt": 30, "amc": 10}
DIES_AFTER = 6


class Versioned(Clockwork):
    """Has a runtime of a version that can change."""

    version = "1"

    def describe(self) -> DeviceDescription:
        return replace(super().describe(), runtimes={"torch": self.version})


class KilledError(Exception):
    """Ends a driver."""


class Search:
    """A search on one device, and its drivers."""

    def __init__(self, folder: Path, cache: Path, clock: Versioned, strategy: str) -> None:
        self.folder, self.clock, self.store = folder, clock, MemoryStore()
        shutil.copytree(cache, folder / "cache", dirs_exist_ok=True)
        self.order = ORDER | {"strategy": {"name": strategy}, "controls": [], "trials": {"max": MOST[strategy]}}
        self.id = self.store.add_search(self.order, name=None, labels={}).id

    def plan(self, told: Mapping[str, Any]) -> Plan:
        roots = Roots(self.folder / "data", self.folder / "weights", self.folder / "cache")
        return make_plan(SearchSpec.parse(self.order), roots, devices=lookup(self.clock), before=told)

    def drive(self, *, dies_after: int | None = None) -> SearchJob:
        """Claim the search and run it to its end, or until so many trials of its strategy ended; give it back then."""
        job = self.store.claim(lease_seconds=600)
        assert job is not None
        ended = list[Trial]()

        def on_trial(trial: Trial) -> None:
            ended.extend([trial] if trial.arm == "search" else [])
            if len(ended) == dies_after:
                raise KilledError

        try:
            plan = self.plan(job.info)
            return run_search(plan, job, self.store, InlineExecutor(), self.folder / "artifacts", on_trial=on_trial)
        except (KilledError, DeviceChangedError) as error:
            held = isinstance(error, DeviceChangedError)
            return self.store.release(job.id, job.attempt, reason=str(error), hold=held)

    @property
    def said(self) -> list[Any]:
        """What was asked, and what came of it."""
        trials = [stored.trial for stored in self.store.trials(self.id)]
        return [(t.number, t.arm, t.candidate, t.parent, t.origin, t.repaired, t.state, t.metrics) for t in trials]


@pytest.fixture(scope="module")
def network() -> TracedNetwork:
    return TracedNetwork.registered("digits_resnet", 10)


@pytest.fixture
def clock(network: TracedNetwork) -> Versioned:
    return Versioned("clock", network)


@pytest.fixture(scope="module")
def cache(network: TracedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What planning such a search needs to know; to be copied."""
    folder = tmp_path_factory.mktemp("roots")
    roots = Roots(folder / "data", folder / "weights", folder / "cache")
    make_plan(SearchSpec.parse(ORDER), roots, devices=lookup(Versioned("clock", network)))
    return roots.cache


@pytest.mark.parametrize("strategy", MOST)
def test_a_resumed_search_goes_on_with_what_it_was_planned_with(
    strategy: str, cache: Path, clock: Versioned, tmp_path: Path
) -> None:
    """Meanwhile others time the same networks again, and slower; and once the device has a newer runtime."""
    whole, broken = (Search(tmp_path / name, cache, clock, strategy) for name in ("whole", "broken"))
    undisturbed = whole.drive()
    assert undisturbed.state is SearchState.SUCCEEDED, undisturbed.state_reason
    assert broken.drive(dies_after=DIES_AFTER).state is SearchState.QUEUED

    usual, clock.overhead = clock.overhead, 2 * clock.overhead
    others = broken.plan({}).latencies
    assert others is not None
    gauge, before = others.gauges["clock"], others.devices["clock"].full_ms
    for candidate in [gauge.space.full, *network_sample(gauge.space)]:
        gauge.afresh(candidate)
    anew = broken.plan({}).latencies
    assert anew is not None
    assert anew.devices["clock"].full_ms > 1.1 * before, "a new search is planned by what is timed now"

    clock.version, asked = "2", len(clock.asked)
    paused = broken.drive()
    assert paused.state is SearchState.PAUSED
    said = (
        r"Device 'clock' has changed: it had torch 1 when .* and has torch 2 now\. .* Install torch 1 there again and resume"
    )
    assert re.match(said, str(paused.state_reason))
    assert len(clock.asked) == asked, "nothing is timed for a search that cannot go on"

    clock.version, clock.overhead = "1", usual
    broken.store.request_resume(broken.id)
    ended = broken.drive()
    assert ended.state is SearchState.SUCCEEDED, ended.state_reason
    assert broken.said == whole.said
    assert undisturbed.result is not None
    assert ended.result is not None
    alike = ("trial", "channels", "metrics", "budgets", "latency")
    assert {key: ended.result[key] for key in alike} == {key: undisturbed.result[key] for key in alike}


def test_a_search_whose_times_are_gone_is_not_planned_with_others(
    cache: Path, clock: Versioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(tmp_path, cache, clock, "netadapt")
    search.drive(dies_after=1)
    told = search.store.get_search(search.id).info
    [times] = (tmp_path / "cache" / "latency").glob("*.jsonl")
    kept = times.read_bytes()
    times.write_bytes(kept.replace(b'"settled": true', b'"settled": True', 1))  # the first line is none any more
    with pytest.raises(DeviceChangedError, match=r"What device 'clock' had timed .* not in the cache folder any more"):
        search.plan(told)
    times.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(DeviceChangedError, match="not in the cache folder any more"):
        search.plan(told)
    times.write_bytes(kept)
    assert search.plan(told).latencies is not None
    monkeypatch.setattr(conditions, "TIMED_AS", -1)
    with pytest.raises(DeviceChangedError, match="in another way than this version of the package"):
        search.plan(told)


def test_a_search_whose_runtime_was_removed_says_what_it_had(cache: Path, clock: Versioned, tmp_path: Path) -> None:
    search = Search(tmp_path, cache, clock, "netadapt")
    search.drive(dies_after=1)
    without = DeviceDescription(clock.describe().fingerprint, {"onnxruntime": "1.20"})
    clock.describe = lambda: without  # type: ignore[method-assign]
    with pytest.raises(DeviceChangedError, match="it had torch 1 when this search looked at it, and has torch absent now"):
        search.plan(search.store.get_search(search.id).info)
