from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BaseModel, Field, ValidationError

from automl_prune.errors import SpecError
from automl_prune.loop.spec import SearchSpec
from automl_prune.strategies.base import STRATEGIES
from automl_prune.strict import STRICT, read

ORDER = {
    "search_space": {"name": "resnet20"},
    "dataset": {"name": "digits"},
    "strategy": {"name": "random"},
    "budgets": [{"metric": "macs", "max_ratio": 0.5}],
}


class Part(BaseModel):
    model_config = STRICT

    count: Annotated[int, Field(ge=1)] = 1
    share: float = 0.5
    wanted: bool = False
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "data",
    [
        {"count": 7, "share": 1, "wanted": True, "names": ["a"]},
        {"count": 7.0, "share": 1.0, "wanted": True, "names": ("a",)},
    ],
)
def test_numbers_are_taken_in_either_form(data: dict[str, Any]) -> None:
    assert read(Part, data) == Part(count=7, share=1.0, wanted=True, names=("a",))


def test_numbers_of_numpy_are_numbers() -> None:
    assert read(Part, {"count": np.int64(3), "share": np.float64(0.25)}) == Part(count=3, share=0.25)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"count": "7"}, "int_type"),
        ({"count": True}, "int_type"),
        ({"count": 7.5}, "int_type"),
        ({"share": "0.5"}, "float_type"),
        ({"share": True}, "float_type"),
        ({"share": float("nan")}, "finite_number"),
        ({"share": float("inf")}, "finite_number"),
        ({"wanted": 1}, "bool_type"),
        ({"wanted": "yes"}, "bool_type"),
        ({"names": "abc"}, "tuple_type"),
        ({"names": [1]}, "string_type"),
        ({"count": object()}, "int_type"),
        ({"other": 1}, "extra_forbidden"),
    ],
)
def test_what_only_looks_like_a_value_is_refused(data: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(Part, data)
    assert [error["type"] for error in caught.value.errors()] == [code]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"seed": "7"}, "/seed"),
        ({"seed": True}, "/seed"),
        ({"trials": {"max": "60"}}, "/trials/max"),
        ({"budgets": [{"metric": "macs", "max_ratio": "0.5"}]}, "/budgets/0/max_ratio"),
        ({"dataset": {"name": "digits", "download": 1}}, "/dataset/download"),
        ({"labels": {"team": 1}}, "/labels/team"),
        ({"dataset": {"name": "digits", "mean": [0.5] * 2000}}, "/dataset/mean"),
        ({"dataset": {"name": "digits", "select_size": 10**30}}, "/dataset/select_size"),
        ({"strategy": {"name": "random", "options": {str(i): i for i in range(300)}}}, "/strategy/options"),
        ({"controls": ["random"] * 20}, "/controls"),
    ],
)
def test_an_order_is_read_strictly_and_within_limits(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        SearchSpec.parse(ORDER | changes)
    assert caught.value.errors[0].pointer == pointer


def test_whole_floats_of_yaml_are_counts() -> None:
    spec = SearchSpec.parse(ORDER | {"trials": {"max": 6e1}, "dataset": {"name": "digits", "mean": [0.5]}})
    assert (spec.trials.max, spec.dataset.mean) == (60, (0.5,))
    assert SearchSpec.parse(spec.model_dump(mode="json")) == spec


def test_options_of_strategies_are_read_as_strictly() -> None:
    strategy = STRATEGIES.get("abc")
    assert strategy.read_options(None, {"population": 4.0}) == strategy.read_options(None, {"population": 4})
    with pytest.raises(SpecError) as caught:
        strategy.read_options(None, {"population": "4"})
    assert caught.value.errors[0].pointer == "/strategy/options/population"
