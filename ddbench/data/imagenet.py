"""Opens ImageNet-1K and its subsets: the archives of fastai, and subsets of a local ImageNet by their wnids."""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddbench.api.dataset import Source
from ddbench.config.recipes import parse_plain_yaml
from ddbench.core.errors import DDBenchError
from ddbench.data.folders import find_folder, labelled_images, list_names, open_imagefolder
from ddbench.data.listing import Listing
from ddbench.data.source import FileSplit

ILSVRC = "-ilsvrc"
"""Ends the name of a subset whose plain name is that of an archive of fastai."""
VAL_IMAGES = 50
"""The validation images of each class of ILSVRC 2012."""
_FOLDERS = ("imagenet-1k", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
_WNID = re.compile(r"n\d{8}")


def subset_classes(name: str) -> dict[str, str]:
    """Returns the classes of a subset of ImageNet.

    Args:
        name: The dataset's name.

    Returns:
        The title of each wnid, in the order of the source of the list (see `imagenet_subsets.yaml`).

    Example:
        >>> list(subset_classes("imagenette").values())[:3]
        ['tench', 'English springer', 'cassette player']
    """
    classes: dict[str, str] = _subsets()[name.removesuffix(ILSVRC)]["classes"]
    return classes


def has_another_order(wnids: Sequence[str]) -> bool:
    """Returns whether classes are those of a subset whose list has another order than these wnids.

    Example:
        >>> has_another_order(sorted(subset_classes("imagewoof"))), has_another_order(list(subset_classes("imagewoof")))
        (True, False)
    """
    lists = [tuple(subset["classes"]) for subset in _subsets().values()]
    return any({*wnids} == {*classes} and tuple(wnids) != classes for classes in lists)


@functools.cache
def _subsets() -> Any:
    return parse_plain_yaml((Path(__file__).parent / "imagenet_subsets.yaml").read_text(encoding="utf-8"))


def open_fastai(name: str, data_dir: Path | None) -> Source:
    """Opens ImageNette or ImageWoof as fastai publishes them, in the largest of three sizes that exists.

    Args:
        name: `imagenette` or `imagewoof`.
        data_dir: The data folder; None: the default one.

    Returns:
        The source.

    Raises:
        DDBenchError: The folder is missing, or has other classes.
    """
    root = find_folder(name, data_dir, (f"{name}2", f"{name}2-320", f"{name}2-160"), ("train", "val"))
    source, titles = open_imagefolder(root), subset_classes(name)
    if set(source.class_names) != set(titles):
        odd = sorted(set(source.class_names) ^ set(titles))
        raise DDBenchError(
            f"{root} is not {name} of fastai ({list_names(odd, 'class', 'classes')} too many or missing); "
            f"for a set of your own use --dataset imagefolder:{root}"
        )
    return replace(source, class_titles=tuple(titles[name] for name in source.class_names))


def open_imagenet(data_dir: Path | None) -> Source:
    """Opens ImageNet-1K as train/WNID/*.JPEG and val/WNID/*.JPEG.

    Args:
        data_dir: The data folder; None: the default one.

    Returns:
        The source.

    Raises:
        DDBenchError: The folder is missing, or is not ImageNet-1K.
    """
    root = find_folder("imagenet-1k", data_dir, _FOLDERS, ("train", "val"))
    classes = Listing(root).classes("train")
    if len(classes) != 1000 or not all(_WNID.fullmatch(name) for name in classes):
        raise DDBenchError(
            f"{root} is not ImageNet-1K (train/ should hold 1000 wnid folders, it holds {len(classes)}); "
            f"for a set of your own use --dataset imagefolder:{root}"
        )
    return open_imagefolder(root)


def open_subset(name: str, data_dir: Path | None) -> Source:
    """Opens the classes of a subset in a folder of ImageNet-1K. The labels follow the sorted wnids.

    Args:
        name: The dataset's name.
        data_dir: The data folder; None: the default one. It holds ImageNet-1K, or a folder with the name of the
            dataset that has at least the classes of the subset.

    Returns:
        The source.

    Raises:
        DDBenchError: The folder or a class is missing, or the validation images are not those of ILSVRC.
    """
    root = find_folder(name, data_dir, (name, *_FOLDERS), ("train", "val"))
    titles = subset_classes(name)
    wnids = tuple(sorted(titles))
    listing, splits = Listing(root), {}
    for part in ("train", "val"):
        if absent := [wnid for wnid in wnids if not (root / part / wnid).is_dir()]:
            raise DDBenchError(
                f"{root} lacks classes of {name}: {list_names(absent, 'class', 'classes')} not in {part}/"
            )
        splits[part] = FileSplit(root, labelled_images(listing, [f"{part}/{wnid}" for wnid in wnids]))
    for label, count in Counter(splits["val"].labels.tolist()).items():
        if count != VAL_IMAGES:
            raise DDBenchError(
                f"{root / 'val' / wnids[label]} holds {count} images, and each class of ILSVRC has {VAL_IMAGES} "
                f"validation images; for a set of your own use --dataset imagefolder:{root}"
            )
    notes = [listing.note()]
    if wnids != tuple(titles):
        notes.append(f"the labels of {name} follow the sorted wnids; the list of its source has another order")
    titled = tuple(titles[wnid] for wnid in wnids)
    return Source(wnids, splits["train"], splits["val"], titled, tuple(filter(None, notes)))
