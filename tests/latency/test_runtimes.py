"""Real runtimes on this machine: what they run is the network, and what they cannot run is said."""

import gc
import time
import weakref
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from automl_prune.errors import DeviceError, MeasurementError, UnknownNameError
from automl_prune.latency import stopwatch
from automl_prune.latency.blocks import REFERENCE, Block
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.devices import LocalDevice
from automl_prune.latency.runtimes.base import RUNTIMES, check_runs, describe_this_machine, runtimes_here
from automl_prune.latency.runtimes.torch_eager import TorchEager
from automl_prune.latency.stopwatch import Stopwatch, Stopwatches, TracedNetwork
from automl_prune.latency.timing import Run, Timing
from automl_prune.latency.work import NetworkWork, Work, digest, work_from_json, work_to_json

SMALL = Block("conv", (3, 3), (1, 1), (1, 1), (4, 4), norm=True, inputs=4, outputs=4)
LARGE = Block("conv", (3, 3), (1, 1), (1, 1), (32, 32), norm=True, inputs=64, outputs=64)


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.linalg.matrix_exp(x)
        return made


COMPILED = pytest.param("torch-compile", marks=pytest.mark.slow)
"""Compiles for seconds, and calls a C++ compiler."""
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", COMPILED])
def test_what_runs_is_the_network(runtime: str, threads: int) -> None:
    block, x = LARGE.build(), torch.rand(1, *LARGE.input_shape)
    with torch.inference_mode():
        expected = block(x).numpy()
    got = RUNTIMES.get(runtime).ready(LARGE.build(), x, Conditions(runtime, threads=threads))()
    found = got[0] if isinstance(got, list) else got.numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", COMPILED, pytest.param("torch-cuda", marks=needs_cuda)])
def test_more_work_takes_longer(runtime: str) -> None:
    threads = torch.get_num_threads()
    watch = Stopwatch(Conditions(runtime, batch=64 if runtime == "torch-cuda" else 1))
    small, large = watch.time(SMALL), watch.time(LARGE)
    assert large.ratio > 2 * small.ratio
    assert torch.get_num_threads() == threads


@needs_cuda
def test_a_graph_on_a_gpu_is_timed_by_its_own_clock() -> None:
    runtime, how, wide = (
        RUNTIMES.get("torch-cuda"),
        Conditions("torch-cuda", batch=64),
        replace(LARGE, inputs=512, outputs=512),
    )
    before = torch.cuda.memory_allocated()
    run = runtime.ready(wide.build(), torch.rand(64, *wide.input_shape), how)
    assert torch.cuda.memory_allocated() > before
    once, often = min(runtime.clock(run, 1) for _ in range(5)), runtime.clock(run, 50)
    assert often == pytest.approx(50 * once, rel=0.5)
    half = Stopwatch(replace(how, dtype="bfloat16")).time(wide)
    assert half.ms < Stopwatch(how).time(wide).ms


@needs_cuda
def test_a_graph_on_a_gpu_keeps_what_it_reads() -> None:
    runtime, how = RUNTIMES.get("torch-cuda"), Conditions("torch-cuda")
    run = runtime.ready(LARGE.build(), torch.rand(1, *LARGE.input_shape), how)
    gc.collect()
    for _ in range(3):
        torch.cuda.empty_cache()
        runtime.ready(replace(LARGE, inputs=256, outputs=256).build(), torch.rand(1, 256, 32, 32), how)()
        run()
    torch.cuda.synchronize()


@needs_cuda
def test_a_small_layer_on_a_gpu_does_not_take_what_starting_a_graph_takes() -> None:
    runtime, how = RUNTIMES.get("torch-cuda"), Conditions("torch-cuda")
    one = runtime.ready(SMALL.build(), torch.rand(1, *SMALL.input_shape), how)
    four = nn.Sequential(SMALL.build(), *(SMALL.build() for _ in range(3)))
    many = runtime.ready(four, torch.rand(1, *SMALL.input_shape), how)
    once, times = (min(runtime.clock(run, 100) for _ in range(5)) for run in (one, many))
    assert times == pytest.approx(4 * once, rel=0.3)


def test_pools_of_onnx_runtime_do_not_spin_while_another_session_is_timed() -> None:
    runtime, how = RUNTIMES.get("onnxruntime"), Conditions("onnxruntime", threads=2)
    run = runtime.ready(LARGE.build(), torch.rand(1, *LARGE.input_shape), how)
    spun = 0.0
    for _ in range(10):
        run()
        before = time.process_time()
        time.sleep(0.02)
        spun += time.process_time() - before
    assert spun < 0.1, "spinning would take twice that"
    timing = Stopwatch(how).time(LARGE)
    assert 0 < timing.ms < 1000


