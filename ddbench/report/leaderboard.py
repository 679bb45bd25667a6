"""The leaderboard: a folder with one HTML page of all results, the files of their records, and previews."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ddbench.core.canonical import key_of
from ddbench.core.errors import DDBenchError
from ddbench.core.files import atomic_write, translate_os_errors
from ddbench.core.text import counted
from ddbench.report.document import render
from ddbench.report.pictures import reduced_preview
from ddbench.results import published, records
from ddbench.results.command import command_of, inputs_of
from ddbench.results.conditions import Pool, pools
from ddbench.results.pooling import pool_top1
from ddbench.results.preview import preview_path
from ddbench.results.records import Record
from ddbench.results.scores import score_rows

COLUMNS = (
    ("method", "filter"),
    ("recipe", "filter recipe"),
    ("top-1", "number"),
    ("n", "number"),
    ("dataset", "filter"),
    ("px", "filter number"),
    ("IPC", "filter number"),
    ("protocol", "filter"),
    ("student", "filter"),
    ("IOR", "number"),
    ("HLR", "number"),
    ("LRS", "number"),
    ("ARS", "number"),
    ("images", "number"),
    ("labels", "number"),
)
"""Title and kinds of each column of the table of results."""
MAX_PICTURES = 3
"""The most distilled sets that a result shows."""


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and the number that its column is sorted by; empty if it has none."""

    text: str
    order: str = ""


@dataclass(frozen=True)
class Picture:
    """A preview of a distilled set.

    Args:
        address: Its address, relative to the page.
        title: Which set it shows.
        size: Width and height in pixels.
    """

    address: str
    title: str
    size: tuple[int, int]


@dataclass(frozen=True)
class RecordLine:
    """A record of a result: name, address relative to the page, and texts."""

    name: str
    address: str
    seeds: str
    top1: str
    created: str


@dataclass(frozen=True)
class Result:
    """A row of the table: the mean over the students of one variant of a method under one setting.

    Args:
        anchor: The HTML id of its details, which is the fragment of its permalink.
        title: Its method and setting.
        cells: Its cells, by title of the column.
        facts: Pairs of a name and a text.
        command: The command that makes its records again; empty for a published number.
        lines: Its records.
        pictures: Previews of its distilled sets.
        is_published: Whether it is a number of a paper, which no record holds.
    """

    anchor: str
    title: str
    cells: dict[str, Cell]
    facts: list[tuple[str, str]]
    command: str = ""
    lines: list[RecordLine] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    is_published: bool = False


@dataclass(frozen=True)
class Overview:
    """The results of a dataset and student: a row for each variant of a method, a column for each protocol and IPC."""

    heading: str
    columns: list[str]
    rows: list[tuple[str, str, list[Result | None]]]


class Site:
    """The files of the leaderboard beside its page.

    Args:
        folder: The folder to write.
        warn: Receives a message for each file that is not a record, and for each picture that cannot be read.

    Attributes:
        addresses: The address of the file of each record, by `id`.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder, self._warn = folder, warn
        self._records: dict[str, bytes] = {}
        self._pictures: dict[str, Picture | None] = {}
        self.addresses: dict[int, str] = {}

    def add_record(self, path: Path) -> Record | None:
        """Copies the file of a record. Files of one name and another content get another name.

        Returns:
            The record. None if it is not one, or if an equal file was added before.
        """
        try:
            content, name = path.read_bytes(), path.name
            if self._records.get(name) not in (None, content):
                name = f"{path.stem}-{sha256(content).hexdigest()[:8]}.json"
            if name in self._records:
                return None
            record = records.parse(content, path)
        except OSError as error:
            self._warn(f"record {path} cannot be read: {error.strerror}")
            return None
        except DDBenchError as error:
            self._warn(str(error))
            return None
        self._records[name] = content
        self._write(f"records/{name}", content)
        self.addresses[id(record)] = f"records/{quote(name)}"
        return record

    def picture(self, record: Record, results_dirs: Iterable[Path]) -> Picture | None:
        """Copies the preview of a record's set, scaled down; None if no results folder has it."""
        digest = record.distilled_digest
        if digest not in self._pictures:
            self._pictures[digest] = None
            for path in (preview_path(record, folder) for folder in results_dirs):
                if path.is_file() and (reduced := reduced_preview(path, self._warn)):
                    name = f"images/{path.parent.name}.webp"
                    self._write(name, reduced[0])
                    self._pictures[digest] = Picture(quote(name), f"set {record.repeat}", reduced[1])
                    break
        return self._pictures[digest]

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@records.collection_paused()
def write(folders: Sequence[Path], output: Path, warn: Callable[[str], None]) -> Path:
    """Writes the leaderboard of several results folders.

    Args:
        folders: Results folders, or folders of several of them.
        output: Folder to write. Existing files of an earlier leaderboard are replaced.
        warn: Receives a message for each file that is not a record, and for each picture that cannot be read.

    Returns:
        The page, `output/index.html`.

    Raises:
        DDBenchError: A folder has no records, or `output` holds other files or cannot be written.
    """
    results_dirs = [each for folder in folders for each in results_folders(folder)]
    paths = [path for each in results_dirs for path in sorted((each / "records").glob("*.json"))]
    page = output / "index.html"
    own = {"records", "images", page.name}
    if output.is_dir() and not page.is_file() and any(entry.name not in own for entry in output.iterdir()):
        raise DDBenchError(f"{output} holds other files: choose a new folder")
    site = Site(output, warn)
    with translate_os_errors(output):
        every = [record for path in paths if (record := site.add_record(path))]
        if not every:
            raise records.no_records_error(results_dirs[0] / "records")
        results = measured_results(every, site, results_dirs)
    results_of_papers = published_results({record.dataset for record in every})
    text = render(
        "leaderboard.html.jinja",
        picture_sources="'self'",
        count=len(every),
        newest=max(record.created for record in every)[:10],
        overviews=overviews(results),
        columns=COLUMNS,
        results=[*results, *results_of_papers],
    )
    with atomic_write(page) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return page


