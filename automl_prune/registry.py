"""Named things: strategies, criteria, datasets, networks. Registered next to their definition, looked up by name."""

import importlib
import logging
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from threading import RLock
from types import ModuleType
from typing import Generic, TypeVar

from automl_prune.errors import UnknownNameError

log = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")


class Registry(Generic[T]):
    """Objects of one kind by name; a duplicate is refused, a miss answers with the nearest names.

    Args:
        kind: What is registered, as an error message would call it.
        package: Folder imported before the first look-up, so that a new file registers itself.
        entry_point_group: Installed plug-in modules imported before the first look-up.
    """

    def __init__(self, kind: str, *, package: str | None = None, entry_point_group: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._group = entry_point_group
        self._items: dict[str, T] = {}
        self._loaded = self._loading = False
        self._lock = RLock()  # other threads wait for the imports; the importing one may look names up

    def add(self, name: str, item: T) -> T:
        """Register an item; raises ValueError if the name is taken by another."""
        if name in self._items and self._items[name] is not item:
            raise ValueError(f"A {self.kind} called {name!r} is already registered.")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda item: self.add(name, item)

    def add_instance(self, name: str) -> Callable[[type[U]], type[U]]:
        """Class decorator: register one instance, and tell the class its name."""

        def add(cls: type[U]) -> type[U]:
            cls.name = name  # type: ignore[attr-defined]
            self.add(name, cls())  # type: ignore[arg-type]
            return cls

        return add

    def get(self, name: str, *, pointer: str = "") -> T:
        """The item of that name; raises UnknownNameError with ``pointer`` and the nearest names."""
        self._load()
        try:
            return self._items[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self._items, pointer=pointer) from None

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._items))

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._items

    def _load(self) -> None:
        if self._loaded:
            return
        with self._lock:
            if not self._loading:
                self._loading = True
                try:
                    self._import()
                    self._loaded = True
                finally:
                    self._loading = False

    def _import(self) -> None:
        if self._package:
            _import_all(importlib.import_module(self._package))
        if self._group:
            for entry in entry_points(group=self._group):
                try:
                    module = entry.load()
                    if isinstance(module, ModuleType) and hasattr(module, "__path__"):
                        _import_all(module)
                except Exception:
                    log.exception(
                        "the plug-in %r (%s) cannot be imported; what it registers is missing", entry.name, entry.value
                    )


def _import_all(package: ModuleType) -> None:
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)