def test_a_network_is_timed_in_turn_with_its_full_one() -> None:
    network = TracedNetwork.registered("digits_resnet", 10)
    whole = NetworkWork("digits_resnet", 10, digest(network.architecture))
    narrow = replace(whole, widths=tuple((group.name, 2) for group in network.architecture.free_groups))
    found: dict[Work, Timing] = {}
    LocalDevice({"digits_resnet": network}).time([whole, narrow], Conditions(), found.__setitem__)
    assert found[whole].ratio == pytest.approx(1, rel=0.3)
    assert found[narrow].ratio < found[whole].ratio


def test_this_process_looks_before_each_timing_whether_it_is_to_go_on() -> None:
    timed: list[Work] = []

    def check() -> None:
        if timed:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        LocalDevice(check=check).time([LARGE, replace(LARGE, outputs=8)], Conditions(), lambda work, _: timed.append(work))
    assert timed == [LARGE]


def test_another_network_of_the_same_name_is_refused() -> None:
    with pytest.raises(MeasurementError, match="is another than the one to be timed"):
        Stopwatch(Conditions()).time(NetworkWork("digits_resnet", 10, "0123456789abcdef"))


def test_one_stopwatch_times_a_network_for_any_number_of_classes() -> None:
    ten, seven = (TracedNetwork.registered("digits_resnet", classes) for classes in (10, 7))
    works = [NetworkWork("digits_resnet", 10, ten.digest), NetworkWork("digits_resnet", 7, seven.digest)]
    for watch in (Stopwatches(), Stopwatches({"digits_resnet": ten})):
        assert all(watch.time(Conditions(), work).ms > 0 for work in works)


def test_what_a_stopwatch_keeps_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    ready = TorchEager.ready

    def watched(self: TorchEager, model: nn.Module, sample: Tensor, conditions: Conditions) -> Run:
        alive.add(model)
        return ready(self, model, sample, conditions)

    monkeypatch.setattr(TorchEager, "ready", watched)
    monkeypatch.setattr(stopwatch, "KEPT", 1)
    monkeypatch.setattr(stopwatch, "NETWORK_LIMITS", (0.5, 5))
    network = TracedNetwork.registered("digits_resnet", 10)
    watch = Stopwatches({"digits_resnet": network})
    for batch in (1, 2):
        for classes in (2, 3):
            watch.time(Conditions(batch=batch), NetworkWork("digits_resnet", classes, network.digest))
    gc.collect()
    assert len(alive) == 1


def test_a_network_that_a_runtime_cannot_load_is_a_measurement_error() -> None:
    with pytest.raises(MeasurementError, match=r"cannot (export|load)"):
        RUNTIMES.get("onnxruntime").ready(Unexportable(), torch.rand(3, 3), Conditions("onnxruntime"))


def test_a_block_that_cannot_be_run_is_a_measurement_error() -> None:
    with pytest.raises(MeasurementError, match="torch failed"):
        Stopwatch(Conditions()).time(Block("conv", (3, 3), (1, 1), (0, 0), (1, 1), inputs=2, outputs=2))


def test_graphs_of_another_exporter_are_not_taken_for_the_same_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    how = Conditions("onnxruntime")
    here = describe_this_machine()
    assert here.runtimes["onnxruntime"] == f"{metadata.version('onnxruntime')} exported by torch {torch.__version__}"
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert describe_this_machine().key(how) != here.key(how)


def test_this_machine_describes_itself() -> None:
    about = describe_this_machine()
    assert {"processor", "cores", "machine", "system"} <= about.fingerprint.keys()
    assert about.runtimes == runtimes_here()
    assert "torch-cuda" in about.runtimes or not torch.cuda.is_available()


def test_what_a_device_lacks_is_named_with_what_it_has() -> None:
    board = DeviceDescription({"processor": "small"}, {"onnxruntime": "1.20"})
    check_runs(board, Conditions("onnxruntime"), "pi4")
    with pytest.raises(DeviceError, match="'pi4' has no runtime 'torch'; it has onnxruntime"):
        check_runs(board, Conditions("torch"), "pi4")
    with pytest.raises(DeviceError, match="takes float32, not 'bfloat16'"):
        check_runs(board, Conditions("onnxruntime", dtype="bfloat16"), "pi4")
    with pytest.raises(UnknownNameError, match="onnxruntime"):
        check_runs(board, Conditions("onnx"), "pi4")


def test_work_travels_as_json() -> None:
    network = NetworkWork("resnet20", 10, "abc", (("conv1", 8),))
    assert [work_from_json(work_to_json(w)) for w in (REFERENCE, network)] == [REFERENCE, network]
    others: list[object] = [None, [], {"network": "resnet20"}, {"kind": "conv"}]
    for faulty in others:
        with pytest.raises(MeasurementError):
            work_from_json(faulty)
