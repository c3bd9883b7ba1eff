"""Three disjoint sets of images: *fit* trains, *select* scores candidates, *report* is looked at once, at the end."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from automl_prune.errors import DatasetError
from automl_prune.evaluation.datasets.base import LabelledSet

IntArray = npt.NDArray[np.int64]

REPORT_SHARE = 0.2  # of the whole, where there is no official test set and no size was asked for


@dataclass(frozen=True, eq=False)
class Splits:
    """Which images are for what; every array is int64, ascending.

    Attributes:
        fit, select: Indices into the training images.
        report: Indices into the test images, or into the training images where there are no others.
        report_from: Which of the two.
        seed: What the division was drawn with.
    """

    fit: IntArray
    select: IntArray
    report: IntArray
    report_from: Literal["train", "test"]
    seed: int

    @cached_property
    def ids(self) -> Mapping[str, str]:
        """A short SHA-256 of each part's source and indices: equal ids, equal images."""
        parts = {"fit": ("train", self.fit), "select": ("train", self.select), "report": (self.report_from, self.report)}
        return {name: _digest(source, indices) for name, (source, indices) in parts.items()}

    def to_json(self) -> dict[str, Any]:
        """Size, source and id of each part, and the seed; enough for a result to name its splits."""
        sources = {"fit": "train", "select": "train", "report": self.report_from}
        sizes = {"fit": self.fit.size, "select": self.select.size, "report": self.report.size}
        return {"seed": self.seed} | {
            name: {"from": sources[name], "size": sizes[name], "sha256": self.ids[name]} for name in sources
        }


def split(
    train: LabelledSet,
    test: LabelledSet | None,
    *,
    select_size: int,
    fit_size: int | None = None,
    report_size: int | None = None,
    seed: int,
) -> Splits:
    """Divide images into fit, select and report, each stratified by class and drawn with the seed alone.

    Without test images a part of the training images becomes the report split; what the source itself sets aside to select
    on is drawn from for that, and never trained on. Every class gets its proportional
    share of a part, rounded up or down so that the size is exact.

    Args:
        train: The training images as loaded.
        test: The official test images, if there are any.
        select_size: Training images held out to score candidates.
        fit_size: Images to train on; None takes all that are left.
        report_size: Images to report on; None takes all test images, or ``REPORT_SHARE`` of the training images.
        seed: Not negative; neither torch's nor numpy's global generator is used.

    Raises:
        DatasetError: A size is larger than what there is.
    """
    drawn_from = (_Indices(train.labels.numpy()), _content(train.select), _content(None if test is None else test.labels))
    return _split(*drawn_from, select_size, fit_size, report_size, seed)


class _Indices:
    """An array that is known by what is in it: equal contents, equal splits."""

    def __init__(self, array: IntArray) -> None:
        self.array = array
        self._digest = hashlib.sha256(array.tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Indices) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


def _content(indices: Tensor | None) -> _Indices | None:
    return None if indices is None else _Indices(indices.numpy())


@lru_cache(maxsize=8)  # a server checks many orders on few datasets
def _split(
    train: _Indices,
    set_aside: _Indices | None,
    test: _Indices | None,
    select_size: int,
    fit_size: int | None,
    report_size: int | None,
    seed: int,
) -> Splits:
    labels = train.array
    aside = np.empty(0, np.int64) if set_aside is None else np.unique(set_aside.array)
    rest = np.setdiff1d(np.arange(len(labels)), aside)
    if test is not None:
        available = len(test.array)
        _check_size("report_size", report_size or available, available, "test images")
        report = _stratified(test.array, np.arange(available), report_size or available, seed, "report")
    else:
        report_size = report_size or max(1, round(REPORT_SHARE * len(labels)))
        _check_size("report_size", report_size, len(rest) - 2, "training images less one each to select and fit")
        report = _stratified(labels, rest, report_size, seed, "report")
        rest = np.setdiff1d(rest, report)
    if set_aside is None:
        _check_size("select_size", select_size, len(rest) - 1, "training images left, less one to fit")
        select = _stratified(labels, rest, select_size, seed, "select")
        rest = np.setdiff1d(rest, select)
    else:
        _check_size("select_size", select_size, len(aside), "images set aside to select on")
        select = _stratified(labels, aside, select_size, seed, "select")
    _check_size("fit_size", fit_size or len(rest), len(rest), "training images left after select and report")
    fit = _stratified(labels, rest, fit_size or len(rest), seed, "fit")
    return Splits(fit, select, report, "train" if test is None else "test", seed)


def _check_size(field: str, size: int, most: int, of: str) -> None:
    if not 1 <= size <= most:
        raise DatasetError(
            f"{field} is {size:,}; there are {max(most, 0):,} {of}. "
            + (f"Use 1 to {most:,}." if most > 0 else "Use a dataset with more images."),
            pointer=f"/dataset/{field}",
        )


def _stratified(labels: IntArray, pool: IntArray, size: int, seed: int, part: str) -> IntArray:
    """``size`` indices of ``pool``, ascending, with the class proportions of the pool."""
    # Raw bits of PCG64 keep their order over numpy versions, which Generator's methods do not promise.
    bits = np.random.PCG64(np.random.SeedSequence([seed, *part.encode()]))
    order = pool[np.argsort(bits.random_raw(len(pool)), kind="stable")]
    classes, inverse, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    quotas = _largest_remainders(counts, size, bits.random_raw(len(classes)))
    by_class = np.argsort(inverse, kind="stable")
    rank = np.arange(len(pool)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[by_class][rank < np.repeat(quotas, counts)])


def _largest_remainders(counts: IntArray, size: int, ties: npt.NDArray[np.uint64]) -> IntArray:
    """Whole numbers that sum to ``size``, each within 1 of its share; equal remainders are ranked by ``ties``."""
    quotas, remainders = np.divmod(counts * size, counts.sum())
    first = np.lexsort((ties, -remainders))
    quotas[first[: size - quotas.sum()]] += 1
    return quotas


def _digest(source: str, indices: IntArray) -> str:
    return hashlib.sha256(source.encode() + indices.astype("<i8").tobytes()).hexdigest()[:16]
