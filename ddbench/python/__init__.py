"""The functions of the package `ddbench`. Imports no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.core import interruption, processes
from ddbench.core.checks import FOLDER, require_type
from ddbench.core.errors import DDBenchError, os_error_line
from ddbench.python.arguments import SEVERAL, name_of, plain, request_of, several, space_of, values_of

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.api.distiller import Distiller
    from ddbench.pipeline.load_set import LoadedSet
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import PluginRegistry
    from ddbench.results.records import Record
    from ddbench.results.text import Selection

__all__ = ["DDBenchError", "evaluate", "load", "records", "run", "table"]

Folder = str | os.PathLike[str]
Names = str | Sequence[str]
Numbers = int | Sequence[int]


def run(
    method: str | type[Distiller] | Sequence[str | type[Distiller]],
    dataset: Names,
    ipc: Numbers = (),
    *,
    recipe: Names = (),
    evaluator: Names = (),
    student: Names = (),
    measure: Names = (),
    seed: int = 0,
    seeds: int = 1,
    repeats: int = 1,
    image_size: int | None = None,
    arch: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    settings: dict[str, Any] | None = None,
    results_dir: Folder = "results",
    cache_dir: Folder | None = None,
    data_dir: Folder | None = None,
) -> pd.DataFrame:
    """Distils datasets, trains students and returns their records, as `ddbench run` does.

    Progress is shown on stderr and the summary on stdout. Every stage in the cache is reused. Ctrl-C saves a checkpoint
    and raises KeyboardInterrupt; the same call resumes.

    Args:
        method: The name of a method, a class of a method, or several of them.
        dataset: The name of a dataset, or several names.
        ipc: Images per class, at least 1, or several numbers. Methods without an IPC need none.
        recipe: The name or file of a recipe, or several; later ones override earlier ones.
        evaluator: The name of a protocol, or several names. Default: that of the method.
        student: The network of the students, or several. Default: that of the protocol, which is mostly the teacher's.
        measure: The name of a measure beside top-1, or several names.
        seed: The base seed, at least 0.
        seeds: The number of students on each distilled set, at least 1.
        repeats: The number of distilled sets, at least 1.
        image_size: The side of the images in pixels. Default: the recipe's.
        arch: The network of the teacher. Default: the recipe's.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32` or `bf16`.
        settings: Values of settings by `section.name`, e.g. `{"method.steps": 100}`: `--set` of the command.
        results_dir: The folder or URL of records and pictures.
        cache_dir: The folder or URL of the cache. Default: that of the command.
        data_dir: The folder of the datasets. Default: that of the command.

    Returns:
        One row per record, with the columns of `records`. A cell that failed has no row; its reason is printed.

    Raises:
        DDBenchError: A name or value is wrong, a cell cannot run, or every cell failed.
        TypeError: An argument has another type.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    from ddbench.cli.options import print_error, print_result
    from ddbench.pipeline.request import experiments, protocol_note
    from ddbench.pipeline.run import run as run_cells
    from ddbench.registry.registry import PluginRegistry

    registry = PluginRegistry()
    methods = [name_of(one, registry) for one in values_of(method)]
    request = request_of(
        "run",
        settings,
        method=methods,
        dataset=dataset,
        ipc=ipc,
        recipe=recipe,
        evaluator=evaluator,
        student=student,
        measure=measure,
        seed=seed,
        seeds=seeds,
        repeats=repeats,
        image_size=image_size,
        arch=arch,
        device=device,
        precision=precision,
    )
    if not (request.methods and request.datasets):
        raise DDBenchError("run: pass at least one method and one dataset")
    with _session(registry, results_dir) as folder:
        cells, workspace = experiments(request, registry), _workspace(registry, cache_dir, data_dir)
        if note := protocol_note(request, registry):
            print_error(note)
        made = run_cells(cells, workspace, folder, print_result, print_error)
    return _frame(made)


