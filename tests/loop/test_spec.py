from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.errors import SpecError
from automl_prune.loop.spec import FinishSpec, SearchSpec, StrategySpec


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
    for spec in (
        SearchSpec.parse(order(labels={"team": "edge"}, seed=7)),
        SearchSpec.parse(order(strategy={"name": "metapruning"})),
    ):
        assert SearchSpec.parse(spec.model_dump(mode="json")) == spec


def test_who_names_no_strategy_gets_the_one_for_those_who_do_not_want_to_choose() -> None:
    given = order()
    del given["strategy"]
    assert SearchSpec.parse(given).strategy == StrategySpec(name="auto")


@pytest.mark.parametrize(
    ("preset", "finish", "expected"),
    [
        (None, None, (1, "scratch", 30, 0.1)),
        ("published", {}, (1, "scratch", 256, 0.5)),
        ("published", {"epochs": 2, "top_k": 5}, (5, "scratch", 2, 0.5)),
        ("published", {"recovery": "scratch"}, (3, "scratch", 1, 0.01)),
        ("published", {"recovery": "none", "lr": 0.2}, (3, "none", 1, 0.2)),
    ],
)
def test_where_no_recovery_is_named_the_strategys_own_finish_counts(
    preset: str | None, finish: dict[str, Any] | None, expected: tuple[int, str, float, float]
) -> None:
    given = order(strategy={"name": "metapruning", "preset": preset}) | ({} if finish is None else {"finish": finish})
    found = SearchSpec.parse(given).finish
    assert (found.top_k, found.recovery, found.epochs, found.lr) == expected
    assert SearchSpec.parse(order()).finish == FinishSpec()


@pytest.mark.parametrize("strategy", ["metapruning", {"name": ["metapruning"]}, {"name": "metapruning", "preset": {}}, {}])
def test_a_faulty_strategy_is_the_only_fault_where_it_could_have_a_finish(strategy: object) -> None:
    assert all(pointer.startswith("/strategy") for pointer in errors(strategy=strategy))
    assert {"/finish"} < {*errors(strategy=strategy, finish=3)}


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
        ({"finish": {"distill": True}}, "/finish/distill", "not available yet"),
        ({"finish": {"distill": 0}}, "/finish/distill", "valid boolean"),
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
