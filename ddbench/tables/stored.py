"""A table of records alone: which of them are a cell's own, setting by setting. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ddbench.api.table import Cell, TableSpec
from ddbench.config.experiment import Experiment
from ddbench.config.schema import DataConfig, DistillConfig, RuntimeConfig, StatisticsConfig, TeacherConfig
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, load_recipes, recipe_names
from ddbench.results import provenance, published, records
from ddbench.results.records import Record
from ddbench.tables.cells import cell_experiments, published_datasets
from ddbench.tables.context import TableContext
from ddbench.tables.lines import SHARED, checkpoint_name, frame_row

if TYPE_CHECKING:
    from ddbench.config.recipes import Recipe

Line = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What a record has and a cell does not say."""

    dataset: str
    classes: int
    recipes: tuple[str, ...]
    data: DataConfig
    teacher: TeacherConfig
    runtime: RuntimeConfig
    numerics: str


def rows_from_records(spec: TableSpec, cells: list[Cell], desk: TableContext) -> list[Line]:
    """Every record that is a cell's own, in each setting (data, teacher, recipes, device) that records have.

    A record is a cell's own where method, protocol, their installed versions, student and all settings are what the
    cell's would be under the record's recipes and what `desk.request` asks for; a setting that a record does not
    have, because it is older, has its default. Cells without a record are there as never run: in a setting
    without any other, at the IPCs that were asked for, that the setting has, or that the paper has.
    """
    known = load_recipes(desk.request.recipes, desk.registry)
    theirs = published.load(spec.name) if published_datasets(spec) else None
    blocks: dict[str, list[Line]] = {}
    for setting, apart, mine in _settings(records.read_all(desk.results_dir / "records", desk.warn)):
        block = []
        for cell in cells:
            experiment = _under(cell, setting, mine[0], desk, known)
            if experiment is not None:
                own = _newest(record for record in mine if _is_own(record, experiment))
                line = partial(frame_row, spec, cell, desk.request, experiment, classes=setting.classes)
                found: list[Record | None] = [*own] or [None]
                block += [line(record=each, numerics=setting.numerics, apart=apart) for each in found]
        blocks.setdefault(setting.dataset, []).extend(_without_empty_columns(block, desk.request, theirs))
    measured = [dataset for dataset, block in blocks.items() if block]
    usual = desk.request.datasets or published_datasets(spec)
    for cell in cells:
        wanted = cell.dataset in usual or not (usual or measured)
        if wanted and cell.dataset not in measured and cell.ipc in (None, *(desk.request.ipcs or spec.ipcs)):
            blocks.setdefault(cell.dataset, []).append(frame_row(spec, cell, desk.request))
    ordered = dict.fromkeys(cell.dataset for cell in cells)
    return [line for dataset in ordered for line in blocks.get(dataset, [])]


def _without_empty_columns(block: list[Line], request: Request, theirs: Any) -> list[Line]:
    """Nothing where nothing was measured; else without IPCs that neither records nor the paper nor the request have."""
    shown = {line["ipc"] for line in block if line["state"] == "measured"}
    if not shown:
        return []
    shown |= {None, *request.ipcs}
    if theirs is not None:
        shown |= set(theirs["ipc"][theirs["dataset"] == block[0]["dataset"]].dropna())
    return [line for line in block if line["ipc"] in shown]


def _settings(found: Iterable[Record]) -> Iterator[tuple[Setting, str, list[Record]]]:
    """Records by everything that a cell does not say, and a text for each that tells those of one Setting apart."""
    installed = set(provenance.provenance()["versions"]["numerics"].split())
    groups: dict[Setting, list[Record]] = {}
    for record in found:
        configuration = record.configuration
        runtime = configuration["runtime"]
        older = [part for part in record.versions.get("numerics", "").split() if part not in installed]
        try:
            # Through the models: a record from before a setting existed is one of its default.
            setting = Setting(
                dataset=record.dataset,
                classes=record.classes,
                recipes=tuple(record.recipes),
                data=DataConfig(**configuration["data"]),
                teacher=TeacherConfig(**configuration["teacher"]),
                # `compile` changes numbers by rounding alone: it tells no settings apart.
                runtime=RuntimeConfig(device=runtime["device"].partition(":")[0], precision=runtime["precision"]),
                numerics=" ".join(older),
            )
        except (ValidationError, KeyError):
            continue
        groups.setdefault(setting, []).append(record)
    for setting, group in groups.items():
        for images, part in _apart(group, lambda record: record.data.get("fingerprint")):
            for weights, mine in _apart(part, _given_teacher):
                yield setting, f"{images} {weights}".strip(), mine


