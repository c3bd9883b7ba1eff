import copy
import math
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from automl_prune.errors import EvaluationError
from automl_prune.evaluation.loading import Batch
from automl_prune.evaluation.modes import Precision
from automl_prune.evaluation.training import fine_tune, learning_rate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.drop, self.linear = nn.Dropout(0.2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))
        return logits


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(drawn: torch.Generator) -> Iterator[Batch]:
    """Three batches whose mean colour tells the class."""
    for _ in range(3):
        labels = torch.randint(0, 4, (16,), generator=drawn)
        yield torch.randn(16, 3, 6, 6, generator=drawn) + labels[:, None, None, None], labels


@pytest.mark.parametrize("precision", get_args(Precision))
def test_training_learns_and_says_what_it_took(model: Net, precision: Precision) -> None:
    report = fine_tune(model, noise, steps=100, lr=0.05, generator=generator(), precision=precision)
    assert (report["images"], report["steps"]) == (1600, 100)
    assert report["final_loss"] < 0.7 < math.log(4)


def test_the_generator_decides_dropout_too_and_the_global_one_is_left_alone(model: Net) -> None:
    made = []
    for global_seed, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        trained = copy.deepcopy(model)
        fine_tune(trained, noise, steps=5, lr=0.05, generator=generator(seed))
        assert torch.equal(torch.get_rng_state(), before)
        made.append(trained.linear.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_flags_and_gradients_are_left_as_they_were(model: Net) -> None:
    model.eval()
    model.drop.train()
    model.conv.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    fine_tune(model, noise, steps=2, lr=0.1, generator=generator())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(model.conv.weight, before.conv.weight)
    assert not torch.equal(model.linear.weight, before.linear.weight)


def test_one_step_is_nesterov_descent_with_decay_of_weights_alone() -> None:
    linear = nn.Linear(4, 3)
    images, labels = torch.randn(8, 4), torch.randint(0, 3, (8,))
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    loss = nn.functional.cross_entropy(linear(images), labels)
    weight_grad, bias_grad = torch.autograd.grad(loss, [linear.weight, linear.bias])
    batch = (images, labels)
    fine_tune(linear, lambda _: iter([batch]), steps=1, lr=0.1, momentum=0.5, weight_decay=0.2, generator=generator())
    # The first velocity is the gradient, so Nesterov's step is (1 + momentum) times it.
    torch.testing.assert_close(linear.weight.detach(), weight - 0.1 * 1.5 * (weight_grad + 0.2 * weight))
    torch.testing.assert_close(linear.bias.detach(), bias - 0.1 * 1.5 * bias_grad)


def test_without_momentum_it_is_plain_descent(model: Net) -> None:
    assert fine_tune(model, noise, steps=2, lr=0.1, momentum=0.0, generator=generator())["steps"] == 2


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(s, 1.0, steps=100, warmup_steps=10) for s in range(101)]
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert rates[10] == max(rates) == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_rate_can_stay() -> None:
    rates = [learning_rate(s, 0.3, steps=10, warmup_steps=2, schedule="constant") for s in range(10)]
    assert rates == pytest.approx([0.1, 0.2] + [0.3] * 8)


def test_nothing_is_trained_in_no_steps(model: Net) -> None:
    before = copy.deepcopy(model.state_dict())
    assert fine_tune(model, noise, steps=0, lr=0.1, generator=generator()) == {"images": 0, "steps": 0}
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_it_stops_when_asked(model: Net) -> None:
    answers = iter([False, False, True])
    report = fine_tune(model, noise, steps=50, lr=0.1, generator=generator(), should_stop=lambda: next(answers))
    assert (report["steps"], report["images"]) == (2, 32)


def test_a_diverging_loss_says_at_which_step_and_what_would_do(model: Net) -> None:
    with pytest.raises(EvaluationError, match=r"at step \d+ of 100 .* of 1e\+30.*lower learning rate") as caught:
        fine_tune(model, noise, steps=100, lr=1e30, generator=generator())
    assert "(1e+29, say)" in str(caught.value)
    assert model.training


def test_no_images_are_an_error_and_no_endless_loop(model: Net) -> None:
    with pytest.raises(EvaluationError, match="no images to train on"):
        fine_tune(model, lambda _: iter(()), steps=3, lr=0.1, generator=generator())


def test_a_network_without_trainable_parameters_is_an_error(model: Net) -> None:
    model.requires_grad_(False)
    with pytest.raises(EvaluationError, match="nothing to train"):
        fine_tune(model, noise, steps=3, lr=0.1, generator=generator())
