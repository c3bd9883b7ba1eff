"""Named things: strategies, criteria, datasets, networks. Registered next to their definition, looked up by name."""

import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from automl_prune import plugins
from automl_prune.errors import UnknownNameError

T = TypeVar("T")
U = TypeVar("U")

# One lock for all: a plug-in registers in several. Other threads wait for imports; the importing one may look names up.
_LOCK = RLock()
_REGISTRIES: "WeakSet[Registry[Any]]" = WeakSet()


class Registry(Generic[T]):
    """Objects of one kind by name; a duplicate is refused, a miss answers with the nearest names.

    What is built in is always imported first, so that no plug-in takes a name away from it.

    Args:
        kind: What is registered, as an error message would call it.
        package: Folder imported before the first look-up, so that a new file registers itself.
        entry_point_group: Modules that installed distributions name there are imported before the first look-up.
    """

    def __init__(self, kind: str, *, package: str | None = None, entry_point_group: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._group = entry_point_group
        self._items: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._complete = self._loading = False
        self._built_in = self._loading_built_in = False
        self._later: list[Callable[[], None]] = []
        _REGISTRIES.add(self)

    def add(self, name: str, item: T) -> T:
        """Register an item; raises ValueError if the name is taken by another."""
        origin = _caller()
        if origin.partition(".")[0] not in self._own_packages:
            self._load_built_in()
            self._load_later()
        if name in self._items and self._items[name] is not item:
            raise ValueError(f"A {self.kind} called {name!r} is already registered, by {self._origins[name]}.")
        self._origins.setdefault(name, origin)
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda item: self.add(name, item)

    def later(self, register: Callable[[], None]) -> Callable[[], None]:
        """Decorator: call a function of what is built in once a name is asked for that nothing else has, or all names are.

        For families whose names alone take long to learn.
        """
        self._later.append(register)
        return register

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
        if name not in self._items:
            self._load_later()
        try:
            return self._items[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self._items, pointer=pointer) from None

    def __iter__(self) -> Iterator[str]:
        self._load()
        self._load_later()
        return iter(sorted(self._items))

    def __contains__(self, name: str) -> bool:
        self._load()
        if name not in self._items:
            self._load_later()
        return name in self._items

    def _load(self) -> None:
        if self._complete and not plugins.waiting():
            return
        with _LOCK:
            if self._loading:
                return
            self._loading = True
            try:
                self._load_built_in()
                for entry in () if self._complete else self._entries[1]:
                    plugins.load_entry_point(entry, _forget)
                plugins.load_allowed(_forget)
                self._complete = True
            finally:
                self._loading = False

    def _load_built_in(self) -> None:
        if self._built_in:
            return
        with _LOCK:
            if self._loading_built_in:
                return
            self._loading_built_in = True
            try:
                for module in self._built_in_modules:
                    plugins.import_all(module)
                self._built_in = True
            finally:
                self._loading_built_in = False

    def _load_later(self) -> None:
        with _LOCK:
            while self._later:
                register = self._later.pop()  # gone before it is called, since it looks names up itself
                try:
                    register()
                except BaseException:
                    self._later.append(register)
                    raise

    @cached_property
    def _entries(self) -> tuple[list[EntryPoint], list[EntryPoint]]:
        """Entry points of this distribution, and of others."""
        found = sorted(entry_points(group=self._group), key=lambda e: e.name) if self._group else []
        own = [e for e in found if e.dist is not None and e.dist.name == plugins.OWN]
        return own, [e for e in found if e not in own]

    @cached_property
    def _built_in_modules(self) -> list[str]:
        return [*([self._package] if self._package else []), *(entry.module for entry in self._entries[0])]

    @cached_property
    def _own_packages(self) -> set[str]:
        return {module.partition(".")[0] for module in (__name__, *self._built_in_modules)}

    def _forget(self, failed: Callable[[str], bool]) -> None:
        for name in [name for name, origin in self._origins.items() if failed(origin)]:
            del self._items[name], self._origins[name]


def _forget(failed: Callable[[str], bool]) -> None:
    """Take back what was registered by the modules that ``failed`` says."""
    for registry in _REGISTRIES:
        registry._forget(failed)


def _caller() -> str:
    """The module that calls into this one."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))
