"""Opens datasets of image files: class folders, and the layout of Tiny ImageNet."""

from collections.abc import Sequence
from pathlib import Path

from ddbench.api.dataset import MissingDataError, Source, default_data_dir
from ddbench.config.datasets import FOLDER_PREFIX, own_name
from ddbench.core.errors import DDBenchError
from ddbench.core.files import expand_user, refuse_url, require_utf8
from ddbench.core.text import composed
from ddbench.data.listing import Listing
from ddbench.data.source import FileSplit

VALIDATION_PARTS = ("val", "valid", "validation", "test")
"""The names of the folder of the validation images, in order of preference."""
_OTHER_PARTS = {"train", "training", "testing", "eval", "dev", *VALIDATION_PARTS}


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
    base = expand_user(data_dir or default_data_dir())
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


def find_imagefolder(name: str, data_dir: Path | None) -> Path:
    """Finds the images of a record, which contains no path: by the name of their folder, or as the data folder itself.

    Args:
        name: The name in the record, e.g. `imagefolder:pets@0123abcd`.
        data_dir: The data folder; None: the default one.

    Returns:
        The folder. Its images may differ from those of the record.

    Raises:
        MissingDataError: There is no such folder in the data folder or in the working directory.
    """
    own = own_name(name).removeprefix(FOLDER_PREFIX)
    base = expand_user(data_dir or default_data_dir())
    itself = base.name == own or (base / "train").is_dir()
    for folder in (base / own, *([base] if itself else []), Path(own)):
        if folder.is_dir():
            return folder
    raise MissingDataError(
        f"the images of {name} are needed, and a record does not say where they are: give {own}/, or the folder that "
        f"holds it, with --data-dir (a new run can also name it: --dataset {FOLDER_PREFIX}PATH)"
    )


def open_imagefolder(root: Path) -> Source:
    """Opens a folder of class folders; classes are sorted by folder name.

    The folder holds `train/CLASS/...` and the validation images in the first of `VALIDATION_PARTS` that exists. If none
    exists, the source has no validation images. If there is no `train` either, the class folders are directly in `root`
    and hold training images.

    Image files are found by suffix, at any depth of a class folder. A note of the source states what is ignored.

    Args:
        root: The folder.

    Returns:
        The source.

    Raises:
        DDBenchError: The folder does not exist, it has no classes, a class has no images or exists in one part only.
    """
    root = expand_user(root)
    require_utf8(root, "image folder")
    refuse_url(root, "the image folder")
    if not root.is_dir():
        raise MissingDataError(f"the image folder {root} does not exist (it should hold train/CLASS/ and val/CLASS/)")
    listing, notes = Listing(root), []
    parts = [part for part in VALIDATION_PARTS if (root / part).is_dir()]
    train = "train" if parts or (root / "train").is_dir() else ""
    classes = listing.classes(train)
    if not train:
        _refuse_parts_as_classes(root, classes)
        notes.append(f"{root} has no train/: its {len(classes)} class folders are read as training images")
    names = tuple(classes)
    split = FileSplit(root, labelled_images(listing, [f"{train}/{name}".lstrip("/") for name in names]))
    val = None
    if parts:
        val = _validation_split(listing, names, parts[0])
        if parts != ["val"]:
            others = "".join(f", {part}/ is not used" for part in parts[1:])
            notes.append(f"the validation images of {root} are those in {parts[0]}/{others}")
    return Source(names, split, val, names, tuple(filter(None, (*notes, listing.note()))))


def _validation_split(listing: Listing, names: tuple[str, ...], part: str) -> FileSplit:
    """Returns the validation images. A class folder may have another Unicode form of the name than in train/."""
    root, spelled = listing.root, {composed(name): name for name in listing.classes(part)}
    folders = {composed(name): name for name in names}
    for here, there, missing in (
        ("train", part, [name for form, name in folders.items() if form not in spelled]),
        (part, "train", [name for form, name in spelled.items() if form not in folders]),
    ):
        if missing:
            raise DDBenchError(f"{root}: {list_names(missing, 'class', 'classes')} in {here}/ but not in {there}/")
    return FileSplit(root, labelled_images(listing, [f"{part}/{spelled[composed(name)]}" for name in names]))


def labelled_images(listing: Listing, folders: Sequence[str]) -> list[tuple[int, str]]:
    """Lists the images of class folders with their labels, which are the positions of the folders."""
    return [(label, file) for label, folder in enumerate(folders) for file in listing.images(folder)]


def _refuse_parts_as_classes(root: Path, classes: Sequence[str]) -> None:
    if parts := [name for name in classes if name.casefold() in _OTHER_PARTS]:
        raise DDBenchError(
            f"no folder {root / 'train'}, but {', '.join(f'{name}/' for name in parts)}: rename the folder of the "
            f"training images to train/ and that of the validation images to one of {', '.join(VALIDATION_PARTS)}"
        )


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
    train = labelled_images(Listing(root), [f"train/{name}" for name in names])
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
    files = {Path(file).name: file for file in Listing(root).images("val")}
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


def list_names(names: list[str], one: str, many: str) -> str:
    """Lists up to three names: "class 'a' is", "classes 'a', 'b', 'c' and 4 more are"."""
    shown = ", ".join(f"'{name}'" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{one if len(names) == 1 else many} {shown}{more} {'is' if len(names) == 1 else 'are'}"
