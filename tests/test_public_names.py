"""What the packages export is what they say they export."""

import importlib

import pytest

PACKAGES = [
    "automl_prune",
    "automl_prune.architecture",
    "automl_prune.costs",
    "automl_prune.execution",
    "automl_prune.export",
    "automl_prune.loop",
    "automl_prune.storage",
    "automl_prune.testing",
]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_names_exist_and_are_sorted(name: str) -> None:
    package = importlib.import_module(name)
    names = getattr(package, "__all__", [])
    assert list(names) == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(hasattr(package, n) for n in names)


def test_the_contract_with_users() -> None:
    import automl_prune

    assert {"trace", "prune", "cost", "load_architecture"} <= set(automl_prune.__all__)


def test_the_contracts_that_plug_ins_subclass() -> None:
    from automl_prune import testing

    assert testing.__all__ == ["ExecutorContract", "StoreContract", "StrategyContract"]
