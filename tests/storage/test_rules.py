from types import MappingProxyType

import pytest

from automl_prune.storage import rules
from automl_prune.trial import Outcome, TrialState


def test_plain_copies_mappings_and_tuples_as_json() -> None:
    assert rules.plain(MappingProxyType({"a": (1, MappingProxyType({"b": None}))}), "It") == {"a": [1, {"b": None}]}


def test_plain_names_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="The spec cannot be kept as JSON: set is not a JSON type"):
        rules.plain({"a": {1}}, "The spec")


def test_an_outcome_is_read_back_equal() -> None:
    outcome = Outcome(TrialState.STOPPED, {"top1": 0.5}, {"images": 10.0}, "slow", {"log": "a.txt"}, {"steps": [1]})
    assert rules.outcome_from_json(rules.outcome_to_json(outcome)) == outcome


@pytest.mark.parametrize("spec", [{}, {"strategy": None}, {"strategy": {}}])
def test_a_spec_may_be_without_strategy(spec: dict[str, object]) -> None:
    assert rules.strategy_of(spec) is None
