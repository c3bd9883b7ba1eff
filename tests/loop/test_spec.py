from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.errors import SpecError
from automl_prune.loop.spec import SearchSpec


def order(**changes: Any) -> dict[str, Any]:
    return {
        "search_space": {"name": "resnet20"},
        "dataset": {"name": "cifar10"},
        "strategy": {"name": "abc"},
        "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    } | changes


def errors(**changes: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        SearchSpec.parse(order(**changes))
    return {e.pointer: e.detail for e in caught.value.errors}


def test_defaults_are_the_documented_ones() -> None:
    spec = SearchSpec.parse(order())
    assert (spec.objective, spec.execution, spec.trials.max, spec.finish.top_k) == ("top1", "auto", 100, 3)
    assert spec.controls == ["uniform", "random"]


def test_round_trip() -> None:
    spec = SearchSpec.parse(order(labels={"team": "edge"}, seed=7))
    assert SearchSpec.parse(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"colour": 1}, "/colour", "Extra inputs are not permitted"),
        ({"search_space": {"name": "resnet20", "round_too": 4}}, "/search_space/round_too", "Extra inputs"),
        ({"budgets": []}, "/budgets", "at least 1 item"),
        ({"budgets": [{"metric": "macs"}]}, "/budgets/0", "give max, max_ratio, min or min_ratio"),
        ({"budgets": [{"metric": "macs", "max": 1, "max_ratio": 0.5}]}, "/budgets/0", "not both"),
        ({"budgets": [{"metric": "macs", "max_ratio": 1.5}]}, "/budgets/0/max_ratio", "less than or equal to 1"),
        ({"budgets": [{"metric": "macs", "max": float("nan")}]}, "/budgets/0/max", "finite"),
        ({"trials": {"max": 0}}, "/trials/max", "greater than or equal to 1"),
        ({"execution": "spark"}, "/execution", "'auto', 'tune', 'actors' or 'inline'"),
        ({"controls": ["luck"]}, "/controls/0", "'uniform', 'random' or 'global'"),
        ({"seed": -1}, "/seed", "greater than or equal to 0"),
        ({"dataset": {"name": "cifar10", "report_on": "select"}}, "/dataset/report_on", "cannot be reported on it"),
    ],
)
def test_faults_are_found_by_pointer(changes: dict[str, Any], pointer: str, said: str) -> None:
    found = errors(**changes)
    assert list(found) == [pointer]
    assert said in found[pointer]


def test_all_faults_are_reported_at_once() -> None:
    assert set(errors(seed=-1, execution="x", colour=1)) == {"/seed", "/execution", "/colour"}


def test_long_values_are_not_echoed() -> None:
    assert all("x" * 100 not in detail for detail in errors(execution="x" * 10_000).values())


@pytest.mark.parametrize("data", [None, [], "spec", 3])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(SpecError, match="is an object"):
        SearchSpec.parse(data)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda c: st.dictionaries(st.text(max_size=8), c, max_size=4) | st.lists(c, max_size=4),
        max_leaves=12,
    )
)
def test_anything_else_is_a_spec_error(data: object) -> None:
    with pytest.raises(SpecError):
        SearchSpec.parse(data)
