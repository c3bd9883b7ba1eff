"""Plug-ins: modules of others, found by entry point or allowed by the operator, that register themselves when imported.

A plug-in is imported once per process. One that raises, whatever it raises, is left out and remembered with its reason:
nothing of it stays registered, and everything else goes on. :mod:`registry` says when they are imported.
"""

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Literal

from automl_prune.messages import without_folders

log = logging.getLogger(__name__)

OWN = "automl-prune"
"""The distribution whose entry points are built in."""
_LONGEST = 300

Forget = Callable[[Callable[[str], bool]], None]
"""Takes back what was registered by every module of which a function says that it failed."""


@dataclass(frozen=True)
class Plugin:
    """What became of a plug-in.

    Attributes:
        name: Of the entry point, or of the allowed module.
        source: Where it was found: ``entry point GROUP of DISTRIBUTION``, or ``allowed``.
        module: What is imported.
        state: Whether it is in use.
        error: Why it is not, on one line.
    """

    name: str
    source: str
    module: str
    state: Literal["loaded", "failed"] = "loaded"
    error: str | None = None


_found: list[Plugin] = []
_allowed: list[str] = []
_waiting: list[str] = []
_importing = False


def plugins() -> list[Plugin]:
    """What became of every plug-in that was imported so far."""
    return list(_found)


def allow(modules: Iterable[str]) -> None:
    """Name modules that are imported, as plug-ins, before anything is next looked up by name."""
    for module in modules:
        if module not in _allowed:
            _allowed.append(module)
            _waiting.append(module)


def allowed() -> tuple[str, ...]:
    """The modules that :func:`allow` named so far; other processes of a search need the same."""
    return tuple(_allowed)


def waiting() -> bool:
    """Whether allowed modules are still to be imported."""
    return bool(_waiting)


def load_allowed(forget: Forget) -> None:
    """Import the allowed modules that are waiting."""
    global _importing  # a plug-in looks names up while it is imported, which comes back here
    if _importing:
        return
    _importing = True
    try:
        while _waiting:
            _load(Plugin(_waiting[0], "allowed", _waiting[0]), forget)
            del _waiting[0]
    finally:
        _importing = False


def load_entry_point(entry: EntryPoint, forget: Forget) -> None:
    """Import what an entry point names."""
    distribution = entry.dist.name if entry.dist else "an unknown distribution"
    _load(Plugin(entry.name, f"entry point {entry.group} of {distribution}", entry.module), forget)


def import_all(name: str) -> None:
    """Import a module; of a package its modules too, those apart whose name starts with an underscore."""
    module: ModuleType = importlib.import_module(name)
    for info in pkgutil.iter_modules(getattr(module, "__path__", ()), name + "."):
        if not info.name.rpartition(".")[2].startswith("_"):
            importlib.import_module(info.name)


def _load(plugin: Plugin, forget: Forget) -> None:
    before = frozenset(sys.modules)
    try:
        import_all(plugin.module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit at import, too, must not end a server
        forget(_unload(plugin.module, before))
        reason = without_folders(" ".join(f"{type(error).__name__}: {error}".split()))[:_LONGEST]
        plugin = Plugin(plugin.name, plugin.source, plugin.module, "failed", reason)
        log.error("plug-in %r (%s) is left out, with all it registers: %s", plugin.name, plugin.source, reason)
        log.debug("plug-in %r", plugin.name, exc_info=True)
    _found.append(plugin)


def _unload(module: str, before: Container[str]) -> Callable[[str], bool]:
    """Drop what the failed import of a module brought in of its package; returns a function that knows these modules.

    Another plug-in of the same package can import them again, and what they register is registered again.
    """
    package = module.partition(".")[0]

    def failed(name: str) -> bool:
        return name.partition(".")[0] == package and name not in before

    for name in filter(failed, list(sys.modules)):
        del sys.modules[name]
    return failed
