"""Report and leaderboard in a real browser: tables sort and filter, numbers open records, and no network is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ddbench.report import leaderboard
from ddbench.results import records, verified_json
from ddbench.results.preview import preview_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Shell

playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

MEASURED = Path(__file__).parents[2] / "results" / "reference" / "imagenette-64px" / "records"
HOSTILE = '"><script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">'
WIDTHS = (1280, 390)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
READY = "document.querySelectorAll('table.interactive:not(.dataTable)').length === 0"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Path:
    """A report of the repository's random and rded sets, and of a hostile record."""
    shell = shell_in(tmp_path_factory.mktemp("browser"))
    folder = shell.results / "records"
    folder.mkdir(parents=True)
    actual = sorted([*MEASURED.glob("random-*.json"), *MEASURED.glob("rded-*.json")])
    assert len(actual) > 20
    for path in actual:
        shutil.copy(path, folder)
    bad = {"name": HOSTILE, "method": HOSTILE, "dataset": HOSTILE}
    (folder / "bad.json").write_text(verified_json.dump({**verified_json.load(actual[0].read_text()), **bad}))
    outcome = shell("report")
    assert outcome.code == 0, outcome.err
    return shell.results / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        # Chromium's own sandbox needs a user that is not root, and a container that allows it.
        opened = running.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The report, opened; fails on anything in the console and on any request beside the file itself."""
    yield from watched(browser, report, request.param)


def watched(browser: Any, path: Path, width: int, scheme: str = "light") -> Iterator[Any]:
    """A page, opened; fails on anything in the console and on any request beside the file itself."""
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    urls: list[str] = []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on("request", lambda made: urls.append(made.url))
    opened.goto(path.as_uri())
    opened.wait_for_function(READY)
    yield opened
    assert messages == []
    assert {url for url in urls if not url.startswith("data:")} <= {
        path.as_uri(),
        *(image.as_uri() for image in (path.parent / "images").glob("*")),
    }
    assert opened.evaluate("window.pwned") is None
    opened.close()


def column(page: Any, title: str) -> list[str]:
    """The texts of a column of the table of all records, as it stands."""
    number = page.locator("#records thead th").all_inner_texts().index(title) + 1
    texts: list[str] = page.locator(f"#records tbody td:nth-child({number})").all_inner_texts()
    return texts


def sort(head: Any, direction: str) -> None:
    """Clicks on a heading, and waits for its rows."""
    head.click()
    playwright.expect(head).to_have_attribute("aria-sort", direction)


def test_a_click_on_a_heading_sorts_by_the_number(page: Any, report: Path) -> None:
    kept = [json.loads(path.read_text()) for path in (report.parent / "records").iterdir()]
    seconds = sorted(record["seconds"]["evaluate"] for record in kept)
    as_text = sorted(f"{value:.0f}" for value in seconds)
    assert as_text != [f"{value:.0f}" for value in seconds]
    head = page.locator("#records thead th", has_text="student, s")
    sort(head, "descending")
    assert column(page, "student, s") == [f"{value:.0f}" for value in seconds[::-1][:25]]
    sort(head, "ascending")
    assert column(page, "student, s") == [f"{value:.0f}" for value in seconds[:25]]


def test_a_cell_with_its_deviation_sorts_as_a_number(page: Any) -> None:
    table = page.locator("#table-comparison table", has=page.locator("th", has_text="IPC 10 published")).first
    titles = table.locator("thead th").all_inner_texts()
    number = titles.index("IPC 10 published") + 1
    head = table.locator(f"thead th:nth-child({number})")
    for direction in ("descending", "ascending"):
        sort(head, direction)
        texts = table.locator(f"tbody td:nth-child({number})").all_inner_texts()
        values = [float(text.split()[0]) for text in texts if text]
        assert len(values) > 2
        assert values == sorted(values, reverse=direction == "descending")
        # Cells without a number come last in both directions.
        assert texts[: len(values)] == [text for text in texts if text] != texts


def test_the_field_filters_rows(page: Any) -> None:
    rows = page.locator("#records tbody tr")
    everything = rows.count()
    page.locator("#records input[type=search]").fill("rded")
    page.wait_for_function(f"document.querySelectorAll('#records tbody tr').length < {everything}")
    assert 0 < rows.count() < everything
    # Random images are evaluated under the protocol `rded` too.
    assert "rded" in column(page, "method")
    assert all("rded" in text for text in rows.all_inner_texts())
    # Other tables keep theirs.
    assert "random" in page.locator("#table-comparison tbody").first.inner_text()


def test_a_number_opens_its_records_and_closing_leads_back(page: Any) -> None:
    cell = page.locator("#table-comparison td details").first
    cell.locator("summary").click()
    page.wait_for_function("document.querySelector('#table-comparison td details').open")
    link = cell.locator("a").first
    link.scroll_into_view_if_needed()
    where = page.evaluate("scrollY")
    name = link.get_attribute("title")
    link.click()
    opened = page.locator("article.record:target")
    assert opened.locator("h2").inner_text() == name
    assert opened.locator("pre").first.is_visible()
    assert "method_settings:" in opened.locator("pre").first.inner_text()
    box = opened.bounding_box()
    assert (box["x"], box["width"]) == (0, page.viewport_size["width"])
    assert opened.evaluate("element => element.scrollWidth <= element.clientWidth")
    opened.get_by_text("Close", exact=True).click()
    assert page.locator("article.record:visible").count() == 0
    link.click()
    assert opened.is_visible()
    page.keyboard.press("Escape")
    assert page.locator("article.record:visible").count() == 0
    assert page.evaluate("scrollY") == where
    assert cell.locator("a").first.is_visible()


def test_a_hostile_record_opens_as_text(page: Any) -> None:
    page.locator("#records input[type=search]").fill("pwned")
    page.wait_for_function("document.querySelectorAll('#records tbody tr').length === 1")
    page.locator("#records tbody a").click()
    assert page.locator("article.record:target h2").inner_text() == HOSTILE


def test_the_page_is_as_wide_as_the_window_and_readable(page: Any) -> None:
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.locator("main > section").all()
    assert all(box.bounding_box()["width"] <= width for box in boxes)
    # A wide table scrolls in its box.
    assert page.evaluate(
        "(() => { const box = document.querySelector('#records .dt-layout-table > div');"
        " return box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === 'auto'; })()"
    )
    # A hint stands at exactly the tables that are cut.
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].every(part => {"
        " const box = part.querySelector('.dt-layout-table > div');"
        " const hint = getComputedStyle(part, '::before').content.includes('scroll sideways');"
        " return hint === box.scrollWidth > box.clientWidth; })"
    )
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('main *, article.record *')]"
        ".map(element => parseFloat(getComputedStyle(element).fontSize)))"
    )
    assert smallest >= 14
    dark = page.evaluate("getComputedStyle(document.body).color")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark, light) == ("rgb(27, 27, 27)", "rgb(255, 255, 255)")


def test_a_dark_window_gets_a_dark_page(browser: Any, report: Path) -> None:
    context = browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 900})
    dark = context.new_page()
    dark.goto(report.as_uri())
    dark.wait_for_function(READY)
    shades = dark.evaluate(
        "['body', '#headline td', '#records thead th', '.published', 'a'].map(name => {"
        " const style = getComputedStyle(document.querySelector(name));"
        " const light = text => Math.max(...text.match(/[\\d.]+/g).slice(0, 3).map(Number));"
        " const painted = !style.backgroundColor.endsWith(', 0)');"
        " return [light(style.color), painted ? light(style.backgroundColor) : 0]; })"
    )
    assert all(text > 150 and ground < 60 for text, ground in shades), shades
    context.close()


def test_without_scripts_everything_is_there_to_read(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 900})
    plain = context.new_page()
    plain.goto(report.as_uri())
    count = len(list((report.parent / "records").iterdir()))
    assert plain.locator("#records tbody tr").count() == count
    plain.locator("#table-comparison summary").first.click()
    plain.locator("#table-comparison td details[open] a").first.click()
    assert plain.locator("article.record:target h2").is_visible()
    context.close()


@pytest.fixture(scope="module")
def site(report: Path) -> Path:
    """A leaderboard of the same records, with a preview of the first set."""
    stored = records.read_all(report.parent / "records", lambda line: None)
    picture = preview_path(next(record for record in stored if record.method == "rded"), report.parent)
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(picture)
    return leaderboard.write([report.parent], report.parents[1] / "site", lambda line: None)


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")])
def board(request: pytest.FixtureRequest, browser: Any, site: Path) -> Iterator[Any]:
    """The leaderboard, opened."""
    yield from watched(browser, site, *request.param)


def test_the_leaderboard_filters_by_values_with_the_keyboard(board: Any) -> None:
    rows = board.locator("#results tbody tr")
    everything = rows.count()
    head = board.get_by_role("columnheader", name="method").filter(has=board.get_by_role("button", name="Filter")).first
    head.get_by_role("button", name="Filter").focus()
    board.keyboard.press("Enter")
    dialog = board.get_by_role("dialog", name="Filter")
    assert "Filter by method" in dialog.inner_text()
    dialog.get_by_role("button", name="rded", exact=True).focus()
    board.keyboard.press("Enter")
    playwright.expect(rows).not_to_have_count(everything)
    assert set(board.locator("#results tbody th").all_inner_texts()) == {"rded"}
    board.keyboard.press("Escape")
    playwright.expect(dialog).to_have_count(0)


def test_a_result_opens_at_its_permalink_with_names_for_a_screen_reader(board: Any, site: Path) -> None:
    link = board.locator("#results tbody tr", has=board.get_by_text("rded", exact=True)).first.locator("a")
    number, name = link.inner_text(), link.get_attribute("aria-label")
    assert name.startswith(f"{number}: rded (")
    link.focus()
    board.keyboard.press("Enter")
    opened = board.get_by_role("dialog")
    assert opened.count() == 1
    assert opened.get_attribute("aria-label") == name.removeprefix(f"{number}: ")
    assert "ddbench run --method rded" in opened.locator("pre").inner_text()
    assert opened.evaluate("element => element.scrollWidth <= element.clientWidth")
    board.keyboard.press("Tab")
    assert board.evaluate("document.activeElement.textContent") == "Close"
    file = opened.locator("tbody a").first.get_attribute("href")
    assert records.read(site.parent / file).method == "rded"
    address = board.url
    board.keyboard.press("Escape")
    assert opened.count() == 0
    board.goto(address)
    assert opened.count() == 1


def test_the_leaderboard_fits_the_window_and_shows_the_images_of_a_set(board: Any) -> None:
    width = board.viewport_size["width"]
    assert board.evaluate("document.documentElement.scrollWidth") == width
    assert board.locator("tr.published").count() > 10
    shades = board.evaluate(
        "['body', '.published th', '.published td', '.dtcc-button'].map(name => {"
        " const style = getComputedStyle(document.querySelector(name));"
        " const light = text => Math.max(...text.match(/[\\d.]+/g).slice(0, 3).map(Number));"
        " return [light(style.color), style.backgroundColor.endsWith(', 0)') ? -1 : light(style.backgroundColor)]; })"
    )
    page_is_dark = shades[0][1] < 60
    assert all((text > 90) == page_is_dark for text, _ in shades), shades
    assert all(ground == -1 or (ground < 60) == page_is_dark for _, ground in shades), shades
    picture = board.locator("article.record img").first
    board.evaluate("id => { location.hash = id; }", picture.evaluate("element => element.closest('article').id"))
    playwright.expect(board.locator("article.record:target img").first).to_have_js_property("naturalWidth", 64)
