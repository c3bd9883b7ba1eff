"""Networks that draw random numbers, keep state, or answer in kinds of their own: none may be refused for that."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from automl_prune import prune, trace
from automl_prune.errors import TraceError
from automl_prune.surgery.slicing import materialise
from automl_prune.surgery.verify import admit, check_costs, difference, masked, verify

IMAGE = torch.zeros(2, 3, 6, 6)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.first(x)))

    def forward(self, x: Tensor) -> Any:
        return self.second(self.hidden(x))


class Noisy(Two):
    """Draws from all three generators; no draw depends on a width."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.hidden(x))
        return y + torch.randn_like(y) + float(np.random.rand()) + random.random()


class Dropping(Two):
    """Dropout in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(self.hidden(x)))  # type: ignore[no-any-return]


class Remembering(Two):
    """Mixes what it saw before into its answer: a buffer, and an attribute as wide as a layer."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(2, 1, 1))
        self.past: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.past = self.hidden(x) + (0 if self.past is None else 0.5 * self.past)
        y: Tensor = self.second(self.past)
        self.average = 0.9 * self.average + 0.1 * y.mean((0, 2, 3)).reshape(2, 1, 1)
        return y - self.average


class Graded(Two):
    """Switches gradients on for itself."""

    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            return super().forward(x)


class InPlace(Two):
    """Changes the tensor that it is given."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.mul_(0.5).add_(1))


class Thing:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.itself = tensor, self


class Wrapping(Two):
    """Answers with an object, which refers to itself."""

    def forward(self, x: Tensor) -> Thing:
        return Thing(super().forward(x))


@pytest.mark.parametrize("kind", [Noisy, Remembering, Graded, InPlace, Wrapping])
def test_it_is_proven_and_left_as_it_was(kind: Callable[[], Two]) -> None:
    model, example = kind(), torch.ones_like(IMAGE)
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    architecture = trace(model, example.clone())
    states = np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    architecture = check_costs(model, verify(model, architecture, example), example_input=example)
    assert architecture.group("first").frozen is None
    assert difference(model, architecture, {"first": [1, 2]}, example) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(drawn, torch.get_rng_state())
    assert states == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
    assert example.min() == example.max() == 1


def test_what_is_drawn_per_channel_is_frozen_by_itself() -> None:
    reason = admit(Dropping(), IMAGE).group("first").frozen
    assert reason
    assert reason.startswith("cutting differs from zeroing by ")
    assert reason.endswith("(it draws random numbers, and smaller ones may draw others)")


def test_computed_tensors_in_attributes_do_no_harm() -> None:
    class Keeping(Two):
        def forward(self, x: Tensor) -> Any:
            self.kept = self.hidden(x)
            return self.second(self.kept)

    model = Keeping()
    model(IMAGE)
    assert not model.kept.is_leaf
    architecture = admit(model, IMAGE)
    assert architecture.group("first").frozen is None
    assert prune(model, IMAGE, {"first": 3}).get_parameter("first.weight").shape[0] == 3
    assert masked(model, architecture, {"first": [0]}).get_parameter("first.weight")[1:].eq(0).all()


def test_a_forward_pass_that_fails_with_other_numbers_is_refused() -> None:
    class Picky(Two):
        def forward(self, x: Tensor) -> Any:
            if x.max() > 0:
                raise ValueError("only darkness")
            return super().forward(x)

    with pytest.raises(
        TraceError, match="Picky cannot be verified: with random weights, it fails: ValueError: only darkness"
    ):
        admit(Picky(), IMAGE)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_torchscript_is_never_left_uncut_without_a_word() -> None:
    model = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)))
    architecture = trace(model, IMAGE)
    with pytest.raises(TraceError, match=r"RecursiveScriptModule keeps '0.weight' at its full size"):
        materialise(model, architecture, {"0": [0, 1]})
    with pytest.raises(TraceError, match=r"cannot be cut to \{'0': 4\}: RecursiveScriptModule keeps '0.weight'"):
        prune(model, IMAGE, {"0": 4})
    assert "as TorchScript does" in (admit(model, IMAGE).group("0").frozen or "")


@pytest.mark.parametrize("use", [admit, lambda model, example: prune(model, example, {"first": 4})])
def test_a_module_without_weights_is_refused(use: Callable[[nn.Module, Tensor], object]) -> None:
    with pytest.raises(TraceError, match=r"Two has no weights: its 'first.weight' is on the meta device\. "):
        use(Two().to("meta"), IMAGE)
