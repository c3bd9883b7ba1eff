"""The package as functions, for a user's own module; no service, no registered names."""

from collections.abc import Mapping

from torch import Tensor, nn

from automl_prune.architecture import Architecture
from automl_prune.architecture.tracing import trace
from automl_prune.costs import CostModel
from automl_prune.errors import TraceError
from automl_prune.surgery.criteria import CRITERIA, Reduction
from automl_prune.surgery.slicing import Ranking, materialise
from automl_prune.surgery.verify import difference


def prune(
    model: nn.Module,
    example_input: Tensor,
    channels: Mapping[str, int],
    criterion: str = "l1",
    *,
    reduction: Reduction = "mean",
    seed: int = 0,
) -> nn.Module:
    """A new, smaller module; the given one is not touched.

    The very cut that is returned is checked first: it must equal zeroing the same channels.

    Args:
        model: Any module that ``torch.export`` accepts with one tensor argument.
        example_input: A batch ``[n, channels, …]``.
        channels: Channels to keep, by group name or by layer name; what is not named stays whole.
        criterion: Which channels are kept: a registered criterion's name.
        reduction: How scores of coupled layers combine: mean, sum, max or first.
        seed: For the random criterion.

    Raises:
        TraceError: The module cannot be traced, or the cut would not be exact.
        UnknownNameError: No such group, layer or criterion.
        WidthError: A width that its group cannot take.
    """
    architecture = trace(model, example_input)
    ranking = Ranking(model, architecture, CRITERIA.get(criterion), reduction=reduction)
    kept = ranking.keep(channels, seed=seed)
    if reason := difference(model, architecture, kept, example_input):
        raise TraceError(f"{type(model).__name__} cannot be cut to {dict(channels)}: {reason}.")
    return materialise(model, architecture, kept)


def cost(architecture: Architecture, widths: Mapping[str, int] | None = None) -> dict[str, float]:
    """Costs of a network from its widths: ``macs``, ``flops``, ``params`` and ``memory_mb``.

    Args:
        architecture: A traced network.
        widths: Channels by group or layer name; what is not named stays whole.

    Raises:
        UnknownNameError: No such group or layer.
        WidthError: A width that its group cannot take.
    """
    return CostModel(architecture).one(architecture.resolve(widths or {}))
