"""What a space is, as data: every group with its widths or the reason why it is kept whole, sizes and costs."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from automl_prune.architecture import Architecture
from automl_prune.granularity import summed_up
from automl_prune.problem import CostFunction
from automl_prune.space import ChannelSpace


def describe(architecture: Architecture, space: ChannelSpace, cost: CostFunction) -> dict[str, Any]:
    """A space as JSON data.

    Args:
        architecture: The network that ``space`` is of.
        space: May be empty: then all groups are kept whole.
        cost: Maps widths ``[candidates, groups]`` of the space to costs by metric.

    Returns:
        ``groups`` (each: name, width, allowed widths, divisor, members, producers; ``frozen`` is the reason and ``kept_by``
        one of ``network``, ``pattern``, ``granularity`` where it is not searched), ``totals`` of them, ``kept_whole``: the
        reasons, each with its groups, ``log10_size``, and the costs of the full network, ``base``, and of the ``narrowest``.
    """
    choices = dict(zip(space.names, space.choices, strict=True))
    reasons = {g.name: ("network", g.frozen) for g in architecture.groups if g.frozen}
    reasons |= {kept.name: (kept.by, kept.reason) for kept in space.kept_whole}
    ends = {name: values.tolist() for name, values in cost(space.array([space.full, space.narrowest])).items()}
    by = Counter(by for by, _ in reasons.values())
    return {
        "groups": [
            {
                "name": g.name,
                "width": g.width,
                "full_width": g.width,
                "widths": compact(choices.get(g.name, (g.width,))),
                "choices": len(choices.get(g.name, (g.width,))),
                "narrowest": choices.get(g.name, (g.width,))[0],
                "divisor": g.divisor,
                "members": list(g.members),
                "producers": list(architecture.producers[g.name]),
                "searched": g.name in choices,
                "frozen": reasons.get(g.name, (None, None))[1],
                "kept_by": reasons.get(g.name, (None, None))[0],
            }
            for g in architecture.groups
        ],
        "totals": {
            "groups": len(architecture.groups),
            "searched": len(choices),
            "frozen": len(architecture.groups) - len(choices),
            "frozen_by": {kind: by[kind] for kind in ("network", "pattern", "granularity")},
        },
        "kept_whole": summed_up((by, str(reason), name) for name, (by, reason) in reasons.items()),
        "log10_size": space.log10_size,
        "base": {name: full for name, (full, _) in ends.items()},
        "narrowest": {name: least for name, (_, least) in ends.items()},
    }


def compact(widths: Sequence[int]) -> dict[str, Any]:
    """Ascending widths as min, max, count and step; with no one step through them, step is null and ``list`` has all."""
    steps = {b - a for a, b in pairwise(widths)}
    ends = {"min": widths[0], "max": widths[-1], "count": len(widths)}
    return ends | ({"step": steps.pop() if steps else None} if len(steps) < 2 else {"step": None, "list": list(widths)})
