"""Real runtimes on this machine: what they run is the network, and what they cannot run is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from automl_prune.errors import DeviceError, MeasurementError, UnknownNameError
from automl_prune.latency.blocks import REFERENCE, Block
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.devices import LocalDevice
from automl_prune.latency.runtimes.base import RUNTIMES, check_runs, describe_this_machine, runtimes_here
from automl_prune.latency.stopwatch import Stopwatch, TracedNetwork
from automl_prune.latency.timing import Timing
from automl_prune.latency.work import NetworkWork, Work, digest, work_from_json, work_to_json

SMALL = Block("conv", (3, 3), (1, 1), (1, 1), (4, 4), norm=True, inputs=4, outputs=4)
LARGE = Block("conv", (3, 3), (1, 1), (1, 1), (32, 32), norm=True, inputs=64, outputs=64)


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = torch.linalg.matrix_exp(x)
        return made


COMPILED = pytest.param("torch-compile", marks=pytest.mark.slow)
"""Compiles for seconds, and calls a C++ compiler."""


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", COMPILED])
def test_what_runs_is_the_network(runtime: str) -> None:
    block, x = LARGE.build(), torch.rand(1, *LARGE.input_shape)
    with torch.inference_mode():
        expected = block(x).numpy()
    got = RUNTIMES.get(runtime).ready(LARGE.build(), x, Conditions(runtime))()
    found = got[0] if isinstance(got, list) else got.numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", COMPILED])
def test_more_work_takes_longer(runtime: str) -> None:
    threads = torch.get_num_threads()
    watch = Stopwatch(Conditions(runtime))
    small, large = watch.time(SMALL), watch.time(LARGE)
    assert large.ratio > 2 * small.ratio
    assert torch.get_num_threads() == threads


def test_a_network_is_timed_in_turn_with_its_full_one() -> None:
    network = TracedNetwork.registered("digits_resnet", 10)
    whole = NetworkWork("digits_resnet", 10, digest(network.architecture))
    narrow = replace(whole, widths=tuple((group.name, 2) for group in network.architecture.free_groups))
    found: dict[Work, Timing] = {}
    LocalDevice({"digits_resnet": network}).time([whole, narrow], Conditions(), found.__setitem__)
    assert found[whole].ratio == pytest.approx(1, rel=0.3)
    assert found[narrow].ratio < found[whole].ratio


def test_another_network_of_the_same_name_is_refused() -> None:
    with pytest.raises(MeasurementError, match="is another than the one to be timed"):
        Stopwatch(Conditions()).time(NetworkWork("digits_resnet", 10, "0123456789abcdef"))


def test_a_network_that_a_runtime_cannot_load_is_a_measurement_error() -> None:
    with pytest.raises(MeasurementError, match=r"cannot (export|load)"):
        RUNTIMES.get("onnxruntime").ready(Unexportable(), torch.rand(3, 3), Conditions("onnxruntime"))


def test_a_block_that_cannot_be_run_is_a_measurement_error() -> None:
    with pytest.raises(MeasurementError, match="torch failed"):
        Stopwatch(Conditions()).time(Block("conv", (3, 3), (1, 1), (0, 0), (1, 1), inputs=2, outputs=2))


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
