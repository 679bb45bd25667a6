"""Finds which output of a checkpoint belongs to which class of the dataset."""

import json
from pathlib import Path

from ddbench.core.errors import DDBenchError
from ddbench.core.files import refuse_url
from ddbench.core.text import composed
from ddbench.nn.checkpoint_files import Checkpoint, class_names

ILSVRC_CLASSES = 1000


def ilsvrc_wnids() -> tuple[str, ...]:
    """Returns the wnids of ILSVRC 2012 in the order of the outputs of torchvision's and timm's networks."""
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())  # type: ignore[no-untyped-call]


def read_class_names(path: Path) -> tuple[str, ...]:
    """Reads the file of `teacher.classes`.

    Args:
        path: A UTF-8 text file. It has one class name per line, or a JSON list of names, or a JSON object whose keys
            are the names and whose values are their numbers.

    Returns:
        The class names in order.

    Raises:
        DDBenchError: The file cannot be read, or a name is missing or occurs twice. The message is one line.
    """
    refuse_url(path, "teacher.classes")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DDBenchError(f"teacher.classes {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DDBenchError(f"teacher.classes {path} is not UTF-8 text") from error
    if text.lstrip().startswith(("[", "{")):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DDBenchError(f"teacher.classes {path} is not JSON: write one class name per line") from error
        names = class_names({"classes": content}) or ()
    else:
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise DDBenchError(f"teacher.classes {path} names no classes: write one class name per line, or a JSON list")
    if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
        raise DDBenchError(f"teacher.classes {path} names the class '{twice}' twice")
    return names


def outputs_of_classes(
    checkpoint: Checkpoint, count: int | None, classes: tuple[str, ...], given: Path | None
) -> tuple[int, ...] | None:
    """Finds the output of each class of the dataset.

    The names of the outputs are the first of these that exist: those of `teacher.classes`; those in the checkpoint; the
    classes of the dataset, if their number is that of the outputs; the wnids of ILSVRC, if the checkpoint has 1,000
    outputs and the classes of the dataset are among them.

    Args:
        checkpoint: The content of the checkpoint.
        count: Number of its outputs; None: unknown.
        classes: Class names of the dataset in its order.
        given: The file of `teacher.classes`.

    Returns:
        The outputs in the order of the classes. None: the outputs are the dataset's classes in its order, or the
        checkpoint has too many or too few of them.

    Raises:
        DDBenchError: There are names, but a class of the dataset is not among them, or the number of names is not that
            of the outputs.
    """
    names = checkpoint.classes if given is None else read_class_names(given)
    if names is None and count == ILSVRC_CLASSES != len(classes) and set(classes) <= set(ilsvrc_wnids()):
        names = ilsvrc_wnids()
    if names in (None, classes):
        return None
    assert names is not None
    source = "its class names" if given is None else f"the names in {given} (teacher.classes)"
    if count not in (None, len(names)):
        raise DDBenchError(f"checkpoint '{checkpoint.path}' has {count} outputs, and {source} are {len(names)}")
    # The spellings of one name with composed and decomposed accents are one class, as in image folders.
    numbers = {composed(name): number for number, name in enumerate(names)}
    outputs = {name: numbers.get(composed(name)) for name in classes}
    absent = [name for name, output in outputs.items() if output is None]
    if absent:
        advice = "" if given else "; give the order of its outputs: --set teacher.classes=FILE"
        raise DDBenchError(
            f"checkpoint '{checkpoint.path}': {len(absent)} of the dataset's {len(classes)} classes are not among "
            f"{source} ('{names[0]}', ...), e.g. '{absent[0]}'{advice}"
        )
    return tuple(output for output in outputs.values() if output is not None)
