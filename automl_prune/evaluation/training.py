"""Training, long or short: stochastic gradient descent with Nesterov momentum."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from automl_prune.errors import EvaluationError
from automl_prune.evaluation.loading import Batch
from automl_prune.evaluation.modes import Precision, device_of, predict, training_flags_kept

Schedule = Literal["cosine", "constant"]
BatchSource = Callable[[torch.Generator], Iterator[Batch]]


def fine_tune(
    model: nn.Module,
    batches_fn: BatchSource,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: Schedule = "cosine",
    warmup_steps: int = 0,
    precision: Precision = "float32",
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """Train in place on cross-entropy, and say what it took.

    Norms and biases (parameters with fewer than two dimensions) get no weight decay. Parameters that need no gradient stay
    as they are. Dropout draws from ``generator`` too, so the same generator state gives the same network.

    Args:
        model: Trained on the device it is on.
        batches_fn: One pass over the training images, drawn from the generator it is given; called anew for each pass.
        steps: Batches to train on; 0 trains nothing.
        lr: Peak learning rate.
        generator: On the CPU.
        momentum: Nesterov's; 0 is plain descent.
        weight_decay: Of parameters with two or more dimensions.
        schedule: cosine falls to zero at the last step.
        warmup_steps: Steps over which the learning rate first rises linearly.
        precision: bfloat16 runs forward passes under autocast.
        should_stop: Asked before every step; True ends training early, wherever the schedule is.

    Returns:
        ``images`` seen, ``steps`` done, and ``final_loss`` (of the last batch) if there was any.

    Raises:
        EvaluationError: The loss is not finite, there are no images, or nothing to train.
    """
    optimizer = _sgd(model, lr, momentum, weight_decay)
    report = {"images": 0.0, "steps": 0.0}
    with training_flags_kept(model), seeded(generator, device_of(model)):
        model.train()
        for step, (images, labels) in zip(range(steps), _endless(batches_fn, generator), strict=False):
            if should_stop is not None and should_stop():
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, lr, steps=steps, warmup_steps=warmup_steps, schedule=schedule)
            logits = predict(model, images, precision)
            loss = F.cross_entropy(logits, labels.to(logits.device))
            if not math.isfinite(value := float(loss.detach())):
                raise EvaluationError(
                    f"The loss became {value} at step {step + 1} of {steps} with a peak learning rate of {lr:g}. A lower "
                    f"learning rate ({lr / 10:g}, say) or a warm-up would do."
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            report = {"images": report["images"] + len(images), "steps": step + 1.0, "final_loss": value}
    optimizer.zero_grad()
    return report


def learning_rate(step: int, peak: float, *, steps: int, warmup_steps: int = 0, schedule: Schedule = "cosine") -> float:
    """The rate of a step counted from 0: a line up to ``peak``, then constant or half a cosine that is 0 at ``steps``."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (1 + math.cos(math.pi * done)) / 2


def _sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise EvaluationError("No parameter of the network takes a gradient; there is nothing to train.")
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _endless(batches_fn: BatchSource, generator: torch.Generator) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in batches_fn(generator):
            empty = False
            yield batch
        if empty:
            raise EvaluationError("There are no images to train on.")


@contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which dropout draws from, and give them their state back at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
