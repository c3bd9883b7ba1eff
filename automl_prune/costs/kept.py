"""Cost models kept for the next call: a server checks many orders for few networks."""

from collections.abc import Sequence
from functools import lru_cache

from automl_prune.architecture import Architecture
from automl_prune.costs.closed_form import CostModel


def cost_model(architecture: Architecture, names: Sequence[str]) -> CostModel:
    """The :class:`CostModel` of these very objects, made once while they are among the last that were asked for."""
    return _made(_Itself(architecture), tuple(names))


class _Itself:
    """An architecture that equals no other object: to compare two takes as long as the cost model."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.architecture is other.architecture

    def __hash__(self) -> int:
        return id(self.architecture)


@lru_cache(maxsize=8)
def _made(of: _Itself, names: tuple[str, ...]) -> CostModel:
    return CostModel(of.architecture, names)
