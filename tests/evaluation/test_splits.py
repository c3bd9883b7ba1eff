import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from automl_prune.errors import DatasetError
from automl_prune.evaluation.datasets.base import ImageSet
from automl_prune.evaluation.splits import IntArray, Splits, split


def labelled(counts: list[int], seed: int = 0) -> ImageSet:
    """Images of one pixel with so many of each class, mixed."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return ImageSet(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.from_numpy(labels.astype(np.int64)))


def class_counts(images: ImageSet, indices: IntArray, classes: int) -> IntArray:
    return np.bincount(images.labels.numpy()[indices], minlength=classes)


COUNTS = st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(lambda c: sum(c) >= 12)


@given(COUNTS, COUNTS, st.data())
def test_parts_are_disjoint_exact_and_stratified(
    train_counts: list[int], test_counts: list[int], data: st.DataObject
) -> None:
    train, test = labelled(train_counts), labelled(test_counts)
    select_size = data.draw(st.integers(1, len(train) - 2))
    fit_size = data.draw(st.integers(1, len(train) - select_size))
    report_size = data.draw(st.integers(1, len(test)))
    parts = split(train, test, select_size=select_size, fit_size=fit_size, report_size=report_size, seed=3)

    assert (parts.fit.size, parts.select.size, parts.report.size) == (fit_size, select_size, report_size)
    assert len(set(parts.fit) | set(parts.select)) == fit_size + select_size
    assert parts.report_from == "test"
    share = np.array(train_counts) * select_size / len(train)
    assert (np.abs(class_counts(train, parts.select, len(train_counts)) - share) < 1).all()
    left = np.array(train_counts) - class_counts(train, parts.select, len(train_counts))
    assert (np.abs(class_counts(train, parts.fit, len(train_counts)) - left * fit_size / left.sum()) < 1).all()
    share = np.array(test_counts) * report_size / len(test)
    assert (np.abs(class_counts(test, parts.report, len(test_counts)) - share) < 1).all()


@given(COUNTS, st.integers(0, 2**63 - 1))
def test_without_a_test_set_the_report_is_a_part_of_the_whole(counts: list[int], seed: int) -> None:
    train = labelled(counts)
    parts = split(train, None, select_size=4, seed=seed)
    together = np.concatenate([parts.fit, parts.select, parts.report])
    assert sorted(together) == list(range(len(train)))
    assert parts.report.size == round(0.2 * len(train))
    assert parts.report_from == "train"


def test_the_seed_alone_decides() -> None:
    train = labelled([50] * 10)

    def drawn(seed: int) -> Splits:
        return split(train, None, select_size=100, fit_size=200, seed=seed)

    torch.manual_seed(1)
    np.random.seed(1)
    first = drawn(5)
    torch.manual_seed(2)
    np.random.seed(2)
    assert drawn(5).to_json() == first.to_json()
    assert np.array_equal(drawn(5).select, first.select)
    assert drawn(6).ids != first.ids


def test_equal_labels_are_drawn_from_once_and_others_anew() -> None:
    def drawn(train: ImageSet, test: ImageSet | None, seed: int = 0) -> Splits:
        return split(train, test, select_size=5, seed=seed)

    train, test = labelled([9, 9, 9]), labelled([5, 5, 5], 1)
    first = drawn(train, test)
    assert drawn(labelled([9, 9, 9]), labelled([5, 5, 5], 1)) is first
    changed = labelled([9, 9, 9])
    changed.labels[0] = (changed.labels[0] + 1) % 3
    aside = ImageSet(train.images, train.labels, torch.arange(6))
    others = [drawn(changed, test), drawn(train, None), drawn(train, changed), drawn(train, test, 1), drawn(aside, test)]
    assert len({id(found) for found in [first, *others]}) == 6
    assert set(others[-1].select) <= set(range(6))


def test_other_sizes_do_not_move_the_select_split_when_there_is_a_test_set() -> None:
    train, test = labelled([50] * 4), labelled([20] * 4)
    whole = split(train, test, select_size=40, seed=0)
    small = split(train, test, select_size=40, fit_size=10, report_size=7, seed=0)
    assert whole.ids["select"] == small.ids["select"]
    assert whole.fit.size == 160
    assert whole.report.size == 80


def test_a_known_split_stays_what_it_was() -> None:
    """Guards against a change that would give stored searches other images under the same seed."""
    images = torch.zeros(60, 1, 1, 1, dtype=torch.uint8)
    train = ImageSet(images, torch.tensor([0, 1, 0, 2, 0, 1] * 10))
    test = ImageSet(images[:15], torch.tensor([0, 1, 2] * 5))
    parts = split(train, test, select_size=12, report_size=6, seed=0)
    assert parts.ids == {"fit": "f678378b718adc0d", "select": "124c3aee9f0aed01", "report": "6ed68bdb3ca3b75d"}


def test_spare_images_do_not_all_go_to_the_first_classes() -> None:
    train = labelled([3] * 20)
    drawn = [class_counts(train, split(train, None, select_size=10, seed=s).select, 20) for s in range(40)]
    assert np.sum(drawn, axis=0).min() > 5


def test_equal_indices_of_other_sources_have_other_ids() -> None:
    indices = np.arange(3)
    parts = Splits(fit=indices, select=indices, report=indices, report_from="test", seed=0)
    assert parts.ids["fit"] == parts.ids["select"] != parts.ids["report"]


@pytest.mark.parametrize(
    ("sizes", "pointer", "text"),
    [
        ({"select_size": 5000}, "/dataset/select_size", "Use 1 to 39"),
        ({"select_size": 40}, "/dataset/select_size", "Use 1 to 39"),
        ({"select_size": 10, "fit_size": 31}, "/dataset/fit_size", "Use 1 to 30"),
        ({"select_size": 10, "report_size": 21}, "/dataset/report_size", "Use 1 to 20"),
    ],
)
def test_too_large_a_part_is_refused_with_what_would_do(sizes: dict[str, int], pointer: str, text: str) -> None:
    with pytest.raises(DatasetError, match=text) as caught:
        split(labelled([20, 20]), labelled([10, 10]), seed=0, **sizes)
    assert caught.value.pointer == pointer


def test_too_few_images_to_divide_are_refused() -> None:
    with pytest.raises(DatasetError, match="more images") as caught:
        split(labelled([2]), None, select_size=1, seed=0)
    assert caught.value.pointer == "/dataset/report_size"
