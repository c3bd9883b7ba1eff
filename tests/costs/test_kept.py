from dataclasses import replace

from automl_prune.costs import CostModel, cost_model
from tests.costs.test_closed_form import traced


def test_one_model_serves_one_architecture_and_its_names_alone() -> None:
    architecture = traced("resnet20")
    names = [group.name for group in architecture.free_groups]
    model = cost_model(architecture, names)
    assert cost_model(architecture, tuple(names)) is model
    assert cost_model(architecture, names[:-1]).names == tuple(names[:-1])
    assert cost_model(replace(architecture), names) is not model
    assert model.one() == CostModel(architecture, names).one()
