"""Files of PruningNets: safetensors files whose header says in JSON of which network and space one is, and how trained."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import safetensors
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from automl_prune.architecture import Architecture
from automl_prune.errors import WeightsError
from automl_prune.evaluation.hypernetwork import PruningNet
from automl_prune.evaluation.images import Images
from automl_prune.evaluation.recipe import HypernetworkOrder, Strict
from automl_prune.evaluation.weights import save_tensors
from automl_prune.space import ChannelSpace

POINTER = "/recipe/hypernetwork/file"
_HEADER = "pruning_net"
MOMENTUM = "momentum of "


class About(Strict):
    """What a PruningNet is of, and how far it was trained.

    Attributes:
        architecture: A digest of layers, channel groups and tensors.
        choices: Widths that it was trained with, by group.
        dataset, fit: The images that it was trained on: their source, and the id of the fit split.
        done: Epochs so far.
        top1, loss: Of the last of them, while it was trained.
    """

    format: Literal[1] = 1
    network: str
    num_classes: int
    architecture: str
    choices: dict[str, tuple[int, ...]]
    hidden: int = Field(ge=1, le=4096)
    affine: bool
    dataset: str
    fit: str
    done: int = 0
    top1: float = 0.0
    loss: float = 0.0

    @classmethod
    def of(
        cls,
        network: str,
        num_classes: int,
        architecture: Architecture,
        space: ChannelSpace,
        images: Images,
        order: HypernetworkOrder,
        *,
        dataset: str,
    ) -> "About":
        """The PruningNet that a search would train, before it is."""
        return cls(
            network=network,
            num_classes=num_classes,
            architecture=digest(architecture),
            choices=dict(zip(space.names, space.choices, strict=True)),
            hidden=order.hidden,
            affine=order.affine,
            dataset=dataset,
            fit=images.describe()["fit"]["sha256"],
        )

    def check_serves(self, wanted: "About") -> None:
        """Raise WeightsError unless this one makes the candidates that another was to make, fairly.

        It may know more widths than are wanted. Other images would mean that it may have been trained on those that
        candidates are chosen or reported on.
        """
        if (self.network, self.architecture) != (wanted.network, wanted.architecture):
            raise _unfit(f"It is of {self.network}, with other layers or channels than the {wanted.network} of this search.")
        if self.num_classes != wanted.num_classes:
            raise _unfit(f"It is for {self.num_classes} classes and this search for {wanted.num_classes}.")
        if list(self.choices) != list(wanted.choices):
            odd = sorted(self.choices.keys() ^ wanted.choices.keys())
            raise _unfit(f"It was trained for other groups than this search has: {', '.join(odd[:5])} in one of them only.")
        for group, widths in wanted.choices.items():
            if new := sorted(set(widths) - set(self.choices[group])):
                raise _unfit(f"It was not trained with group {group!r} at the widths {', '.join(map(str, new[:10]))}.")
        if (self.dataset, self.fit) != (wanted.dataset, wanted.fit):
            raise _unfit(
                f"It was trained on another part of {self.dataset} than this search trains on, so perhaps on images that it "
                f"scores candidates on. Use the seed and the sizes of the search that trained it."
            )


def save(net: PruningNet, path: Path, about: About, momenta: Mapping[str, Tensor] | None = None) -> None:
    """Write a PruningNet, and by the names of its weights the momenta of a training that is to go on."""
    tensors: dict[str, Tensor] = {**net.weights(), **{MOMENTUM + name: m for name, m in (momenta or {}).items()}}
    copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    save_tensors(copies, path, **{_HEADER: about.model_dump_json()})


def read_about(path: Path) -> About:
    """What a file says that it is; raises WeightsError."""
    return read(path, tensors=False)[0]


def load(path: Path, net: PruningNet) -> About:
    """Copy a file's weights into a PruningNet; raises WeightsError when they are of another."""
    about, tensors = read(path)
    copy_weights(tensors, net, path)
    return about


def digest(architecture: Architecture) -> str:
    """A short SHA-256 of what a trained network or PruningNet depends on."""
    described = architecture.to_json()
    parts = [described[part] for part in ("groups", "layers", "tensors")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path, *, tensors: bool = True) -> tuple[About, dict[str, Tensor]]:
    """What a file says that it is, and what it holds, by name; raises WeightsError when it is no PruningNet."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = About.model_validate_json((file.metadata() or {})[_HEADER])
            return about, {name: file.get_tensor(name) for name in (file.keys() if tensors else ())}
    except (OSError, KeyError, ValidationError, safetensors.SafetensorError) as error:
        raise _unfit(
            f"{path.name} is no PruningNet ({type(error).__name__}). Name a hypernetwork.safetensors that a search trained."
        ) from error


def copy_weights(tensors: Mapping[str, Tensor], net: PruningNet, path: Path) -> None:
    """Copy what a file holds into a PruningNet; raises WeightsError when it is of another, or not finite."""
    weights = net.weights()
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(MOMENTUM)}
    odd = sorted(weights.keys() ^ given.keys()) or [n for n, w in weights.items() if w.shape != given[n].shape]
    if odd:
        raise _unfit(f"{path.name} does not fit the PruningNet of this search: {', '.join(odd[:5])} differ.")
    if wild := [name for name, tensor in given.items() if not bool(tensor.isfinite().all())]:
        raise _unfit(f"{path.name} holds NaN or infinity, in {', '.join(wild[:5])}.")
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(given[name])


def _unfit(sentence: str) -> WeightsError:
    return WeightsError(sentence, pointer=POINTER)
