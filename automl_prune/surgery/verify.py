"""Trust after proof: every group of a traced network is cut numerically before it may be searched.

Cutting a group must equal zeroing the same channels wherever they occur: in the weights that put them out, in the
per-channel tensors and in the weights that take them in. All groups are cut at once, each to a width of its own, several
times over; when a round fails, halving finds the groups at fault, and they are frozen with their reason.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.model import Units
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.costs.counting import counted_macs
from automl_prune.errors import TraceError
from automl_prune.surgery.culprits import culprits
from automl_prune.surgery.fixed_sizes import fixed_sizes
from automl_prune.surgery.probe import TOLERANCE, Probe, masked
from automl_prune.surgery.rounds import Kept, draw_rounds, gentle, half
from automl_prune.surgery.slicing import materialise

__all__ = ["SECONDS", "TOLERANCE", "admit", "difference", "freeze", "masked", "verify"]

SECONDS = 240.0
"""How long a verification may take before it freezes what it has not proven."""

_PRICED, _GENTLE = 4, 3

Stage = Callable[[str], None]
Check = Callable[[Kept], str | None]


def admit(
    model: nn.Module, example_input: Tensor, *, seed: int = 0, seconds: float = SECONDS, on_stage: Stage = lambda stage: None
) -> Architecture:
    """Trace a network and verify every group; groups that cannot be cut exactly come back frozen.

    Args:
        model: Any module that can be traced; it is not touched.
        example_input: A batch ``[n, channels, …]``.
        seed: Of what the verification draws.
        seconds: Of the verification; what is not proven by then is frozen.
        on_stage: Told what begins: tracing, verifying.

    Raises:
        TraceError: As :func:`~automl_prune.architecture.tracing.trace`, or the output does not depend on the input.
    """
    check_weights(model)
    on_stage("tracing")
    architecture = trace(model, example_input)
    architecture = freeze(architecture, fixed_sizes(model, architecture, example_input))
    on_stage("verifying")
    architecture = verify(model, architecture, example_input, seed=seed, seconds=seconds)
    return check_costs(model, architecture, seed=seed, example_input=example_input)


def verify(
    model: nn.Module, architecture: Architecture, example_input: Tensor, *, seed: int = 0, seconds: float = SECONDS
) -> Architecture:
    """The architecture with every group frozen that does not cut exactly on ``example_input`` ``[n, channels, …]``.

    Raises:
        TraceError: The network's output does not depend on its input, so nothing can be proven.
    """
    rng = np.random.default_rng(seed)
    probe = Probe(model, architecture, example_input, seed=seed)
    check = _within(seconds, probe.difference)
    reasons: dict[str, str] = {}
    try:
        while not _clean(_free(architecture, reasons), probe, check, rng, reasons):
            pass  # what was proven beside a faulty group is proven again without it
    except TimeoutError as error:
        reasons |= {g.name: str(error) for g in _free(architecture, reasons)}
    return freeze(architecture, reasons)


def check_costs(
    model: nn.Module, architecture: Architecture, *, seed: int = 0, example_input: Tensor | None = None
) -> Architecture:
    """The architecture with every group frozen whose cut costs otherwise than the closed form says.

    MACs are compared with torch's own counter, parameters with those of the smaller network. What the full network has
    beyond the closed form is kept as a constant. ``example_input`` is a batch to count with instead of zeros.

    Raises:
        TraceError: The network's multiply-adds cannot be counted.
    """

    def counted(network: nn.Module) -> dict[str, int]:
        macs = counted_macs(network, architecture.input_shape, architecture.input_dtype, example=example_input)
        return {"macs": macs, "params": sum(p.numel() for p in network.parameters())}

    architecture = _constants_added(architecture, counted(model))
    costs, rng = CostModel(architecture), np.random.default_rng(seed)
    reasons: dict[str, str] = {}

    def check(kept: Kept) -> str | None:
        claimed = costs.one({name: len(units) * architecture.group(name).divisor for name, units in kept.items()})
        try:
            found = counted(materialise(model, architecture, kept))
        except TraceError as error:
            return str(error).rstrip(".")
        wrong = (m for m in found if found[m] != claimed[m])
        return next((_dearer(metric, claimed[metric], found[metric]) for metric in wrong), None)

    found = -1
    while found < len(reasons):
        found = len(reasons)
        for kept in draw_rounds(_free(architecture, reasons), rng)[:_PRICED]:
            _blame(check, kept, reasons)
    return freeze(architecture, reasons)


def check_weights(model: nn.Module) -> None:
    """Raise TraceError if a module has tensors without values."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise TraceError(
                f"{type(model).__name__} has no weights: its {name!r} is on the meta device. Build it on another device, or "
                "call to_empty(device=…) and load or initialise its weights."
            )


