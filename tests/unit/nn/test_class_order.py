"""Which output of a checkpoint belongs to which class: names that are given, in the file, of ILSVRC, or none."""

from pathlib import Path

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.nn.checkpoint_files import Checkpoint
from ddbench.nn.class_order import ilsvrc_wnids, outputs_of_classes, read_class_names

CLASSES = ("1", "10", "2")
IMAGENETTE = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079")


def named(*classes: str) -> Checkpoint:
    return Checkpoint(Path("a.pth"), {}, classes or None)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    ["1\n2\n10\n", "\ufeff1\r\n\r\n2\r\n10", '["1", "2", "10"]', '\n{"10": 2, "1": 0, "2": 1}'],
)
def test_a_file_of_class_names_gives_the_order(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "classes", text)
    assert read_class_names(path) == ("1", "2", "10")
    assert outputs_of_classes(named(), 3, CLASSES, path) == (0, 2, 1)
    assert outputs_of_classes(named("10", "2", "1"), 3, CLASSES, path) == (0, 2, 1)  # it overrides the file's names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no classes"),
        (b"\n \n", "names no classes"),
        (b"[1, 2]", "names no classes"),
        (b'["a", "b"', "is not JSON"),
        (b"a\nb\na\n", "names the class 'a' twice"),
        (b"caf\xe9\n", "is not UTF-8 text"),
    ],
)
def test_a_file_without_class_names_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(DDBenchError, match=message) as caught:
        read_class_names(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DDBenchError, match="cannot be read: No such file"):
        read_class_names(tmp_path / "absent.txt")


def test_names_in_the_checkpoint_give_the_order() -> None:
    assert outputs_of_classes(named(*CLASSES), 3, CLASSES, None) is None
    assert outputs_of_classes(named("1", "2", "10"), 3, CLASSES, None) == (0, 2, 1)
    assert outputs_of_classes(named("0", "1", "2", "10"), 4, CLASSES, None) == (1, 3, 2)  # a subset of its classes
    assert outputs_of_classes(named(), 3, CLASSES, None) is None
    # Composed and decomposed accents are one name.
    assert outputs_of_classes(named("b", "cafe\u0301"), 2, ("caf\u00e9", "b"), None) == (1, 0)


def test_names_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match=r"1 of the dataset's 3 classes are not among its class names .*'10'; give"):
        outputs_of_classes(named("1", "2", "3"), 3, CLASSES, None)
    with pytest.raises(DDBenchError, match="has 5 outputs, and its class names are 3"):
        outputs_of_classes(named("1", "2", "10"), 5, CLASSES, None)
    with pytest.raises(DDBenchError, match=r"has 3 outputs, and the names in .*classes.txt .* are 2"):
        outputs_of_classes(named(), 3, CLASSES, write(tmp_path / "classes.txt", "1\n2\n"))


def test_a_teacher_of_imagenet_gives_the_outputs_of_a_subset_by_its_wnids() -> None:
    wnids = ilsvrc_wnids()
    assert len(wnids) == 1000
    assert list(wnids) == sorted(wnids)  # the order of the sorted folders, as torchvision's networks were trained
    # The numbers that the literature gives for classes of ImageNette.
    assert outputs_of_classes(named(), 1000, IMAGENETTE, None) == (0, 217, 482, 491, 497)
    assert outputs_of_classes(named(), 1000, wnids, None) is None
    assert outputs_of_classes(named(), 1000, ("n01440764", "cat"), None) is None  # refused by the number of classes
    assert outputs_of_classes(named(), 999, IMAGENETTE, None) is None
