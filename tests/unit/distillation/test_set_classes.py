"""Classes of a set from a file are matched with those of a dataset, or refused; never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.data.imagenet import subset_classes
from ddbench.distillation.set_classes import match_classes, read_mapping
from ddbench.nn.class_order import ilsvrc_wnids

CLASSES, TITLES = ("n01440764", "n02102040", "n02979186"), ("tench", "English springer", "cassette player")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("n02102040", "n01440764", "n02979186"), (1, 0, 2)),
        (("cassette player", "tench", "English springer"), (2, 0, 1)),
        (("0", "1", "2"), (0, 1, 2)),
        (("00002", "00000", "00001"), (2, 0, 1)),
        (("new000", "new001", "new002"), (0, 1, 2)),
        (("0", "217", "482"), (0, 1, 2)),  # their numbers in ILSVRC
        (("new482", "new000", "new217"), (2, 0, 1)),
    ],
)
def test_classes_by_name_and_by_number(names: tuple[str, ...], labels: tuple[int, ...]) -> None:
    assert [ilsvrc_wnids()[number] for number in (0, 217, 482)] == list(CLASSES)
    assert match_classes(names, CLASSES, TITLES) == labels


def test_names_come_before_numbers_and_unicode_forms_are_one() -> None:
    assert match_classes(("0", "1"), ("1", "0")) == (1, 0)
    assert match_classes(("cafe\u0301", "tea"), ("tea", "caf\u00e9")) == (1, 0)


def test_plain_numbers_are_refused_where_the_code_of_a_paper_has_another_order() -> None:
    """Tensors of MTT number the dogs of ImageWoof in the order of its code, folders of SRe2L in that of the wnids."""
    dogs, plain = sorted(subset_classes("imagewoof")), [str(number) for number in range(10)]
    with pytest.raises(DDBenchError, match=r"its classes have two orders: .* with --classes FILE"):
        match_classes(plain, dogs)
    assert match_classes([f"new{number:03d}" for number in range(10)], dogs) == tuple(range(10))
    assert match_classes([f"{number:05d}" for number in range(10)], dogs) == tuple(range(10))
    assert match_classes(plain, sorted(subset_classes("imagenette"))) == tuple(range(10))  # one order


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0", "1"), r"the set has no image of class 2 \('n02979186'\)"),
        (("1", "2", "3"), "the set has a class 3, and the classes of the dataset are 0 to 2"),
        (("0", "1", "2", "3"), "the set has a class 3"),
        (("-1", "0", "1"), "the set has a class -1"),
        (("0", "00", "1", "2"), "the set has 4 classes with the numbers of 3"),
        (("tench", "cassette player"), "the set has 2 classes, e.g. not 'n01440764', and the dataset has 3"),
        (("tench", "cassette player", "dog"), "'tench' in the set is not the name of a class of the dataset"),
    ],
)
def test_what_is_in_doubt_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DDBenchError, match=message):
        match_classes(names, CLASSES, TITLES)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("n02102040\nn01440764\n\nn02979186\n", (1, 0, 2)),
        ('["n02979186", "n01440764", "n02102040"]', (2, 0, 1)),
        ('{"fish": "n01440764", "dog": "n02102040", "tape": "n02979186"}', (1, 0, 2)),
    ],
)
def test_the_file_names_the_class_of_each_class(text: str, labels: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "classes").write_text(text)
    assert read_mapping(tmp_path / "classes", ("dog", "fish", "tape"), CLASSES) == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764\nn02102040\n", "names 2 classes, and the set has 3"),
        ("n01440764\nn02102040\nn0\n", "'n0' is not a class of the dataset"),
        ("n01440764\nn02102040\nn01440764\n", "3 distinct classes are needed"),
        ('{"fish": "n01440764"}', "'dog' is a class of only one of the set and the file"),
        ("[1, 2, 3]", "names 0 classes"),
        ("[", "is neither UTF-8 text nor JSON"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes").write_text(text)
    with pytest.raises(DDBenchError, match=message):
        read_mapping(tmp_path / "classes", ("dog", "fish", "tape"), CLASSES)