def evaluate(
    set: Folder,
    dataset: str,
    *,
    recipe: Names = (),
    evaluator: Names = (),
    student: Names = (),
    measure: Names = (),
    seed: int = 0,
    seeds: int = 1,
    random_sets: int = 1,
    pixels: str | None = None,
    classes: Folder | None = None,
    image_size: int | None = None,
    arch: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    settings: dict[str, Any] | None = None,
    results_dir: Folder = "results",
    cache_dir: Folder | None = None,
    data_dir: Folder | None = None,
) -> pd.DataFrame:
    """Trains students on a given distilled set and on random real images, as `ddbench evaluate` does.

    Arguments that are not listed here are those of `run`.

    Args:
        set: A file, a folder, `hf:OWNER/NAME`, or a record: its name, the beginning of its name, or its file.
        dataset: The name of the dataset that the set was distilled from.
        random_sets: The number of sets of random real images. 0: none.
        pixels: The space of float images: `unit`, `imagenet`, `cifar10` or `cifar100`. Sets of bytes need none.
        classes: A file that maps the set's classes to the dataset's.

    Returns:
        As `run`. The method of the set is named `given:NAME@DIGEST`.

    Raises:
        DDBenchError: The set cannot be read, or as in `run`.
    """
    from ddbench.cli.options import print_error, print_result
    from ddbench.pipeline.evaluate_set import differences, evaluation_cells
    from ddbench.pipeline.run import run as run_cells
    from ddbench.registry.registry import PluginRegistry

    registry = PluginRegistry()
    require_type("evaluate", "set", set, FOLDER, "a file, a folder or the name of a record")
    require_type("evaluate", "dataset", dataset, str, "the name of a dataset")
    require_type("evaluate", "random_sets", plain(random_sets), int, "a number of sets")
    if random_sets < 0:
        raise DDBenchError(f"random_sets is {random_sets}; pass a number of at least 0")
    require_type("evaluate", "classes", classes or "", FOLDER, "a file as text or Path")
    request = request_of(
        "evaluate",
        settings,
        dataset=dataset,
        recipe=recipe,
        evaluator=evaluator,
        student=student,
        measure=measure,
        seed=seed,
        seeds=seeds,
        image_size=image_size,
        arch=arch,
        device=device,
        precision=precision,
    )
    reading = (space_of(pixels), None if classes is None else Path(classes), random_sets)
    with _session(registry, results_dir) as folder:
        workspace = _workspace(registry, cache_dir, data_dir)
        method, cells = evaluation_cells(os.fspath(set), request, workspace, folder, print_error, *reading)
        made = run_cells(cells, workspace, folder, print_result, print_error)
    for line in differences(made, method):
        print_result(line)
    return _frame(made)


def records(
    *,
    method: Names = (),
    dataset: Names = (),
    recipe: Names = (),
    sort: str | None = None,
    scores: bool = False,
    results_dir: Folder = "results",
) -> pd.DataFrame:
    """Returns the records of a folder, as `ddbench records` lists them.

    Args:
        method: Only records of this method, or of these.
        dataset: Only records of this dataset, or of these.
        recipe: Only records of this recipe, or of these recipes in their order.
        sort: The column that the rows are sorted by, numbers from the largest. Default: by name.
        scores: Whether to return scores instead: improvement over random, hard-label recovery, label- and
            augmentation-robust score.
        results_dir: The folder or URL of the results.

    Returns:
        One row per record, or per score.

    Raises:
        DDBenchError: There is no such record or column.
        TypeError: An argument has another type.
    """
    from ddbench.cli.options import print_error
    from ddbench.results.records import no_records_error, read_all
    from ddbench.results.text import Selection

    names = {"method": method, "dataset": dataset, "recipe": recipe}
    chosen = {SEVERAL[name][0]: several("records", name, values) for name, values in names.items()}
    folder = _results("records", results_dir) / "records"
    stored = read_all(folder, print_error)
    if not stored:
        raise no_records_error(folder)
    return _frame(stored, Selection(**chosen, sort=sort), scores)


def table(
    name: str,
    *,
    method: Names = (),
    dataset: Names = (),
    ipc: Numbers = (),
    recipe: Names = (),
    evaluator: Names = (),
    image_size: int | None = None,
    settings: dict[str, Any] | None = None,
    results_dir: Folder = "results",
) -> pd.DataFrame:
    """Returns a table of the records of a folder, as `ddbench table` prints it. Computes nothing.

    Args:
        name: The name of the table.
        method: Only these methods.
        dataset: Only these datasets.
        ipc: Images per class. Default: those of the table and of the records.
        recipe: Only records of this recipe, or of these recipes in their order.
        evaluator: The protocol of the cells that name none; several: a column each.
        image_size: Only records of this image size in pixels.
        settings: Only records with these settings, as in `run`.
        results_dir: The folder or URL of the results.

    Returns:
        A tidy frame with one row per cell and student. docs/tables.md describes the columns.

    Raises:
        DDBenchError: A name is unknown.
        TypeError: An argument has another type.
    """
    from ddbench.cli.options import print_error
    from ddbench.registry.registry import PluginRegistry
    from ddbench.tables.cells import with_protocol_columns
    from ddbench.tables.frame import build_frame

    require_type("table", "name", name, str, "the name of a table, e.g. 'comparison'")
    cells = {"method": method, "dataset": dataset, "ipc": ipc, "evaluator": evaluator, "image_size": image_size}
    request = request_of("table", settings, recipe=recipe, **cells)
    registry = PluginRegistry()
    spec = with_protocol_columns(registry.table(name), request)
    return build_frame(spec, request, registry, None, _results("table", results_dir), print_error)


