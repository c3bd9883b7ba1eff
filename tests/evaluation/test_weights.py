import hashlib
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from automl_prune.errors import WeightsError
from automl_prune.evaluation.weights import fit, load_state_dict_file, resolve_weights, save_safetensors
from automl_prune.networks import NETWORKS


class Mapped(nn.Module):
    """A network with an index map, as the shortcuts of CIFAR ResNets have."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, 2)
        self.source: Tensor
        self.register_buffer("source", torch.arange(width).flip(0))


@pytest.fixture
def model() -> Mapped:
    torch.manual_seed(0)
    return Mapped()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".PT"])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_both_forms_of_torch_files(tmp_path: Path, model: Mapped, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    state = load_state_dict_file(path)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in state.items())


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_unwraps_checkpoints(tmp_path: Path, model: Mapped, key: str, prefix: str) -> None:
    state = OrderedDict((prefix + name, tensor) for name, tensor in model.state_dict().items())
    torch.save({"epoch": 3, "best_prec1": 93.4, key: state}, tmp_path / "w.th")
    assert list(load_state_dict_file(tmp_path / "w.th")) == list(model.state_dict())


def test_a_prefix_that_not_all_names_share_is_part_of_the_names(tmp_path: Path) -> None:
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w.pt")
    assert list(load_state_dict_file(tmp_path / "w.pt")) == ["module.a", "b"]


def test_reads_safetensors(tmp_path: Path, model: Mapped) -> None:
    save_safetensors(model, tmp_path / "w.safetensors")
    fresh = Mapped()
    fit(fresh, load_state_dict_file(tmp_path / "w.safetensors"))
    assert same(fresh, model)


def test_published_checkpoints_fit_their_networks(real_weights: Path) -> None:
    for file, name in (("resnet20-12fca82f.th", "resnet20"), ("resnet56-4bfd9763.th", "resnet56")):
        if not (real_weights / file).is_file():
            pytest.skip(f"no {file} in the real weights")
        network = NETWORKS.get(name).build(10)
        state = load_state_dict_file(real_weights / file)
        fit(network, state)
        assert torch.equal(network.state_dict()["linear.weight"], state["linear.weight"])
        with pytest.raises(WeightsError, match=r"linear\.weight"):
            fit(NETWORKS.get(name).build(7), state)


# Refusing ------------------------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"w": Evil(marker)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"state_dict\(\)") as caught:
        load_state_dict_file(tmp_path / "w.pt")
    assert caught.value.pointer == "/weights"
    assert not marker.exists()


def test_a_pickled_module_is_refused_with_what_would_do(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"whole module.*torch.save\(model.state_dict\(\)"):
        load_state_dict_file(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02", b"PK\x03\x04" + b"\0" * 64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_garbage_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_state_dict_file(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, model: Mapped, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(model.state_dict(), path) if suffix == ".pt" else save_safetensors(model, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_state_dict_file(path)


def test_a_compressed_archive_is_refused(tmp_path: Path, model: Mapped) -> None:
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match="compressed"):
        load_state_dict_file(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (torch.zeros(3), "it holds a strided tensor"),
        ([torch.zeros(3)], "it holds an object of type list"),
        ({}, "it holds a dict with the keys none"),
        ({1: torch.zeros(3)}, "it holds a dict with the keys 1"),
        ({"epoch": 3, "w": torch.zeros(3)}, "its entry 'epoch' is an object of type int"),
        pytest.param(
            {"w": torch.zeros(3).to_sparse()},
            "its entry 'w' is a sparse_coo tensor on cpu",
            marks=pytest.mark.filterwarnings("ignore:Validating sparse"),
        ),
        ({"w": torch.zeros(3, device="meta")}, "its entry 'w' is a strided tensor on meta"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, content: object, finding: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=f"w.pt is no state dict: {finding}"):
        load_state_dict_file(tmp_path / "w.pt")


def test_a_missing_file_and_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing"):
        load_state_dict_file(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"expected one of \.pt, \.pth, \.th, \.safetensors"):
        load_state_dict_file(tmp_path / "w.onnx")


# Fitting -------------------------------------------------------------------------------------------------------------


def test_fit_copies_and_leaves_flags_alone(model: Mapped) -> None:
    target = Mapped().eval()
    target.conv.weight.requires_grad_(False)
    kept = target.conv.weight
    fit(target, model.state_dict())
    assert same(target, model)
    assert target.conv.weight is kept
    assert not kept.requires_grad
    assert not target.training


def test_index_maps_and_counters_may_be_missing_or_spare(model: Mapped) -> None:
    state = {n: t for n, t in model.state_dict().items() if n not in ("source", "bn.num_batches_tracked")}
    target = Mapped()
    fit(target, state | {"gone.num_batches_tracked": torch.tensor(3)})
    assert torch.equal(target.source, torch.arange(4).flip(0))
    assert torch.equal(target.conv.weight, model.conv.weight)


def test_index_maps_that_are_there_are_taken(model: Mapped) -> None:
    fit(model, model.state_dict() | {"source": torch.tensor([1, 1, 2, 2])})
    assert model.source.tolist() == [1, 1, 2, 2]


def test_running_statistics_must_be_there(model: Mapped) -> None:
    state = {n: t for n, t in model.state_dict().items() if n != "bn.running_mean"}
    with pytest.raises(WeightsError, match=r"1 missing \(bn.running_mean\)"):
        fit(model, state)


def test_half_precision_is_converted_and_other_types_are_not(model: Mapped) -> None:
    state = model.state_dict()
    target = Mapped()
    fit(target, state | {"conv.weight": state["conv.weight"].half()})
    assert torch.equal(target.conv.weight, model.conv.weight.half().float())
    with pytest.raises(WeightsError, match=r"1 of another type \(linear.bias torch.int64 for torch.float32\)"):
        fit(model, state | {"linear.bias": torch.zeros(2, dtype=torch.int64)})


def test_every_kind_of_difference_is_named_and_nothing_is_copied(model: Mapped) -> None:
    state: dict[str, Tensor] = dict(Mapped(width=6).state_dict())
    del state["linear.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(7)}
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        fit(model, state)
    message = str(caught.value)
    assert "1 missing (linear.bias)" in message
    assert "7 unexpected (extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more)" in message
    assert "7 of another shape (source [6] for [4], conv.weight [6, 3, 3, 3] for [4, 3, 3, 3]," in message
    assert caught.value.pointer == "/weights"
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_small_file_that_declares_a_huge_tensor_costs_nothing(tmp_path: Path, model: Mapped) -> None:
    path = tmp_path / "w.pt"
    huge = torch.zeros(1).expand(10**12)  # 4 TB, if anything ever materialised it
    torch.save(dict(model.state_dict()) | {"conv.weight": huge}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match=r"conv.weight \[1000000000000\] for \[4, 3, 3, 3\]"):
        fit(model, load_state_dict_file(path))


# Names below the root ------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    (folder / "sub").mkdir(parents=True)
    (folder / "resnet20.pt").write_bytes(b"x")
    (folder / "sub" / "b.pt").write_bytes(b"x")
    (tmp_path / "secret.pt").write_bytes(b"x")
    return folder


def test_names_below_the_root_resolve(root: Path) -> None:
    (root / "link.pt").symlink_to(root / "sub" / "b.pt")
    assert resolve_weights(root, "resnet20.pt") == root / "resnet20.pt"
    assert resolve_weights(root, "sub/b.pt") == root / "sub" / "b.pt"
    assert resolve_weights(root, "link.pt") == root / "sub" / "b.pt"


def test_names_that_lead_elsewhere_are_refused(root: Path) -> None:
    (root / "out.pt").symlink_to(root.parent / "secret.pt")
    (root / "up").symlink_to(root.parent)
    for name in ("../secret.pt", str(root.parent / "secret.pt"), "sub/../../secret.pt", "out.pt", "up/secret.pt"):
        with pytest.raises(WeightsError, match="does not lie below the weights root") as caught:
            resolve_weights(root, name)
        assert caught.value.pointer == "/weights"


def test_names_that_cannot_be_files_are_refused(root: Path) -> None:
    (root / "loop.pt").symlink_to(root / "loop.pt")
    for name in ("a\0b.pt", "x" * 5000, "loop.pt"):
        with pytest.raises(WeightsError):
            resolve_weights(root, name)


def test_a_missing_name_answers_with_the_nearest(root: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is resnet20\.pt"):
        resolve_weights(root, "resnet2O.pt")
    with pytest.raises(WeightsError, match="No weight file 'sub'"):
        resolve_weights(root, "sub")


# Writing -------------------------------------------------------------------------------------------------------------


def test_saves_in_one_step_with_digest_and_size(tmp_path: Path, model: Mapped) -> None:
    path = tmp_path / "new" / "w.safetensors"
    digest, size = save_safetensors(model, path)
    content = path.read_bytes()
    assert (digest, size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]
    assert save_safetensors(model, path) == (digest, size)
    assert set(safetensors.torch.load_file(path)) == set(model.state_dict())


def test_shared_and_expanded_tensors_are_saved_whole(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.register_buffer("wide", torch.ones(1).expand(5))
    save_safetensors(model, tmp_path / "w.safetensors")
    state = load_state_dict_file(tmp_path / "w.safetensors")
    assert torch.equal(state["1.weight"], state["0.weight"])
    assert state["wide"].tolist() == [1.0] * 5


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path, model: Mapped) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        save_safetensors(model, tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_heads_that_only_help_training_are_left_out_of_a_checkpoint() -> None:
    network = NETWORKS.get("googlenet")
    with torch.device("meta"):
        published = torchvision.models.googlenet(weights=None, num_classes=4, init_weights=False).state_dict()
    state = {name: torch.full(t.shape, 0.5, dtype=t.dtype) for name, t in published.items()}
    model = network.build(4)
    fit(model, state, ignore=network.training_only)
    assert bool((model.state_dict()["fc.weight"] == 0.5).all())
    with pytest.raises(WeightsError, match=r"18 unexpected \(aux1"):
        fit(model, state)
