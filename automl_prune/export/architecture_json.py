"""The small network, in any Python process, from the JSON that a search returned."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automl_prune.architecture.tracing import trace
from automl_prune.errors import UserError, WeightsError
from automl_prune.evaluation.weights import fit_file
from automl_prune.networks import NETWORKS
from automl_prune.surgery.slicing import materialise


def load_architecture(path: str | Path, weights: str | Path | None = None, *, model: nn.Module | None = None) -> nn.Module:
    """Build the network that an architecture JSON describes, in evaluation mode.

    Args:
        path: The file that ``GET /v1/searches/{id}/best`` returned.
        weights: Its weights; None looks for ``model.safetensors`` beside the JSON.
        model: The network that was searched, at its full widths, where it is not registered; it is not touched.

    Raises:
        UserError: The file is no architecture JSON of a version this package reads.
        UnknownNameError: Its search space is not registered here, and no ``model`` was given.
        WeightsError: The weights are missing or belong to another network.
    """
    path = Path(path)
    data = _read(path)
    chosen = Path(weights) if weights is not None else path.parent / "model.safetensors"
    if not chosen.is_file():
        raise WeightsError(f"There is no file {chosen.name} in {chosen.parent}; pass weights= with the file to load.")
    described = data["model"]
    full = NETWORKS.get(described["search_space"]).build(int(described["num_classes"])) if model is None else model
    architecture = trace(full, torch.zeros(1, *described["input_shape"]))
    kept = {g["name"]: g["kept"] for g in data["groups"] if g["kept"] is not None}
    small = materialise(full, architecture, kept)
    fit_file(small, chosen)
    return small.eval()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise UserError(f"{path} is not JSON.") from None
    if not isinstance(data, dict) or data.get("schema_version") != 1:
        version = data.get("schema_version") if isinstance(data, dict) else None
        raise UserError(f"{path} has schema_version {version!r}; this package reads version 1 of the architecture JSON.")
    return data
