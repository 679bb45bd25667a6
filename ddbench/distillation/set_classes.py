"""Finds which class of a dataset each class of a set from a file is."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ddbench.core.errors import DDBenchError
from ddbench.data.imagenet import has_another_order

HINT = "name the dataset's class of each class of the set with --classes FILE"


def match_classes(names: Sequence[str], classes: Sequence[str], titles: Sequence[str] = ()) -> tuple[int, ...]:
    """Returns the class of a dataset for each class of a set.

    The names of the set are compared with these lists, in this order, and the first that matches is used: the names of
    the dataset's classes (identifiers such as wnids), their titles, their numbers 0 to K - 1, and their numbers among
    the 1,000 classes of ILSVRC. A number may follow `new`, as in the folders of SRe2L, and have leading zeros. Plain
    numbers 0 to K - 1 of a subset of ImageNet that has two orders are refused: the code of MTT does not sort the wnids.

    Args:
        names: The names of the set's classes.
        classes: The names of the dataset's classes.
        titles: The titles of the dataset's classes. Empty: there are none.

    Returns:
        The label of each name: each class once.

    Raises:
        DDBenchError: The set has another number of classes, or a name is not that of a class.

    Example:
        >>> match_classes(["dog", "cat"], ["cat", "dog"]), match_classes(["new000", "new001"], ["cat", "dog"])
        ((1, 0), (0, 1))
    """
    for known in (classes, titles):
        labels = _positions(names, known)
        if labels is not None:
            return labels
    matches = [re.fullmatch(r"(?:new)?(-?\d{1,9})", name) for name in names]
    if all(matches):
        labels = _by_number([int(match[1]) for match in matches if match], classes)
        if {*names} == {*map(str, range(len(classes)))} and has_another_order(classes):
            orders = "its classes have two orders: the sorted wnids, and that of the code of MTT or CMC"
            raise DDBenchError(f"the set numbers its classes, and {orders} (imagenet_subsets.yaml): {HINT}")
        return labels
    if len(names) != len(classes):
        present = {_same(name) for name in names}
        absent = next((f", e.g. not '{name}'" for name in classes if _same(name) not in present), "")
        own = "1 class" if len(names) == 1 else f"{len(names)} classes"
        raise DDBenchError(f"the set has {own}{absent}, and the dataset has {len(classes)}")
    odd = next((name for name in names if _same(name) not in {_same(other) for other in classes}), names[0])
    raise DDBenchError(f"'{odd}' in the set is not the name of a class of the dataset ('{classes[0]}', ...): {HINT}")


def _by_number(numbers: Sequence[int], classes: Sequence[str]) -> tuple[int, ...]:
    for known in (range(len(classes)), _ilsvrc_numbers(classes)):
        labels = _positions(numbers, known)
        if labels is not None:
            return labels
    last = len(classes) - 1
    beyond = [number for number in numbers if not 0 <= number <= last]
    if beyond:
        raise DDBenchError(f"the set has a class {beyond[0]}, and the classes of the dataset are 0 to {last}: {HINT}")
    absent = min(set(range(len(classes))) - set(numbers), default=None)
    if absent is None:
        raise DDBenchError(f"the set has {len(numbers)} classes with the numbers of {len(classes)}: {HINT}")
    raise DDBenchError(f"the set has no image of class {absent} ('{classes[absent]}')")


def read_mapping(path: Path, names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Reads the file of `--classes`: the dataset's class of each class of a set.

    Args:
        path: A UTF-8 text file. It has one class name of the dataset per line, in the order of the set's classes; or a
            JSON list of these names in this order; or a JSON object whose keys are the names of the set's classes and
            whose values are the names of the dataset's classes.
        names: The names of the set's classes, in their order.
        classes: The names of the dataset's classes.

    Returns:
        The label of each name.

    Raises:
        DDBenchError: The file cannot be read, or does not name each class of the dataset once.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.split("\n")
    except OSError as error:
        raise DDBenchError(f"--classes {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DDBenchError(f"--classes {path} is neither UTF-8 text nor JSON: write one class name per line") from error
    if isinstance(content, dict):
        absent = [name for name in names if name not in content]
        if absent or len(content) != len(names):
            odd = absent[0] if absent else next(name for name in content if name not in names)
            raise DDBenchError(f"--classes {path}: '{odd}' is a class of only one of the set and the file")
        content = [content[name] for name in names]
    lines = [line.strip() for line in content if isinstance(line, str) and line.strip()]
    if len(lines) != len(names) or len(content) < len(names):
        raise DDBenchError(f"--classes {path} names {len(lines)} classes, and the set has {len(names)}")
    labels = _positions(lines, classes)
    if labels is None:
        known = {_same(name) for name in classes}
        odd = next((line for line in lines if _same(line) not in known), None)
        problem = f"'{odd}' is not a class of the dataset" if odd else f"{len(classes)} distinct classes are needed"
        raise DDBenchError(f"--classes {path}: {problem}")
    return labels


def _positions(names: Sequence[object], known: Iterable[object]) -> tuple[int, ...] | None:
    """Returns the position of each name in `known`, if the names are exactly those of `known`."""
    numbers = {_same(name): number for number, name in enumerate(known)}
    labels = tuple(numbers.get(_same(name), -1) for name in names)
    return labels if sorted(labels) == list(range(len(numbers))) else None


def _same(name: object) -> object:
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def _ilsvrc_numbers(classes: Sequence[str]) -> list[int]:
    """Returns the number of each class among the 1,000 of ILSVRC; nothing if one of them is not among them."""
    from ddbench.nn.class_order import ilsvrc_wnids

    numbers = {wnid: number for number, wnid in enumerate(ilsvrc_wnids())}
    return [numbers[name] for name in classes] if set(classes) <= numbers.keys() else []
