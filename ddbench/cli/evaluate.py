"""`ddbench evaluate`: students on a distilled set from files or from a record."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli import options
from ddbench.config.given_sets import SPACES, SUFFIXES, ZCA
from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.core.files import expand_user
from ddbench.execution import choose, launch

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.pipeline.given_sets import GivenSet
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record

SHOWN_CLASSES = 10
"""Largest number of classes that are listed with their names in the set."""


@options.command("evaluate")
@click.argument("source", metavar="SET")
@click.option("--dataset", required=True, help="Dataset that the set was distilled from.")
@options.names(
    "--student", "students", help="Networks of the students (default: ConvNets under dsa and own, else the teacher's)."
)
@options.names(
    "--evaluator", "evaluators", help="Protocols (default: fkd; own for a set with soft labels or a learning rate)."
)
@click.option(
    "--pixels",
    type=click.Choice([*SPACES, ZCA]),
    help="Space of float images: unit (0 to 1), or normalised by the mean and deviation of this dataset (zca is "
    "refused).",
)
@click.option(
    "--classes",
    type=options.LocalPath(path_type=Path),
    help="File that maps the set's classes to the dataset's: one dataset class per line, in the order of the set's "
    "classes, or JSON.",
)
@click.option(
    "--random/--no-random", "with_random", default=True, help="Also evaluate random real images at this IPC (default)."
)
@options.experiment
@options.executor
@options.time_limit
@options.data
@options.results
@options.cache
@options.wide
@click.pass_obj
def evaluate_command(
    registry: PluginRegistry,
    /,
    source: str,
    dataset: str,
    pixels: str | None,
    classes: Path | None,
    with_random: bool,
    results_dir: Path,
    cache_dir: Path,
    data_dir: Path | None,
    wide: bool,
    time_limit: float | None,
    executor: str,
    ray_address: str | None,
    assignments: tuple[str, ...],
    repeats: int,
    **request_fields: Any,
) -> None:
    """Trains students on a given distilled set.

    Prints their top-1 on the real validation set. SET is a folder of class folders, a file (.safetensors, .npz, .pt), a
    folder that ddbench export wrote, or the name of a record. The same students are trained on random real images, and
    the difference is printed. --repeats is the number of sets of random images.
    """
    from ddbench.pipeline import run as running
    from ddbench.pipeline.given_sets import mean_count
    from ddbench.pipeline.request import Request, experiments
    from ddbench.pipeline.workspace import Workspace

    executor_used, assignments = choose.choose(executor, ray_address, assignments, registry)
    request = Request(methods=(), datasets=(dataset,), ipcs=(1,), assignments=assignments, **request_fields)
    data = experiments(replace(request, methods=("random",)), registry)[0].data
    workspace = Workspace(registry, options.open_cache(cache_dir), data_dir, executor=executor_used)

    def work() -> bool:
        with (
            options.kept_tracebacks(registry, results_dir),
            interruption.handle_signals(time_limit and time_limit * 60),
        ):
            given = _open(source, workspace, workspace.dataset(dataset, data), results_dir, pixels, classes)
            workspace.add_given_set(given)
            ipc = mean_count(given.counts)
            for line in _described(given, workspace.dataset(dataset, data), ipc):
                options.print_error(line)
            chosen = replace(request, ipcs=(ipc,), evaluators=request.evaluators or default_evaluators(given))
            cells = experiments(replace(chosen, methods=(given.method,)), registry)
            if with_random:
                cells += experiments(replace(chosen, methods=("random",), repeats=repeats), registry)
            records = running.run(cells, workspace, results_dir, options.print_result, options.print_error, wide=wide)
            for line in differences(records, given.method):
                options.print_result(line)
            return len(records) == len(cells)

    if launch.run_distributed(work, workspace) is False:
        sys.exit(1)


def _open(
    source: str, workspace: Workspace, dataset: Dataset, results_dir: Path, pixels: str | None, classes: Path | None
) -> GivenSet:
    """Opens the set: a path if it exists or looks like one, else the name of a record."""
    from ddbench.pipeline.given_sets import open_set, set_of_record
    from ddbench.results import records

    path = expand_user(Path(source))
    if path.exists() or os.sep in source or path.suffix.lower() in SUFFIXES:
        return open_set(path, dataset, pixels, classes)
    if pixels is not None:
        raise DDBenchError(f"--pixels {pixels}: {source} is no file, and the images of records are bytes")
    try:
        record = records.read(records.find(results_dir / "records", source))
    except DDBenchError as error:
        raise DDBenchError(f"{source} is neither a file nor a folder, and as a record: {error}") from error
    return set_of_record(record, workspace.cache, workspace.dataset, dataset, classes)


def default_evaluators(given: GivenSet) -> tuple[str, ...]:
    """Returns the protocols that are used if none is chosen: `own` for a set with soft labels or a learning rate."""
    return ("own",) if given.extras else ()


def _described(given: GivenSet, dataset: Dataset, ipc: int) -> Iterator[str]:
    """Yields lines about a set: its size, and which class of the dataset each of its classes is."""
    counts, info = given.counts, dataset.info
    per_class = str(ipc) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    yield f"set: {given.method}, {sum(counts)} images of {len(counts)} classes, {per_class} per class"
    if given.extras:
        parts = ", ".join(name.replace("_", " ") for name in given.extras)
        yield f"labels: the set has {parts}; the protocol own trains on them, and is the default for this set"
    if min(counts) != max(counts):
        yield f"note: the classes differ in the number of images; records and random images have the mean, IPC {ipc}"
    if given.set_classes == given.class_names:
        yield "classes: by their names"
        return
    pairs = [f"{own} = {title}" for own, title in zip(given.set_classes, info.class_titles, strict=True)]
    more = f", and {len(pairs) - SHOWN_CLASSES} more" if len(pairs) > SHOWN_CLASSES else ""
    yield f"classes: {', '.join(pairs[:SHOWN_CLASSES])}{more}"


def differences(records: Iterable[Record], method: str) -> Iterator[str]:
    """Yields the difference of mean top-1 between a set and random images, for each protocol and student.

    Args:
        records: The records of both.
        method: The method of the set.
    """
    from ddbench.results.pooling import pool

    grouped: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        grouped.setdefault((record.evaluator, record.student), {}).setdefault(record.method, []).append(record)
    for (evaluator, student), by_method in grouped.items():
        if len(by_method) == 2:
            own, random = (
                pool([one.metrics.top1_last for one in group], [one.distilled_digest for one in group]).mean
                for group in (by_method[method], by_method["random"])
            )
            yield f"difference to random, {evaluator}, {student}: {own - random:+.2f} percentage points"
