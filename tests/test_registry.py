import threading

import pytest

from automl_prune.errors import UnknownNameError
from automl_prune.networks import NETWORKS
from automl_prune.registry import Registry
from automl_prune.strategies.base import STRATEGIES


def test_a_duplicate_is_refused() -> None:
    things: Registry[object] = Registry("thing")
    things.add("a", 1)
    with pytest.raises(ValueError, match="A thing called 'a' is already registered"):
        things.add("a", 2)


def test_a_miss_names_the_nearest_and_carries_its_pointer() -> None:
    things: Registry[int] = Registry("thing")
    things.add("resnet56", 1)
    with pytest.raises(UnknownNameError, match=r"No thing is called 'resnet57'; did you mean 'resnet56'\?") as caught:
        things.get("resnet57", pointer="/search_space/name")
    assert caught.value.pointer == "/search_space/name"


def test_a_folder_registers_itself() -> None:
    assert {"abc", "random", "uniform"} <= set(STRATEGIES)


def test_entry_points_bring_the_built_in_networks() -> None:
    assert {"resnet20", "resnet56", "cifar_vgg16_bn", "digits_resnet", "resnet50", "mobilenet_v2", "squeezenet1_0"} <= set(
        NETWORKS
    )


def test_other_threads_wait_for_the_first_import() -> None:
    things: Registry[int] = Registry("strategy", package="automl_prune.strategies")
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(list(things))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(names == found[0] for names in found)
