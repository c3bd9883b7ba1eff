"""Weights from files, safely: read without running anything, compared with the network before a byte is copied."""

import difflib
import hashlib
import os
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from automl_prune.errors import WeightsError

_POINTER = "/weights"
_NESTED = ("state_dict", "model", "model_state_dict", "net")
_DEEPEST = 4
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and torch.compile
_SHOWN = 5


def resolve_weights(root: Path, name: str) -> Path:
    """The file called ``name`` below ``root``, links followed.

    Raises:
        WeightsError: There is none, or it lies elsewhere.
    """
    try:
        base = root.resolve()
        path = (base / name).resolve()
        inside = path.is_relative_to(base)
        found = inside and path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null byte
        raise WeightsError(f"No weight file can be called that ({error}).", pointer=_POINTER) from None
    if not inside:
        raise WeightsError(f"{name!r} does not lie below the weights root; name a file below it.", pointer=_POINTER)
    if not found:
        known = sorted(str(p.relative_to(base)) for p in base.glob("*") if p.suffix.lower() in _READERS)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:10]
        raise WeightsError(
            f"No weight file {name!r} below the weights root; there is {', '.join(near) or 'none'}.", pointer=_POINTER
        )
    return path


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file; raises WeightsError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise WeightsError(f"{path.name} cannot be read: {said}.", pointer=_POINTER) from None


def load_state_dict_file(path: Path, *, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; with device ``meta`` only what the file says they are.

    A state dict may lie under ``state_dict`` or ``model`` in the file; prefixes left by DataParallel and torch.compile are
    taken off. Nothing in the file is executed.

    Raises:
        WeightsError: The file is missing, corrupt, or holds something else.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise WeightsError(
            f"{path.name!r} is no weight file by its name; expected one of {', '.join(_READERS)}.", pointer=_POINTER
        )
    try:
        content = read(path, device)
    except WeightsError:
        raise
    except Exception as error:  # files of unknown origin make the readers raise anything
        raise WeightsError(
            f"{path.name} cannot be read ({type(error).__name__}): it is missing, corrupt, or holds pickled Python objects "
            f"such as a whole module. Save one with torch.save(model.state_dict(), …) or as safetensors.",
            pointer=_POINTER,
        ) from error
    return _state_dict(content, path.name, device)


def fit_file(model: nn.Module, path: Path, *, ignore: tuple[str, ...] = ()) -> None:
    """Copy a file's weights into a model as :func:`fit` does; what the file declares is compared before a tensor is read.

    Raises:
        WeightsError: As :func:`load_state_dict_file` and :func:`fit`.
    """
    _matched(model, load_state_dict_file(path, device="meta"), ignore)
    fit(model, load_state_dict_file(path), ignore=ignore)


def fit(model: nn.Module, state: Mapping[str, Tensor], *, ignore: tuple[str, ...] = ()) -> None:
    """Copy weights into a model of the same shapes.

    Names, shapes and types are compared first; on any difference the model stays as it was. ``num_batches_tracked`` does
    not count, floating types convert into each other, and buffers of whole numbers (index maps) may be missing. What begins
    with one of ``ignore`` and is not in the model is left out.

    Raises:
        WeightsError: The weights are of another network; says which tensors differ and how; or they are not finite.
    """
    targets = _matched(model, state, ignore)
    if wild := [n for n in targets if state[n].is_floating_point() and not bool(state[n].isfinite().all())]:
        raise WeightsError(
            f"The weights hold NaN or infinity: {_listed('tensors', wild)}. Use a checkpoint from before the training "
            f"diverged.",
            pointer=_POINTER,
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])


def _matched(model: nn.Module, state: Mapping[str, Tensor], ignore: tuple[str, ...]) -> dict[str, Tensor]:
    """The model's tensors that get a value; raises WeightsError unless all names, shapes and types fit."""
    targets = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor) and not _is_counter(name)}
    left_out = {name for name in state if name.startswith(ignore) and name not in targets} if ignore else set()
    given = {name: tensor for name, tensor in state.items() if not _is_counter(name) and name not in left_out}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    needed = [name for name, t in targets.items() if name in parameters or t.is_floating_point()]
    common = [name for name in targets if name in given]
    findings = [
        _listed("missing", [n for n in needed if n not in given]),
        _listed("unexpected", [n for n in given if n not in targets]),
        _listed(
            "of another shape",
            [
                f"{n} {list(given[n].shape)} for {list(targets[n].shape)}"
                for n in common
                if given[n].shape != targets[n].shape
            ],
        ),
        _listed(
            "of another type",
            [f"{n} {given[n].dtype} for {targets[n].dtype}" for n in common if not _converts(given[n], targets[n])],
        ),
    ]
    if any(findings):
        raise WeightsError(
            f"The weights do not fit the network of {len(targets)} tensors: {'; '.join(filter(None, findings))}. Use "
            f"weights of this network, or set search_space (its num_classes, too) to the network they belong to.",
            pointer=_POINTER,
        )
    return {name: targets[name] for name in common}


def save_safetensors(model: nn.Module, path: Path, **about: str) -> tuple[str, int]:
    """Write the model's state as :func:`save_tensors` does, and return the file's SHA-256 and its size in bytes."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }
    return save_tensors(tensors, path, **about)


def save_tensors(tensors: dict[str, Tensor], path: Path, **about: str) -> tuple[str, int]:
    """Write contiguous tensors as a safetensors file, in one step, with notes in its header; its SHA-256 and its size."""
    content = safetensors.torch.save(tensors, metadata={"format": "pt", **about})
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest(), len(content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: others see all of it, or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _read_torch(path: Path, device: str) -> object:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch stores its records as they are; a compressed one could unpack to a thousand times its size.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise WeightsError(f"{path.name} is a compressed archive; torch.save writes none.", pointer=_POINTER)
    return torch.load(path, map_location=device, weights_only=True)


def _read_safetensors(path: Path, device: str) -> object:
    if device == "cpu":
        return safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:  # maps the file; a tensor is read where it is touched
        return {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118  (it is no dict)


_READERS: dict[str, Callable[[Path, str], object]] = {
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".th": _read_torch,
    ".safetensors": _read_safetensors,
}


def _state_dict(content: object, file: str, device: str) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):  # bounded: a file may hold itself
        if isinstance(content, dict) and (key := next((k for k in _NESTED if isinstance(content.get(k), dict)), None)):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise _no_state_dict(file, f"it holds {_described(content)}")
    state: dict[str, Any] = dict(content)
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != device:
            raise _no_state_dict(file, f"its entry {name!r} is {_described(value)}")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _no_state_dict(file: str, finding: str) -> WeightsError:
    return WeightsError(
        f"{file} is no state dict: {finding}. Save one with torch.save(model.state_dict(), …) or as safetensors.",
        pointer=_POINTER,
    )


def _described(value: object) -> str:
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(repr, list(value)[:_SHOWN])) or 'none'}"
    if isinstance(value, Tensor):
        return f"a {value.layout} tensor on {value.device.type}".replace("torch.", "")
    return f"an object of type {type(value).__name__}"


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def _converts(came: Tensor, wanted: Tensor) -> bool:
    return came.dtype == wanted.dtype or (came.is_floating_point() and wanted.is_floating_point())


def _listed(what: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {what} ({', '.join(items[:_SHOWN])}{more})"
