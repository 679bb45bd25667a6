"""Opens datasets of image files: class folders, and the layout of Tiny ImageNet."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ddbench.api.dataset import MissingDataError, Source, default_data_dir
from ddbench.core.errors import DDBenchError
from ddbench.data.source import FileSplit

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
_WNID = re.compile(r"n\d{8}")
IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def find_folder(dataset: str, data_dir: Path | None, folders: Sequence[str], marks: Sequence[str]) -> Path:
    """Finds the folder of a dataset: a known folder in the data folder, or the data folder itself.

    Args:
        dataset: The dataset's name, for the error message.
        data_dir: The data folder; None: the default one.
        folders: The known folder names, in order of preference.
        marks: Glob patterns. The data folder itself is the dataset if every pattern matches something in it.

    Returns:
        The folder.

    Raises:
        MissingDataError: There is no such folder.
    """
    base = (data_dir or default_data_dir()).expanduser()
    if not base.is_dir():
        problem = f"the data folder {base} does not exist" if data_dir else "no data folder was given"
        raise MissingDataError(
            f"{dataset}: {problem}; give the folder that holds {folders[0]}/ with --data-dir or DDBENCH_DATA"
        )
    for folder in folders:
        if (base / folder).is_dir():
            return base / folder
    if all(any(base.glob(mark)) for mark in marks):
        return base
    names = ", ".join(f"{folder}/" for folder in folders)
    raise MissingDataError(
        f"{dataset}: {base} holds none of {names} and is not itself the dataset ({', '.join(marks)}); "
        "give the folder that holds it with --data-dir or DDBENCH_DATA"
    )


def open_imagefolder(root: Path) -> Source:
    """Opens a folder with `root`/train/CLASS/... and `root`/val/CLASS/...; classes are sorted by folder name.

    Image files are found by suffix, at any depth of a class folder. Hidden files are ignored.

    Args:
        root: The folder.

    Returns:
        The source.

    Raises:
        DDBenchError: The folder does not exist, it has no classes, a class has no images or exists in one split only.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise MissingDataError(f"the image folder {root} does not exist (it should hold train/CLASS/ and val/CLASS/)")
    classes = {split: _class_folders(root / split) for split in ("train", "val")}
    for here, there in (("train", "val"), ("val", "train")):
        missing = sorted(set(classes[here]) - set(classes[there]))
        if missing:
            raise DDBenchError(f"{root}: {_list_names(missing, 'class', 'classes')} in {here}/ but not in {there}/")
    names = tuple(classes["train"])
    train, val = (
        FileSplit(root, [(k, file) for k, name in enumerate(names) for file in _images(root, f"{split}/{name}")])
        for split in ("train", "val")
    )
    return Source(names, train, val, names)


def open_imagenette(data_dir: Path | None) -> Source:
    """Opens ImageNette in the largest of its three published sizes that exists.

    Args:
        data_dir: The data folder; None: the default one.

    Returns:
        The source.

    Raises:
        DDBenchError: The folder is missing, or is not ImageNette.
    """
    folders = ("imagenette2", "imagenette2-320", "imagenette2-160")
    root = find_folder("imagenette", data_dir, folders, ("train", "val"))
    source = open_imagefolder(root)
    if set(source.class_names) != set(IMAGENETTE):
        odd = sorted(set(source.class_names) ^ set(IMAGENETTE))
        raise DDBenchError(
            f"{root} is not ImageNette ({_list_names(odd, 'class', 'classes')} too many or missing); "
            f"for a set of your own use --dataset imagefolder:{root}"
        )
    return Source(source.class_names, source.train, source.val, tuple(IMAGENETTE[n] for n in source.class_names))


