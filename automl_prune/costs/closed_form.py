"""MACs, FLOPs, parameters and weight memory as exact quadratic forms in the widths.

The MACs of a convolution or linear layer are ``positions x out x in x kernel`` and both ``out`` and ``in`` are linear in
the group widths, so every metric of the whole network is ``w' Q w`` with ``w = (1, widths)``: one matrix product for a
population.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture, Axis, Tensor
from automl_prune.errors import TraceError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METRICS = ("macs", "flops", "params", "memory_mb")
CONVENTION = (
    "macs = multiply-adds of convolutions, linear layers and matrix products, without bias, normalisation and "
    "activations; flops = 2 macs; "
    "params = learned tensors; memory_mb = parameters and normalisation statistics at 4 bytes, in 10^6 bytes"
)
_BYTES = 4


class CostModel:
    """Costs of candidates of one architecture.

    Args:
        architecture: A traced network.
        names: The groups that the columns of a width array stand for; every other group keeps its full width.
    """

    def __init__(self, architecture: Architecture, names: Sequence[str] | None = None) -> None:
        self.architecture = architecture
        self.names = tuple(names) if names is not None else tuple(g.name for g in architecture.free_groups)
        self._columns = {architecture.groups.index(architecture.group(n)): i + 1 for i, n in enumerate(self.names)}
        size = len(self.names) + 1
        self._macs, self._params, self._memory = (np.zeros((size, size)) for _ in range(3))
        elements = {t.name: self._elements(t) for t in architecture.tensors}
        for tensor in architecture.tensors:
            if tensor.learned:
                self._params += elements[tensor.name]
            if tensor.indexes is None:
                self._memory += _BYTES * elements[tensor.name]
        self._params[0, 0] += architecture.uncut
        self._memory[0, 0] += _BYTES * architecture.uncut
        self._macs[0, 0] = architecture.fixed_macs
        for layer in architecture.layers:
            self._macs += layer.positions * elements[layer.weight]

    def __call__(self, widths: IntArray) -> dict[str, FloatArray]:
        """Costs by metric, each ``[candidates]``, of ``widths`` ``[candidates, groups]``."""
        rows = np.concatenate([np.ones((len(widths), 1)), np.asarray(widths, dtype=np.float64)], axis=1)
        macs, params, memory = (((rows @ q) * rows).sum(axis=1) for q in (self._macs, self._params, self._memory))
        macs, params = np.rint(macs), np.rint(params)
        return {"macs": macs, "flops": 2 * macs, "params": params, "memory_mb": np.rint(memory) / 1e6}

    def one(self, widths: dict[str, int] | None = None) -> dict[str, float]:
        """Costs of one network by group name, missing groups full."""
        chosen = {n: self.architecture.group(n).width for n in self.names} | (widths or {})
        return {k: float(v[0]) for k, v in self(np.array([[chosen[n] for n in self.names]], dtype=np.int64)).items()}

    def _elements(self, tensor: Tensor) -> FloatArray:
        """Number of elements of a tensor as a quadratic form in ``(1, widths)``."""
        rest = np.prod([s for d, s in enumerate(tensor.shape) if d not in {a.dim for a in tensor.axes}])
        factors = [self._size(axis) for axis in tensor.axes]
        variable = [f for f in factors if np.any(f[1:])]
        constant = float(rest * np.prod([f[0] for f in factors if not np.any(f[1:])]))
        if len(variable) > 2:
            raise TraceError(f"Tensor {tensor.name!r} has {len(variable)} axes that vary; costs need at most 2.")
        unit = np.zeros(len(self.names) + 1)
        unit[0] = 1.0
        first, second = (*variable, unit, unit)[:2]
        form = constant * np.outer(first, second)
        return (form + form.T) / 2

    def _size(self, axis: Axis) -> FloatArray:
        """Entries along an axis as a linear form in ``(1, widths)``."""
        form = np.zeros(len(self.names) + 1)
        owners, counts = np.unique(self.architecture.owner[axis.ids()], return_counts=True)
        for owner, count in zip(owners, counts, strict=True):
            column = self._columns.get(int(owner), 0)
            form[column] += count / self.architecture.groups[owner].width if column else count
        return form
