"""A caller's data: every form they come in, and what is wrong with those that cannot be used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from automl_prune.errors import DatasetError, SpecError, UnknownNameError, UserError
from automl_prune.evaluation.datasets.base import ImageSet, LabelledSet
from automl_prune.evaluation.given import given_data
from automl_prune.evaluation.splits import split


def pair(n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 2, 5, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 3


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield from zip(pair()[0], pair()[1].tolist(), strict=True)


class Endless(Dataset[tuple[Any, Any]]):
    """A length and no end, as many datasets have; items are what it is given."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i % len(self.items)]


@pytest.mark.parametrize(
    "data",
    [
        pair(),
        list(pair()),
        tuple(t.numpy() for t in pair()),
        (pair()[0].double(), pair()[1].int()),
        (pair()[0], pair()[1].tolist()),
        TensorDataset(*pair()),
        Stream(),
        Endless(*zip(pair()[0], pair()[1].numpy(), strict=True)),
        {"fit": pair()},
    ],
    ids=["tensors", "list", "arrays", "other types", "numbers", "dataset", "stream", "endless", "mapping"],
)
def test_one_set_in_any_form_is_the_same(data: Any) -> None:
    found = given_data(data)
    assert found.test is None
    assert torch.equal(found.train.images, pair()[0])
    assert torch.equal(found.train.labels, pair()[1])
    assert found.load(Path(), download=False, image_size=None) == (found.train, None)


def test_bytes_of_four_dimensions_are_images() -> None:
    images = torch.zeros(4, 3, 6, 6, dtype=torch.uint8)
    assert isinstance(given_data((images, [0, 1, 0, 1])).train, ImageSet)


def test_sets_given_apart_stay_apart() -> None:
    found = given_data({"fit": pair(20, 0), "select": pair(6, 1), "report": pair(9, 2)})
    assert found.test is not None
    made = split(found.train, found.test, select_size=6, seed=3)
    assert (made.fit.tolist(), made.select.tolist(), len(made.report)) == (list(range(20)), list(range(20, 26)), 9)
    assert torch.equal(found.train.images[20:], pair(6, 1)[0])


def test_a_report_split_is_drawn_from_what_is_not_set_aside() -> None:
    found = given_data({"fit": pair(20, 0), "select": pair(6, 1)})
    made = split(found.train, None, select_size=4, report_size=5, seed=0)
    assert set(made.select) <= set(range(20, 26))
    assert sorted([*made.fit, *made.report]) == list(range(20))
    with pytest.raises(DatasetError, match="6 images set aside to select on"):
        split(found.train, None, select_size=7, seed=0)


@pytest.mark.parametrize("other", ["fit", "select"])
def test_a_report_split_that_is_another_one_is_refused(other: str) -> None:
    data = {"fit": pair(20, 0), "select": pair(20, 1), "report": pair(20, 2)}
    data[other] = tuple(torch.cat([a[:18], b[:2]]) for a, b in zip(data[other], data["report"], strict=True))  # type: ignore[assignment]
    with pytest.raises(SpecError, match=f"2 of 20 report samples are also in {other}") as caught:
        given_data(data)
    assert caught.value.errors[0].pointer == "/dataset/report_on"


def test_a_few_repeated_images_are_let_pass() -> None:
    fit, report = pair(40, 0), pair(40, 1)
    report[0][0] = fit[0][0]
    assert given_data({"fit": fit, "report": report}).test is not None


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (None, DatasetError, "The fit data are NoneType; give a pair"),
        ((pair()[0],), DatasetError, "The fit data are tuple"),
        (DataLoader(TensorDataset(*pair())), DatasetError, "Pass loader.dataset"),
        ((TensorDataset(*pair()), TensorDataset(*pair())), DatasetError, "The fit data are tuple"),
        ({"train": pair()}, UnknownNameError, "No split is called 'train'; known: fit, report, select"),
        ({"report": pair()}, DatasetError, "There is no 'fit' split"),
        (
            {"fit": pair(), "report": (torch.zeros(4, 2, 6), torch.zeros(4).long())},
            DatasetError,
            "The report inputs are float32 [4, 2, 6]",
        ),
        ((pair()[0], pair()[1][:5]), DatasetError, "labels are int64 [5]; give whole numbers [12]"),
        ((pair()[0], pair()[1].float()), DatasetError, "labels are float32 [12]"),
        ((pair()[0], pair()[1] - 1), DatasetError, "A label of the fit data is -1"),
        ((pair()[0].long(), pair()[1]), DatasetError, "inputs are int64 [12, 2, 5]; give floating-point"),
        ((torch.zeros(3), torch.zeros(3).long()), DatasetError, "inputs are float32 [3]"),
        ((torch.full((3, 2), float("nan")), torch.zeros(3).long()), DatasetError, "hold NaN or infinity"),
        ((torch.zeros(0, 2), torch.zeros(0).long()), DatasetError, "The fit data are empty"),
        (("images", [1]), DatasetError, "inputs are str; give a tensor"),
        (Endless("image"), DatasetError, "Item 0 of the fit dataset is str; give pairs"),
        (Endless(("image", 1)), DatasetError, "input 0 are str"),
        (Endless((torch.zeros(2), 0.5)), DatasetError, "label of item 0 of the fit dataset is float"),
        (Endless((torch.zeros(2), torch.zeros(3))), DatasetError, "label of item 0 of the fit dataset is Tensor"),
        (Endless((torch.zeros(2), 0), (torch.zeros(3), 1)), DatasetError, "Item 1 of the fit dataset is float32 [3]"),
        (Endless(), DatasetError, "The fit data are empty"),
    ],
)
def test_what_cannot_be_used_is_named(data: Any, error: type[UserError], said: str) -> None:
    with pytest.raises(error) as caught:
        given_data(data)
    assert said in str(caught.value)


def test_sets_of_numbers_say_what_they_should_be() -> None:
    with pytest.raises(ValueError, match=r"float32 \[n, …\], not float64 \[2, 3\]"):
        LabelledSet(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2).long())
    with pytest.raises(ValueError, match="Indices are int64"):
        LabelledSet(torch.zeros(2, 3), torch.zeros(2).long(), torch.tensor([0.5]))
    assert np.array_equal(LabelledSet(torch.zeros(2, 3), torch.zeros(2).long()).sample_shape, (3,))
