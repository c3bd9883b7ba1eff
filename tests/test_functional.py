"""``prune`` and ``cost``: what they give, and what they say of arguments that cannot be used."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from automl_prune import cost, prune, trace
from automl_prune.errors import TraceError, UnknownNameError, UserError, WidthError


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Failing(Two):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("a part is missing\nand more")


class Uncopied(Two):
    def __deepcopy__(self, memo: dict[int, Any]) -> "Uncopied":
        raise RuntimeError("there can be only one")


EXAMPLE = torch.zeros(1, 3, 8, 8)


def test_the_smaller_module_has_the_widths_and_the_given_one_is_as_it_was() -> None:
    model = Two().train()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    widths: dict[str, Any] = {"first": np.int64(5), "second": 6}
    small = prune(model, EXAMPLE, widths)
    assert small.get_parameter("first.weight").shape == (5, 3, 3, 3)
    assert small.get_parameter("norm.weight").shape == (5,)
    assert small(EXAMPLE).shape == (1, 2)
    assert (model.training, model.norm.training, model.first.weight.requires_grad) == (True, False, False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "resnet"}, UserError, "The model is a str; pass a torch.nn.Module"),
        ({"model": Failing()}, TraceError, "Failing fails its own forward pass on the example input, float32 [1, 3, 8, 8]"),
        ({"model": Failing()}, TraceError, "KeyError: 'a part is missing"),
        ({"model": Uncopied()}, TraceError, "Uncopied cannot be copied with copy.deepcopy: RuntimeError: there can be only"),
        ({"example_input": (1, 3, 8, 8)}, UserError, "The example input is a tuple; pass one tensor"),
        ({"example_input": torch.zeros(3)}, UserError, "is float32 [3]; pass a batch [n, channels, …]"),
        ({"example_input": torch.zeros(0, 3, 8, 8)}, UserError, "float32 [0, 3, 8, 8]; pass a batch"),
        ({"example_input": torch.zeros(1, 4, 8, 8)}, TraceError, "float32 [1, 4, 8, 8]: RuntimeError: Given groups=1"),
        ({"example_input": EXAMPLE.double()}, TraceError, "on the example input, float64 [1, 3, 8, 8]"),
        ({"example_input": EXAMPLE.byte()}, TraceError, "on the example input, uint8 [1, 3, 8, 8]"),
        ({"channels": ["first"]}, UserError, "The channels are a list; pass a mapping"),
        ({"channels": {3: 4}}, UserError, "A key of the channels is an int"),
        ({"channels": {"frist": 4}}, UnknownNameError, "did you mean 'first'"),
        ({"channels": {"first": 0}}, WidthError, "cannot be 0 wide; allowed: 1 to 8"),
        ({"channels": {"first": 9}}, WidthError, "cannot be 9 wide; allowed: 1 to 8"),
        ({"channels": {"first": -1}}, WidthError, "cannot be -1 wide"),
        ({"channels": {"head": 1}}, WidthError, "frozen at 2"),
        ({"channels": {"first": 4.0}}, WidthError, "'first' cannot be 4.0 wide: that is a float; pass a whole number"),
        ({"channels": {"first": 8.0}}, WidthError, "that is a float"),
        ({"channels": {"first": True}}, WidthError, "cannot be True wide: that is a bool"),
        ({"channels": {"first": "4"}}, WidthError, "cannot be '4' wide: that is a str"),
        ({"channels": {"first": None}}, WidthError, "cannot be None wide"),
        ({"channels": {"first": torch.tensor(4)}}, WidthError, "that is a Tensor"),
        ({"criterion": "l7"}, UnknownNameError, "No criterion is called 'l7'; did you mean "),
        ({"criterion": 1}, UserError, "The criterion is an int; pass the name of one: "),
        ({"reduction": "median"}, UnknownNameError, "No reduction is called 'median'"),
        ({"seed": -1}, UserError, "The seed is -1; pass a whole number from 0"),
    ],
)
def test_what_cannot_be_used_is_named(change: dict[str, Any], error: type[UserError], said: str) -> None:
    arguments: dict[str, Any] = {"model": Two(), "example_input": EXAMPLE, "channels": {"first": 4}} | change
    with pytest.raises(error) as caught:
        prune(**arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("widths", [{"first": 4.0}, {"first": "4"}, {"nobody": 4}])
def test_costs_refuse_the_same_widths(widths: Any) -> None:
    architecture = trace(Two(), EXAMPLE)
    with pytest.raises((WidthError, UnknownNameError)):
        cost(architecture, widths)


def test_names_are_checked_before_the_module_runs() -> None:
    class Counting(Two):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("it ran")

    with pytest.raises(UnknownNameError):
        prune(Counting(), EXAMPLE, {"first": 4}, criterion="nothing")
