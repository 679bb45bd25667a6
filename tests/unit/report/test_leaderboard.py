"""`ddbench leaderboard`: every record is in one result, numbers are those of the records, links lead somewhere."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from PIL import Image

from ddbench.core.errors import DDBenchError
from ddbench.report import leaderboard
from ddbench.results import published, records
from ddbench.results.frames import to_frame
from ddbench.results.preview import preview_path
from ddbench.results.scores import scores

if TYPE_CHECKING:
    from conftest import Shell
    from ddbench.report.leaderboard import Result
    from ddbench.results.records import Record

MEASURED = Path(__file__).parents[3] / "results" / "reference" / "imagenette-64px" / "records"
HOSTILE = '"><script>window.pwned = 1</script>'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two results folders, one in a folder of several; the second has a record of the first, and others."""
    root = tmp_path_factory.mktemp("leaderboard")
    first, second = root / "first", root / "several" / "second"
    paths = [*sorted(MEASURED.glob("random-*.json")), *sorted(MEASURED.glob("full-*.json"))]
    wmdd = sorted(MEASURED.glob("wmdd-*.json"))[:12]
    for folder, chosen in ((first, paths), (second, [*wmdd, paths[0]])):
        (folder / "records").mkdir(parents=True)
        for path in chosen:
            shutil.copy(path, folder / "records")
    record = records.read(wmdd[0])
    picture = preview_path(record, second)
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (700, 100)).save(picture)
    hostile = record.model_copy(update={"name": HOSTILE, "method": HOSTILE, "student": HOSTILE, "ipc": 3})
    records.write(hostile.model_copy(update={"name": "hostile"}), second / "records")
    return [first, root / "several"]


@pytest.fixture(scope="module")
def every(folders: list[Path]) -> list[Record]:
    """The records of both, each once."""
    stored = [one for folder in folders for path in leaderboard.results_folders(folder) for one in _read(path)]
    return [*{record.name: record for record in stored}.values()]


def _read(folder: Path) -> list[Record]:
    return records.read_all(folder / "records", pytest.fail)