def results_folders(folder: Path) -> list[Path]:
    """Returns a results folder, or those in a folder of several.

    Raises:
        DDBenchError: There is none.
    """
    if (folder / "records").is_dir():
        return [folder]
    inside = sorted(path.parent for path in folder.glob("*/records") if path.is_dir())
    if not inside:
        raise records.no_records_error(folder / "records")
    return inside


def measured_results(every: list[Record], site: Site, results_dirs: Sequence[Path]) -> list[Result]:
    """Returns the results of records: those of the setting with the most results first, the best first."""
    groups = pools(every)
    pairs = list(zip(groups, score_rows(groups, groups), strict=True))
    counts = Counter(part for _, row in pairs for part in _settings(row))

    def order(pair: tuple[Pool, dict[str, Any]]) -> tuple[object, ...]:
        parts = _settings(pair[1])
        return *((-counts[part], part) for part in parts), -pair[1]["top1"]

    return [_measured(pool, row, site, results_dirs) for pool, row in sorted(pairs, key=order)]


def _settings(row: dict[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """The images, and the whole setting with student, protocol and IPC."""
    images = (row["dataset"], row["holdout"], row["image_size"])
    return images, (*images, row["student"], row["protocol"], math.inf if row["ipc"] is None else row["ipc"])


def _measured(pool: Pool, row: dict[str, Any], site: Site, results_dirs: Sequence[Path]) -> Result:
    example = pool.example
    ordered = sorted(pool.records, key=lambda record: (record.repeat, record.student_seed, record.name))
    on = "" if example.measured_on == "validation images" else f", {example.measured_on}"
    ipc = "all" if row["ipc"] is None else str(row["ipc"])
    number = pool_top1(pool.students).text
    counts = f"{row['n']} on {row['sets']}" if row["n"] != row["sets"] else str(row["n"])
    scores = {} if row["ipc"] is None else row
    recipes, settings = "+".join(example.recipes), re.sub(r"\b(method|evaluator)\.", "", row["settings"])
    cells = {
        "method": Cell(row["method"]),
        "recipe": Cell(", ".join(filter(None, (recipes, settings)))),
        "dataset": Cell(f"{row['dataset']}{on}"),
        "px": Cell(str(row["image_size"]), str(row["image_size"])),
        "IPC": Cell(ipc, "" if row["ipc"] is None else ipc),
        "protocol": Cell(row["protocol"]),
        "student": Cell(row["student"]),
        "top-1": Cell(number, str(row["top1"])),
        "n": Cell(counts, str(row["n"])),
        "IOR": _score(scores.get("ior"), ".2f"),
        "HLR": _score(scores.get("hlr"), ".2f"),
        "LRS": _score(scores.get("lrs"), ".4f"),
        "ARS": _score(scores.get("ars"), ".4f"),
        "images": _size(example.metrics.image_bytes),
        "labels": _size(example.metrics.label_bytes),
    }
    facts = [
        ("top-1", f"{number} % of {counted(row['n'], 'student')} on {counted(row['sets'], 'distilled set')}"),
        ("measured on", example.measured_on),
        ("protocol", f"{row['protocol']}, {row['regime']} labels; student {row['student']}"),
        ("teacher", _teacher(example)),
        *_references(scores),
        ("bytes", f"images {example.metrics.image_bytes:,}, labels {example.metrics.label_bytes:,}"),
        ("scores without value", row["missing"] if scores else ""),
        ("records differ in", row["mixture"]),
        ("the command needs", inputs_of(example)),
    ]
    sets = {record.distilled_digest: record for record in reversed(ordered)}
    pictures = [site.picture(record, results_dirs) for record in [*sets.values()][::-1][:MAX_PICTURES]]
    return Result(
        _anchor(cells),
        f"{cells['method'].text} ({cells['recipe'].text}), {_setting(cells)}",
        cells,
        [(name, text) for name, text in facts if text],
        command_of(max(ordered, key=lambda record: (record.repeat, record.student_seed))),
        [_line(record, site.addresses[id(record)]) for record in ordered],
        [picture for picture in pictures if picture],
    )


def published_results(datasets: set[str]) -> list[Result]:
    """Returns the numbers of the WMDD paper's Table 1 for some datasets, as printed and in the paper's order."""
    rows = [row for row in published.printed_rows("comparison") if row["dataset"] in datasets]
    return [_published(row) for row in rows]


def _published(row: dict[str, str]) -> Result:
    size = "" if published.is_quoted(row["note"]) else str(published.PAPER_SIZES[row["dataset"]])
    number = published.number_text(row)
    cells = {
        **{title: Cell("") for title, _ in COLUMNS},
        "method": Cell(row["method"]),
        "recipe": Cell("published"),
        "top-1": Cell(number, row["value"]),
        "n": Cell(row["n"], row["n"]),
        "dataset": Cell(row["dataset"]),
        "px": Cell(size, size),
        "IPC": Cell(row["ipc"] or "all", row["ipc"]),
        "protocol": Cell("published"),
        "student": Cell(row["architecture"]),
    }
    facts = [("top-1", f"{number} %"), ("source", row["source"]), ("note", row["note"])]
    title = f"{row['method']}, {_setting(cells)}: published, not measured here"
    return Result(_anchor(cells), title, cells, [fact for fact in facts if fact[1]], is_published=True)


def overviews(results: Sequence[Result]) -> list[Overview]:
    """Returns an overview of each dataset, size and student, those with the most results first."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        texts = [result.cells[title].text for title in ("dataset", "px", "student")]
        groups.setdefault(f"{texts[0]}, {texts[1]} px, {texts[2]}", []).append(result)
    return [_overview(*group) for group in sorted(groups.items(), key=lambda group: -len(group[1]))]


def _overview(heading: str, results: Sequence[Result]) -> Overview:
    used = Counter(result.cells["protocol"].text for result in results)
    columns = list(dict.fromkeys((result.cells["protocol"].text, result.cells["IPC"].text) for result in results))
    columns.sort(key=lambda column: (-used[column[0]], column[0], math.inf if column[1] == "all" else int(column[1])))
    rows: dict[tuple[str, str], list[Result | None]] = {}
    for result in results:
        name = (result.cells["method"].text, result.cells["recipe"].text)
        column = columns.index((result.cells["protocol"].text, result.cells["IPC"].text))
        rows.setdefault(name, [None] * len(columns))[column] = result
    counts = [sum(row[number] is not None for row in rows.values()) for number in range(len(columns))]
    ranked = counts.index(max(counts))
    ordered = sorted(rows.items(), key=lambda row: -_top1(row[1][ranked]))
    titles = [f"{protocol}, IPC {ipc}" for protocol, ipc in columns]
    return Overview(heading, titles, [(*name, row) for name, row in ordered])


def _top1(result: Result | None) -> float:
    return -math.inf if result is None else float(result.cells["top-1"].order)


def _setting(cells: dict[str, Cell]) -> str:
    units = {"dataset": "{}", "px": "{} px", "IPC": "IPC {}", "protocol": "{}", "student": "{}"}
    texts = {title: cells[title].text for title in units}
    return ", ".join(units[title].format(text) for title, text in texts.items() if text not in ("", "published"))


def _anchor(cells: dict[str, Cell]) -> str:
    """Returns a readable id: what names the result without special characters, and a digest of it."""
    texts = [cells[title].text for title in ("method", "recipe", "dataset", "px", "IPC", "protocol", "student")]
    readable = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")[:24] for text in texts if text)
    return f"{readable}-{key_of({'result': texts})[:6]}"


def _line(record: Record, address: str) -> RecordLine:
    seeds = f"set {record.repeat}, student {record.student_seed}, seed {record.seed}"
    return RecordLine(record.name, address, seeds, f"{record.metrics.top1_last:.2f}", record.created[:10])


def _score(value: float | None, form: str) -> Cell:
    return Cell("") if value is None or math.isnan(value) else Cell(f"{value:{form}}", str(value))


def _size(number: int) -> Cell:
    unit, name = (1e6, "MB") if number >= 1e6 else (1e3, "kB")
    return Cell(f"{number / unit:.3g} {name}", str(number))


def _teacher(record: Record) -> str:
    teacher = record.teacher
    return f"{teacher['name']}, top-1 {teacher['top1']:.2f} %" if teacher else "none"


def _references(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """The top-1 of the students that the scores compare with."""
    names = {
        "random": "random real images",
        "hard": "hard labels on the same sets",
        "full": "all training images",
        "unaugmented": "without augmentation",
        "unaugmented_random": "random without augmentation",
    }
    texts = [f"{text} {scores[name]:.2f}" for name, text in names.items() if scores and not math.isnan(scores[name])]
    return [("compared with", ", ".join(texts))]
