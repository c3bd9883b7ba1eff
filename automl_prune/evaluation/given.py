"""Data that a caller holds in Python: tensors, arrays or torch datasets become the three splits."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from automl_prune.errors import DatasetError, FieldError, SpecError, UnknownNameError
from automl_prune.evaluation.augmentation import Augment
from automl_prune.evaluation.datasets.base import MAX_BYTES, Dataset, ImageSet, LabelledSet

SPLITS = ("fit", "select", "report")
MOST_REPEATED = 0.05
"""Share of the report split that may also be in another one: official sets hold a few images twice."""


class GivenData(Dataset):
    """A caller's own data; see :func:`given_data`."""

    name = "given"
    help = "Data handed over in Python."
    mean, std = (), ()
    in_memory = True

    def __init__(self, train: LabelledSet, test: LabelledSet | None, augment: Augment | None = None) -> None:
        self.train, self.test = train, test
        self.augment = augment  # type: ignore[misc]  # of the class for datasets that are registered

    def load(
        self, root: Path, *, download: bool, image_size: tuple[int, int] | None
    ) -> tuple[LabelledSet, LabelledSet | None]:
        """The data; no argument has an effect."""
        return self.train, self.test


def given_data(data: object, augment: Augment | None = None) -> GivenData:
    """Data in one of the forms that callers have them in.

    Args:
        data: A pair (inputs ``[n, …]``, labels ``[n]``) of tensors or arrays, or a torch dataset of such pairs: one
            labelled set. Or a mapping of ``fit`` and, if there are such sets, ``select`` and ``report`` to labelled sets;
            those that are missing are drawn from ``fit``. Inputs are floating-point, as the network takes them in, or
            images uint8 ``[n, channels, height, width]``.
        augment: Changes training batches at random.

    Raises:
        DatasetError: They are not of any such form.
        UnknownNameError: A split has another name.
        SpecError: The report split is the select split, or repeats the others.
    """
    given = dict(data) if isinstance(data, Mapping) else {"fit": data}
    for name in given:
        if name not in SPLITS:
            raise UnknownNameError("split", str(name), SPLITS)
    if "fit" not in given:
        raise DatasetError("There is no 'fit' split; it is what networks are trained on.")
    sets = {name: _labelled(name, value) for name, value in given.items()}
    _check_alike(sets)
    _check_disjoint(sets)
    train = sets["fit"]
    if "select" in sets:
        images, labels = (torch.cat([getattr(sets[n], key) for n in ("fit", "select")]) for key in ("images", "labels"))
        train = type(train)(images, labels, torch.arange(len(train), len(labels)))
    return GivenData(train, sets.get("report"), augment)


def _labelled(split: str, data: object) -> LabelledSet:
    if (
        isinstance(data, tuple | list)
        and len(data) == 2
        and not any(isinstance(part, torch.utils.data.Dataset) for part in data)
    ):
        images, labels = _tensor(split, "inputs", data[0]), _tensor(split, "labels", data[1])
    elif isinstance(data, torch.utils.data.Dataset):
        images, labels = _collected(split, data)
    else:
        hint = " Pass loader.dataset." if isinstance(data, torch.utils.data.DataLoader) else ""
        raise DatasetError(
            f"The {split} data are {type(data).__name__}; give a pair (inputs, labels), or a torch dataset of pairs.{hint}"
        )
    return _set(split, images, _classes(split, labels, len(images)))


def _set(split: str, images: Tensor, labels: Tensor) -> LabelledSet:
    images = images.detach().cpu()
    if not len(images):
        raise DatasetError(f"The {split} data are empty.")
    if images.dtype == torch.uint8 and images.dim() == 4:
        return ImageSet(images, labels)
    if not images.is_floating_point() or images.dim() < 2:
        raise DatasetError(
            f"The {split} inputs are {_described(images)}; give floating-point [n, …] as the network takes it in, or "
            f"images uint8 [n, channels, height, width]."
        )
    if not bool(images.isfinite().all()):
        raise DatasetError(f"The {split} inputs hold NaN or infinity.")
    return LabelledSet(images.float(), labels)


def _classes(split: str, labels: Tensor, count: int) -> Tensor:
    labels = labels.detach().cpu()
    if labels.is_floating_point() or labels.is_complex() or labels.shape != (count,):
        raise DatasetError(f"The {split} labels are {_described(labels)}; give whole numbers [{count}], one per input.")
    labels = labels.long()
    if count and int(labels.min()) < 0:
        raise DatasetError(f"A label of the {split} data is {int(labels.min())}; classes count from 0.")
    return labels


def _collected(split: str, data: Any) -> tuple[Tensor, Tensor]:
    """All pairs of a torch dataset as two tensors."""
    images: list[Tensor] = []
    labels: list[int] = []
    size = 0
    for i, item in enumerate(_items(data)):
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise DatasetError(f"Item {i} of the {split} dataset is {type(item).__name__}; give pairs (input, label).")
        images.append(_tensor(split, f"input {i}", item[0]))
        labels.append(_label(split, i, item[1]))
        size += images[-1].nbytes
        if images[-1].shape != images[0].shape or images[-1].dtype != images[0].dtype:
            raise DatasetError(
                f"Item {i} of the {split} dataset is {_described(images[-1])} and item 0 {_described(images[0])}; bring all "
                f"to one shape."
            )
        if size > MAX_BYTES:
            raise DatasetError(f"The {split} data take more than {MAX_BYTES / 2**30:.0f} GiB; they are held in memory.")
    return (torch.stack(images) if images else torch.empty(0)), torch.tensor(labels, dtype=torch.int64)


def _items(data: Any) -> Iterator[Any]:
    """Items in order; many torch datasets have a length and no end."""
    return (data[i] for i in range(len(data))) if hasattr(data, "__len__") else iter(data)


def _label(split: str, i: int, label: Any) -> int:
    try:
        value = label.item() if isinstance(label, Tensor | np.ndarray | np.generic) else label
        if not isinstance(value, bool | float) and value == int(value):
            return int(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise DatasetError(f"The label of item {i} of the {split} dataset is {type(label).__name__}; give a whole number.")


def _tensor(split: str, part: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic | list):
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise DatasetError(
        f"The {split} {part} are {type(value).__name__}; give a tensor or an array of numbers (images of other libraries: "
        f"put a transform into the dataset that makes tensors)."
    )


def _check_alike(sets: Mapping[str, LabelledSet]) -> None:
    first = sets["fit"]
    for name, found in sets.items():
        if type(found) is not type(first) or found.sample_shape != first.sample_shape:
            raise DatasetError(f"The {name} inputs are {_described(found.images)}, those to fit {_described(first.images)}.")


def _check_disjoint(sets: Mapping[str, LabelledSet]) -> None:
    """Refuse a report split that is known from elsewhere: its scores would say nothing."""
    if "report" not in sets:
        return
    report = list(_fingerprints(sets["report"]))
    for name in ("select", "fit"):
        known = set(_fingerprints(sets[name])) if name in sets else set()
        repeated = sum(print_ in known for print_ in report)
        if repeated > MOST_REPEATED * len(report):
            raise SpecError(
                [
                    FieldError(
                        "/dataset/report_on",
                        f"{repeated:,} of {len(report):,} report samples are also in {name}: networks chosen or trained on "
                        f"samples cannot be reported on them. Give separate sets, or one set, which is then divided.",
                        f"{name}_is_report",
                    )
                ]
            )


def _fingerprints(data: LabelledSet) -> Iterator[int]:
    return (hash(image.numpy().tobytes()) for image in data.images)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
