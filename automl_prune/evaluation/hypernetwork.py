"""A PruningNet: one network that makes the weights of every candidate (Liu et al. 2019, MetaPruning, arXiv 1903.10258).

Every convolution whose channels are searched has a maker: a multilayer perceptron of two layers that is told the widths of
its block, as parts of the full widths, and puts out the full kernel, of which a candidate takes the leading channels
(``[:out, :in]``). Linear layers, biases, other normalisations than batch norm, and convolutions that no width touches are
ordinary weights that all candidates share, cropped in the same way.

A batch norm of the published MobileNetV2 and ResNets exists once per width, without weights of its own; as what such a norm
remembers comes from many other widths and is estimated anew for every candidate, that is the same as none at all, and so
they are here. With ``affine`` each width of a norm's group has a scale and a shift of its own, as the first norm and the
depthwise ones of the published MobileNetV1 have.

Only convolutions have makers, as published. What a transformer searches lies in linear layers and attention, whose weights
candidates share: such a network, where nothing at all would be made, is refused. Where only a part has makers, as in
networks of both kinds, the rest is cropped from shared weights, which stochastic training alone fits to many widths.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from automl_prune.architecture import Architecture
from automl_prune.errors import FieldError, SpecError
from automl_prune.surgery.cutting import Plan, Selection
from automl_prune.surgery.slicing import materialise

Choices = Mapping[str, Sequence[int]]
Widths = Mapping[str, int]


class KernelMaker(nn.Module):
    """Makes a full kernel from the widths of a block.

    Args:
        groups: The groups whose widths it is told, in this order.
        kernel: The kernel as initialised; what is made at full widths has its standard deviation at first.
        hidden: Units between the two layers.
    """

    def __init__(self, groups: tuple[str, ...], kernel: Tensor, hidden: int) -> None:
        super().__init__()
        self.groups, self.shape = groups, kernel.shape
        self.first, self.second = nn.Linear(len(groups), hidden), nn.Linear(hidden, kernel.numel())
        with torch.no_grad():
            scale = float(kernel.std(correction=0)) / max(1e-6, float(self(torch.ones(len(groups))).std(correction=0)))
            self.second.weight.mul_(scale)
            self.second.bias.mul_(scale)

    def forward(self, ratios: Tensor) -> Tensor:
        """The full kernel for ratios ``[groups]``."""
        made: Tensor = self.second(F.relu(self.first(ratios)))
        return made.view(self.shape)


class PruningNet(nn.Module):
    """Makes candidates of a traced network, weights included.

    Args:
        full: The network, newly initialised; it becomes a part of this one and is changed.
        architecture: Its description.
        choices: The widths that each searched group may take, ascending.
        hidden: Units between the two layers of a maker.
        affine: Whether batch norms have a scale and a shift, of their own for each width.

    Attributes:
        widths: Of the candidate that a forward pass computes; groups that are not named are whole.
    """

    widths: Widths

    def __init__(
        self, full: nn.Module, architecture: Architecture, choices: Choices, *, hidden: int = 32, affine: bool = False
    ) -> None:
        super().__init__()
        self.full, self.architecture, self.widths = full, architecture, {}
        self.choices = {name: tuple(widths) for name, widths in choices.items()}
        aliases = dict(full.named_parameters(remove_duplicate=False))
        plan = Plan.of(architecture)
        self._names = {id(p): name for name, p in full.named_parameters()}  # the first where weights are tied
        self._axes = {self._names[id(aliases[t.name])]: t.axes for t in plan.tensors if t.name in aliases}
        self._made: set[str] = set()
        self._makers: dict[str, KernelMaker] = {}
        self._scales: dict[str, tuple[str, nn.Parameter]] = {}
        self._add_makers(aliases, hidden)
        self._add_norms(affine)
        self.makers = nn.ModuleDict({_key(name): maker for name, maker in self._makers.items()})
        self.scales = nn.ParameterDict({_key(name): table for name, (_, table) in self._scales.items()})

    def _add_makers(self, aliases: Mapping[str, Tensor], hidden: int) -> None:
        for alias, groups in width_tuples(self.architecture, list(self.choices)).items():
            kernel = aliases.get(alias)
            if kernel is not None and (name := self._names[id(kernel)]) not in self._made:
                self._take(name)
                self._makers[name] = KernelMaker(groups, kernel, hidden)

    def _add_norms(self, affine: bool) -> None:
        """Take the scales and shifts of batch norms away, or give each width its own."""
        for module in self.full.modules():
            if not isinstance(module, _BatchNorm) or not module.affine:
                continue
            for parameter, value in ((module.weight, 1.0), (module.bias, 0.0)):
                name = self._names[id(parameter)]
                with torch.no_grad():
                    parameter.fill_(value)
                group = self._group_along(name)
                if not affine:
                    self._take(name)
                elif group is not None:
                    self._take(name)
                    table = torch.full((len(self.choices[group]), len(parameter)), value)
                    self._scales[name] = (group, nn.Parameter(table))

    def _take(self, name: str) -> None:
        """What stands in the full network under this name is no longer trained."""
        self._made.add(name)
        self.full.get_parameter(name).requires_grad_(False)

    def _group_along(self, name: str) -> str | None:
        """The searched group along a vector; None where there is none, or several."""
        ids = self.architecture.axis_ids.get((name, 0))
        owners = [] if ids is None else np.unique(self.architecture.owner[ids]).tolist()
        group = self.architecture.groups[owners[0]].name if len(owners) == 1 else None
        return group if group in self.choices else None

    # Candidates ------------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> object:
        """What the candidate says to images; gradients reach the makers and the shared weights."""
        small = materialise(self.full, self.architecture, leading(self.architecture, self.widths))
        return functional_call(small.train(self.training), self.tensors(self.widths), (images,))

    def candidate(self, widths: Widths) -> nn.Module:
        """The candidate of these widths as a module of its own; its batch-norm statistics are yet to be estimated."""
        small = materialise(self.full, self.architecture, leading(self.architecture, widths))
        with torch.no_grad():
            made = self.tensors(widths)
            for name, parameter in small.named_parameters():
                parameter.copy_(made[name])
                if name in self._made:
                    parameter.requires_grad_(True)
        return small

    def tensors(self, widths: Widths) -> dict[str, Tensor]:
        """Every parameter of the candidate of these widths, by its name in the network."""
        kept = leading(self.architecture, widths)
        selections = Plan.of(self.architecture).select(self.architecture, kept)
        return {
            name: _crop(
                self._whole(name, parameter, widths),
                {dim: chosen for dim, place in self._axes.get(name, ()) if (chosen := selections[place])},
            )
            for name, parameter in self.full.named_parameters()
        }

    def _whole(self, name: str, parameter: Tensor, widths: Widths) -> Tensor:
        """A parameter before it is cropped."""
        if (maker := self._makers.get(name)) is not None:
            made: Tensor = maker(self.ratios(maker.groups, widths))
            return made
        if name in self._scales:
            group, table = self._scales[name]
            widest = self.choices[group][-1]
            return table[self.choices[group].index(widths.get(group, widest))]
        return parameter

    def ratios(self, groups: Sequence[str], widths: Widths) -> Tensor:
        """What a maker is told, ``[groups]``: widths as parts of the full ones."""
        full = [self.architecture.group(g).width for g in groups]
        told = [widths.get(g, whole) / whole for g, whole in zip(groups, full, strict=True)]
        return torch.tensor(told, device=next(self.parameters()).device)

    # Weights ---------------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, nn.Parameter]:
        """Everything that candidates are made of, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not (name.startswith("full.") and name.removeprefix("full.") in self._made)
        }


