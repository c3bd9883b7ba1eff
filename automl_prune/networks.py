"""Registered networks: how to build one, what it takes in, and the space its author declares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from automl_prune.errors import UnknownNameError
from automl_prune.granularity import Override
from automl_prune.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Preset:
    """A published choice of what is searched: frozen groups (globs), granularity, and where it comes from.

    An order's own round_to and min_ratio replace these; its frozen and overrides are read after these and win.
    """

    frozen: tuple[str, ...] = ()
    round_to: int = 1
    min_ratio: float = 0.0
    help: str = ""
    overrides: tuple[Override, ...] = ()

    @property
    def declared(self) -> tuple[Override, ...]:
        """Frozen groups and overrides as one list, in the order in which they are read."""
        return (*(Override(pattern, frozen=True) for pattern in self.frozen), *self.overrides)


@dataclass(frozen=True)
class NetworkDefinition:
    """A network that can be searched by name.

    Attributes:
        name: As users write it in ``search_space.name``.
        build: Maps a number of classes to a fresh module.
        input_shape: One sample, without the batch dimension.
        num_classes: Default number of classes.
        presets: Named declarations of the space; ``default`` is used when none is asked for.
        help: One line for listings.
        mean, std: Per-channel input normalisation the published weights expect.
        training_only: How names of tensors begin that published checkpoints have and this network does not (heads that only
            help training); they are left out.
    """

    name: str
    build: "Callable[[int], nn.Module]"
    input_shape: tuple[int, ...]
    num_classes: int
    presets: Mapping[str, Preset] = field(default_factory=lambda: {"default": Preset()})
    help: str = ""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    training_only: tuple[str, ...] = ()

    def preset(self, name: str | None) -> Preset:
        """The preset of that name; raises UnknownNameError."""
        try:
            return self.presets[name or "default"]
        except KeyError:
            raise UnknownNameError(
                f"preset of {self.name}", str(name), self.presets, pointer="/search_space/preset"
            ) from None


NETWORKS: Registry[NetworkDefinition] = Registry("search space", entry_point_group="automl_prune.search_spaces")
