"""`ddbench report`: what the file holds, cell by cell, that it needs nothing else, and that no record can script it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from PIL import Image

from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.report import page, sections
from ddbench.results import published, verified_json
from ddbench.results import records as records_module
from ddbench.results.pooling import pool
from ddbench.results.records import Record
from ddbench.tables.frame import build_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Shell

MEASURED = Path(__file__).parents[3] / "results" / "reference" / "imagenette-64px" / "records"
HOSTILE = '"><script>window.pwned = 1</script><img src=x onerror="window.pwned = 2"> {{ 7 * 7 }} </style>'
VOID = {"meta", "br", "img", "input", "link", "base"}


@dataclass
class Element:
    """A tag with what is in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text, and that of all below it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str = "", kind: str = "") -> list[Element]:
        """All elements below it with this tag and this class."""
        actual = []
        for child in self.children:
            if isinstance(child, Element):
                if tag in ("", child.tag) and (not kind or kind in child.attributes.get("class", "").split()):
                    actual.append(child)
                actual += child.all(tag, kind)
        return actual

    def one(self, identifier: str) -> Element:
        """The element with this id."""
        (actual,) = [each for each in self.all() if each.attributes.get("id") == identifier]
        return actual


class Tree(HTMLParser):
    """Reads a page into Elements; every tag must be closed in its place."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(page)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@dataclass(frozen=True)
class Report:
    """A results folder, the page that was made of it, and what was said on stderr."""

    shell: Shell
    page: str
    root: Element
    errors: list[str]

    @property
    def records(self) -> dict[str, Record]:
        """The folder's records by name."""
        return {
            record.name: record for record in records_module.read_all(self.shell.results / "records", lambda line: None)
        }


