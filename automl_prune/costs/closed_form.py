"""MACs, FLOPs, parameters and weight memory as exact quadratic forms in the widths, activation memory as a maximum.

The MACs of a convolution or linear layer are ``positions x out x in x kernel`` and both ``out`` and ``in`` are linear in
the group widths, so the metrics of the whole network are ``w' Q w`` with ``w = (1, widths)``: one matrix product for a
population. What is alive at one step of the forward pass is linear in the widths; the peak is the maximum over the steps.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture, Tensor
from automl_prune.costs.forms import FloatArray, Sizes, undominated, with_constant

IntArray = npt.NDArray[np.int64]

METRICS = ("macs", "flops", "params", "memory_mb", "activation_mb")
CONVENTION = (
    "macs = multiply-adds of convolutions, linear layers and matrix products, attention's included, without bias, "
    "normalisation and activations, as torch.utils.flop_counter counts them; flops = 2 macs; "
    "params = learned tensors, shared ones once; memory_mb = parameters and normalisation statistics at 4 bytes, in 10^6 "
    "bytes; activation_mb = the most that the sample and the results of operations occupy at once in a forward pass of one "
    "sample, each from the operation that makes it to the last that reads it or a view of it, at 4 bytes an entry of any "
    "type, in 10^6 bytes; what is written in place needs no new memory, nor is there any inside an operation"
)
_BYTES = 4
_EXACT = 2**20  # multiples of 2^-20 entries: removes what summing up leaves of a tensor that is gone


class CostModel:
    """Costs of candidates of one architecture.

    Args:
        architecture: A traced network.
        names: The groups that the columns of a width array stand for; every other group keeps its full width.

    Raises:
        TraceError: A tensor or product has more than two axes that vary.
        UnknownNameError: No such group.
    """

    def __init__(self, architecture: Architecture, names: Sequence[str] | None = None) -> None:
        self.architecture = architecture
        self.names = tuple(names) if names is not None else tuple(g.name for g in architecture.free_groups)
        self._sizes = Sizes(architecture, {architecture.group(name).name: i for i, name in enumerate(self.names)})
        tensors = architecture.tensors
        elements = self._sizes.spanned(
            [f"Tensor {t.name!r}" for t in tensors], [[a.runs for a in t.axes] for t in tensors], list(map(_rest, tensors))
        )
        positions = Counter[str]()
        for layer in architecture.layers:
            positions[layer.weight] += layer.positions
        products = self._sizes.spanned(
            ["A product"] * len(architecture.products),
            [p.axes for p in architecture.products],
            [p.positions for p in architecture.products],
        )
        self._macs = elements.total([positions[t.name] for t in tensors]) + products.total([1] * len(architecture.products))
        self._macs[0, 0] += architecture.fixed_macs
        self._params = elements.total([t.learned for t in tensors])
        self._params[0, 0] += architecture.uncut
        self._stored = elements.total([t.indexes is None for t in tensors])
        self._stored[0, 0] += architecture.uncut

    def __call__(self, widths: IntArray) -> "Costs":
        """Costs by metric, each ``[candidates]``, of ``widths`` ``[candidates, groups]``."""
        return Costs(self, with_constant(widths))

    def one(self, widths: Mapping[str, int] | None = None) -> dict[str, float]:
        """Costs of one network by group name, missing groups full."""
        chosen = {n: self.architecture.group(n).width for n in self.names} | dict(widths or {})
        return {k: float(v[0]) for k, v in self(np.array([[chosen[n] for n in self.names]], dtype=np.int64)).items()}

    def metric(self, name: str, rows: FloatArray) -> FloatArray:
        """One metric, ``[candidates]``, of ``(1, widths)``, ``[candidates, 1 + groups]``."""
        if name == "activation_mb":
            live: FloatArray = np.max(rows @ self._alive.T, axis=1, initial=0)
            return _BYTES * np.rint(live) / 1e6
        form = {"params": self._params, "memory_mb": self._stored}.get(name, self._macs)
        values: FloatArray = np.rint(np.einsum("ij,ij->i", rows @ form, rows))
        if name == "memory_mb":
            values = _BYTES * values / 1e6
        return 2 * values if name == "flops" else values

    @cached_property
    def _alive(self) -> FloatArray:
        """Entries alive at each step that may be the peak, as linear forms in ``(1, widths)``: ``[steps, 1 + groups]``."""
        made = self.architecture.activations
        sizes = self._sizes.of([a.channels for a in made]) * np.array([a.positions for a in made])[:, None]
        sizes[:, 0] += [a.fixed for a in made]
        first, last = (np.array(steps, dtype=np.int64) for steps in ([a.first for a in made], [a.last for a in made]))
        changes = np.zeros((last.max(initial=0) + 2, sizes.shape[1]))
        np.add.at(changes, first, sizes)
        np.subtract.at(changes, last + 1, sizes)
        return undominated(np.rint(changes.cumsum(axis=0)[np.unique(first)] * _EXACT) / _EXACT)


class Costs(Mapping[str, FloatArray]):
    """Costs of some candidates by metric, each ``[candidates]``, worked out when it is asked for."""

    def __init__(self, model: CostModel, rows: FloatArray) -> None:
        self._model, self._rows = model, rows
        self._known: dict[str, FloatArray] = {}

    def __getitem__(self, metric: str) -> FloatArray:
        if metric not in METRICS:
            raise KeyError(metric)
        if metric not in self._known:
            self._known[metric] = self._model.metric(metric, self._rows)
        return self._known[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(METRICS)

    def __len__(self) -> int:
        return len(METRICS)


def _rest(tensor: Tensor) -> int:
    """Entries along the dimensions of a tensor that carry no channels."""
    return math.prod(s for d, s in enumerate(tensor.shape) if d not in {a.dim for a in tensor.axes})