def open_imagenet(data_dir: Path | None) -> Source:
    """Opens ImageNet-1K as train/WNID/*.JPEG and val/WNID/*.JPEG.

    Args:
        data_dir: The data folder; None: the default one.

    Returns:
        The source.

    Raises:
        DDBenchError: The folder is missing, or is not ImageNet-1K.
    """
    folders = ("imagenet-1k", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
    root = find_folder("imagenet-1k", data_dir, folders, ("train", "val"))
    classes = _class_folders(root / "train")
    if len(classes) != 1000 or not all(_WNID.fullmatch(name) for name in classes):
        raise DDBenchError(
            f"{root} is not ImageNet-1K (train/ should hold 1000 wnid folders, it holds {len(classes)}); "
            f"for a set of your own use --dataset imagefolder:{root}"
        )
    return open_imagefolder(root)


def open_tiny_imagenet(data_dir: Path | None) -> Source:
    """Opens Tiny ImageNet: train/WNID/images/, val/images/ with val/val_annotations.txt, wnids.txt and words.txt.

    The classes are the sorted lines of wnids.txt. Images of other classes are ignored, so a shorter wnids.txt makes a
    subset.

    Args:
        data_dir: The data folder; None: the default one.

    Returns:
        The source.

    Raises:
        DDBenchError: A class has no training or no validation images, or a validation image lacks its file or its
            annotation.
    """
    folders = ("tiny-imagenet-200", "tiny-imagenet-mini/tiny-imagenet-200")
    root = find_folder("tiny-imagenet", data_dir, folders, ("wnids.txt", "train", "val"))
    names = tuple(sorted(set(_lines(root / "wnids.txt"))))
    if not names:
        raise DDBenchError(f"{root / 'wnids.txt'} lists no class")
    for name in names:
        if not (root / "train" / name).is_dir():
            raise DDBenchError(f"{root}: class {name} of wnids.txt has no folder in train/")
    train = [(k, file) for k, name in enumerate(names) for file in _images(root, f"train/{name}")]
    val = _annotated(root, names)
    for k in sorted(set(range(len(names))) - {label for label, _ in val}):
        raise DDBenchError(f"{root}: class {names[k]} has no image in val/ (see val/val_annotations.txt)")
    words: dict[str, str] = {}
    if (root / "words.txt").is_file():
        words = {wnid: text for wnid, _, text in (line.partition("\t") for line in _lines(root / "words.txt"))}
    titles = tuple(words.get(name, name).split(",")[0].strip() for name in names)
    return Source(names, FileSplit(root, train), FileSplit(root, val), titles)


def _annotated(root: Path, names: tuple[str, ...]) -> list[tuple[int, str]]:
    annotations = root / "val" / "val_annotations.txt"
    wnids: dict[str, str] = {}
    for number, line in enumerate(_lines(annotations), 1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise DDBenchError(f"{annotations}, line {number}: expected 'FILE<tab>WNID...', found '{line[:60]}'")
        wnids[fields[0]] = fields[1]
    files = {Path(file).name: file for file in _images(root, "val")}
    for file in sorted(wnids.keys() ^ files.keys()):
        problem = "has no line in val_annotations.txt" if file in files else "of val_annotations.txt does not exist"
        raise DDBenchError(f"{root}: validation image val/images/{file} {problem}")
    labels = {name: k for k, name in enumerate(names)}
    return [(labels[wnid], files[file]) for file, wnid in wnids.items() if wnid in labels]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DDBenchError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _class_folders(split: Path) -> list[str]:
    if not split.is_dir():
        raise DDBenchError(f"no folder {split} (expected {split}/CLASS/IMAGE)")
    entries = _entries(split)
    names = sorted(name for name, is_folder in entries if is_folder)
    if not names:
        files = sum(name.lower().endswith(_SUFFIXES) for name, _ in entries)
        content = f"{files} images outside of class folders" if files else "nothing"
        raise DDBenchError(f"{split} holds no class folders (expected {split}/CLASS/IMAGE; found {content})")
    return names


def _images(root: Path, folder: str) -> list[str]:
    """Returns the relative paths of the image files below `root`/`folder`, at any depth.

    Raises DDBenchError if there are none, or if a link points to a folder that was visited already.
    """
    files: list[str] = []
    pending = [folder]
    visited: set[str] = set()
    while pending:
        current = pending.pop()
        real = os.path.realpath(root / current)
        if real in visited:
            raise DDBenchError(f"{root / current} is a link to a folder that is already part of {root / folder}")
        visited.add(real)
        for name, is_folder in _entries(root / current):
            if is_folder:
                pending.append(f"{current}/{name}")
            elif name.lower().endswith(_SUFFIXES):
                files.append(f"{current}/{name}")
    if not files:
        raise DDBenchError(f"the folder {root / folder} holds no images ({', '.join(_SUFFIXES)})")
    return files


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Returns name and type (whether it is a folder; links are followed) of the entries that are not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DDBenchError(f"cannot list {folder}: {error.strerror or error}") from error


def _list_names(names: list[str], one: str, many: str) -> str:
    """Lists up to three names: "class 'a' is", "classes 'a', 'b', 'c' and 4 more are"."""
    shown = ", ".join(f"'{name}'" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{one if len(names) == 1 else many} {shown}{more} {'is' if len(names) == 1 else 'are'}"
