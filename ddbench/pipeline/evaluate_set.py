"""The cells that evaluate a distilled set that the user gives, and random real images at its IPC."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ddbench.config.datasets import HUB_PREFIX
from ddbench.config.experiment import Experiment
from ddbench.config.given_sets import SUFFIXES
from ddbench.core.errors import DDBenchError
from ddbench.core.files import expand_user
from ddbench.data.dataset import Dataset
from ddbench.pipeline.given_sets import GivenSet, mean_count, open_hub_set, open_set, set_of_record
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.results import records
from ddbench.results.pooling import pool_top1
from ddbench.results.records import Record

SHOWN_CLASSES = 10
"""Largest number of classes that are listed with their names in the set."""
Print = Callable[[str], None]


def evaluation_cells(
    source: str,
    request: Request,
    workspace: Workspace,
    results_dir: Path,
    warn: Print,
    pixels: str | None = None,
    classes: Path | None = None,
    random_sets: int = 1,
) -> tuple[str, list[Experiment]]:
    """Reads a set, and returns the cells that train students on it and on random real images.

    Args:
        source: A file, a folder, the name of a record, or `hf:...`.
        request: The options. Its one dataset is that of the set; methods, IPCs and repeats are not used.
        workspace: The cache, the datasets and the executor. The set is added to it.
        results_dir: The folder of records.
        warn: Prints a line about the set.
        pixels: The space of float images; None: the set holds bytes.
        classes: The file that names the dataset's class of each class of the set; None: they are found by name.
        random_sets: The number of sets of random images.

    Returns:
        The method of the set, and the cells.

    Raises:
        DDBenchError: The set cannot be read, or an option is wrong.
    """
    first, *_ = experiments(replace(request, methods=("random",), ipcs=(1,), repeats=1), workspace.registry)
    dataset = workspace.dataset(first.dataset, first.data)
    given = _open(source, workspace, dataset, results_dir, pixels, classes)
    workspace.add_given_set(given)
    ipc = mean_count(given.counts)
    for line in _described(given, dataset, ipc):
        warn(line)
    default_evaluators = ("own",) if given.extras else ()
    chosen = replace(request, ipcs=(ipc,), evaluators=request.evaluators or default_evaluators)
    cells = experiments(replace(chosen, methods=(given.method,), repeats=1), workspace.registry)
    if random_sets:
        random = experiments(replace(chosen, methods=("random",), repeats=random_sets), workspace.registry)
        cells += [cell for cell in random if not cell.evaluator.for_one_set]
    return given.method, cells


def is_path(source: str) -> bool:
    """Returns whether a set is given by its path: it exists or looks like a path. Otherwise it is that of a record."""
    path = expand_user(Path(source))
    return path.suffix != ".json" and (path.exists() or os.sep in source or path.suffix.lower() in SUFFIXES)


def record_of(source: str, results_dir: Path) -> Record:
    """Reads the record of a set.

    Args:
        source: The name of the record or its beginning, or the path of its file.
        results_dir: The folder of the results, for a name.

    Raises:
        DDBenchError: There is no such record.
    """
    path = expand_user(Path(source))
    if path.suffix == ".json" and (os.sep in source or path.is_file()):
        return records.read(path)
    try:
        return records.read(records.find(results_dir / "records", source, of_set=True))
    except DDBenchError as error:
        raise DDBenchError(f"{source} is neither a file nor a folder, and as a record: {error}") from error


def _open(
    source: str, workspace: Workspace, dataset: Dataset, results_dir: Path, pixels: str | None, classes: Path | None
) -> GivenSet:
    if source.startswith(HUB_PREFIX):
        return open_hub_set(source, dataset, workspace.relay, pixels, classes)
    if is_path(source):
        return open_set(expand_user(Path(source)), dataset, pixels, classes)
    if pixels is not None:
        raise DDBenchError(f"--pixels {pixels}: {source} is no file, and the images of records are bytes")
    return set_of_record(record_of(source, results_dir), workspace.cache, workspace.dataset, dataset, classes)


def _described(given: GivenSet, dataset: Dataset, ipc: int) -> Iterator[str]:
    """Yields lines about a set: its size, and which class of the dataset each of its classes is."""
    counts, info = given.counts, dataset.info
    per_class = str(ipc) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    yield f"set: {given.method}, {sum(counts)} images of {len(counts)} classes, {per_class} per class"
    if "decode_factor" in given.tensors:
        factor = int(given.tensors["decode_factor"])
        yield f"decoder: each image holds {factor} x {factor} images, and students are trained on these, enlarged"
    if given.extras:
        parts = " and ".join({"learning_rate": "a learning rate"}.get(name, name) for name in given.extras)
        yield f"labels: the set has {parts}; the protocol own trains with these, and is the default for this set"
    if min(counts) != max(counts):
        yield f"note: the classes differ in the number of images; records and random images have the mean, IPC {ipc}"
    if given.set_classes == given.class_names:
        yield "classes: by their names"
        return
    pairs = [f"{own} = {title}" for own, title in zip(given.set_classes, info.class_titles, strict=True)]
    more = f", and {len(pairs) - SHOWN_CLASSES} more" if len(pairs) > SHOWN_CLASSES else ""
    yield f"classes: {', '.join(pairs[:SHOWN_CLASSES])}{more}"


def differences(made: Iterable[Record], method: str) -> Iterator[str]:
    """Yields the difference of mean top-1 between a set and random images, for each protocol and student.

    Args:
        made: The records of both.
        method: The method of the set.
    """
    grouped: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in made:
        grouped.setdefault((record.evaluator, record.student), {}).setdefault(record.method, []).append(record)
    for (evaluator, student), by_method in grouped.items():
        if len(by_method) == 2:
            own, random = (pool_top1(by_method[name]).mean for name in (method, "random"))
            yield f"difference to random, {evaluator}, {student}: {own - random:+.2f} percentage points"
