"""One HTML file of a results folder: text, tables, pictures, styles and the tables' script, all in it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import yaml

from ddbench import __version__
from ddbench.report import pictures, sections
from ddbench.results import records
from ddbench.results import text as results_text
from ddbench.results.records import Record

if TYPE_CHECKING:
    from ddbench.figures import FIGURES
from ddbench.registry.registry import PluginRegistry


@dataclass(frozen=True)
class Column:
    """A column of the table of all records: what stands there, and what it sorts by."""

    title: str
    text: Callable[[Record], str]
    order: Callable[[Record], object] | None = None


COLUMNS = (
    Column("top-1", lambda record: f"{record.metrics.top1_last:.2f}", lambda record: record.metrics.top1_last),
    Column("method", lambda record: record.method),
    Column("dataset", lambda record: record.dataset),
    Column("px", lambda record: str(record.image_size)),
    Column("IPC", lambda record: _text(record.ipc, "all"), lambda record: record.ipc),
    Column("recipe", lambda record: "+".join(record.recipes)),
    Column("protocol", lambda record: f"{record.evaluator} v{record.evaluator_version}"),
    Column("student", lambda record: record.student),
    Column("set", lambda record: str(record.repeat)),
    Column("seed", lambda record: str(record.student_seed)),
    Column(
        "W₂²",
        lambda record: "" if record.feature_transport_cost is None else f"{record.feature_transport_cost:.2f}",
        lambda record: record.feature_transport_cost,
    ),
    Column("distil, s", lambda record: _seconds(record, "distill"), lambda record: record.seconds.get("distill")),
    Column("student, s", lambda record: _seconds(record, "evaluate"), lambda record: record.seconds.get("evaluate")),
    Column("measured on", lambda record: record.measured_on),
    Column("device", lambda record: f"{record.device.get('name')} ({record.device.get('type')})"),
    Column("created", lambda record: record.created),
)


def page(registry: PluginRegistry, results_dir: Path, warn: Callable[[str], None]) -> str:
    """The whole page; `warn` is told of files that are no records and of pictures that cannot be read.

    The same results and installed versions give the same text. Raises DDBenchError where there is no record.
    """
    from jinja2 import Environment, StrictUndefined

    folder = results_dir / "records"
    if not records.readable(folder, warn):
        raise records.nothing_in(folder)
    tables = list(sections.sections(registry, results_dir, warn))
    # Read again: a record that a run wrote meanwhile may stand in a table.
    found = {record.name: record for record in records.readable(folder, lambda line: None)}
    album = pictures.Album()
    drawn = pictures.figures(results_dir, album)
    seen = pictures.previews(found.values(), results_dir, album, warn)
    scripts = [_bundle(".js"), _read("page.js")]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(anchor=anchor, whole=_whole, configuration=_configuration, rows=results_text.record_rows)
    return environment.from_string(_read("page.html.jinja")).render(
        version=__version__,
        records=list(found.values()),
        tables=tables,
        elsewhere=len(found.keys() - sections.names(tables)),
        figures=[(picture, _about(picture.title)) for picture in drawn],
        previews=seen,
        left_out=album.out,
        columns=COLUMNS,
        styles=[_bundle(".css"), _read("page.css")],
        scripts=scripts,
        allowed=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )


def anchor(name: str) -> str:
    """The id of a record's part of the page, which is also what stands behind the `#` of its address."""
    return f"record-{quote(name, safe='', errors='replace')}"


def _about(figure: str) -> str:
    return FIGURES.get(figure, "")


def _configuration(record: Record) -> str:
    return yaml.safe_dump(record.configuration, sort_keys=False)


def _whole(record: Record) -> str:
    return yaml.safe_dump(record.model_dump(mode="json", exclude={"configuration"}), sort_keys=False)


def _text(value: object, without: str = "") -> str:
    return without if value is None else str(value)


def _seconds(record: Record, stage: str) -> str:
    return f"{record.seconds[stage]:.0f}" if stage in record.seconds else ""


def _read(name: str) -> str:
    return (resources.files("ddbench.report") / name).read_text(encoding="utf-8")


def _bundle(suffix: str) -> str:
    """DataTables with its styles, as the package itables carries it."""
    import itables.options

    return Path(itables.options.dt_bundle).with_suffix(suffix).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode("ascii")
