"""Files that declare more than they hold, or more than the network takes, cost nothing."""

import json
import resource
import struct
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from automl_prune.errors import WeightsError
from automl_prune.evaluation.weights import fit_file, load_state_dict_file

HUGE = 1_000_000_000
MIB = 2**20


def peak() -> int:
    """The most memory this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refusal(path: Path, model: nn.Module) -> str:
    """What fitting the file into the model is refused with, having taken no memory to speak of and changed nothing."""
    before, most = {name: tensor.clone() for name, tensor in model.state_dict().items()}, peak()
    with pytest.raises(WeightsError) as caught:
        fit_file(model, path)
    assert peak() - most < 64 * MIB
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(4, 1, bias=False)


@pytest.mark.parametrize("zipped", [True, False])
def test_one_number_that_claims_to_be_a_billion(tmp_path: Path, model: nn.Module, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1).expand(1, HUGE)}, path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 2000
    assert "1 of another shape (weight [1, 1000000000] for [1, 4])" in refusal(path, model)


def test_a_record_that_is_shorter_than_it_claims(tmp_path: Path, model: nn.Module) -> None:
    plain, path = tmp_path / "plain.pth", tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(4)}, plain)
    claim = b"J" + struct.pack("<i", HUGE)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"K\x04t", claim + b"t").replace(b"K\x04\x85", claim + b"\x85")
                assert content.count(claim) == 2
            target.writestr(name, content)
    assert "[1000000000] for [1, 4]" in refusal(path, model)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_state_dict_file(path)


def test_a_safetensors_header_that_claims_more_than_the_file_has(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(header([1, HUGE]) + bytes(1200))
    assert path.stat().st_size < 1400
    assert "cannot be read" in refusal(path, model)


def test_gigabytes_of_another_shape_are_not_read(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "weights.safetensors"
    start = header([1, HUGE])
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 4 * HUGE)  # a hole: no disk is used
    assert "weight [1, 1000000000] for [1, 4]" in refusal(path, model)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_fits_is_copied(tmp_path: Path, model: nn.Module, suffix: str) -> None:
    path, state = tmp_path / f"weights{suffix}", {"weight": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    torch.save(state, path) if suffix == ".pth" else safetensors.torch.save_file(state, path)
    fit_file(model, path)
    weight: Tensor = model.state_dict()["weight"]
    assert weight.tolist() == [[1, 2, 3, 4]]


def header(shape: list[int]) -> bytes:
    size = 4 * shape[0] * shape[1]
    text = json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(text)) + text
