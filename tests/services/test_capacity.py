from pathlib import Path
from typing import Any

import pytest

from automl_prune.errors import DatasetError, SpecError
from automl_prune.evaluation.images import Outline
from automl_prune.loop.plan import make_plan
from automl_prune.loop.spec import SearchSpec
from services.capacity import Capacity
from services.settings import load_settings
from services.wiring import roots


def order(**changes: Any) -> SearchSpec:
    plain = {
        "search_space": {"name": "resnet20"},
        "dataset": {"name": "digits"},
        "strategy": {"name": "random"},
        "budgets": [{"metric": "macs", "max_ratio": 0.5}],
    }
    return SearchSpec.parse(plain | changes)


@pytest.mark.parametrize(
    ("resources", "pointers"),
    [
        ({"cpu": 3}, ["/resources/cpu"]),
        ({"gpu": 64}, ["/resources/gpu"]),
        ({"cpu": 3, "gpu": 64}, ["/resources/cpu", "/resources/gpu"]),
    ],
)
def test_more_than_the_machine_has_is_said_at_once(tmp_path: Path, resources: dict[str, float], pointers: list[str]) -> None:
    capacity = Capacity(load_settings(home=tmp_path, workers=2))
    with pytest.raises(SpecError) as caught:
        capacity.check(order(resources=resources))
    assert [e.pointer for e in caught.value.errors] == pointers
    capacity.check(order(resources={"cpu": 2}))
    capacity.check(order(resources=resources, execution="inline"))


def test_a_cluster_that_does_not_answer_is_believed(tmp_path: Path) -> None:
    capacity = Capacity(load_settings(home=tmp_path, workers=2, ray_address="127.0.0.1:1"))
    capacity._until = float("inf")
    capacity.check(order(resources={"cpu": 200}))


def test_a_check_of_an_order_holds_no_images(tmp_path: Path) -> None:
    """However many orders name however many datasets, the server's memory is not filled with them."""
    spec = order(dataset={"name": "digits", "select_size": 100})
    checked, ready = (make_plan(spec, roots(load_settings(home=tmp_path)), fetch=fetch) for fetch in (False, True))
    assert isinstance(checked.images, Outline)
    assert checked.summary() == ready.summary()
    assert not isinstance(ready.images, Outline)


def test_a_dataset_that_is_to_be_fetched_is_not_touched_by_a_check(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    spec = order(dataset={"name": "cifar10", "root": "new/folder", "download": True})
    plan = make_plan(spec, roots(settings), fetch=False)
    assert plan.awaits_data
    assert plan.summary()["splits"] is None
    assert not settings.data_root.exists()
    with pytest.raises(DatasetError, match="No complete CIFAR-10"):
        make_plan(order(dataset={"name": "cifar10", "root": "new/folder"}), roots(settings), fetch=False)
    assert not settings.data_root.exists()
