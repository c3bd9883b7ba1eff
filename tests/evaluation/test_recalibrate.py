import copy

import pytest
import torch
from torch import Tensor, nn

from automl_prune.evaluation.loading import Batch
from automl_prune.evaluation.recalibrate import recalibrate


class Net(nn.Module):
    """Two batch norms with statistics that are far off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.conv2, self.norm2 = nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
        for norm in (self.norm1, self.norm2):
            mean_of(norm).fill_(50)
            variance_of(norm).fill_(7)

    def before_norm(self, number: int, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if number == 2:
            x = self.conv2(self.drop(self.norm1(x).relu()))
        return x

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.norm2(self.before_norm(2, x)).mean((2, 3))
        return logits


def mean_of(norm: nn.BatchNorm2d) -> Tensor:
    return norm.get_buffer("running_mean")


def variance_of(norm: nn.BatchNorm2d) -> Tensor:
    return norm.get_buffer("running_var")


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


def noise(sizes: list[int]) -> list[Batch]:
    drawn = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 3, 8, 8, generator=drawn) * 2 + i, torch.zeros(n, dtype=torch.int64)) for i, n in enumerate(sizes)
    ]


def two_pass_statistics(model: Net, batches: list[Batch], number: int) -> tuple[Tensor, Tensor]:
    """Averages over batches of the mean and unbiased variance that reach a norm, recorded first, averaged after."""
    other = copy.deepcopy(model).eval()
    other.norm1.train()
    with torch.no_grad():
        inputs = [other.before_norm(number, x) for x, _ in batches]
    return (
        torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0),
        torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0),
    )


@pytest.mark.parametrize("number", [1, 2])
def test_statistics_are_the_plain_average_over_batches(model: Net, number: int) -> None:
    batches = noise([8, 8, 8, 4])
    mean, variance = two_pass_statistics(model, batches, number)
    assert recalibrate(model, batches) == 28
    norm = model.norm1 if number == 1 else model.norm2
    torch.testing.assert_close(mean_of(norm), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variance_of(norm), variance, rtol=1e-4, atol=1e-5)


def test_nothing_else_changes(model: Net) -> None:
    model.train()
    model.norm2.eval()
    model.conv1.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    recalibrate(model, noise([4, 4]))

    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert (model.norm1.momentum, model.norm2.momentum) == (0.3, 0.1)
    for (name, now), then in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then), name
        assert now.grad is None


def test_dropout_is_off_so_that_statistics_repeat(model: Net) -> None:
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    recalibrate(model, noise([8, 8]))
    torch.manual_seed(2)
    recalibrate(other, noise([8, 8]))
    assert torch.equal(variance_of(model.norm2), variance_of(other.norm2))


def test_the_mode_comes_back_after_an_error(model: Net) -> None:
    model.train()
    wrong = [(torch.zeros(2, 5, 8, 8), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(RuntimeError):
        recalibrate(model, wrong)
    assert model.norm1.momentum == 0.3
    assert all(m.training for m in model.modules())


def test_no_batches_keep_the_statistics(model: Net) -> None:
    assert recalibrate(model, []) == 0
    assert float(mean_of(model.norm1)[0]) == 50


def test_a_model_without_running_statistics_is_not_even_run() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    untouched = iter(noise([2]))
    before = copy.deepcopy(model.state_dict())
    assert recalibrate(model, untouched) == 0
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert len(list(untouched)) == 1


def test_bfloat16_comes_close(model: Net) -> None:
    other = copy.deepcopy(model)
    recalibrate(model, noise([16, 16]))
    recalibrate(other, noise([16, 16]), precision="bfloat16")
    assert variance_of(other.norm1).dtype == torch.float32
    torch.testing.assert_close(variance_of(model.norm1), variance_of(other.norm1), rtol=0.02, atol=0.02)
