"""Milliseconds of whole networks from their widths: the sum over their layers' tables, and what the rest of them takes.

    ms = Σ_kind a_kind · Σ_layers table(inputs, outputs) + b · activations + c · turned − d · unturned + e · weights + f

ONNX Runtime computes a convolution in blocks of channels where its input allows that, and in the plain layout elsewhere.
*Turned* entries are outputs whose layer and whose consumer do not agree, *unturned* ones are those that are turned around a
blocked layer only while that is timed by itself. Runtimes of one layout get the factor 0 for both. The *weights* of a layer
that is timed again and again by itself are at hand; in a network they come from farther away.

The tables say how a layer's time depends on its widths; the factors, fitted to whole networks that were timed, say how much
of it is left inside a network, where layers share caches and a runtime's overhead, and what all without weights takes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture
from automl_prune.costs.forms import Sizes, with_constant
from automl_prune.latency.blocks import Signature
from automl_prune.latency.layouts import BLOCK, is_blocked
from automl_prune.latency.signatures import LayersAlike, layers_alike
from automl_prune.latency.table import LatencyTable
from automl_prune.space import ChannelSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

REST = ("activations", "turned", "unturned", "weights", "constant")
"""What a network takes besides its tables: parts of the full network's activation entries and weights, and a constant."""
_TRUST = 0.02
"""How strongly the factors of tables are drawn to 1: as one more network, missed by this part of the full one's time."""
_FLOOR = 0.25
"""Part of the least time that a model was fitted to, below which it predicts nothing: what is taken off of blocked layers
may come to more than the tables of networks that are narrower than all of these."""


@dataclass(frozen=True)
class Check:
    """How well predictions met measurements of networks that they were not fitted to.

    Attributes:
        predicted, measured: Milliseconds of each network.
        r2: Of measured by predicted.
        mape: Mean absolute error relative to the measurement.
        worst: The largest of these.
        rank_correlation: Spearman's; this and ``r2`` are 0 where there is nothing to tell apart.
    """

    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    r2: float
    mape: float
    worst: float
    rank_correlation: float

    @classmethod
    def of(cls, predicted: FloatArray, measured: FloatArray) -> "Check":
        """Compare two arrays, ``[networks]``."""
        errors = np.abs(predicted / measured - 1)
        spread = float(np.square(measured - measured.mean()).sum())
        alike = len(measured) < 3 or not np.ptp(measured) or not np.ptp(predicted)
        return cls(
            predicted=tuple(predicted.tolist()),
            measured=tuple(measured.tolist()),
            r2=0.0 if alike else 1 - float(np.square(measured - predicted).sum()) / spread,
            mape=float(errors.mean()),
            worst=float(errors.max()),
            rank_correlation=0.0 if alike else _correlation(_ranks(predicted), _ranks(measured)),
        )

    @property
    def bias(self) -> float:
        """The median of what measurements are in parts of their predictions: 1 where these are right in the middle."""
        return float(np.median(np.array(self.measured) / np.array(self.predicted)))

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


