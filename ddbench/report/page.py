"""The report of a results folder: one HTML file with embedded pictures, styles and scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ddbench.figures import FIGURES
from ddbench.report import pictures, sections
from ddbench.report.document import render
from ddbench.results import records
from ddbench.results import text as results_text
from ddbench.results.labels import recipe_label
from ddbench.results.records import Record

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry


@dataclass(frozen=True)
class Column:
    """A column of the table of all records.

    Args:
        title: Title of the column.
        text: Gives the text of a record's cell.
        order: Gives the value that the column is sorted by; default: the text.
    """

    title: str
    text: Callable[[Record], str]
    order: Callable[[Record], object] | None = None


COLUMNS = (
    Column("top-1", lambda record: f"{record.metrics.top1_last:.2f}", lambda record: record.metrics.top1_last),
    Column("method", lambda record: record.method),
    Column("dataset", lambda record: record.dataset),
    Column("px", lambda record: str(record.image_size)),
    Column("IPC", lambda record: "all" if record.ipc is None else str(record.ipc), lambda record: record.ipc),
    Column("recipe", recipe_label),
    Column("protocol", lambda record: f"{record.evaluator} v{record.evaluator_version}"),
    Column("student", lambda record: record.student),
    Column("set", lambda record: str(record.repeat)),
    Column("seed", lambda record: str(record.student_seed)),
    Column(
        "W₂²",
        lambda record: "" if record.feature_transport_cost is None else f"{record.feature_transport_cost:.2f}",
        lambda record: record.feature_transport_cost,
    ),
    Column("distil, s", lambda record: _seconds(record.distill_seconds), lambda record: record.distill_seconds),
    Column(
        "student, s",
        lambda record: _seconds(record.seconds.get("evaluate")),
        lambda record: record.seconds.get("evaluate"),
    ),
    Column("measured on", lambda record: record.measured_on),
    Column("device", lambda record: f"{record.device.get('name')} ({record.device.get('type')})"),
    Column("created", lambda record: record.created),
)


MAX_RECORDS = 500
"""The most records that the page lists. The tables above the list are made from all records."""


def page(registry: PluginRegistry, results_dir: Path, warn: Callable[[str], None]) -> str:
    """Renders the report of a results folder.

    The same results and installed versions give the same text.

    Args:
        registry: The installed plugins, which define the tables.
        results_dir: The results folder.
        warn: Receives a message for each file that is not a record, each picture that cannot be read, and each table
            that fails.

    Returns:
        The HTML document.

    Raises:
        DDBenchError: If the folder has no record.
    """
    folder = results_dir / "records"
    stored = records.read_all(folder, warn)
    if not stored:
        raise records.no_records_error(folder)
    tables = sections.sections(registry, results_dir, stored, warn)
    newest = sorted(stored, key=lambda record: record.created, reverse=True)[:MAX_RECORDS]
    listed = {record.name for record in newest}
    shown = [record for record in stored if record.name in listed]
    budget = pictures.PictureBudget()
    figures = [(picture, FIGURES.get(picture.title, "")) for picture in pictures.figures(results_dir, budget)]
    previews = pictures.previews(shown, results_dir, budget, warn)
    return render(
        "page.html.jinja",
        picture_sources="data:",
        anchor=anchor,
        other_fields=_other_fields,
        configuration=_configuration,
        rows=results_text.record_rows,
        records=shown,
        listed=listed,
        count=len(stored),
        newest=newest[0].created[:10],
        headline=sections.headline(tables),
        tables=tables,
        unlinked=len({record.name for record in stored}.difference(*(table.records for table in tables))),
        figures=figures,
        previews=previews,
        left_out=budget.left_out,
        columns=COLUMNS,
    )


def anchor(name: str) -> str:
    """Returns the HTML id of a record, which is also the fragment of its address.

    Args:
        name: Name of the record.

    Returns:
        The id, percent-encoded.

    Example:
        >>> anchor("wmdd digits")
        'record-wmdd%20digits'
    """
    return f"record-{quote(name, safe='', errors='replace')}"


def _configuration(record: Record) -> str:
    return results_text.tree_text(record.configuration)


def _other_fields(record: Record) -> str:
    return json.dumps(record.model_dump(mode="json", exclude={"configuration"}), indent=1, ensure_ascii=False)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f}"
