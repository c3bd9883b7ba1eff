"""Milliseconds of whole networks from their widths: the sum over their layers' tables, and what the rest of them takes.

    ms = Σ_kind a_kind · Σ_layers table(inputs, outputs) + b · activation entries + c · unaligned entries + d

Unaligned entries are those of activations whose channels are no multiple of 16: ONNX Runtime turns them between two layouts,
as it always does around a layer that is timed by itself.

The tables say how a layer's time depends on its widths; the factors, fitted to whole networks that were timed, say how much
of it is left inside a network, where layers share caches and a runtime's overhead, and what all without weights takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture
from automl_prune.costs.forms import Sizes, with_constant
from automl_prune.latency.blocks import Signature
from automl_prune.latency.signatures import LayersAlike, layers_alike
from automl_prune.latency.table import STEPS, LatencyTable
from automl_prune.space import ChannelSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

REST = ("activations", "unaligned", "constant")
"""What a network takes besides its tables: parts of the full network's activation entries, and a constant."""
_TRUST = 0.02
"""How strongly the factors of tables are drawn to 1: as one more network, missed by this part of the full one's time."""


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
        self._whole = float(self._entries(space.array([space.full]))[0].sum()) or 1.0
        self.factors = np.array(factors if factors is not None else [1.0] * len(self.kinds) + [0.0] * len(REST))

    def __call__(self, widths: IntArray) -> FloatArray:
        """Milliseconds, ``[candidates]``, of ``widths`` ``[candidates, groups]``."""
        ms: FloatArray = self.features(widths) @ self.factors
        return ms

    def features(self, widths: IntArray) -> FloatArray:
        """Milliseconds by kind of table, then ``REST``: ``[candidates, features]``."""
        columns = {kind: np.zeros(len(widths)) for kind in self.kinds}
        for alike in self._alike:
            inputs, outputs = alike.widths_of(widths)
            columns[_kind(alike.signature)] += self._tables[alike.signature](inputs, outputs).sum(axis=1)
        entries, unaligned = self._entries(widths)
        return np.stack([*columns.values(), entries / self._whole, unaligned / self._whole, np.ones(len(widths))], axis=1)

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

    def _entries(self, widths: IntArray) -> tuple[FloatArray, FloatArray]:
        """Entries of all activations, and of those whose channels are no multiple of 16, ``[candidates]`` each."""
        channels = np.rint(with_constant(widths) @ self._channels.T)
        return channels @ self._positions + self._fixed, np.where(channels % STEPS[0], channels, 0) @ self._positions


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
    if signature.kind == "conv":
        return "pointwise" if set(signature.kernel) == {1} else "conv"
    return signature.kind
