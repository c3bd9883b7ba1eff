"""What torch's counter is asked, and when."""

import pytest
import torch
from torch import Tensor, nn

from automl_prune.costs.counting import counted_macs
from automl_prune.errors import TraceError
from automl_prune.surgery.verify import admit


class Batched(nn.Module):
    """Takes four samples at once and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(4, -1))  # type: ignore[no-any-return]


class Selecting(nn.Module):
    """Looks at tokens that are not zero only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x[x.sum(-1) != 0]))  # type: ignore[no-any-return]


def test_a_written_batch_size_is_respected_and_divided_by() -> None:
    four = torch.zeros(4, 3, 4, 4)
    assert counted_macs(Batched(), (3, 4, 4), example=four) == 16 * 3 * 8 + 128 * 2
    with pytest.raises(TraceError, match=r"multiply-adds of Batched cannot be counted: given \[1, 3, 4, 4\], it says: Runt"):
        counted_macs(Batched(), (3, 4, 4))
    assert admit(Batched(), four).group("first").frozen is None


def test_the_example_is_counted_where_values_matter() -> None:
    ones = torch.ones(2, 5, 6)
    assert counted_macs(Selecting(), (5, 6)) == 0
    assert counted_macs(Selecting(), (5, 6), example=ones) == 5 * (6 * 8 + 8 * 2)
    assert admit(Selecting(), ones).group("first").frozen is None


def test_counting_draws_nothing_and_changes_nothing() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand(3, device="cpu"))

    model = Noisy(3, 2).train()
    before = torch.get_rng_state()
    assert counted_macs(model, (3,)) == 6
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert model.weight.requires_grad
