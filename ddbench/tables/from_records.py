"""Fills a table from records only: finds the records of each cell, setting by setting."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from ddbench.api.table import Cell, TableSpec
from ddbench.config.datasets import own_name
from ddbench.config.experiment import Experiment
from ddbench.config.schema import device_kind, without_folders
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.composition import load_recipes, recipe_names
from ddbench.pipeline.request import Request, protocols
from ddbench.results import published
from ddbench.results.conditions import Pool, distinct_students, seeds
from ddbench.results.records import Record
from ddbench.tables.cells import cell_experiments
from ddbench.tables.context import TableContext
from ddbench.tables.published_columns import published_datasets
from ddbench.tables.rows import Row, frame_row, measured_row
from ddbench.tables.settings import SETTING_SECTIONS, Setting, group_by_setting, is_result_of

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.config.recipes import Recipe

Group = dict[tuple[str, int | None, str, str], list[Pool]]
"""The pools of a setting by method, IPC, protocol and student."""


def rows_from_records(spec: TableSpec, cells: list[Cell], context: TableContext) -> list[Row]:
    """Returns the rows of all records that belong to a cell, in each setting of the records.

    A record belongs to a cell if both have the same method and protocol (in the installed versions), student and
    settings. The settings of the cell are computed with the recipes of the record and the options. Settings that the
    record lacks, because they are newer, have their default.

    A cell without a record has a row "never run": in a setting that has other records, for the IPCs of the options, the
    records and the paper; and for datasets without records.

    Args:
        spec: The table.
        cells: Its cells.
        context: The options and the registered plugins.
    """
    known = load_recipes(context.request.recipes, context.registry)
    table = published.load(spec.name) if published_datasets(spec) else None
    by_dataset: dict[str, list[Row]] = {}

    @cache
    def experiment_of(number: int, recipes: tuple[str, ...], arch: str, image_size: int) -> Experiment | None:
        """The experiment of a cell by its number, once for all settings with these recipes, teacher and size."""
        request = replace(context.request, recipes=recipes, arch=arch, image_size=image_size, seeds=1, repeats=1)
        try:
            return cell_experiments(cells[number], request, context.registry, known)[0]
        except DDBenchError:
            return None

    def rows_of(number: int, setting: Setting, distinction: str, group: Group) -> list[Row]:
        """The rows of a cell by its number in a setting: one for each of its students, or one without a number."""
        cell = cells[number]
        varying = (setting.recipes, setting.teacher.arch, setting.data.image_size)
        experiment = experiment_of(number, *varying) if _is_possible(cell, setting, context, known) else None
        if experiment is None or not _matches_options(setting, context.request, experiment):
            return []
        experiment = _in_setting(experiment, setting, next(iter(group.values()))[0].example)
        row = frame_row(
            *(spec, cell, context.request, experiment),
            classes=setting.classes,
            numerics=setting.numerics,
            distinction=distinction,
        )
        names = (experiment.method_name, experiment.ipc, experiment.evaluator_name, experiment.student)
        # A record from before a setting existed is in another pool than those that have its default.
        matching = [pool for pool in group.get(names, ()) if is_result_of(pool.example, experiment)]
        students = distinct_students(record for pool in matching for record in pool.records)
        return [measured_row(row, record) for record in sorted(students, key=seeds)] or [row]

    for setting, distinction, of_setting in group_by_setting(context.pools):
        group: Group = {}
        for pool in of_setting:
            record = pool.example
            group.setdefault((record.method, record.ipc, record.evaluator, record.student), []).append(pool)
        # Only these cells can have a number. The others are needed if one of these has one.
        held = {(method, ipc) for method, ipc, *_ in group}
        numbers = [number for number, cell in enumerate(cells) if (cell.method, cell.ipc) in held]
        rows = {number: rows_of(number, setting, distinction, group) for number in numbers}
        ipcs = _shown_ipcs([row for of_cell in rows.values() for row in of_cell], context.request, table)
        others = [number for number, cell in enumerate(cells) if number not in rows and cell.ipc in ipcs]
        rows |= {number: rows_of(number, setting, distinction, group) for number in others}
        shown = [row for number in sorted(rows) for row in rows[number] if row["ipc"] in ipcs]
        by_dataset.setdefault(setting.dataset, []).extend(shown)
    measured = [dataset for dataset, rows in by_dataset.items() if rows]
    default = context.request.datasets or published_datasets(spec)
    for cell in cells:
        is_shown = cell.dataset in default or not (default or measured)
        if is_shown and cell.dataset not in measured and cell.ipc in (None, *(context.request.ipcs or spec.ipcs)):
            by_dataset.setdefault(cell.dataset, []).append(frame_row(spec, cell, context.request))
    datasets = dict.fromkeys(cell.dataset for cell in cells)
    return [row for dataset in datasets for row in by_dataset.get(dataset, [])]


def _shown_ipcs(rows: list[Row], request: Request, table: pd.DataFrame | None) -> set[int | None]:
    """Returns the IPCs of the records, the options and the paper's table. Without records, returns none."""
    ipcs = {row["ipc"] for row in rows if row["state"] == "measured"}
    if not ipcs:
        return set()
    ipcs |= {None, *request.ipcs}
    if table is not None:
        ipcs |= set(table["ipc"][table["dataset"] == rows[0]["dataset"]].dropna())
    return ipcs


def _is_possible(cell: Cell, setting: Setting, context: TableContext, known: list[Recipe]) -> bool:
    """Tests whether a cell can have a setting: its dataset, and recipes that are installed and requested."""
    recipes = context.request.recipes
    if cell.dataset != setting.dataset or not {recipe.name for recipe in known}.issuperset(setting.recipes):
        return False
    try:
        names = (cell.method, cell.evaluator or protocols(context.request, context.registry, cell.method)[0])
        return not recipes or recipe_names(recipes, known, own_name(cell.dataset), *names) == setting.recipes
    except DDBenchError:
        return False


def _in_setting(experiment: Experiment, setting: Setting, record: Record) -> Experiment:
    """Returns an experiment with the sections of a setting."""
    changed = [name for name in record.configuration.get("changed", []) if name.partition(".")[0] in SETTING_SECTIONS]
    changed += [name for name in experiment.changed if name.partition(".")[0] not in SETTING_SECTIONS]
    sections = {name: getattr(setting, name) for name in SETTING_SECTIONS}
    return experiment.model_copy(update={**sections, "changed": tuple(changed)})


def _matches_options(setting: Setting, request: Request, experiment: Experiment) -> bool:
    """Tests whether a setting has the data, teacher and device of the options and `--set`."""
    options = (
        (request.image_size, setting.data.image_size),
        (request.arch, setting.teacher.arch),
        (None if request.device == "auto" else device_kind(request.device), setting.runtime.device),
        (None if request.precision == "auto" else request.precision, setting.runtime.precision),
    )
    if any(requested not in (None, actual) for requested, actual in options):
        return False
    sections = {"data": setting.data, "teacher": setting.teacher}
    return all(
        getattr(without_folders(getattr(experiment, section)), name) == getattr(sections[section], name)
        for section, _, name in (name.partition(".") for name in experiment.changed)
        if section in sections
    )