def copied(source: Path, folder: Path, stem: str, **changes: Any) -> None:
    """A record of `source` with other values, as `stem`.json."""
    (folder / f"{stem}.json").write_text(verified_json.dump({**verified_json.load(source.read_text()), **changes}))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Report:
    """Students on digits that were trained here, the random sets of the repository, hostile records, and pictures."""
    shell = shell_in(tmp_path_factory.mktemp("report"))
    shell.run("--method", "random", "--dataset", "digits", "--ipc", "1", "--seeds", "2")
    folder = shell.results / "records"
    own = sorted(folder.iterdir())[0]
    for path in MEASURED.glob("random-*.json"):
        shutil.copy(path, folder)
    copied(own, folder, "third", name=f"third {HOSTILE}", student_seed=2)
    bad = {"method": HOSTILE, "dataset": HOSTILE, "student": HOSTILE, "recipes": [HOSTILE], "ipc": 3}
    content = json.loads(own.read_text())
    tree = {**content["configuration"], HOSTILE: HOSTILE}
    copied(own, folder, "bad", name=HOSTILE, **bad, device={**content["device"], "name": HOSTILE}, configuration=tree)
    (folder / "torn.json").write_text('{"name": "to')
    drawn = shell.results / "figures"
    drawn.mkdir()
    (drawn / "barycenter.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')
    (drawn / "own & other.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>')
    outcome = shell("report")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "written: results/report.html\n"
    text = (shell.results / "report.html").read_text(encoding="utf-8")
    return Report(shell, text, Tree(text).root, outcome.errors)


def linked(element: Element) -> list[str]:
    """The names of the records that links below `element` open."""
    targets = [link.attributes["href"] for link in element.all("a")]
    assert all(target.startswith("#record-") for target in targets)
    return [unquote(target.removeprefix("#record-")) for target in targets]


def cells(table: Element) -> list[list[Element]]:
    """The body of a table."""
    (body,) = table.all("tbody")
    return [row.all("td") for row in body.all("tr")]


def heads(table: Element) -> list[str]:
    """The titles of a table's columns."""
    return [head.text for head in table.all("thead")[0].all("th")]


def measured(report: Report) -> dict[str, set[str]]:
    """The records that each table's frame has, for tables with any."""
    registry, nothing = PluginRegistry(), Request(methods=(), datasets=(), ipcs=())
    actual = {}
    for spec in registry.tables():
        frame = build_frame(spec, nothing, registry, None, report.shell.results)
        if names := set(frame["record"].dropna()):
            actual[spec.name] = names
    return actual


def test_every_record_has_a_row_and_opens_with_all_that_it_holds(report: Report) -> None:
    table = report.root.one("records").all("table")[0]
    top1, recipe = heads(table).index("top-1"), heads(table).index("recipe")
    rows = {row[0].text: row for row in cells(table)}
    assert rows.keys() == report.records.keys()
    assert {rows[name][recipe].text for name in rows} >= {"quick", "smoke + 1 changed"}
    for name, record in report.records.items():
        assert linked(rows[name][0]) == [name]
        assert rows[name][top1].text == f"{record.metrics.top1_last:.2f}"
        assert float(rows[name][top1].attributes["data-order"]) == record.metrics.top1_last
        (opened,) = [
            article
            for article in report.root.all("article", "record")
            if article.attributes["id"] == rows[name][0].all("a")[0].attributes["href"][1:]
        ]
        assert opened.all("h2")[0].text == name
        for value in (f"torch {record.versions['torch']}", record.device["name"], record.distilled_digest):
            assert value in opened.text
        assert f"evaluate {record.seconds['evaluate']:.1f}" in opened.text
        for section in ("method_settings", "evaluator_settings", "runtime"):
            assert [key for key in record.configuration[section] if f"\n  {key}:" not in opened.text] == []


def test_every_table_with_records_is_there_and_every_number_opens_its_records(report: Report) -> None:
    expected = measured(report)
    assert {"comparison", "regimes"} <= expected.keys()
    actual = [section for section in report.root.all("section") if section.attributes.get("id", "").startswith("tab")]
    assert {section.attributes["id"].removeprefix("table-") for section in actual} == expected.keys()
    for name, records_of in expected.items():
        assert set(linked(report.root.one(f"table-{name}"))) == records_of


def test_a_cell_is_the_mean_of_the_records_that_it_opens(report: Report) -> None:
    actual = report.records
    checked = 0
    for table in report.root.one("table-comparison").all("table"):
        for cell in (cell for row in cells(table) for cell in row if cell.all("a")):
            values = [actual[name].metrics.top1_last for name in linked(cell)]
            mean = pool(values, [actual[name].distilled_digest for name in linked(cell)]).mean
            summary = cell.all("summary")[0].text
            assert summary.startswith(f"{mean:.2f}")
            students, _, rest = summary.rpartition("(")[2].partition(" ")
            assert int(students) == len(values)
            assert re.fullmatch(r"(sets?|on \d+ sets?)\)", rest), summary
            assert cell.attributes["data-order"] == f"{mean:.2f}"
            assert [item.text.partition(": ")[2] for item in cell.all("li")] == [f"{value:.2f}" for value in values]
            checked += len(values)
    assert checked == len(measured(report)["comparison"]) > 3


def test_a_score_over_students_is_not_said_of_each(report: Report) -> None:
    (table, *_) = report.root.one("table-regimes").all("table")
    scores = [row[number] for number, head in enumerate(heads(table)) if " IOR" in head for row in cells(table)]
    assert any(score.all("a") for score in scores)
    assert not [item.text for score in scores for item in score.all("li") if ":" in item.text]


def test_published_numbers_stand_in_marked_columns_alone(report: Report) -> None:
    theirs = published.load("comparison")
    paper = theirs[(theirs["ours"] == "random") & (theirs["dataset"] == "imagenette") & (theirs["ipc"] == 10)]
    shown = set()
    for table in report.root.one("table-comparison").all("table"):
        titles = heads(table)
        for row in cells(table):
            for title, cell in zip(titles, row, strict=True):
                marked = "published" in cell.attributes["class"].split()
                assert marked == title.endswith(" published")
                assert not (marked and cell.all("a"))
                if title == "IPC 10 published" and row[0].text == "random":
                    shown.add(cell.attributes["data-order"])
    assert {float(value) for value in shown} == {paper["value"].item()}


def test_nothing_is_loaded_from_outside(report: Report) -> None:
    loading = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping", "manifest"}
    for element in report.root.all():
        assert element.tag not in {"link", "base", "iframe", "object", "embed", "form", "use"}
        for name, value in element.attributes.items():
            assert not (name in loading and not value.startswith("data:image/")), (element.tag, name, value[:80])
            assert not (name == "href" and not value.startswith("#"))
    for style in report.root.all("style"):
        assert "@import" not in style.text
        assert all(part.startswith("data:") for part in style.text.split("url(")[1:])


def test_only_the_scripts_that_ship_can_run(report: Report) -> None:
    scripts = report.root.all("script")
    assert len(scripts) == 2
    assert 'window.$("table.interactive").DataTable(' in scripts[1].text
    assert "DataTables" in scripts[0].text
    assert "pwned" not in scripts[0].text + scripts[1].text
    digests = [base64.b64encode(hashlib.sha256(each.text.encode()).digest()).decode() for each in scripts]
    (policy,) = [
        meta.attributes["content"]
        for meta in report.root.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert rules["img-src"] == "data:"


def test_what_a_record_says_is_text(report: Report) -> None:
    assert not [name for element in report.root.all() for name in element.attributes if name.startswith("on")]
    (opened,) = [
        article for article in report.root.all("article", "record") if article.all("h2")[0].text.strip() == HOSTILE
    ]
    assert opened.text.count(HOSTILE) >= 4
    # The other one is a student like those that were trained here, and stands in a cell with them.
    assert f"third {HOSTILE}" in linked(report.root.one("table-comparison"))


def test_figures_and_previews_are_in_the_file(report: Report) -> None:
    drawn = report.shell.results / "figures"
    images = {image.attributes["alt"]: image.attributes["src"] for image in report.root.one("figures").all("img")}
    for alt, name in (("Figure 1: barycenters under KL, MMD and Wasserstein.", "barycenter"), ("own & other",) * 2):
        kind, _, content = images[alt].partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert base64.b64decode(content) == (drawn / f"{name}.svg").read_bytes()
    (preview,) = report.root.one("images").all("figure")
    trained = [name for name, record in report.records.items() if record.dataset == "digits"]
    assert sorted(linked(preview)) == sorted(trained)
    (image,) = preview.all("img")
    kind, _, content = image.attributes["src"].partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (int(image.attributes["width"]), int(image.attributes["height"]))


def test_the_overview_is_the_comparison_with_the_most_records_and_its_best_row_is_first(report: Report) -> None:
    overview = report.root.one("headline").all("table")[0]
    blocks = report.root.one("table-comparison").all("table")
    assert len(linked(overview)) == max(len(linked(block)) for block in blocks)
    assert not [head for head in heads(overview) if head.endswith((" published", " difference"))]
    numbers = [[float(cell.attributes["data-order"] or "-inf") for cell in row[1:]] for row in cells(overview)]
    ranked = max(range(len(numbers[0])), key=lambda n: (sum(row[n] > 0 for row in numbers), n))
    assert [row[ranked] for row in numbers] == sorted((row[ranked] for row in numbers), reverse=True)
    order = [section.attributes.get("id") for section in report.root.all("section")]
    assert order[0] == "headline"
    assert order[2] == "table-comparison"


def test_a_page_of_many_records_lists_the_newest_and_says_so(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_RECORDS", 3)
    monkeypatch.setattr(sections, "MAX_LINKS", 1)
    text = page.page(PluginRegistry(), report.shell.results, lambda line: None)
    root = Tree(text).root
    opened = {article.attributes["id"] for article in root.all("article", "record")}
    assert len(opened) == 3
    newest = sorted(report.records.values(), key=lambda record: record.created, reverse=True)[:3]
    assert {page.anchor(record.name) for record in newest} == opened
    assert f"the newest 3 of {len(report.records)} records" in " ".join(root.one("records").text.split())
    # No link leads nowhere, and the means are still those of all records.
    targets = {link.attributes["href"][1:] for link in root.all("a")}
    assert {target for target in targets if target.startswith("record-")} <= opened
    old = [cell.text for table in report.root.one("table-comparison").all("table") for cell in table.all("summary")]
    new = [cell.text for table in root.one("table-comparison").all("table") for cell in table.all("summary")]
    assert new == old
    assert "further record" in root.one("table-comparison").text


def test_a_file_that_is_no_record_is_named_once(report: Report) -> None:
    (line,) = report.errors
    assert "torn.json is not a record" in line


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(report: Report) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-m", "ddbench", "report", "--output", "again/again.html"]
    subprocess.run(command, cwd=report.shell.root, env=environment, check=True, capture_output=True)
    assert (report.shell.root / "again" / "again.html").read_bytes() == report.page.encode()