@pytest.fixture(scope="module")
def site(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The written leaderboard."""
    return leaderboard.write(folders, tmp_path_factory.mktemp("written") / "site", pytest.fail).parent


@pytest.fixture(scope="module")
def results(every: list[Record], tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """Its results."""
    return results_of(every, tmp_path_factory.mktemp("results"))


def results_of(stored: list[Record], folder: Path) -> list[Result]:
    """The results of records, with their files in a folder."""
    site = leaderboard.Site(folder, pytest.fail)
    kept = [site.add_record(records.write(record, folder / "sources")) for record in stored]
    return leaderboard.measured_results([record for record in kept if record], site, [])


def test_every_record_is_in_one_result_whose_number_is_the_mean_over_sets(
    every: list[Record], results: list[Result]
) -> None:
    by_name = {record.name: record for record in every}
    listed = [line.name for result in results for line in result.lines]
    assert sorted(listed) == sorted(by_name)
    for result in results:
        sets: dict[str, list[float]] = {}
        for line in result.lines:
            record = by_name[line.name]
            assert line.top1 == f"{record.metrics.top1_last:.2f}"
            sets.setdefault(record.distilled_digest, []).append(record.metrics.top1_last)
        assert float(result.cells["top-1"].order) == pytest.approx(fmean(map(fmean, sets.values())))
        assert result.cells["n"].order == str(len(result.lines))


def test_scores_are_those_of_the_command_records(every: list[Record], results: list[Result]) -> None:
    frame = scores(to_frame(every))
    of_records = {tuple(sorted(row.records)): row for row in frame.itertuples()}
    filled = 0
    for result in results:
        row = of_records.get(tuple(sorted(line.name for line in result.lines)))
        for title in ("IOR", "HLR", "LRS", "ARS"):
            order = result.cells[title].order
            value = getattr(row, title.lower(), float("nan"))
            assert (float(order) if order else float("nan")) == pytest.approx(value, nan_ok=True)
            filled += bool(order)
    assert filled > 20
    assert [result for result in results if result.cells["IPC"].text == "all"]


def test_the_best_result_of_the_most_used_setting_is_first(results: list[Result]) -> None:
    def setting(result: Result) -> list[str]:
        return [result.cells[title].text for title in ("dataset", "px", "IPC", "protocol", "student")]

    first = [result for result in results if setting(result) == setting(results[0])]
    assert results[: len(first)] == first
    numbers = [float(result.cells["top-1"].order) for result in first]
    assert numbers == sorted(numbers, reverse=True)
    assert len(first) == max([*map(setting, results)].count(setting(result)) for result in results)


def test_the_overview_has_a_row_for_a_variant_and_a_column_for_a_setting(results: list[Result]) -> None:
    shown = [
        (overview.heading, method, recipe, column, result)
        for overview in leaderboard.overviews(results)
        for method, recipe, row in overview.rows
        for column, result in zip(overview.columns, row, strict=True)
        if result
    ]
    assert len(shown) == len(results)
    for heading, method, recipe, column, result in shown:
        cells = {title: cell.text for title, cell in result.cells.items()}
        assert heading == f"{cells['dataset']}, {cells['px']} px, {cells['student']}"
        assert (method, recipe) == (cells["method"], cells["recipe"])
        assert column == f"{cells['protocol']}, IPC {cells['IPC']}"


def test_published_numbers_are_as_printed_and_lead_to_their_source() -> None:
    rows = leaderboard.published_results({"imagenette"})
    printed = [row for row in published.printed_rows("comparison") if row["dataset"] == "imagenette"]
    texts = [f"{row['value']} ± {row['error']}" if row["error"] else row["value"] for row in printed]
    assert [row.cells["top-1"].text for row in rows] == texts
    assert [dict(row.facts)["source"] for row in rows] == [row["source"] for row in printed]
    assert all(row.is_published and not row.lines for row in rows)
    assert {row.cells["px"].text for row in rows if row.cells["method"].text == "Random"} == {""}
    assert {row.cells["px"].text for row in rows if row.cells["method"].text == "WMDD"} == {"224"}
    assert leaderboard.published_results({"digits"}) == []


def test_a_permalink_stays_when_records_are_added(every: list[Record], results: list[Result], tmp_path: Path) -> None:
    fewer = results_of([record for record in every if record.method == "random"], tmp_path)
    addresses = {result.anchor for result in results}
    assert len(addresses) == len(results)
    assert {result.anchor for result in fewer} <= addresses
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", address) for address in addresses)


def test_every_link_leads_somewhere_and_record_files_are_copies(site: Path, folders: list[Path]) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    targets = [html.unescape(target) for target in re.findall(r'<a href="([^"]*)"', text)]
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    linked = {unquote(target) for target in targets if not target.startswith("#")}
    assert linked == {f"records/{path.name}" for path in (site / "records").iterdir()}
    sources = {path.name: path.read_bytes() for folder in folders for path in folder.rglob("records/*.json")}
    assert {path.name: path.read_bytes() for path in (site / "records").iterdir()} == sources
    assert not re.search(r'(src|href)="(https?:)?//', text)


def test_the_images_of_a_set_are_shown_scaled_down(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    (picture,) = set(re.findall(r'<img src="([^"]*)"', text))
    with Image.open(site / picture) as image:
        assert image.size == (640, 91)
        assert f'width="{image.width}" height="{image.height}"' in text


def test_what_a_record_says_is_text(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    assert html.escape(HOSTILE).replace("&quot;", "&#34;") in text
    assert "<script>window" not in text


def test_files_of_one_name_and_other_content_are_both_kept(every: list[Record], tmp_path: Path) -> None:
    site = leaderboard.Site(tmp_path / "site", pytest.fail)
    changed = every[0].model_copy(update={"created": "2027-01-01T00:00:00+00:00"})
    sources = (("one", every[0]), ("same", every[0]), ("other", changed), ("again", changed))
    kept = [site.add_record(records.write(record, tmp_path / name)) for name, record in sources]
    assert kept == [every[0], None, changed, None]
    assert len(set(site.addresses.values())) == len([*(tmp_path / "site/records").iterdir()]) == 2


def test_a_file_that_is_no_record_is_named_and_left_out(folders: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "records"
    (folder / "folder.json").mkdir(parents=True)
    (folder / "torn.json").write_text("{")
    shutil.copy(next((folders[0] / "records").iterdir()), folder)
    messages: list[str] = []
    page = leaderboard.write([folder.parent], tmp_path / "site", messages.append)
    assert messages[0] == f"record {folder / 'folder.json'} cannot be read: Is a directory"
    assert messages[1].startswith(f"{folder / 'torn.json'} is not a record: ")
    assert len([*(page.parent / "records").iterdir()]) == 1


def test_folders_that_cannot_be_used_are_refused_and_nothing_is_written(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("1")
    with pytest.raises(DDBenchError, match="own holds other files: choose a new folder"):
        leaderboard.write(folders, tmp_path / "own", pytest.fail)
    with pytest.raises(DDBenchError, match=r"no records in .*nowhere"):
        leaderboard.write([tmp_path / "nowhere"], tmp_path / "site", pytest.fail)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["thesis.txt"]


def test_the_command_writes_the_same_page_again(folders: list[Path], site: Path, shell: Shell) -> None:
    for _ in range(2):
        outcome = shell("leaderboard", *folders, "--output", "site")
        assert (outcome.code, outcome.out) == (0, "written: site/index.html\n"), outcome.err
        assert (shell.root / "site/index.html").read_bytes() == (site / "index.html").read_bytes()
