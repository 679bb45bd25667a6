"""Datasets that are folders of image files: class folders, and Tiny ImageNet's own layout."""

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
    """The first of `folders` in the data folder, else the data folder itself.

    Itself only if something in it matches each of the patterns `marks`. Raises MissingDataError saying what
    was looked for, where, and how to give the data folder.
    """
    base = (data_dir or default_data_dir()).expanduser()
    if not base.is_dir():
        given = f"the data folder {base} does not exist" if data_dir else "no data folder was given"
        raise MissingDataError(
            f"{dataset}: {given}; give the folder that holds {folders[0]}/ with --data-dir or DDBENCH_DATA"
        )
    for folder in folders:
        if (base / folder).is_dir():
            return base / folder
    if all(any(base.glob(mark)) for mark in marks):
        return base
    looked = ", ".join(f"{folder}/" for folder in folders)
    raise MissingDataError(
        f"{dataset}: {base} holds none of {looked} and is not itself the dataset ({', '.join(marks)}); "
        "give the folder that holds it with --data-dir or DDBENCH_DATA"
    )


def open_imagefolder(root: Path) -> Source:
    """A person's own `root`/train/CLASS/... and `root`/val/CLASS/..., classes sorted by folder name.

    Image files are found by suffix at any depth of a class folder; hidden files are passed over. Raises
    DDBenchError: no folder, no classes, an empty class folder, a class that only one split has.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise MissingDataError(f"the image folder {root} does not exist (it should hold train/CLASS/ and val/CLASS/)")
    classes = {split: _class_folders(root / split) for split in ("train", "val")}
    for here, there in (("train", "val"), ("val", "train")):
        missing = sorted(set(classes[here]) - set(classes[there]))
        if missing:
            raise DDBenchError(f"{root}: {_some(missing, 'class', 'classes')} in {here}/ but not in {there}/")
    names = tuple(classes["train"])
    train, val = (
        FileSplit(root, [(k, file) for k, name in enumerate(names) for file in _images(root, f"{split}/{name}")])
        for split in ("train", "val")
    )
    return Source(names, train, val, names)


def open_imagenette(data_dir: Path | None) -> Source:
    """ImageNette in any of its three published sizes (the largest that is there). Raises DDBenchError."""
    folders = ("imagenette2", "imagenette2-320", "imagenette2-160")
    root = find_folder("imagenette", data_dir, folders, ("train", "val"))
    source = open_imagefolder(root)
    if set(source.class_names) != set(IMAGENETTE):
        odd = sorted(set(source.class_names) ^ set(IMAGENETTE))
        raise DDBenchError(
            f"{root} is not ImageNette ({_some(odd, 'class', 'classes')} too many or missing); "
            f"for a set of your own use --dataset imagefolder:{root}"
        )
    return Source(source.class_names, source.train, source.val, tuple(IMAGENETTE[n] for n in source.class_names))


def open_imagenet(data_dir: Path | None) -> Source:
    """ImageNet-1K as train/WNID/*.JPEG and val/WNID/*.JPEG. Raises DDBenchError."""
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
    """Tiny ImageNet in its native layout.

    That is train/WNID/images/, val/images/ with val/val_annotations.txt, wnids.txt, words.txt. The classes
    are those of wnids.txt, sorted, so a subset is a shorter wnids.txt: images of other classes are passed
    over. Raises DDBenchError: a listed class without training or validation images, a validation image
    without a file or without an annotation.
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
        problem = "has no line in val_annotations.txt" if file in files else "of val_annotations.txt is not there"
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
        found = f"{files} images that are in no class folder" if files else "nothing"
        raise DDBenchError(f"{split} holds no class folders (expected {split}/CLASS/IMAGE; found {found})")
    return names


def _images(root: Path, folder: str) -> list[str]:
    """Relative paths of the image files below `root`/`folder`, at any depth.

    Raises DDBenchError where there is none, and where a link leads back to a folder that was there already.
    """
    found: list[str] = []
    pending = [folder]
    seen: set[str] = set()
    while pending:
        here = pending.pop()
        real = os.path.realpath(root / here)
        if real in seen:
            raise DDBenchError(f"{root / here} is a link to a folder that is in {root / folder} already")
        seen.add(real)
        for name, is_folder in _entries(root / here):
            if is_folder:
                pending.append(f"{here}/{name}")
            elif name.lower().endswith(_SUFFIXES):
                found.append(f"{here}/{name}")
    if not found:
        raise DDBenchError(f"the folder {root / folder} holds no images ({', '.join(_SUFFIXES)})")
    return found


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Name and whether it is a folder (links are followed) of everything in `folder` that is not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DDBenchError(f"cannot list {folder}: {error.strerror or error}") from error


def _some(names: list[str], one: str, many: str) -> str:
    """'class 'a' is', 'classes 'a', 'b', 'c' and 4 more are': enough to see what is meant, in one line."""
    shown = ", ".join(f"'{name}'" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{one if len(names) == 1 else many} {shown}{more} {'is' if len(names) == 1 else 'are'}"
