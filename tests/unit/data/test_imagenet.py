"""ImageNet-1K, the archives of fastai, and subsets by wnids."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.data.imagenet import VAL_IMAGES, open_fastai, open_imagenet, open_subset, subset_classes
from ddbench.data.registry import ddbench_datasets

MakeFolder = Callable[..., Path]
IMAGENETTE = tuple(subset_classes("imagenette"))
# The numbers of the classes among the 1,000 of ILSVRC in utils.py of GeorgeCazenavette/mtt-distillation.
MTT = {
    "imagenette-ilsvrc": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
    "imagewoof-ilsvrc": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
    "imagefruit": [953, 954, 949, 950, 951, 957, 952, 945, 943, 948],
    "imagemeow": [281, 282, 283, 284, 285, 291, 292, 290, 289, 287],
    "imagesquawk": [84, 130, 88, 144, 145, 22, 96, 9, 100, 89],
    "imageyellow": [309, 986, 954, 951, 987, 779, 599, 291, 72, 11],
}
SPECS = {spec.name: spec for spec in ddbench_datasets()}


def test_classes_are_those_of_ilsvrc_with_their_names() -> None:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    wnids = info.label_names()
    for name in (*MTT, "imagenet-100"):
        classes = subset_classes(name)
        assert len(classes) == SPECS[name].classes
        for wnid, title in classes.items():
            assert title == info.index_to_description(wnids.index(wnid)).split(",")[0]
    for name, numbers in MTT.items():
        assert list(subset_classes(name)) == [wnids[number] for number in numbers]


def test_titles_of_imagenette_are_torchvisions() -> None:
    from torchvision.datasets import Imagenette

    assert {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()} == subset_classes("imagenette")


@pytest.mark.parametrize("size", ["imagenette2", "imagenette2-320", "imagenette2-160"])
def test_imagenette_in_the_data_folder_or_being_it(make_folder: MakeFolder, tmp_path: Path, size: str) -> None:
    root = make_folder(tmp_path / "data" / size, classes=IMAGENETTE, train=1, val=1)
    for data_dir in (root.parent, root):
        source = open_fastai("imagenette", data_dir)
        assert source.class_names == tuple(sorted(IMAGENETTE))
        assert source.class_titles[:2] == ("tench", "English springer")
        assert source.train.name(0) == str(root / "train" / "n01440764" / "0.jpg")


def test_imagewoof_has_titles_in_the_order_of_the_folders(make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder(tmp_path / "imagewoof2", classes=tuple(subset_classes("imagewoof")), train=1, val=1)
    source = open_fastai("imagewoof", tmp_path)
    assert source.class_names[:2] == ("n02086240", "n02087394")
    assert source.class_titles[:2] == ("Shih-Tzu", "Rhodesian ridgeback")


def test_imagenette_prefers_the_largest_and_refuses_another_set(make_folder: MakeFolder, tmp_path: Path) -> None:
    for size in ("imagenette2-160", "imagenette2"):
        make_folder(tmp_path / size, classes=IMAGENETTE, train=1, val=1)
    assert "/imagenette2/" in open_fastai("imagenette", tmp_path).train.name(0)
    for split in ("train", "val"):
        shutil.rmtree(tmp_path / "imagenette2" / split / "n01440764")
    with pytest.raises(DDBenchError, match=r"is not imagenette of fastai \(class 'n01440764' is .*imagefolder:"):
        open_fastai("imagenette", tmp_path)


def test_imagenet_needs_a_thousand_wnids(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "imagenet", classes=IMAGENETTE, train=1, val=1)
    with pytest.raises(DDBenchError, match=r"should hold 1000 wnid folders, it holds 10\).*imagefolder:"):
        open_imagenet(tmp_path)
    for k in range(990):
        for split in ("train", "val"):
            (root / split / f"n{k:08d}").mkdir()
            (root / split / f"n{k:08d}" / "0.JPEG").touch()
    source = open_imagenet(root)
    assert len(source.class_names) == 1000
    assert source.train.labels.tolist() == list(range(1000))


def make_imagenet(root: Path, wnids: tuple[str, ...], train: int = 2) -> Path:
    """Files without content: a source lists them without reading them."""
    for part, count in (("train", train), ("val", VAL_IMAGES)):
        for wnid in wnids:
            (root / part / wnid).mkdir(parents=True)
            for number in range(count):
                (root / part / wnid / f"{wnid}_{number}.JPEG").touch()
    return root


@pytest.mark.parametrize("below", ["imagenet-1k", "ILSVRC/Data/CLS-LOC", "imagemeow"])
def test_a_subset_is_its_classes_of_an_imagenet_folder(tmp_path: Path, below: str) -> None:
    wnids = tuple(subset_classes("imagemeow"))
    root = make_imagenet(tmp_path / below, (*wnids, "n01440764"))
    for data_dir in (tmp_path, root):
        source = open_subset("imagemeow", data_dir)
        assert source.class_names == tuple(sorted(wnids))
        assert source.class_titles[:2] == ("tabby", "tiger cat")
        assert source.class_titles[5:7] == ("lynx", "snow leopard")  # the list of the source: lion, tiger
        assert source.train.labels.tolist() == sorted(2 * list(range(10)))
        assert source.val is not None
        assert len(source.val.labels) == SPECS["imagemeow"].val_size == 500
        assert source.train.name(0) == str(root / "train" / "n02123045" / "n02123045_0.JPEG")
        assert source.notes == (
            "the labels of imagemeow follow the sorted wnids; the list of its source has another order",
        )


def test_a_subset_in_the_order_of_its_source_has_no_note(tmp_path: Path) -> None:
    make_imagenet(tmp_path / "imagenet", IMAGENETTE)
    assert open_subset("imagenette-ilsvrc", tmp_path).notes == ()


def test_a_subset_refuses_missing_classes_and_other_validation_images(tmp_path: Path) -> None:
    root = make_imagenet(tmp_path / "imagenet", IMAGENETTE, train=1)
    with pytest.raises(
        DDBenchError, match=r"lacks classes of imagewoof-ilsvrc: classes 'n02086240', .* and 7 more are not in train/"
    ):
        open_subset("imagewoof-ilsvrc", tmp_path)
    (root / "val" / "n02102040" / "one_more.JPEG").touch()
    with pytest.raises(DDBenchError, match=r"val/n02102040 holds 51 images, and each class of ILSVRC has 50"):
        open_subset("imagenette-ilsvrc", tmp_path)