def freeze(architecture: Architecture, reasons: Mapping[str, str]) -> Architecture:
    """The architecture with these groups frozen."""
    if not reasons:
        return architecture
    groups = tuple(dataclasses.replace(g, frozen=reasons[g.name]) if g.name in reasons else g for g in architecture.groups)
    return dataclasses.replace(architecture, groups=groups)


def difference(
    model: nn.Module, architecture: Architecture, kept: Mapping[str, Units], inputs: Tensor, *, seed: int = 0
) -> str | None:
    """Why cutting a network would not equal zeroing the same channels, or None; the network is not touched.

    Of ``inputs`` only the shape and the type matter: zeros would hide a wrong index.

    Raises:
        TraceError: The network's output does not depend on its input, so nothing can be said.
    """
    return Probe(model, architecture, inputs, seed=seed).difference(kept)


def _constants_added(architecture: Architecture, counted: Mapping[str, int]) -> Architecture:
    """The architecture with constants that make the full network cost what was counted."""
    claimed = CostModel(architecture).one()
    macs, params = (counted[metric] - int(claimed[metric]) for metric in ("macs", "params"))
    return dataclasses.replace(architecture, fixed_macs=architecture.fixed_macs + macs, uncut=architecture.uncut + params)


def _dearer(metric: str, claimed: float, counted: int) -> str:
    unit, by = ("MACs", "by torch's counter") if metric == "macs" else ("parameters", "in the smaller network")
    return f"its cost does not follow from the widths: {claimed:,.0f} {unit} by them, {counted:,} {by}"


def _clean(
    groups: Sequence[ChannelGroup], probe: Probe, check: Check, rng: np.random.Generator, reasons: dict[str, str]
) -> bool:
    """Cut the groups in random company; True when none failed, else ``reasons`` has grown."""
    before, proofs = len(reasons), Counter[str]()

    def play(drawn: Kept) -> None:
        kept = _blame(check, drawn, reasons)
        if kept and probe.tells(kept):
            proofs.update(kept.keys())

    def unproven() -> list[ChannelGroup]:
        return [g for g in groups if g.units > 1 and g.name not in reasons and proofs[g.name] < 2]

    for drawn in draw_rounds(groups, rng):
        play(drawn)
    for _ in range(_GENTLE):  # where little came through the narrow ones
        play({g.name: gentle(rng, g.units) for g in unproven()})
    for group in unproven():
        play({group.name: half(rng, group.units)})
    return len(reasons) == before


def _blame(check: Check, kept: Kept, reasons: dict[str, str]) -> Kept:
    """Check one round, put whoever fails it into ``reasons``, and return what passed in the end."""

    def without() -> Kept:
        return {name: units for name, units in kept.items() if name not in reasons}

    def test(names: Iterable[str]) -> str | None:
        return check({name: kept[name] for name in names})

    while (left := without()) and (reason := check(left)):
        for names, said in culprits(test, tuple(left), reason):
            reasons |= {name: _joint(name, names, said) for name in names}
    return left


def _joint(name: str, names: Sequence[str], reason: str) -> str:
    """The reason of one of several groups that fail together."""
    others = [other for other in names if other != name]
    if not others:
        return reason
    shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return f"exact alone, but not together with {shown}: {reason}"


def _within(seconds: float, check: Check) -> Check:
    """The check, until the time is over; then TimeoutError, with the reason to freeze what is left."""
    end = time.monotonic() + seconds

    def limited(kept: Kept) -> str | None:
        if time.monotonic() > end:
            raise TimeoutError(f"not proven within the {seconds:g} s of its verification")
        return check(kept)

    return limited


def _free(architecture: Architecture, reasons: Mapping[str, str]) -> list[ChannelGroup]:
    return [g for g in architecture.free_groups if g.name not in reasons]
