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
