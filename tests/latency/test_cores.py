"""What is timed stays on its cores, and everything else is let go again."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from automl_prune.latency import cores, stopwatch
from automl_prune.latency.blocks import Block
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.cores import Cores, choose
from automl_prune.latency.stopwatch import Stopwatch
from tests.services.waiting import until

BLOCK = Block("conv", (3, 3), (1, 1), (1, 1), (4, 4), norm=True, inputs=4, outputs=4)
several = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="binds threads of Linux to one core of several",
)


@several
def test_as_many_cores_as_threads_are_held_and_let_go() -> None:
    before = os.sched_getaffinity(0)
    with Cores(1).held():
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before
    with Cores(len(before)).held():
        assert os.sched_getaffinity(0) == before


@several
def test_they_are_let_go_where_timing_fails() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), Cores(1).held():
        1 / 0  # noqa: B018
    assert os.sched_getaffinity(0) == before


@several
def test_pools_that_start_meanwhile_are_bound_while_something_is_timed_and_only_then() -> None:
    before, ending = os.sched_getaffinity(0), threading.Event()
    pool = threading.Thread(target=ending.wait)
    try:
        with Cores(1).held():
            pool.start()
            assert pool.native_id is not None
            assert os.sched_getaffinity(pool.native_id) == {max(before)}
        assert os.sched_getaffinity(pool.native_id) == before
        with Cores(1).held():
            assert os.sched_getaffinity(pool.native_id) == {max(before)}, "whatever is timed next"
    finally:
        ending.set()
        pool.join()
    until(lambda: not (cores.THREADS / str(pool.native_id)).exists())
    with Cores(1).held():
        assert pool.native_id in cores._pools
    assert pool.native_id not in cores._pools, "its number may be another process's by now"


@several
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_stopwatch_times_on_them(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before, compare = [], os.sched_getaffinity(0), stopwatch.compare  # type: ignore[attr-defined]

    def watched(*runs: Any, **options: Any) -> Any:
        seen.append(os.sched_getaffinity(0))
        return compare(*runs, **options)

    monkeypatch.setattr(stopwatch, "compare", watched)
    Stopwatch(Conditions(runtime)).time(BLOCK)
    assert seen == [{max(before)}]
    assert os.sched_getaffinity(0) == before


def test_the_fastest_cores_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for core, capacity in enumerate(("446", "1024", "1024", "446")):
        (tmp_path / f"cpu{core}").mkdir()
        (tmp_path / f"cpu{core}" / "cpu_capacity").write_text(capacity + "\n")
    monkeypatch.setattr(cores, "CAPACITIES", tmp_path)
    assert choose({0, 1, 2, 3}, 1) == {2}
    assert choose({0, 1, 3}, 2) == {1, 3}
    assert choose({4, 5}, 1) == {5}, "cores of which nothing is told are alike"


def test_without_a_way_to_bind_nothing_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with Cores(1).held():
        pass