class LatencyModel:
    """Predicts milliseconds of candidates.

    Args:
        architecture, space: What the candidates are of.
        tables: By signature, for every signature of the architecture.
        factors: ``[features]``, from :meth:`fit`; by default tables count as they are, and nothing else does.
    """

    def __init__(
        self,
        architecture: Architecture,
        space: ChannelSpace,
        tables: Mapping[Signature, LatencyTable],
        factors: Sequence[float] | None = None,
    ) -> None:
        self._alike: list[LayersAlike] = layers_alike(architecture, space)
        self._tables = tables
        self.kinds = tuple(sorted({_kind(alike.signature) for alike in self._alike}))
        sizes = Sizes(architecture, {name: i for i, name in enumerate(space.names)})
        made = architecture.activations
        channels, positions = sizes.of([a.channels for a in made]), np.array([a.positions for a in made], dtype=np.float64)
        varying = channels[:, 1:].any(axis=1)
        rest = channels[~varying, 0]
        self._channels, self._positions = channels[varying], positions[varying]
        self._fixed = float(rest @ positions[~varying])
        self._whole = float(self._entries(space.array([space.full])).sum()) or 1.0
        self._heaviest = float(self._weights(space.array([space.full]))[0]) or 1.0
        self._least = 0.0
        self.factors = np.array(factors if factors is not None else [1.0] * len(self.kinds) + [0.0] * len(REST))

    def __call__(self, widths: IntArray) -> FloatArray:
        """Milliseconds, ``[candidates]``, of ``widths`` ``[candidates, groups]``."""
        ms: FloatArray = np.maximum(self.features(widths) @ self.factors, self._least)
        return ms

    def features(self, widths: IntArray) -> FloatArray:
        """Milliseconds by kind of table, then ``REST``: ``[candidates, features]``."""
        columns = {name: np.zeros(len(widths)) for name in (*self.kinds, *REST)}
        columns["activations"] = self._entries(widths) / self._whole
        columns["weights"] = self._weights(widths) / self._heaviest
        columns["constant"] += 1
        for alike in self._alike:
            signature, (inputs, outputs) = alike.signature, alike.widths_of(widths)
            columns[_kind(signature)] += self._tables[signature](inputs, outputs).sum(axis=1)
            if signature.size:
                turned, alone = _turned(signature, inputs, outputs)
                columns["turned"] += turned / self._whole
                columns["unturned"] -= alone / self._whole
        return np.stack(list(columns.values()), axis=1)

    def fit(self, widths: IntArray, measured: FloatArray) -> None:
        """Fit the factors to networks that were timed; relative errors count, and no factor is negative.

        Args:
            widths: ``[networks, groups]``.
            measured: Milliseconds, ``[networks]``.
        """
        from scipy.optimize import nnls  # takes half a second, and only who fits needs it

        features = self.features(widths)
        trust = _TRUST * np.sqrt(len(measured))
        drawn = np.zeros((len(self.kinds), features.shape[1]))
        np.fill_diagonal(drawn, trust)
        left = np.concatenate([features / measured[:, None], drawn])
        right = np.concatenate([np.ones(len(measured)), np.full(len(self.kinds), trust)])
        self.factors = nnls(left, right)[0]
        self._least = _FLOOR * float(measured.min())

    def _weights(self, widths: IntArray) -> FloatArray:
        """Entries of the weights of all layers that have tables, ``[candidates]``."""
        total = np.zeros(len(widths))
        for alike in self._alike:
            total += alike.signature.weights(*alike.widths_of(widths)).sum(axis=1)
        return total

    def _entries(self, widths: IntArray) -> FloatArray:
        """Entries of all activations, ``[candidates]``."""
        entries: FloatArray = np.rint(with_constant(widths) @ self._channels.T) @ self._positions + self._fixed
        return entries


def _turned(signature: Signature, inputs: IntArray, outputs: IntArray) -> tuple[FloatArray, FloatArray]:
    """Entries of convolutions' outputs that are turned within a network, and that are turned of a layer by itself."""
    blocked = is_blocked(inputs)
    taken_in = np.where(inputs < BLOCK, 0, inputs) * math.prod(signature.size)
    put_out = outputs * math.prod(signature.output_size)
    turned: FloatArray = np.where(blocked != is_blocked(outputs), put_out, 0.0).sum(axis=1)
    alone: FloatArray = np.where(blocked, taken_in + put_out, 0.0).sum(axis=1)
    return turned, alone


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean: FloatArray = (np.cumsum(count) - (count + 1) / 2)[place]
    return mean


def _correlation(a: FloatArray, b: FloatArray) -> float:
    """Pearson's, of arrays that vary."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum()))


def _kind(signature: Signature) -> str:
    """Layers whose factor is the same."""
    if signature.groups > 1:
        return "grouped"
    if signature.kind == "conv":
        return "pointwise" if set(signature.kernel) == {1} else "conv"
    return signature.kind