def load(
    set: Folder,
    *,
    pixels: str | None = None,
    results_dir: Folder = "results",
    cache_dir: Folder | None = None,
    data_dir: Folder | None = None,
) -> LoadedSet:
    """Loads a distilled set.

    Args:
        set: As in `evaluate`.
        pixels: As in `evaluate`.
        results_dir: The folder or URL of the records.
        cache_dir: As in `run`.
        data_dir: As in `run`. Needed for a set of real images of a record.

    Returns:
        A `torch.utils.data.Dataset` of pairs (image, label), with the tensors `images`, `labels` and `weights`, and
        `class_names`. `extras` has soft labels and a learning rate if the set has them. A set with a decoder is
        decoded.

    Raises:
        DDBenchError: There is no such set, or it cannot be read.
        TypeError: An argument has another type.
    """
    from ddbench.pipeline.load_set import load_set
    from ddbench.registry.registry import PluginRegistry

    require_type("load", "set", set, FOLDER, "a file, a folder or the name of a record")
    workspace = _workspace(PluginRegistry(), cache_dir, data_dir)
    return load_set(os.fspath(set), workspace, _results("load", results_dir), space_of(pixels))


@contextlib.contextmanager
def _session(registry: PluginRegistry, results_dir: Folder) -> Iterator[Path]:
    """Yields the folder of the results. In the block, Ctrl-C and SIGTERM save a checkpoint.

    Raises:
        DDBenchError: The block raised an OSError.
        KeyboardInterrupt: Ctrl-C was pressed.
        SystemExit: The process received SIGTERM.
    """
    from ddbench.cli import options, progress

    if processes.is_distributed():
        raise DDBenchError("processes of torchrun need the command: torchrun ... -m ddbench run")
    try:
        folder = _results("run", results_dir)
        with options.kept_tracebacks(registry, folder), interruption.handle_signals():
            yield folder
    except interruption.Stopped as stopped:
        if stopped.reason != "Ctrl-C":
            raise SystemExit(interruption.EXIT_CODES[stopped.reason]) from None
        raise KeyboardInterrupt("stopped by Ctrl-C; the same call resumes") from None
    except OSError as error:
        raise DDBenchError(os_error_line(error, "output")) from error
    finally:
        progress.close()


def _results(function: str, results_dir: Folder) -> Path:
    """Returns the folder of the results."""
    from ddbench.cli.options import open_results

    require_type(function, "results_dir", results_dir, FOLDER, "the folder of the results as text or Path")
    return open_results(results_dir)


def _workspace(registry: PluginRegistry, cache_dir: Folder | None, data_dir: Folder | None) -> Workspace:
    """Returns a workspace on the given folders, or on those that the commands use by default."""
    from ddbench.cli.options import open_cache
    from ddbench.core.files import user_cache_dir
    from ddbench.pipeline.workspace import Workspace

    cache = cache_dir or os.environ.get("DDBENCH_CACHE") or user_cache_dir()
    data = data_dir or os.environ.get("DDBENCH_DATA") or None
    return Workspace(registry, open_cache(os.fspath(cache)), None if data is None else Path(data))


def _frame(stored: list[Record], selection: Selection | None = None, scores: bool = False) -> pd.DataFrame:
    """Returns the frame of records with the columns of the overview first."""
    from ddbench.results.text import WIDE_RECORD_COLUMNS, Selection, records_frame

    frame = records_frame(stored, scores, selection or Selection())
    first = [name for name in WIDE_RECORD_COLUMNS if name in frame]
    return frame[[*first, *(name for name in frame if name not in first)]]
