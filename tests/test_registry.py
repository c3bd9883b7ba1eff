import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from automl_prune import plugins
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


@pytest.fixture
def family() -> tuple[Registry[int], list[str]]:
    """A registry with one thing and a family that comes later, and what was called."""
    things: Registry[int] = Registry("thing")
    called: list[str] = []
    things.add("plain", 1)

    @things.later
    def register() -> None:
        called.append("family")
        things.add("cousin", 2)

    return things, called


def test_a_family_comes_once_a_name_is_missing(family: tuple[Registry[int], list[str]]) -> None:
    things, called = family
    assert things.get("plain") == 1
    assert "plain" in things
    assert called == []
    assert things.get("cousin") == 2
    assert "nobody" not in things
    assert called == ["family"]


@pytest.mark.parametrize("ask", [list, lambda things: things.add("cousin", 3), lambda things: things.get("cousins")])
def test_a_family_comes_before_all_names_are_told_or_taken(
    family: tuple[Registry[int], list[str]], ask: Callable[[Registry[int]], object]
) -> None:
    things, called = family
    if ask is list:
        assert ask(things) == ["cousin", "plain"]
    else:
        with pytest.raises((ValueError, UnknownNameError), match="'cousin'"):
            ask(things)
    assert called == ["family"]


def test_what_is_slow_to_import_waits_until_it_is_needed() -> None:
    """A driver without Ray needs, for a network of our own, neither Ray nor torchvision; these take as long as torch."""
    look = "import sys, services.driver; from automl_prune.networks import NETWORKS; NETWORKS.get('resnet20')"
    said = subprocess.run(
        [sys.executable, "-c", f"{look}; print(*sorted({{'ray', 'torchvision', 'torch._dynamo'}} & set(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == []


def test_other_threads_wait_for_the_first_import() -> None:
    things: Registry[int] = Registry("strategy", package="automl_prune.strategies")
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(list(things))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(names == found[0] for names in found)


Make = Callable[[Sequence[str], Mapping[str, str]], Registry[int]]
REGISTER = "from bag import things\nthings.add({!r}, 1)\n"


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a registry with entry points to modules, which are given as files with their source."""
    monkeypatch.setattr(plugins, "_found", [])
    monkeypatch.syspath_prepend(tmp_path)

    def make(entries: Sequence[str], files: Mapping[str, str]) -> Registry[int]:
        for name, source in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(source)
        found = [EntryPoint(name, name, "some.things") for name in entries]
        monkeypatch.setattr("automl_prune.registry.entry_points", lambda group: found)
        bag = ModuleType("bag")
        made: Registry[int] = Registry("thing", entry_point_group="some.things")
        bag.things = made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "bag", bag)
        return made

    yield make
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_failed_plugin_leaves_nothing_behind_and_others_stay(things: Make, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "bad/nets.py": REGISTER.format("half"),
        "bad/__init__.py": f"import bad.nets\n{REGISTER.format('whole')}1 / 0\n",
        "good.py": REGISTER.format("fine"),
    }
    with caplog.at_level(logging.ERROR):
        assert list(things(["bad", "good"], files)) == ["fine"]
    assert "plug-in 'bad'" in caplog.text
    assert "ZeroDivisionError: division by zero" in caplog.text
    assert [(p.name, p.state) for p in plugins.plugins()] == [("bad", "failed"), ("good", "loaded")]


def test_what_a_failed_plugin_imported_of_another_stays_registered(things: Make) -> None:
    files = {"bad.py": "import good\nraise SystemExit(3)\n", "good.py": REGISTER.format("fine")}
    assert things(["bad", "good"], files).get("fine") == 1
    assert plugins.plugins()[0].error == "SystemExit: 3"


def test_a_sound_plugin_shares_modules_with_a_failed_one(things: Make) -> None:
    files = {
        "pack/__init__.py": "",
        "pack/shared.py": REGISTER.format("shared"),
        "pack/bad.py": "import pack.shared\nraise LookupError\n",
        "pack/good.py": "import pack.shared\n",
    }
    assert list(things(["pack.bad", "pack.good"], files)) == ["shared"]


def test_an_interrupt_is_no_failure(things: Make) -> None:
    found = things(["slow"], {"slow.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        list(found)
    assert plugins.plugins() == []


def test_a_package_is_imported_with_its_modules_but_not_run(things: Make) -> None:
    files = {"pack/__init__.py": "", "pack/nets.py": REGISTER.format("net"), "pack/__main__.py": "raise SystemExit\n"}
    assert list(things(["pack"], files)) == ["net"]
    assert plugins.plugins()[0].state == "loaded"


def test_what_is_built_in_keeps_its_names() -> None:
    """Registered from outside before anything was looked up: the built-in ones are imported first."""
    with pytest.raises(ValueError, match=r"'random' is already registered, by automl_prune\.strategies\.random"):
        STRATEGIES.add("random", type("Other", (), {}))
