"""A table of records alone: which of them are a cell's own, setting by setting. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ddbench import records
from ddbench.cache import canonical
from ddbench.config import DataConfig, RuntimeConfig, Section, TeacherConfig
from ddbench.errors import DDBenchError
from ddbench.experiment import Experiment
from ddbench.records import Record
from ddbench.resolve import Request, load_recipes
from ddbench.tables import Cell, Desk, TableSpec
from ddbench.tables.cells import of_cell
from ddbench.tables.lines import line_of

if TYPE_CHECKING:
    from ddbench.plugins import PluginRegistry

SECTIONS: dict[str, type[Section]] = {"data": DataConfig, "teacher": TeacherConfig, "runtime": RuntimeConfig}
OWN = ("method", "dataset", "ipc", "evaluator", "student", "method_settings", "evaluator_settings", "statistics")
"""What a record must share with a cell to be its own; the rest of its configuration is the setting."""


def from_records(spec: TableSpec, cells: list[Cell], desk: Desk) -> list[dict[str, Any]]:
    """Every record that is a cell's own, in each setting (data, teacher, recipes, device) that records have.

    A record is a cell's own where method, protocol, student and all their settings are what the cell's would be
    under the record's recipes.
    """
    found = records.readable(desk.results_dir / "records", desk.warn)
    lines = []
    for mine in _settings(found, desk.request):
        block = []
        for cell in cells:
            if cell.dataset != mine[0].dataset:
                continue
            experiment = _under(cell, mine[0], desk.registry)
            own = [] if experiment is None else _newest(record for record in mine if _is_own(record, experiment))
            block += [line_of(spec, cell, experiment, record=record) for record in own]
            if experiment is not None and not own:
                block.append(line_of(spec, cell, experiment, like=mine[0]))
        if any(line["state"] == "measured" for line in block):
            lines += block
    return lines


def _settings(found: Iterable[Record], request: Request) -> Iterator[list[Record]]:
    """Records by everything that a cell does not say, as far as `request` asks for it."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        if request.recipes and tuple(record.recipes) != request.recipes:
            continue
        if request.image_size not in (None, record.image_size):
            continue
        # Through the models: a record from before a setting existed is one of its default.
        made = [model(**record.configuration[name]).model_dump(mode="json") for name, model in SECTIONS.items()]
        key = canonical([record.dataset, record.recipes, made, record.versions.get("numerics")])
        groups.setdefault(key, []).append(record)
    yield from groups.values()


def _under(cell: Cell, record: Record, registry: PluginRegistry) -> Experiment | None:
    """The cell's experiment under a record's recipes and teacher, or None where there is none such."""
    arch = record.configuration["teacher"]["arch"]
    asked = Request(methods=(), datasets=(), ipcs=(), recipes=tuple(record.recipes), arch=arch)
    try:
        return of_cell(cell, asked, registry, load_recipes(asked.recipes, registry))[0]
    except DDBenchError:
        return None


def _is_own(record: Record, experiment: Experiment) -> bool:
    mine = experiment.model_dump(mode="json")
    theirs = record.configuration
    return all(_given(mine[name]) == _given(theirs.get(name)) for name in OWN)


def _newest(found: Iterable[Record]) -> list[Record]:
    """One record a set and student: the last that was made, e.g. of several with other numbers of threads."""
    ordered = sorted(found, key=lambda record: record.created)
    return list(
        {(record.seed + record.repeat, record.seed + record.student_seed): record for record in ordered}.values()
    )


def _given(value: object) -> object:
    """Settings without those that are None: a record from before a setting existed has none of it."""
    return {name: part for name, part in value.items() if part is not None} if isinstance(value, Mapping) else value
