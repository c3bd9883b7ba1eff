"""Admission of a network: it is built, traced and verified once; what was learned is kept on disk, as JSON."""

import hashlib
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import cast

import torch

from automl_prune import architecture as architecture_room
from automl_prune import costs, surgery
from automl_prune.architecture import Architecture
from automl_prune.errors import AutomlPruneError, UserError
from automl_prune.messages import first_line
from automl_prune.networks import NetworkDefinition
from automl_prune.surgery.verify import SECONDS, admit

log = logging.getLogger(__name__)

POINTER = "/search_space/name"
MOST_GROUPS = 4096
"""Groups, and layers, of a network that somebody orders by name."""
MOST_CHOICES = 4096
"""Widths of one group in such an order; the classifiers of VGG have as many."""

Admit = Callable[[NetworkDefinition, int, Path], Architecture]
"""Maps a network, a number of classes and the cache folder to a verified architecture; raises UserError."""
MOST_KEPT = 256
"""Networks that are known in one folder, by number of classes; beyond them, the oldest are forgotten."""


def check_size(network: NetworkDefinition, architecture: Architecture) -> None:
    """Raise UserError for a network that is too large to be searched here."""
    for what, number in (("groups", len(architecture.groups)), ("layers", len(architecture.layers))):
        if number > MOST_GROUPS:
            raise UserError(
                f"{network.name!r} has {number:,} {what}; {MOST_GROUPS:,} is the most. Name a smaller network.",
                pointer=POINTER,
            )


def cached(network: NetworkDefinition, num_classes: int, cache: Path, *, seconds: float = SECONDS) -> Architecture | None:
    """What an earlier admission of an equal network learned, or None."""
    file = _file(network, num_classes, cache, seconds)
    try:
        found = file.stat()
        return _read(file, found.st_ino, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError, KeyError, TypeError):
        return None


@lru_cache(maxsize=32)
def _read(file: Path, *version: int) -> Architecture:
    """Kept for the next call while the file is of the same version: a server checks many orders for few networks."""
    return Architecture.from_json(json.loads(file.read_text()))


def admitted(
    network: NetworkDefinition,
    num_classes: int,
    cache: Path,
    *,
    seconds: float = SECONDS,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Architecture:
    """The network's verified architecture, from the cache where an equal one was admitted before.

    Args:
        network: Registered, or a user's.
        num_classes: What to build it for.
        cache: Folder of what is known; written atomically.
        seconds: Of verification, after which what is not proven is frozen.
        on_stage: Told what begins: building, tracing, verifying.

    Raises:
        TraceError: It cannot be described as coupled channels.
        UserError: It cannot be built, or something in it fails.
    """
    if (found := cached(network, num_classes, cache, seconds=seconds)) is not None:
        return found
    log.info("admitting %s", network.name)
    architecture = _learn(network, num_classes, seconds, on_stage)
    file = _file(network, num_classes, cache, seconds)
    cache.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=cache, suffix=".json")
    with os.fdopen(handle, "w") as stream:
        json.dump(architecture.to_json(), stream)
    Path(temporary).replace(file)
    _forget_oldest(cache)
    return architecture


def _forget_oldest(cache: Path) -> None:
    """Keep the newest: whoever orders makes up names and numbers of classes, and each leaves a file."""
    found = []
    for file in cache.glob("architecture-*.json"):
        with suppress(FileNotFoundError):  # another process forgets, too
            found.append((file.stat().st_mtime_ns, file))
    for _, file in sorted(found)[:-MOST_KEPT]:
        file.unlink(missing_ok=True)


def _learn(network: NetworkDefinition, num_classes: int, seconds: float, on_stage: Callable[[str], None]) -> Architecture:
    now = "building"

    def begin(stage: str) -> None:
        nonlocal now
        now = stage
        on_stage(stage)

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            begin("building")
            model = network.build(num_classes)
            return admit(model, torch.zeros(1, *network.input_shape), seconds=seconds, on_stage=begin)
    except UserError as error:
        error.pointer = error.pointer or POINTER
        raise
    except AutomlPruneError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}".rstrip(": .")
        raise UserError(f"{network.name!r} cannot be searched: {now} it failed with {said}.", pointer=POINTER) from error


def _file(network: NetworkDefinition, num_classes: int, cache: Path, seconds: float) -> Path:
    """Named after what an architecture depends on: the network and its sizes, versions, and the code that made it."""
    build = getattr(network.build, "func", network.build)
    versions = (torch.__version__, version("torchvision"))
    key = [network.name, network.input_shape, num_classes, seconds, *versions, _rooms(), _source(build)]
    return cache / f"architecture-{network.name}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"


@lru_cache(maxsize=1)
def _rooms() -> str:
    """A digest of the code that makes an architecture, as this process began with it."""
    rooms = [Path(str(room.__file__)).parent for room in (architecture_room, costs, surgery)]
    sources = [file.read_text() for room in rooms for file in sorted(room.rglob("*.py"))]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _source(build: Callable[..., object]) -> str | None:
    """The source of the module that builds a network; None where there is no module, or one without source."""
    with suppress(OSError, TypeError):
        return inspect.getsource(cast(ModuleType, inspect.getmodule(build)))
    return None
