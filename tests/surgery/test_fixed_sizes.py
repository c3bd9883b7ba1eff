import pytest
import torch
from torch import Tensor, nn

from automl_prune.architecture.tracing import trace
from automl_prune.surgery.fixed_sizes import fixed_sizes


class Attention(nn.Module):
    """Heads whose size is written down, or left to the tensor (-1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.qkv, self.out = nn.Linear(12, 3 * 2 * 8), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, 2, self.size).permute(2, 0, 3, 1, 4)
        y = (0.3 * q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Sizes(nn.Module):
    """Two groups with written sizes and one without, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).view(len(x), 8, 4, 4))
        return self.head(self.c(y).view(len(x), 64))  # type: ignore[no-any-return]


def test_a_written_head_size_is_found_and_a_derived_one_is_not() -> None:
    tokens = torch.zeros(1, 5, 12)
    written, derived = Attention(8), Attention(-1)
    reasons = fixed_sizes(written, trace(written, tokens), tokens)
    assert list(reasons) == ["qkv"]
    assert reasons["qkv"].startswith("the program names its size: reshape of the smaller network says: shape")
    assert not fixed_sizes(derived, trace(derived, tokens), tokens)


def test_each_group_at_fault_is_named_and_no_other() -> None:
    model, image = Sizes(), torch.zeros(1, 3, 4, 4)
    assert set(fixed_sizes(model, trace(model, image), image)) == {"a", "c"}


def test_the_module_is_not_touched() -> None:
    model, image = Sizes().train(), torch.zeros(1, 3, 4, 4)
    fixed_sizes(model, trace(model, image), image)
    assert model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}


class Constant(nn.Module):
    """Makes a tensor on the CPU, which fails without weights at any width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * torch.ones(5, 1, device="cpu"))  # type: ignore[no-any-return]


class Windows(Sizes):
    """Names the size of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(4, 3, 4, 4))


class Meeting(nn.Module):
    """Two layers meet; when it is picky, they must have ten channels together."""

    picky = False

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, first), nn.Linear(4, second), nn.Linear(first + second, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        if self.picky:
            y.narrow(1, 0, 10)
        return self.head(y)  # type: ignore[no-any-return]


def test_what_never_runs_without_weights_is_nobodys_fault() -> None:
    model, tokens = Constant(), torch.zeros(1, 5, 12)
    architecture = trace(model, tokens)
    assert architecture.group("first").frozen is None
    assert not fixed_sizes(model, architecture, tokens)


def test_a_written_batch_size_is_respected() -> None:
    model, image = Windows(), torch.zeros(4, 3, 4, 4)
    assert set(fixed_sizes(model, trace(model, image), image)) == {"a", "c"}


@pytest.mark.parametrize(("widths", "blamed"), [((8, 4), {"a"}), ((4, 8), {"b"}), ((8, 8), {"a", "b"})])
def test_of_several_suspects_those_that_fail_alone_are_to_blame(widths: tuple[int, int], blamed: set[str]) -> None:
    model, row = Meeting(*widths), torch.zeros(1, 4)
    architecture = trace(model, row)
    model.picky = True
    reasons = fixed_sizes(model, architecture, row)
    assert set(reasons) == blamed
    assert all(reason.startswith("the program names its size: narrow ") for reason in reasons.values())
