"""Scores of the full network with one group cut, kept for later searches: the budget, for one, changes nothing about them.

Each is a small JSON file of its own, written in one step, so that searches at the same time add to the same folder, which is
named after everything that the scores depend on.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from automl_prune.evaluation.hypernetwork_files import digest
from automl_prune.evaluation.images import Images
from automl_prune.evaluation.recipe import Strict
from automl_prune.evaluation.setup import EvaluationSetup
from automl_prune.evaluation.weights import file_sha256, write_whole
from automl_prune.messages import said
from automl_prune.space import Candidate, ChannelSpace

SCORES = ("top1", "top5", "loss")

log = logging.getLogger(__name__)


class Cut(Strict):
    """The scores of the full network with one group at another width, or, without a group, as it is."""

    group: str | None
    width: int | None
    scores: dict[str, float]


class KeptCuts:
    """The cuts that the cache holds for searches with equal weights, images, recipe and seed.

    Args:
        setup: Of the search.
        images: Its splits.
        weights: All files that candidates' weights come from.
    """

    def __init__(self, setup: EvaluationSetup, images: Images, weights: Sequence[Path]) -> None:
        self._setup, self._images, self._weights = setup, images, weights

    @cached_property
    def folder(self) -> Path:
        """Where they are."""
        setup, splits = self._setup, self._images.describe()
        parts = [
            setup.network,
            setup.num_classes,
            digest(setup.architecture),
            setup.space.widths(setup.space.full),  # random numbers derive from the widths of all searched groups
            setup.dataset.model_dump(mode="json"),
            [splits[part]["sha256"] for part in ("fit", "select")],
            setup.recipe.model_dump(mode="json"),
            setup.seed,
            [file_sha256(file) for file in self._weights],
            "cuda" if setup.gpu else "cpu",
            torch.__version__,
        ]
        return setup.cache / f"curves-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"

    def keep(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        """Add the scores of a network with at most one group cut; where that fails, they are only not kept."""
        space = self._setup.space
        place = next((g for g, w in enumerate(candidate.widths) if w != space.choices[g][-1]), None)
        group, width = (None, None) if place is None else (space.names[place], candidate.widths[place])
        cut = Cut(group=group, width=width, scores={name: metrics[name] for name in SCORES if name in metrics})
        file = self.folder / ("full.json" if place is None else f"{place}-{width}.json")
        try:
            write_whole(file, cut.model_dump_json().encode())
        except OSError as error:
            log.warning("what was measured of group %s is not kept for later searches: %s", group, said(error))

    def known(self) -> list[dict[str, Any]]:
        """Those whose width the space allows, each as the JSON of a :class:`Cut`; files that hold none are left out."""
        choices = dict(zip(self._setup.space.names, self._setup.space.choices, strict=True))
        found = [cut for file in sorted(self.folder.glob("*.json")) if (cut := _read(file)) is not None]
        return [c.model_dump() for c in found if c.group is None or c.width in choices.get(c.group, ())]


def is_cut(space: ChannelSpace, candidate: Candidate) -> bool:
    """Whether at most one group is narrower than in the full network."""
    return sum(w != full for w, full in zip(candidate.widths, space.full.widths, strict=True)) <= 1


def _read(file: Path) -> Cut | None:
    try:
        return Cut.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        log.warning("%s in the cache holds no measurement, and is ignored: %s", file.name, said(error))
        return None
