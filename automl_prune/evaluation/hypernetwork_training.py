"""Train a PruningNet once; for other budgets and strategies it need not be trained anew.

While it is trained, a draft with the optimizer's momenta is replaced after every epoch. As an epoch's random numbers derive
from the search's seed and its place, a training that was interrupted ends with the same weights as one that was not.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from automl_prune.errors import EvaluationError, WeightsError
from automl_prune.evaluation.hypernetwork import PruningNet, draw
from automl_prune.evaluation.hypernetwork_files import MOMENTUM, About, copy_weights, read, save
from automl_prune.evaluation.images import Images
from automl_prune.evaluation.modes import Precision, device_of, predict, training_flags_kept
from automl_prune.evaluation.recipe import HypernetworkOrder
from automl_prune.evaluation.training import seeded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """An order for a PruningNet.

    Attributes:
        about: What it is to be.
        order: How it is trained.
        data: What else its training images depend on (JSON).
        seed: Of the search.
        precision: Of forward passes.
        cache: Folder of what was trained before.
    """

    about: About
    order: HypernetworkOrder
    data: str
    seed: int
    precision: Precision
    cache: Path

    @property
    def file(self) -> Path:
        """Where it is kept, named after everything that it depends on."""
        how = self.order.model_dump(exclude={"file", "least_ratio"})
        parts = [self.about.model_dump(), how, self.data, self.seed, self.precision, torch.__version__]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        return self.cache / f"pruning-net-{key}.safetensors"

    @property
    def draft(self) -> Path:
        """Where it is kept until it is finished."""
        return self.file.with_suffix(".draft.safetensors")


def prepare(training: Training, build: Callable[[], PruningNet], images: Images) -> tuple[Path, int]:
    """A trained PruningNet's file, and how many epochs that took now; 0 where an equal order was trained before.

    Raises:
        EvaluationError: The training diverged.
    """
    if _known(training.file) is not None:
        return training.file, 0
    net = build()
    optimizer = _sgd(net, training.order)
    about = _resume(training.draft, net, optimizer) or training.about
    begun = about.done
    with training_flags_kept(net):
        net.train()
        for epoch in range(begun, training.order.epochs):
            top1, loss = _epoch(net, optimizer, training, images, epoch)
            about = about.model_copy(update={"done": epoch + 1, "top1": top1, "loss": loss})
            log.info("PruningNet: epoch %d of %d, top-1 %.3f, loss %.3f", about.done, training.order.epochs, top1, loss)
            save(net, training.draft, about, _momenta(net, optimizer))
    save(net, training.file, about)
    training.draft.unlink(missing_ok=True)
    return training.file, about.done - begun


def check_trained(about: About, full: float, least_ratio: float) -> None:
    """Raise EvaluationError when a PruningNet is too far below the full network's top-1 to search with.

    Its own is that in training, on candidates of any width. Half is its authors' rule of thumb
    (github.com/liuzechun/MetaPruning, issue 4).
    """
    if about.top1 < least_ratio * full:
        raise EvaluationError(
            f"After {about.done} epochs the PruningNet has a top-1 of {about.top1:.3f} in training, less than "
            f"{least_ratio:g} of the full network's {full:.3f}: its weights would hardly tell candidates apart. Raise "
            f"recipe.hypernetwork.epochs or change its lr; a lower least_ratio searches all the same."
        )


def _epoch(
    net: PruningNet, optimizer: torch.optim.SGD, training: Training, images: Images, epoch: int
) -> tuple[float, float]:
    """Train for one pass; returns top-1 and loss over it, of candidates as they were drawn."""
    generator = torch.Generator().manual_seed(_seed(training.seed, epoch))
    rng = np.random.default_rng([training.seed, epoch])
    steps, hits, seen, total = images.fit_batches, 0, 0, 0.0
    with seeded(generator, device_of(net)):
        for step, (batch, labels) in enumerate(images.fit(shuffled_by=generator)):
            net.widths = draw(net.choices, rng)
            for group in optimizer.param_groups:
                group["lr"] = rate(training.order, epoch + step / steps)
            logits = predict(net, batch, training.precision)
            labels = labels.to(logits.device)
            loss = F.cross_entropy(logits, labels, label_smoothing=training.order.label_smoothing)
            if not math.isfinite(value := float(loss.detach())):
                raise EvaluationError(
                    f"The loss of the PruningNet became {value} in epoch {epoch + 1} of {training.order.epochs} with a peak "
                    f"learning rate of {training.order.lr:g}. A lower one ({training.order.lr / 10:g}, say) would do."
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            hits += int((logits.argmax(dim=1) == labels).sum())
            seen, total = seen + len(labels), total + value * len(labels)
    return hits / seen, total / seen


def rate(order: HypernetworkOrder, epochs: float) -> float:
    """The learning rate after so many epochs."""
    done = epochs / order.epochs
    falls = {
        "linear": 1 - done,
        "steps": 0.1 ** math.floor(4 * done),
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "constant": 1.0,
    }
    return order.lr * falls[order.schedule]


def _sgd(net: PruningNet, order: HypernetworkOrder) -> torch.optim.SGD:
    """Plain momentum, as published; what has fewer than two dimensions does not decay."""
    weights = list(net.weights().values())
    groups = [
        {"params": [p for p in weights if p.dim() >= 2], "weight_decay": order.weight_decay},
        {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=order.lr, momentum=order.momentum)


def _seed(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(["pruning net", seed, epoch]).encode()).digest()[:6], "big")


def _known(path: Path) -> tuple[About, dict[str, Tensor]] | None:
    """A file of the cache; None where there is none, or nothing can be made of it."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except WeightsError as error:
        log.warning("%s It is trained anew.", error)
        return None


def _momenta(net: PruningNet, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """What the optimizer remembers, by the names of weights."""
    states = {name: optimizer.state[parameter] for name, parameter in net.weights().items()}
    return {name: state["momentum_buffer"] for name, state in states.items() if state.get("momentum_buffer") is not None}


def _resume(draft: Path, net: PruningNet, optimizer: torch.optim.SGD) -> About | None:
    """Go on where an earlier training stopped; None where there was none."""
    if (found := _known(draft)) is None:
        return None
    about, tensors = found
    copy_weights(tensors, net, draft)
    for name, parameter in net.weights().items():
        if (momentum := tensors.get(MOMENTUM + name)) is not None:
            optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
    log.info("PruningNet: resumed after epoch %d", about.done)
    return about