def draw(choices: Choices, rng: np.random.Generator) -> dict[str, int]:
    """A width for each group, all of its choices alike (the paper's sampling: one draw per step, for the whole batch)."""
    return {name: int(widths[int(rng.integers(len(widths)))]) for name, widths in choices.items()}


def leading(architecture: Architecture, widths: Widths) -> dict[str, list[int]]:
    """Kept units by group name: the first of every group that is narrower than the full one."""
    groups = {name: architecture.group(name) for name in widths}
    return {n: list(range(w // groups[n].divisor)) for n, w in widths.items() if w < groups[n].width}


def width_tuples(architecture: Architecture, searched: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The searched groups of each convolution's block, by kernel name; kernels that no searched width touches are left out.

    These are the groups along its own axes, and along those of the layers that it shares an *inner* group with: one that a
    single layer puts out and a single one takes in, depthwise convolutions aside. In a residual block it is the published
    tuple of what comes in, the middle, and what goes out; a plain chain, published with what comes in and goes out alone, is
    told one layer more on each side.
    """
    kinds = {layer.weight: layer.kind for layer in architecture.layers}
    own: dict[str, dict[str, None]] = {name: {} for name in kinds}
    touching: dict[str, list[tuple[str, str]]] = {}
    for group, places in architecture.places.items():
        touching[group] = [(t.name, axis.role) for t, axis in places if t.name in kinds]
        for name, _ in touching[group]:
            own[name][group] = None
    wide = {g: [at for at in places if kinds[at[0]] != "depthwise"] for g, places in touching.items()}
    inner = {g for g, places in wide.items() if sorted(role for _, role in places) == ["in", "out"]}
    found = {}
    for name, kind in kinds.items():
        if kind in ("conv", "depthwise") and name in own:
            beyond = {g: None for mine in own[name] if mine in inner for other, _ in wide[mine] for g in own[other]}
            told = tuple(g for g in searched if g in own[name] or g in beyond)
            if any(g in own[name] for g in told):
                found[name] = told
    return found


def check_made(architecture: Architecture, searched: Sequence[str], *, name: str, pointer: str) -> None:
    """Raise SpecError where no searched width touches a convolution, so that all weights would be shared ones, cropped."""
    if not width_tuples(architecture, searched):
        said = (
            f"A PruningNet makes the kernels of convolutions, and no width that is searched in {name!r} touches one: all of "
            f"its candidates would be slices of the same shared weights. Choose another strategy, or another network."
        )
        raise SpecError([FieldError(pointer, said, "nothing_to_make")])


def _crop(tensor: Tensor, axes: Mapping[int, Selection]) -> Tensor:
    """The entries that stay; unlike cutting it lets gradients through."""
    for dim, selection in axes.items():
        if selection.start is not None:
            tensor = tensor.narrow(dim, selection.start, len(selection.positions))
        else:
            tensor = tensor.index_select(dim, selection.positions.to(tensor.device))
    return tensor


def _key(name: str) -> str:
    """A parameter's name as torch's containers take it."""
    return name.replace(".", "/")