def _apart(group: list[Record], known: Callable[[Record], str | None]) -> list[tuple[str, list[Record]]]:
    """By what is `known` of them; those of which nothing is known belong to each part."""
    parts = dict.fromkeys(filter(None, map(known, group)))
    if len(parts) < 2:
        return [("", group)]
    return [(part, [record for record in group if known(record) in (None, part)]) for part in parts]


def _given_teacher(record: Record) -> str | None:
    """The key of a teacher that was not trained by the recipe; None where that, or no teacher, was used."""
    return record.teacher.get("key") if record.configuration["teacher"].get("checkpoint") else None


def _under(cell: Cell, setting: Setting, record: Record, desk: TableContext, known: list[Recipe]) -> Experiment | None:
    """The cell's experiment in a setting, or None where there is none such, or it is not what is asked for."""
    request = desk.request
    try:
        if cell.dataset != setting.dataset or not {recipe.name for recipe in known}.issuperset(setting.recipes):
            return None
        if request.recipes and recipe_names(request.recipes, known, cell.dataset) != setting.recipes:
            return None
        asked = replace(request, recipes=setting.recipes, arch=setting.teacher.arch, seeds=1, repeats=1)
        experiment = cell_experiments(cell, asked, desk.registry, known)[0]
    except DDBenchError:
        return None
    if not _asked_for(setting, request, experiment):
        return None
    changed = [name for name in record.configuration.get("changed", []) if name.partition(".")[0] in SHARED]
    changed += [name for name in experiment.changed if name.partition(".")[0] not in SHARED]
    here = {"data": setting.data, "teacher": setting.teacher, "runtime": setting.runtime, "changed": tuple(changed)}
    return experiment.model_copy(update=here)


def _asked_for(setting: Setting, request: Request, experiment: Experiment) -> bool:
    """Whether the setting has all that options and `--set` ask for of data, teacher and device."""
    options = (
        (request.image_size, setting.data.image_size),
        (request.arch, setting.teacher.arch),
        (None if request.device == "auto" else request.device.partition(":")[0], setting.runtime.device),
        (None if request.precision == "auto" else request.precision, setting.runtime.precision),
    )
    if any(asked not in (None, found) for asked, found in options):
        return False
    changed = [name.partition(".") for name in experiment.changed]
    return all(
        checkpoint_name(experiment.teacher) == checkpoint_name(setting.teacher)
        if name == "checkpoint"
        else getattr(getattr(experiment, section), name) == getattr(getattr(setting, section), name)
        for section, _, name in changed
        if section in ("data", "teacher")
    )


def _is_own(record: Record, experiment: Experiment) -> bool:
    method, protocol = experiment.method, experiment.evaluator
    mine = (experiment.method_name, method.version, experiment.evaluator_name, protocol.version)
    theirs = (record.method, record.method_version, record.evaluator, record.evaluator_version)
    if (*mine, experiment.student, experiment.ipc) != (*theirs, record.student, record.ipc):
        return False
    configuration = record.configuration
    try:
        return (
            method == type(method)(**configuration["method_settings"])
            and protocol == type(protocol)(**configuration["evaluator_settings"])
            and experiment.statistics == StatisticsConfig(**configuration["statistics"])
            and experiment.distill.jpeg_quality == DistillConfig(**configuration["distill"]).jpeg_quality
        )
    except (ValidationError, KeyError):
        return False


def _newest(found: Iterable[Record]) -> list[Record]:
    """One record a set and student: the last that was made, e.g. of several with other numbers of threads."""
    ordered = sorted(found, key=lambda record: record.created)
    return list(
        {(record.seed + record.repeat, record.seed + record.student_seed): record for record in ordered}.values()
    )
