"""The search space: which widths each channel group may take, and one choice of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture
from automl_prune.errors import UnknownNameError, UserError, WidthError
from automl_prune.granularity import KeptWhole, Override, allowed_widths, rules_of, summed_up

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One width per searched group, in the order of its space. Hashable."""

    widths: tuple[int, ...]


@dataclass(frozen=True)
class ChannelSpace:
    """The groups that are searched and the widths that each may take, ascending and ending with the full width.

    ``kept_whole`` lists the groups that could be cut too but are not searched, with reasons.
    """

    names: tuple[str, ...]
    choices: tuple[tuple[int, ...], ...]
    kept_whole: tuple[KeptWhole, ...] = ()

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        *,
        round_to: int = 1,
        min_ratio: float = 0.0,
        frozen: Sequence[str] = (),
        overrides: Sequence[Override] = (),
        declared: Sequence[Override] = (),
        allow_empty: bool = False,
        most_choices: int | None = None,
    ) -> "ChannelSpace":
        """The space of an architecture's free groups.

        Args:
            architecture: A traced network.
            round_to: Widths are multiples of this (and of the group's divisor); the full width always stays allowed.
            min_ratio: No group becomes narrower than this part of its full width.
            frozen: Glob patterns; a group keeps its full width when one matches its name or a layer that puts it out.
            overrides: What differs for some groups; where two match the same group, the later wins.
            declared: Overrides of the network's author, which come before ``frozen`` and ``overrides``.
            allow_empty: Whether a space without any group is an answer too.
            most_choices: Widths that one group may have to choose from; None: any number.

        Raises:
            UnknownNameError: A pattern matches nothing.
            UserError: Rules contradict each other, an override has no effect, a group has too many choices, or nothing is
                left to search.
            WidthError: A listed width that its group cannot take.
        """
        rules = rules_of(round_to, min_ratio, declared, frozen, overrides)
        choices, kept_whole = allowed_widths(architecture, rules, most_choices)
        if not choices and not allow_empty:
            raise _nothing_left(architecture, kept_whole)
        return cls(names=tuple(choices), choices=tuple(choices.values()), kept_whole=kept_whole)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, candidate: object) -> bool:
        return (
            isinstance(candidate, Candidate)
            and len(candidate.widths) == len(self)
            and all(w in c for w, c in zip(candidate.widths, self._sets, strict=True))
        )

    @cached_property
    def _sets(self) -> tuple[frozenset[int], ...]:
        return tuple(frozenset(c) for c in self.choices)

    @cached_property
    def full(self) -> Candidate:
        """The network as it came."""
        return Candidate(tuple(c[-1] for c in self.choices))

    @cached_property
    def narrowest(self) -> Candidate:
        """Every group at its smallest width."""
        return Candidate(tuple(c[0] for c in self.choices))

    @cached_property
    def log10_size(self) -> float:
        """Decimal logarithm of the number of candidates; the product itself is never enumerated."""
        return sum(math.log10(len(c)) for c in self.choices)

    def snap(self, widths: Sequence[float] | FloatArray) -> Candidate:
        """The candidate nearest to real-valued ``widths`` ``[groups]``; ties go to the wider choice."""
        return Candidate(tuple(self.snap_all(np.asarray(widths, dtype=np.float64)[None])[0].tolist()))

    def snap_all(self, widths: FloatArray) -> IntArray:
        """The nearest allowed widths ``[candidates, groups]`` to real-valued ones; ties go to the wider choice."""
        snapped = np.empty(widths.shape, dtype=np.int64)
        for g, choices in enumerate(self.choices):
            allowed = np.asarray(choices)
            middles = (allowed[1:] + allowed[:-1]) / 2
            snapped[:, g] = allowed[np.searchsorted(middles, widths[:, g], side="right")]
        return snapped

    def uniform(self, ratio: float) -> Candidate:
        """Every group at ``ratio`` of its full width, snapped to the nearest choice."""
        return self.snap([ratio * c[-1] for c in self.choices])

    def array(self, candidates: Sequence[Candidate]) -> IntArray:
        """Widths of a population, ``[candidates, groups]``."""
        return np.array([c.widths for c in candidates], dtype=np.int64).reshape(len(candidates), len(self))

    def widths(self, candidate: Candidate) -> dict[str, int]:
        """Widths by group name."""
        return dict(zip(self.names, candidate.widths, strict=True))

    def candidate(self, widths: Mapping[str, int]) -> Candidate:
        """The candidate with these widths by name, missing ones full; raises WidthError or UnknownNameError."""
        for name in widths:
            if name not in self.names:
                raise UnknownNameError("searched group", name, self.names)
        chosen = []
        for name, allowed in zip(self.names, self._sets, strict=True):
            width = widths.get(name, max(allowed))
            if width not in allowed:
                raise WidthError(f"Group {name!r} cannot be {width} wide; allowed: {sorted(allowed)}.")
            chosen.append(int(width))
        return Candidate(tuple(chosen))

    def to_json(self) -> dict[str, Any]:
        """JSON form; :meth:`from_json` reads it back equal."""
        return {
            "names": list(self.names),
            "choices": [list(c) for c in self.choices],
            "kept_whole": [asdict(k) for k in self.kept_whole],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ChannelSpace":
        """Read :meth:`to_json`'s form."""
        kept_whole = tuple(KeptWhole(**k) for k in data["kept_whole"])
        return cls(tuple(data["names"]), tuple(tuple(c) for c in data["choices"]), kept_whole)


def _nothing_left(architecture: Architecture, kept_whole: Sequence[KeptWhole]) -> UserError:
    if not kept_whole:
        reasons = sorted({g.frozen for g in architecture.groups if g.frozen})
        return UserError(
            f"Nothing of this network can be cut: its groups are {'; '.join(reasons)}.", pointer="/search_space/name"
        )
    reasons = [f"{part['reason']} ({part['count']})" for part in summed_up((k.by, k.reason, k.name) for k in kept_whole)]
    return UserError(
        f"No group is left to search: {'; '.join(reasons)}. Loosen frozen, round_to, min_ratio or overrides.",
        pointer="/search_space",
    )
