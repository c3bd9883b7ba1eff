"""The experiment behind every claim about a network: cut it, zero the same channels, and compare what both answer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.following import tensors_in
from automl_prune.architecture.model import Units, expand
from automl_prune.cloning import clone
from automl_prune.errors import TraceError
from automl_prune.messages import first_line
from automl_prune.steady import fresh, steady
from automl_prune.surgery.slicing import materialise
from automl_prune.surgery.telling import noise, telling

TOLERANCE = 1e-4
"""Largest accepted difference of outputs, relative to their largest magnitude (float32)."""
TELLING = 100 * TOLERANCE
"""Smallest difference that another input must make; with less, an error could stay below the tolerance."""


class Probe:
    """A network in evaluation mode with telling weights, cut and zeroed again and again; the given one is not touched.

    Every run starts from the same state and draws the same random numbers, as far as it draws as many.

    Args:
        model: The traced network.
        architecture: Its description; whether a group is frozen does not matter here.
        example_input: A batch ``[n, channels, …]``; only the shape and type of floating-point values matter, integers (ids
            of tokens) are taken as they are.
        seed: Of weights, statistics and inputs.

    Raises:
        TraceError: No weights were found with which the output depends on the input, so nothing could be proven.
    """

    def __init__(self, model: nn.Module, architecture: Architecture, example_input: Tensor, *, seed: int = 0) -> None:
        self._architecture = architecture
        generator = torch.Generator().manual_seed(seed)
        self._input, self._other = (noise(example_input, generator) for _ in range(2))
        self._latest: list[Tensor] = []
        self._draws = False
        faults = []
        for redraw in (False, True):
            try:
                self._model = telling(model, architecture, self._input, generator, redraw=redraw)
                fault = self._fault()
            except Exception as error:
                fault = f"it fails: {type(error).__name__}: {first_line(error)}".rstrip(": .")
            if fault is None:
                return
            faults.append(fault)
        raise TraceError(f"{type(model).__name__} cannot be verified: with random weights, {faults[0]}.")

    def difference(self, kept: Mapping[str, Units]) -> str | None:
        """Why cutting to these units is not the same as zeroing the others, or None."""
        which = "the smaller network"
        try:
            small = self._latest = self._answer(self._cut(kept), self._input)
            which = "with these channels zeroed, the network"
            with self._zeroed(kept):
                large = self._answer(fresh(self._model), self._input)
        except TraceError as error:
            return str(error).rstrip(".")
        except Exception as error:
            return f"{which} does not run: {type(error).__name__}: {first_line(error)}".rstrip(": ")
        if len(small) != len(large):
            return f"the output changes from {len(large)} tensors to {len(small)}"
        reason = next(filter(None, map(_mismatch, small, large)), None)
        return f"{reason} (it draws random numbers, and smaller ones may draw others)" if reason and self._draws else reason

    def tells(self, kept: Mapping[str, Units]) -> bool:
        """Whether the network just compared still depends on its input, so that the comparison could have failed."""
        if self._same_inputs:
            return True
        try:
            return _distance(self._latest, self._answer(self._cut(kept), self._other)) >= TELLING
        except Exception:  # other values may take another way, which fails
            return False

    @property
    def _same_inputs(self) -> bool:
        return torch.equal(self._input, self._other)

    def _cut(self, kept: Mapping[str, Units]) -> nn.Module:
        return materialise(self._model, self._architecture, kept)

    def _answer(self, model: nn.Module, inputs: Tensor) -> list[Tensor]:
        """What a module puts out; its state is another one afterwards."""
        with steady(inputs.device), torch.no_grad():
            before = torch.get_rng_state()
            answer = list(tensors_in(model(inputs.clone())))
            self._draws = not torch.equal(before, torch.get_rng_state())
            return [t.detach() for t in answer]

    @contextmanager
    def _zeroed(self, kept: Mapping[str, Units]) -> Iterator[None]:
        undo = zero(self._model, self._architecture, kept)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, dim, index, values in reversed(undo):
                    tensor.index_copy_(dim, index, values)

    def _fault(self) -> str | None:
        """Why this experiment would prove nothing, or None."""
        first = self._answer(fresh(self._model), self._input)
        if not any(t.is_floating_point() for t in first):
            return "it puts out no tensor of real numbers"
        if not all(t.isfinite().all() for t in first if t.is_floating_point()):
            return "its output is not finite"
        if _differ(self._answer(fresh(self._model), self._input), first):
            return "it answers the same input differently each time"
        if self._same_inputs:
            return (
                None
                if any(t.numel() and t.min() < t.max() for t in first if t.is_floating_point())
                else "its output is flat"
            )
        if not _distance(first, self._answer(fresh(self._model), self._other)) >= TELLING:
            return "its output hardly depends on its input"
        return None


def masked(model: nn.Module, architecture: Architecture, kept: Mapping[str, Units]) -> nn.Module:
    """A full-size copy in which every channel that ``kept`` leaves out is zeroed wherever it occurs."""
    copied = clone(model)
    zero(copied, architecture, kept)
    return copied


def zero(
    model: nn.Module, architecture: Architecture, kept: Mapping[str, Units]
) -> list[tuple[Tensor, int, Tensor, Tensor]]:
    """Zero what ``kept`` leaves out, in place; returns (tensor, dim, index, values that were there) in order."""
    keep = architecture.keep(kept)
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    undo = []
    with torch.no_grad():
        for spec in architecture.tensors:
            for axis in spec.axes:
                gone = np.flatnonzero(~keep[architecture.axis_ids[spec.name, axis.dim]])
                if len(gone):
                    tensor = tensors[spec.name]
                    index = torch.from_numpy(gone).to(tensor.device)
                    undo.append((tensor, axis.dim, index, tensor.index_select(axis.dim, index)))
                    # A channel map points to the zero channel at its end instead.
                    tensor.index_fill_(axis.dim, index, 0 if spec.indexes is None else len(expand(spec.indexes)) - 1)
    return undo


def _mismatch(cut: Tensor, full: Tensor) -> str | None:
    """How two answers differ by more than rounding, or None."""
    if cut.shape != full.shape:
        return f"the output changes its shape from {list(full.shape)} to {list(cut.shape)}"
    if not full.is_floating_point() and not full.is_complex():
        return None if torch.equal(cut, full) else "cutting and zeroing give different whole numbers in the output"
    error = float(_gap(cut, full))
    return None if error <= TOLERANCE else f"cutting differs from zeroing by {error:.1e} of the output"


def _differ(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) != len(b) or any(map(_mismatch, a, b))


def _gap(a: Tensor, b: Tensor) -> Tensor:
    """Largest difference relative to the largest finite magnitude; equal infinities do not differ, NaN stays NaN."""
    if not b.numel():
        return torch.zeros(())
    apart = torch.where(a == b, 0.0, (a - b).abs()).max()
    magnitude = torch.where(b.isfinite(), b.abs(), 0.0).max()
    return apart.div(magnitude.clamp(min=1e-6))


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The largest gap of any pair of answers; a changed shape or number is as far as can be."""
    if len(a) != len(b):
        return math.inf
    gaps = [
        float(_gap(x, y)) if x.shape == y.shape else math.inf for x, y in zip(a, b, strict=True) if x.is_floating_point()
    ]
    return max(gaps, default=0.0)
