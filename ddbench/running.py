"""Runs the cells of a grid, writes their records and pictures, and summarises them in a table."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pandas as pd
import yaml
from tabulate import tabulate
from torch import nn

from ddbench import estimate, figures, progress, published, records
from ddbench.config import Stem
from ddbench.errors import DDBenchError, PluginError
from ddbench.executors import Bring, Inline
from ddbench.experiment import Experiment
from ddbench.files import sweep, whole, writing
from ddbench.models import batch_norms, build_network, weighted_layers
from ddbench.records import Record
from ddbench.stages import Pipeline, Workspace

Echo = Callable[[str], None]
LONG = 3600.0


def run(experiments: list[Experiment], workspace: Workspace, results_dir: Path, echo: Echo, warn: Echo) -> list[Record]:
    """Every cell, in order; each record is on disk before the next cell starts.

    All cells are checked against their dataset first, so that nothing is trained for a grid that cannot run.
    """
    pipelines = [Pipeline(workspace, experiment) for experiment in experiments]
    todo = any(state != "cached" for pipeline in pipelines for _, state in pipeline.plan())
    if todo:
        check_networks(pipelines)
    with writing(results_dir):
        (results_dir / "records").mkdir(parents=True, exist_ok=True)
    if todo:
        announce(pipelines, warn)
    for line in dict.fromkeys(filter(None, map(_doubt, pipelines))):
        warn(line)
    found: list[tuple[Pipeline, Record]] = []
    pictures: dict[Path, None] = {}
    failed = []
    with workspace.executor.computing(pipelines) as bring:
        for pipeline in pipelines:
            try:
                record, picture = finish(pipeline, results_dir, bring)
            except DDBenchError as error:
                if len(pipelines) == 1:
                    raise
                failed.append(f"{name_of(pipeline.experiment)}: {error}")
                warn(f"failed: {failed[-1]}")
                continue
            found.append((pipeline, record))
            pictures[picture] = None
            warn(f"record: {results_dir / 'records' / record.name}.json")
    progress.close()
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


def name_of(experiment: Experiment) -> str:
    """One cell, in words."""
    size = "whole training set" if experiment.ipc is None else f"IPC {experiment.ipc}"
    student = f"{experiment.student} seed {experiment.seed + experiment.student_seed}"
    return f"{experiment.method}, {experiment.dataset}, {size}, set {experiment.repeat}, {student}"


def finish(pipeline: Pipeline, results_dir: Path, bring: Bring) -> tuple[Record, Path]:
    """Everything up to one cell's record and picture, both written: the record and the picture's path.

    `bring` is the executor's: it waits until what is computed elsewhere is in the cache.
    Raises DDBenchError; what a plugin's code raises besides is one of them, naming the plugin and a file with the
    traceback.
    """
    try:
        bring(pipeline)
        record = pipeline.run()
    except PluginError as error:
        raise DDBenchError(f"{error} ({_traceback(pipeline, error.__cause__, results_dir)})") from error
    except (DDBenchError, OSError):  # the machine's answers are told by who started the run
        raise
    except Exception as error:
        where = _traceback(pipeline, error, results_dir)
        raise DDBenchError(f"{pipeline.blamed(error)} ({where})") from error
    records.write(record, results_dir / "records")
    return record, preview(pipeline, record, results_dir)


def _traceback(pipeline: Pipeline, error: BaseException | None, results_dir: Path) -> str:
    experiment = pipeline.experiment
    name = re.sub(r"[^A-Za-z0-9-]+", "_", f"{experiment.method}-{experiment.dataset}")
    path = results_dir / "failures" / f"{name[:100]}.txt"
    try:
        with whole(path) as partial:
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
        with pipeline.workspace.registry.blaming("method", experiment.method):
            names = tuple(pipeline.method.networks())
        for name in names:
            _built(name, "auto", *sizes)
        if pipeline.method.needs_teacher or pipeline.protocol.needs_teacher:
            given = teacher.checkpoint is not None
            counts = _counts(pipeline.checkpoint_network()) if given else _built(teacher.arch, teacher.stem, *sizes)
            pipeline.check_teacher(*counts)


@cache
def _built(arch: str, stem: Stem, num_classes: int, image_size: int) -> tuple[int, int]:
    return _counts(build_network(arch, num_classes, image_size, stem))


def _counts(network: nn.Module) -> tuple[int, int]:
    """How many BatchNorm and how many weighted layers there are."""
    return len(batch_norms(network)), len(weighted_layers(network))


def announce(pipelines: list[Pipeline], warn: Echo) -> None:
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
    used = pipeline.method.needs_teacher or pipeline.protocol.needs_teacher
    if not (used and experiment.data.holdout and experiment.teacher.checkpoint):
        return None
    name = experiment.teacher.checkpoint.name
    return f"note: {name} (teacher.checkpoint) may have seen the held-out training images: numbers may be too high"


def preview(pipeline: Pipeline, record: Record, results_dir: Path) -> Path:
    """Draws `preview.png` of the distilled images (once a set) and returns its path."""
    experiment, info = pipeline.experiment, pipeline.dataset.info
    name = records.run_name(experiment.method, experiment.dataset, experiment.ipc, record.distilled_digest)
    path = results_dir / "runs" / name / "preview.png"
    sweep(path)
    if not path.exists():
        images, labels = pipeline.distilled.head(10)
        size = "whole training set" if experiment.ipc is None else f"IPC {experiment.ipc}"
        title = f"{experiment.method}, {experiment.dataset}, {size}"
        with whole(path) as partial:
            figures.preview(images, labels, info.class_titles, partial, title)
    return path


def summary(cells: Iterable[tuple[Pipeline, Record]]) -> pd.DataFrame:
    """One row for each method, dataset, IPC, student and protocol: mean and deviation over students and sets.

    What was measured on held-out training images never shares a row with what was measured on validation images.
    """
    rows = []
    for pipeline, record in cells:
        experiment = pipeline.experiment
        rows.append(
            {
                "method": record.method,
                "dataset": f"{record.dataset} {record.image_size}px",
                "ipc": "all" if record.ipc is None else str(record.ipc),
                "student": record.student,
                "protocol": f"{record.evaluator} v{record.evaluator_version}",
                "recipe": "+".join(record.recipes) + (" --set" if experiment.changed else ""),
                "measured on": record.measured_on,
                "holdout": record.holdout,
                "top1": record.metrics.top1_last,
                "set": record.distilled_digest,
                "source": experiment.dataset,
                "seed": record.student_seed,
                "W2": record.feature_transport_cost,
                "distill": record.seconds.get("distill", 0.0),
                "evaluate": record.seconds["evaluate"],
                "memory": max(record.peak_memory.values()),
                "published": published.beside(experiment, record.classes),
            }
        )
    frame = pd.DataFrame(rows)
    # The same student on the same set is one measurement, however often it was asked for.
    frame = frame.drop_duplicates(["source", "student", "protocol", "recipe", "measured on", "method", "set", "seed"])
    by = ["method", "source", "dataset", "ipc", "student", "protocol", "recipe", "measured on", "published"]
    lines = []
    for names, part in frame.groupby(by, sort=False):
        values = dict(zip(by, names, strict=True))
        shown, _, measured = values.pop("published"), values.pop("source"), values.pop("measured on")
        sets = part["set"].nunique()
        costs = part["W2"].dropna()
        lines.append(
            {
                **values,
                **({"measured on": measured} if frame["holdout"].any() else {}),
                "top-1 (last epoch)": spread(part["top1"]),
                "n": f"{_count(len(part), 'student')} on {_count(sets, 'set')}",
                "W2² of features": f"{costs.mean():.2f}" if len(costs) else "",
                "distill s": f"{part['distill'].mean():.1f}",
                "student s": f"{part['evaluate'].mean():.1f}",
                "process peak MB": f"{part['memory'].max() / 2**20:.0f}",
                **({"published (Table 1)": shown} if (frame["published"] != "").any() else {}),
            }
        )
    return pd.DataFrame(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def spread(values: pd.Series[float]) -> str:
    """`62.3 ± 0.4`: mean and sample deviation; the mean alone where there is one value."""
    deviation = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation}"


def dry_run(experiments: list[Experiment], workspace: Workspace, echo: Echo) -> None:
    """Says for every cell which stages are cached and which are to do, and prints the complete configuration."""
    pipelines = [Pipeline(workspace, experiment) for experiment in experiments]
    check_networks(pipelines)
    for pipeline in pipelines:
        experiment = pipeline.experiment
        echo(f"# {name_of(experiment)}")
        for stage, state in pipeline.plan():
            echo(f"#   {stage:<11} {state}")
        echo(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False).rstrip())
        echo("")
