"""Datasets in folders: where they are found, their class order, and every way in which they can be broken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ddbench.core.errors import DDBenchError
from ddbench.data.folders import open_imagefolder, open_tiny_imagenet

MakeFolder = Callable[..., Path]
Damage = Callable[[Path], None]
WNIDS = ("n03", "n01", "n02")


def dot(path: Path, colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1, 1), (colour, 0, 0)).save(path, "PNG")


def tiny(root: Path, train: int = 2, val: int = 2) -> Path:
    """Tiny ImageNet's layout with three classes; validation images of the classes come mixed."""
    lines = []
    for k, wnid in enumerate(WNIDS):
        for number in range(train):
            dot(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes\n")
        for number in range(val):
            name = f"val_{number * len(WNIDS) + k}.JPEG"
            dot(root / "val" / "images" / name)
            lines.append(f"{name}\t{wnid}\t0\t0\t1\t1\n")
    (root / "val" / "val_annotations.txt").write_text("".join(sorted(lines)))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n01\tstandard poodle\nn02\ttabby, tabby cat\nn99\tnever seen\n")
    return root


def test_imagefolder_is_sorted_by_class_then_path(make_folder: MakeFolder) -> None:
    root = make_folder(classes=("bee", "Wasp", "ant"))
    dot(root / "train" / "bee" / "deep" / "er" / "9.PNG")
    dot(root / "train" / "bee" / ".hidden.png")
    (root / "train" / "bee" / "notes.txt").write_text("no image")
    (root / "train" / ".cache").mkdir()
    source = open_imagefolder(root)
    assert source.class_names == ("Wasp", "ant", "bee")
    assert source.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 4
    names = [Path(source.train.name(index)).relative_to(root).as_posix() for index in range(10)]
    assert names[6:] == ["train/bee/0.jpg", "train/bee/1.jpg", "train/bee/2.jpg", "train/bee/deep/er/9.PNG"]
    assert names == sorted(names)


def breakages() -> dict[Damage, str]:
    def no_train(root: Path) -> None:
        shutil.rmtree(root / "train")

    def parts_of_other_names(root: Path) -> None:
        (root / "train").rename(root / "Training")
        (root / "val").rename(root / "held back")

    def empty_class(root: Path) -> None:
        (root / "train" / "cow").mkdir()
        dot(root / "val" / "cow" / "0.png")

    def only_other_files(root: Path) -> None:
        for path in (root / "val" / "ant").iterdir():
            path.rename(path.with_suffix(".gif"))

    def no_images_at_all(root: Path) -> None:
        for path in root.rglob("*.jpg"):
            path.unlink()

    def class_missing_in_val(root: Path) -> None:
        shutil.rmtree(root / "val" / "bee")

    def class_missing_in_train(root: Path) -> None:
        for number in range(5):
            dot(root / "val" / f"x{number}" / "0.png")

    def no_class_folders(root: Path) -> None:
        shutil.rmtree(root / "val")
        dot(root / "val" / "0.png")

    return {
        no_train: r"^no folder {root}/train \(expected",
        parts_of_other_names: r"^no folder {root}/train, but Training/: rename .* to train/ and .* val, valid, vali",
        empty_class: r"^the folder {root}/train/cow holds no images \(\.jpg",
        only_other_files: r"^the folder {root}/val/ant holds no images \(\.jpg, .*\); it holds 2 \.gif$",
        no_images_at_all: r"^the folder {root}/train/ant holds no images",
        class_missing_in_val: r"^{root}: class 'bee' is in train/ but not in val/",
        class_missing_in_train: r"^{root}: classes 'x0', 'x1', 'x2' and 2 more are in val/ but not in train/",
        no_class_folders: r"^{root}/val holds no class folders \(.*; found 1 images outside .*\)",
    }


@pytest.mark.parametrize(("damage", "line"), breakages().items(), ids=lambda value: getattr(value, "__name__", ""))
def test_broken_imagefolder(make_folder: MakeFolder, damage: Damage, line: str) -> None:
    root = make_folder()
    damage(root)
    with pytest.raises(DDBenchError, match=line.format(root=root)):
        open_imagefolder(root)


def test_links_are_followed_and_a_circle_of_links_is_one_line(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    (root / "train" / "bee").rename(tmp_path / "elsewhere")
    (root / "train" / "bee").symlink_to(tmp_path / "elsewhere")
    assert open_imagefolder(root).train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    (root / "train" / "ant" / "circle").symlink_to(root / "train" / "ant")
    with pytest.raises(DDBenchError, match=r"circle is a link to a folder that is already part of .*ant$"):
        open_imagefolder(root)


@pytest.mark.parametrize(
    ("parts", "used"),
    [
        (("val",), "val"),
        (("valid",), "valid"),
        (("validation",), "validation"),
        (("test",), "test"),
        (("test", "val"), "val"),
        (("test", "validation", "valid"), "valid"),
    ],
)
def test_the_validation_images_have_one_of_four_names(
    make_folder: MakeFolder, parts: tuple[str, ...], used: str
) -> None:
    root = make_folder()
    (root / "val").rename(root / "held")
    for part in parts:
        shutil.copytree(root / "held", root / part)
    source = open_imagefolder(root)
    assert source.val is not None
    assert {Path(source.val.name(index)).relative_to(root).parts[0] for index in range(4)} == {used}
    messages = [] if parts == ("val",) else [f"the validation images of {root} are those in {used}/"]
    assert [note.partition(",")[0] for note in source.notes] == messages
    assert all(note.count("is not used") == len(parts) - 1 for note in source.notes)


def test_a_flat_folder_holds_training_images(make_folder: MakeFolder) -> None:
    root = make_folder() / "train"
    source = open_imagefolder(root)
    assert (source.class_names, source.val) == (("ant", "bee"), None)
    assert source.train.name(0) == f"{root}/ant/0.jpg"
    assert source.notes == (f"{root} has no train/: its 2 class folders are read as training images",)


@pytest.mark.parametrize("below", ["tiny-imagenet-200", "tiny-imagenet-mini/tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path: Path, below: str) -> None:
    root = tiny(tmp_path / below)
    for data_dir in (tmp_path, root):
        source = open_tiny_imagenet(data_dir)
        assert source.class_names == ("n01", "n02", "n03")
        assert source.class_titles == ("standard poodle", "tabby", "n03")
        assert source.train.labels.tolist() == source.val.labels.tolist() == [0, 0, 1, 1, 2, 2]
        # Class n01 is the second of each round of three validation images.
        assert [Path(source.val.name(index)).name for index in (0, 1)] == ["val_1.JPEG", "val_4.JPEG"]


def test_tiny_imagenet_subset_is_a_shorter_wnids_file(tmp_path: Path) -> None:
    root = tiny(tmp_path / "tiny-imagenet-200")
    (root / "wnids.txt").write_text("n03\nn01\n")
    source = open_tiny_imagenet(tmp_path)
    assert source.class_names == ("n01", "n03")
    assert source.val.labels.tolist() == [0, 0, 1, 1]


def tiny_breakages() -> dict[Damage, str]:
    def no_annotations(root: Path) -> None:
        (root / "val" / "val_annotations.txt").unlink()

    def odd_annotation(root: Path) -> None:
        (root / "val" / "val_annotations.txt").write_text("val_0.JPEG n01\n")

    def image_gone(root: Path) -> None:
        (root / "val" / "images" / "val_4.JPEG").unlink()

    def image_not_annotated(root: Path) -> None:
        dot(root / "val" / "images" / "val_77.JPEG")

    def class_gone(root: Path) -> None:
        shutil.rmtree(root / "train" / "n02")

    def class_without_training_images(root: Path) -> None:
        shutil.rmtree(root / "train" / "n02" / "images")

    def class_without_validation_images(root: Path) -> None:
        dot(root / "train" / "n04" / "images" / "0.JPEG")
        (root / "wnids.txt").write_text("n01\nn02\nn03\nn04\n")

    def no_classes(root: Path) -> None:
        (root / "wnids.txt").write_text("\n")

    return {
        no_annotations: "cannot read .*val_annotations.txt: No such file",
        odd_annotation: "val_annotations.txt, line 1: expected 'FILE<tab>WNID...', found 'val_0.JPEG n01'",
        image_gone: r"val/images/val_4.JPEG of val_annotations.txt does not exist",
        image_not_annotated: r"val/images/val_77.JPEG has no line in val_annotations.txt",
        class_gone: "class n02 of wnids.txt has no folder in train/",
        class_without_training_images: "train/n02 holds no images",
        class_without_validation_images: "class n04 has no image in val/",
        no_classes: "wnids.txt lists no class",
    }


@pytest.mark.parametrize(("damage", "line"), tiny_breakages().items(), ids=lambda value: getattr(value, "__name__", ""))
def test_broken_tiny_imagenet(tmp_path: Path, damage: Damage, line: str) -> None:
    damage(tiny(tmp_path / "tiny-imagenet-200"))
    with pytest.raises(DDBenchError, match=line):
        open_tiny_imagenet(tmp_path)
