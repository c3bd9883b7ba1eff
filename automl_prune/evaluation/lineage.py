"""Networks that descend from each other: a candidate starts from the weights of the trial that its proposal names.

A trial's network is kept as one safetensors file; which units of the full network it has stands in the file's header. Cut
by its own description (:mod:`automl_prune.architecture.narrowing`), it gives its children their first weights, and the
criterion ranks what is left of it by those weights.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import safetensors
from torch import nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.narrowing import composed, narrowed
from automl_prune.errors import EvaluationError, UserError
from automl_prune.evaluation.weights import fit_file, save_safetensors
from automl_prune.surgery.criteria import Criterion, Reduction
from automl_prune.surgery.inherit import Scope, inherit
from automl_prune.surgery.slicing import Ranking, materialise

Kept = Mapping[str, list[int]]

_KEPT = "kept_units"


class Ancestor:
    """A network that candidates inherit from.

    Args:
        model: With its weights.
        architecture: Its own description, not the full network's.
        kept: Which units of the full network it has, by group name; whole groups are not named.
        criterion, reduction: How its channels are ranked.
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, kept: Kept, criterion: Criterion, reduction: Reduction
    ) -> None:
        self.model, self.architecture, self.kept = model, architecture, kept
        self._criterion, self._reduction = criterion, reduction

    @cached_property
    def ranking(self) -> Ranking:
        """Its channels by importance."""
        return Ranking(self.model, self.architecture, self._criterion, reduction=self._reduction)

    def child(
        self, widths: Mapping[str, int], *, scope: Scope, rank_seed: int, fresh_seed: int
    ) -> tuple[nn.Module, dict[str, list[int]]]:
        """A network of these widths with inherited weights, and the units of the full network that it has.

        Raises:
            WidthError: A group would be wider than here.
        """
        further = self.ranking.keep(widths, seed=rank_seed)
        small = inherit(self.model, self.architecture, further, scope=scope, seed=fresh_seed)
        return small, composed(self.kept, {name: units.tolist() for name, units in further.items()})


def save_ancestor(model: nn.Module, kept: Kept, file: Path) -> None:
    """Keep a network for its children, in one step: a file is whole or absent."""
    save_safetensors(model, file, **{_KEPT: json.dumps({name: list(units) for name, units in kept.items()})})


def load_ancestor(
    file: Path, base: nn.Module, architecture: Architecture, criterion: Criterion, reduction: Reduction
) -> Ancestor:
    """Read :func:`save_ancestor`'s file; ``base`` and ``architecture`` are the full network's.

    Raises:
        EvaluationError: It is missing, corrupt, or of another network; nothing else stands in for it.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            kept = json.loads((opened.metadata() or {})[_KEPT])
        model = materialise(base, architecture, kept)
        fit_file(model, file)
    except (UserError, OSError, safetensors.SafetensorError, KeyError, ValueError, IndexError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise EvaluationError(
            f"The weights to start from, {file.name} among the search's artifacts, are missing or damaged ({said}). A "
            f"candidate is not scored with other weights; order the search again."
        ) from error
    return Ancestor(model.eval(), narrowed(architecture, kept), kept, criterion, reduction)
