"""What was measured is summed up by device and conditions, and what other machines measured is left out."""

from dataclasses import replace
from pathlib import Path

import pytest

from automl_prune.latency.blocks import REFERENCE
from automl_prune.latency.conditions import Conditions, DeviceDescription
from automl_prune.latency.kept import KeptTimes
from automl_prune.latency.times import Times
from automl_prune.latency.work import NetworkWork, Work
from automl_prune.testing.store_devices import GOOD, HOW, PI

BLOCKS: list[Work] = [REFERENCE.signature.at(8, width) for width in (4, 8)]
NETWORK = NetworkWork("digits_resnet", 10, "d", (("a", 3),))


def put(folder: Path, works: list[Work], device: DeviceDescription = PI, conditions: Conditions = HOW) -> None:
    times = Times.of(folder, device, conditions)
    for work in works:
        times.add(work, GOOD)


def test_what_is_kept_is_told_by_conditions(tmp_path: Path) -> None:
    kept = KeptTimes(tmp_path)
    assert kept.of(PI) == ([], None)
    put(tmp_path, [*BLOCKS, BLOCKS[0], NETWORK])
    put(tmp_path, BLOCKS, conditions=Conditions(runtime="onnxruntime"))
    put(tmp_path, BLOCKS, DeviceDescription({**PI.fingerprint, "cores": 8}, PI.runtimes))
    put(tmp_path, BLOCKS, DeviceDescription({**PI.fingerprint, "agent": "t/pi"}, PI.runtimes))
    onnx, torch = kept.of(PI)[0]
    assert onnx == {
        **Conditions(runtime="onnxruntime").to_json(), "version": "1.20",
        "blocks": 2, "networks": {}, "measured": 2, "noise": GOOD.error,
    }  # fmt: skip
    assert torch == {
        **HOW.to_json(), "version": "2.6",
        "blocks": 2, "networks": {"digits_resnet": 1}, "measured": 4, "noise": GOOD.error,
    }  # fmt: skip
    assert [one["measured"] for one in kept.of(PI, agent="t/pi")[0]] == [2]
    assert kept.of(PI, agent="u/pi") == ([], None)


def test_what_is_added_is_told_the_next_time(tmp_path: Path) -> None:
    kept = KeptTimes(tmp_path)
    put(tmp_path, BLOCKS)
    assert kept.of(PI)[0][0]["measured"] == 2
    Times.of(tmp_path, PI, HOW).add(NETWORK, replace(GOOD, ratio_iqr=0.5))
    (torch,), noise = kept.of(PI)
    assert (torch["measured"], torch["networks"]) == (3, {"digits_resnet": 1})
    assert noise == torch["noise"] == pytest.approx(GOOD.error)


def test_what_another_version_wrote_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, BLOCKS)
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"device": {}, "conditions": {}}'), ("d", '{"x": 1}')):
        (tmp_path / f"{name}.json").write_text(text)
    assert len(KeptTimes(tmp_path).of(PI)[0]) == 1
