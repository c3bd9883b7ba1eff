"""Make a module's own account of its sizes agree with its tensors after a cut.

``declare_sizes`` is dispatched by type, subclasses included; a new kind of layer is one more registered function, in a
plug-in too: ``@declare_sizes.register``.
"""

from functools import singledispatch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

BoolArray = npt.NDArray[np.bool_]


@singledispatch
def declare_sizes(module: nn.Module, rows: BoolArray | None) -> None:
    """Set the sizes of a module whose tensors were cut; kinds without sizes of their own have nothing to set.

    Args:
        module: The smaller module, its sizes still those of the full one.
        rows: Which entries of its weight's first axis stayed, ``[full size]``; None where all did.
    """


@declare_sizes.register
def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, rows: BoolArray | None) -> None:
    out, inputs_per_group = shape_of(module, "weight")[:2]
    module.groups = _groups_left(module.groups, rows)
    module.in_channels, module.out_channels = inputs_per_group * module.groups, out


@declare_sizes.register
def _transposed_convolution(
    module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, rows: BoolArray | None
) -> None:
    inputs, out_per_group = shape_of(module, "weight")[:2]
    module.groups = _groups_left(module.groups, rows)
    module.in_channels, module.out_channels = inputs, out_per_group * module.groups


@declare_sizes.register
def _linear(module: nn.Linear, rows: BoolArray | None) -> None:
    module.out_features, module.in_features = shape_of(module, "weight")


@declare_sizes.register
def _bilinear(module: nn.Bilinear, rows: BoolArray | None) -> None:
    module.out_features, module.in1_features, module.in2_features = shape_of(module, "weight")


@declare_sizes.register
def _embedding(module: nn.Embedding | nn.EmbeddingBag, rows: BoolArray | None) -> None:
    module.num_embeddings, module.embedding_dim = shape_of(module, "weight")


@declare_sizes.register
def _batch_or_instance_norm(module: _NormBase, rows: BoolArray | None) -> None:
    sized = module.running_mean if module.running_mean is not None else module.weight
    if sized is not None:
        module.num_features = len(sized)


@declare_sizes.register
def _group_norm(module: nn.GroupNorm, rows: BoolArray | None) -> None:
    module.num_groups = _groups_left(module.num_groups, rows)
    (module.num_channels,) = shape_of(module, "weight")


@declare_sizes.register
def _layer_norm(module: nn.LayerNorm | nn.RMSNorm, rows: BoolArray | None) -> None:
    module.normalized_shape = tuple(shape_of(module, "weight"))


@declare_sizes.register
def _prelu(module: nn.PReLU, rows: BoolArray | None) -> None:
    (module.num_parameters,) = shape_of(module, "weight")


@declare_sizes.register
def _recurrent(module: nn.RNNBase, rows: BoolArray | None) -> None:
    module.input_size = shape_of(module, "weight_ih_l0")[1]
    if module.proj_size:
        module.proj_size, module.hidden_size = shape_of(module, "weight_hr_l0")
    else:
        module.hidden_size = shape_of(module, "weight_hh_l0")[1]
    module.flatten_parameters()  # cuDNN wants the new weights in one piece; elsewhere this does nothing


@declare_sizes.register
def _recurrent_cell(module: nn.RNNCellBase, rows: BoolArray | None) -> None:
    module.input_size = shape_of(module, "weight_ih")[1]
    module.hidden_size = shape_of(module, "weight_hh")[1]


def shape_of(module: nn.Module, name: str) -> torch.Size:
    """Shape of a tensor that a module computes with, from what it stores: a reparametrised one is not evaluated."""
    if parametrize.is_parametrized(module, name):
        originals = module.get_submodule(f"parametrizations.{name}").parameters(recurse=False)
        return max((t.shape for t in originals), key=torch.Size.numel)
    stored = (getattr(module, f"{name}{suffix}", None) for suffix in ("_orig", "_v", ""))
    return next(t.shape for t in stored if isinstance(t, Tensor))


def _groups_left(groups: int, rows: BoolArray | None) -> int:
    """How many groups still have channels: some lose all of theirs (depthwise), or every one loses the same positions."""
    return groups if rows is None else int(rows.reshape(groups, -1).any(axis=1).sum())
