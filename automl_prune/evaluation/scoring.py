"""How good a network is on images it was not trained on."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automl_prune.errors import EvaluationError
from automl_prune.evaluation.loading import Batch
from automl_prune.evaluation.modes import Precision, predict, training_flags_kept


def score(model: nn.Module, batches: Iterable[Batch], *, precision: Precision = "float32") -> dict[str, float]:
    """``top1`` and ``top5`` accuracy (fractions of 1) and mean cross-entropy ``loss``, in evaluation mode.

    With fewer than five classes ``top5`` is 1. ``top1_standard_error`` is sqrt(p (1 - p) / n): by how much the accuracy on
    other images of the same kind would differ. Networks scored on the same images are told apart better than that.

    Raises:
        EvaluationError: The loss is not finite, or there are no images.
    """
    images, hits1, hits5, loss = 0, 0, 0, 0.0
    with torch.inference_mode(), training_flags_kept(model):
        model.eval()
        for batch, labels in batches:
            logits = predict(model, batch, precision)
            labels = labels.to(logits.device)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            places = label_places(logits, labels)
            hits1 += int((places < 1).sum())
            hits5 += int((places < 5).sum())
            images += len(labels)
    if images == 0:
        raise EvaluationError("There are no images to score on.")
    if not math.isfinite(loss):
        raise EvaluationError(
            f"The loss on {images:,} images is {loss}: the network gives scores that are not finite. Recalibrate its "
            f"batch norms, keep wider groups, or use float32."
        )
    top1 = hits1 / images
    error = math.sqrt(top1 * (1 - top1) / images)
    return {"top1": top1, "top1_standard_error": error, "top5": hits5 / images, "loss": loss / images}


def label_places(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the right one, ``[n]``, for logits ``[n, classes]`` and labels ``[n]``.

    Equal scores go to the lower class, so that a tie, common in bfloat16, counts the same on every machine.
    """
    right = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > right) | ((logits == right) & earlier)).sum(dim=1)
