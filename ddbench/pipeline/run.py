"""Runs the cells of a grid, writes their records and pictures, and summarises them in a table."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import yaml
from tabulate import tabulate
from torch import nn

from ddbench.config.experiment import Experiment
from ddbench.config.schema import Stem
from ddbench.core.errors import DDBenchError, PluginError
from ddbench.core.files import atomic_write, remove_abandoned, translate_os_errors
from ddbench.nn.build import build_network
from ddbench.nn.layers import batch_norms, weighted_layers
from ddbench.pipeline import estimate
from ddbench.pipeline.executor import Inline, WaitForArtifacts
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.record import build_record
from ddbench.pipeline.summary import summary
from ddbench.pipeline.workspace import Workspace
from ddbench.results import records
from ddbench.results.preview import preview as draw_preview
from ddbench.results.records import Record

Echo = Callable[[str], None]


LONG = 3600.0


def run(experiments: list[Experiment], workspace: Workspace, results_dir: Path, echo: Echo, warn: Echo) -> list[Record]:
    """Every cell, in order; each record is on disk before the next cell starts.

    All cells are checked against their dataset first, so that nothing is trained for a grid that cannot run.
    """
    pipelines = [Pipeline(workspace, experiment) for experiment in experiments]
    todo = any(pipeline.missing() for pipeline in pipelines)
    if todo:
        check_networks(pipelines)
    with translate_os_errors(results_dir):
        (results_dir / "records").mkdir(parents=True, exist_ok=True)
    if todo:
        announce_duration(pipelines, warn)
    for line in dict.fromkeys(filter(None, map(_doubt, pipelines))):
        warn(line)
    found: list[tuple[Pipeline, Record]] = []
    pictures: dict[Path, None] = {}
    failed = []
    with workspace.executor.computing(pipelines) as bring:
        for pipeline in pipelines:
            try:
                record, picture = finish_cell(pipeline, results_dir, bring)
            except DDBenchError as error:
                if len(pipelines) == 1:
                    raise
                failed.append(f"{pipeline.experiment.name}: {error}")
                warn(f"failed: {failed[-1]}")
                continue
            found.append((pipeline, record))
            pictures[picture] = None
            warn(f"record: {results_dir / 'records' / record.name}.json")
    if not found:
        raise DDBenchError(f"every cell failed; the last one: {failed[-1]}")
    echo(tabulate(summary(found).to_dict("list"), headers="keys", tablefmt="simple", disable_numparse=True))
    echo("")
    echo(f"records:  {results_dir / 'records'} (read one with: ddbench show {found[-1][1].name})")
    for picture in pictures:
        echo(f"preview:  {picture}")
    for line in failed:
        echo(f"failed:   {line}")
    return [record for _, record in found]


def finish_cell(pipeline: Pipeline, results_dir: Path, bring: WaitForArtifacts) -> tuple[Record, Path]:
    """Everything up to one cell's record and picture, both written: the record and the picture's path.

    `bring` is the executor's: it waits until what is computed elsewhere is in the cache.
    Raises DDBenchError; what a plugin's code raises besides is one of them, naming the plugin and a file with the
    traceback.
    """
    try:
        bring(pipeline)
        pipeline.run()
        record = build_record(pipeline)
    except PluginError as error:
        raise DDBenchError(f"{error} ({_traceback(pipeline, error.__cause__, results_dir)})") from error
    except (DDBenchError, OSError):  # the machine's answers are told by who started the run
        raise
    except Exception as error:
        where = _traceback(pipeline, error, results_dir)
        raise DDBenchError(f"{pipeline.attribute(error)} ({where})") from error
    records.write(record, results_dir / "records")
    pipeline.workspace.registry.emit_record(record)
    return record, preview(pipeline, record, results_dir)


def _traceback(pipeline: Pipeline, error: BaseException | None, results_dir: Path) -> str:
    experiment = pipeline.experiment
    name = re.sub(r"[^A-Za-z0-9-]+", "_", f"{experiment.method_name}-{experiment.dataset}")
    path = results_dir / "failures" / f"{name[:100]}.txt"
    try:
        with atomic_write(path) as partial:
            partial.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="replace")
    except DDBenchError as unwritten:  # that is not what went wrong
        return f"no traceback: {unwritten}"
    return f"traceback: {path}"


def check_networks(pipelines: Iterable[Pipeline]) -> None:
    """Builds every network once, and reads a teacher's checkpoint: what cannot be shows before anything is trained.

    Raises DDBenchError for an unknown network, one that cannot take the images, or a teacher of no use.
    """
    for pipeline in pipelines:
        experiment, teacher, info = pipeline.experiment, pipeline.experiment.teacher, pipeline.dataset.info
        sizes = (info.num_classes, info.image_size)
        _built(experiment.student, experiment.student_stem, *sizes)
        with pipeline.workspace.registry.attribute_errors("method", experiment.method_name):
            names = tuple(pipeline.method.networks())
        for name in names:
            _built(name, "auto", *sizes)
        if pipeline.uses_teacher:
            given = teacher.checkpoint is not None
            counts = _counts(pipeline.checkpoint_network()) if given else _built(teacher.arch, teacher.stem, *sizes)
            pipeline.check_teacher(*counts)


@cache
def _built(arch: str, stem: Stem, num_classes: int, image_size: int) -> tuple[int, int]:
    return _counts(build_network(arch, num_classes, image_size, stem))


def _counts(network: nn.Module) -> tuple[int, int]:
    """How many BatchNorm and how many weighted layers there are."""
    return len(batch_norms(network)), len(weighted_layers(network))


def announce_duration(pipelines: list[Pipeline], warn: Echo) -> None:
    """Says how long it will take in this process, where that is long."""
    if not (pipelines and isinstance(pipelines[0].workspace.executor, Inline)):
        return
    seconds = estimate.seconds(pipelines)
    if seconds > LONG:
        first = pipelines[0].experiment
        warn(f"this will take about {estimate.readable(seconds)} on this device")
        if "paper" in first.recipes:
            warn("in minutes, but not the paper's protocol: the same command with --recipe quick")


def _doubt(pipeline: Pipeline) -> str | None:
    """What a reader must know of a given teacher where training images are held out."""
    experiment = pipeline.experiment
    used = pipeline.uses_teacher
    if not (used and experiment.data.holdout and experiment.teacher.checkpoint):
        return None
    name = experiment.teacher.checkpoint.name
    return f"note: {name} (teacher.checkpoint) may have seen the held-out training images: numbers may be too high"


def preview(pipeline: Pipeline, record: Record, results_dir: Path) -> Path:
    """Draws `preview.png` of the distilled images (once a set) and returns its path."""
    experiment, info = pipeline.experiment, pipeline.dataset.info
    name = records.run_name(experiment.method_name, experiment.dataset, experiment.ipc, record.distilled_digest)
    path = results_dir / "runs" / name / "preview.png"
    remove_abandoned(path)
    if not path.exists():
        images, labels = pipeline.distilled.head(10)
        size = "whole training set" if experiment.ipc is None else f"IPC {experiment.ipc}"
        title = f"{experiment.method_name}, {experiment.dataset}, {size}"
        with atomic_write(path) as partial:
            draw_preview(images, labels, info.class_titles, partial, title)
    return path


def dry_run(experiments: list[Experiment], workspace: Workspace, echo: Echo) -> None:
    """Says for every cell which stages are cached and which are to do, and prints the complete configuration."""
    pipelines = [Pipeline(workspace, experiment) for experiment in experiments]
    check_networks(pipelines)
    for pipeline in pipelines:
        experiment = pipeline.experiment
        echo(f"# {experiment.name}")
        for stage, state in pipeline.plan():
            echo(f"#   {stage:<11} {state}")
        echo(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False).rstrip())
        echo("")
