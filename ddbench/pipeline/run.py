"""Runs the cells of a grid, writes their records and pictures, and prints a summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError, PluginError, exception_line, os_error_line
from ddbench.core.events import Event
from ddbench.core.files import atomic_write, remove_abandoned, translate_os_errors
from ddbench.pipeline import estimate
from ddbench.pipeline.checks import check_leaks, check_networks, open_grid
from ddbench.pipeline.executor import WaitForArtifacts
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.record import build_record
from ddbench.pipeline.summary import summary_text
from ddbench.pipeline.workspace import Workspace
from ddbench.results import records
from ddbench.results.failures import write_traceback
from ddbench.results.preview import preview as draw_preview
from ddbench.results.preview import preview_path
from ddbench.results.records import Record

Print = Callable[[str], None]


def run(
    experiments: list[Experiment],
    workspace: Workspace,
    results_dir: Path,
    echo: Print,
    warn: Print,
    strict: bool = False,
    wide: bool = False,
) -> list[Record]:
    """Runs every cell of a grid, in order. Each record is on disk before the next cell starts.

    All cells are checked first, so that nothing is trained for a grid that cannot run. A reason for which several cells
    fail, such as an image that cannot be decoded, is printed once, with a list of the cells.

    Args:
        experiments: The cells.
        workspace: The objects that the cells share.
        results_dir: The folder of records and pictures.
        echo: Prints a line of the result.
        warn: Prints a line about a possible data leak or a failed cell.
        strict: Whether a grid with a possible data leak is refused.
        wide: Whether the summary has all columns.

    Returns:
        The records of the cells that succeeded.

    Raises:
        DDBenchError: A cell cannot run, the only cell failed, or every cell failed.
    """
    pipelines = open_grid(experiments, workspace)
    leaks = check_leaks(pipelines, strict)
    incomplete = any(pipeline.missing() for pipeline in pipelines)
    if incomplete:
        check_networks(pipelines)
    with translate_os_errors(results_dir):
        (results_dir / "records").mkdir(parents=True, exist_ok=True)
    schedule = announce_duration(pipelines) if incomplete else None
    for note in leaks:
        warn(note)
    cells: list[tuple[Pipeline, Record]] = []
    previews: dict[Path, None] = {}
    failures: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    with workspace.executor.computing(pipelines) as wait_for_artifacts:
        for number, pipeline in enumerate(pipelines, 1):
            if len(pipelines) > 1 and pipeline.missing():
                left = f"; {left}" if schedule and (left := schedule.left(number - 1)) else ""
                report_cell(pipeline, f"cell {number} of {len(pipelines)}: {pipeline.experiment.name}{left}")
            try:
                record, preview = finish_cell(pipeline, results_dir, wait_for_artifacts)
            except DDBenchError as error:
                if len(pipelines) == 1:
                    raise
                if error.cause not in failures:
                    warn(f"failed: {pipeline.experiment.name}: {error}")
                    reasons[error.cause] = str(error)
                failures.setdefault(error.cause, []).append(pipeline.experiment.name)
                continue
            cells.append((pipeline, record))
            if preview is not None:
                previews[preview] = None
            report_cell(pipeline, f"record: {results_dir / 'records' / record.name}.json")
    if not cells:
        raise DDBenchError(f"every cell failed: {_listed([name for names in failures.values() for name in names])}")
    echo(summary_text(cells, wide))
    echo("")
    echo(f"records:  {results_dir / 'records'} (read one with: ddbench show {cells[-1][1].name})")
    for preview in previews:
        echo(f"preview:  {preview}")
    for cause, names in failures.items():
        echo(f"failed:   {names[0]}: {reasons[cause]}")
        if len(names) > 1:
            echo(f"          for the same reason: {_listed(names[1:])}")
    return [record for _, record in cells]


def _listed(names: list[str], shown: int = 10) -> str:
    more = f"; and {len(names) - shown} more" if len(names) > shown else ""
    return "; ".join(names[:shown]) + more


def finish_cell(
    pipeline: Pipeline, results_dir: Path, wait_for_artifacts: WaitForArtifacts
) -> tuple[Record, Path | None]:
    """Runs one cell and writes its record and its picture.

    Args:
        pipeline: The cell.
        results_dir: The folder of records and pictures.
        wait_for_artifacts: Waits until the executor has computed the cell.

    Returns:
        The record and the path of the picture. The path is None if the picture could not be drawn, which is noted.

    Raises:
        DDBenchError: The cell failed. An exception in a plugin's code is converted to an error that names the plugin
            and a file with the traceback.
    """
    try:
        wait_for_artifacts(pipeline)
        pipeline.run()
        record = build_record(pipeline)
    except PluginError as error:
        raise DDBenchError(f"{error} ({_write_traceback(pipeline, error.__cause__, results_dir)})") from error
    except DDBenchError:
        raise
    except OSError as error:  # a fault of the machine; errors in a plugin's code are PluginErrors
        raise DDBenchError(os_error_line(error, "the cache")) from error
    except Exception as error:
        where = _write_traceback(pipeline, error, results_dir)
        raise DDBenchError(f"{pipeline.attribute(error)} ({where})") from error
    record = records.store(record, results_dir / "records")
    preview = None
    try:
        preview = _write_preview(pipeline, record, results_dir)
    except Exception as error:
        text = f"the preview of {record.name} could not be drawn: {exception_line(error)}"
        pipeline.workspace.relay(Event("note", "evaluate", message=text))
    else:
        event = Event("preview", "distill", pipeline.set_label, context=pipeline.context, image=preview)
        pipeline.workspace.emit(event)
    pipeline.workspace.registry.emit_record(record)
    return record, preview


def _write_traceback(pipeline: Pipeline, error: BaseException | None, results_dir: Path) -> str:
    experiment = pipeline.experiment
    return write_traceback(f"{experiment.method_name}-{experiment.dataset}", error, results_dir)


def _write_preview(pipeline: Pipeline, record: Record, results_dir: Path) -> Path:
    """Draws `preview.png` of the distilled images, once for each set, and returns its path."""
    experiment = pipeline.experiment
    path = preview_path(record, results_dir)
    remove_abandoned(path)
    if not path.exists():
        images, labels = pipeline.distilled.head(10)
        size = "whole training set" if experiment.ipc is None else f"IPC {experiment.ipc}"
        title = f"{experiment.method_name}, {experiment.dataset}, {size}"
        with atomic_write(path) as partial:
            draw_preview(images, labels, pipeline.info.class_titles, partial, title)
    return path


def announce_duration(pipelines: list[Pipeline]) -> estimate.Schedule:
    """Returns the schedule of a grid, and prints its estimated duration if it is more than a minute.

    Args:
        pipelines: The cells.
    """
    schedule = estimate.Schedule(pipelines)
    if schedule.total > estimate.ANNOUNCED_SECONDS:
        report_cell(pipelines[0], f"this will take about {estimate.readable(schedule.total)} {schedule.where}")
        report_cell(pipelines[0], schedule.estimate.detail)
    if schedule.total > estimate.LONG_SECONDS and "paper" in pipelines[0].experiment.recipes:
        report_cell(
            pipelines[0], "a smaller budget, but not the paper's protocol: the same command with --recipe quick"
        )
    return schedule


def report_cell(pipeline: Pipeline, text: str) -> None:
    """Emits a line of progress about a cell."""
    pipeline.workspace.emit(Event("cell", "grid", message=text, context=pipeline.context))
