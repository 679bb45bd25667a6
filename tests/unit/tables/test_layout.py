"""How a table's frame is laid out: the texts of cells, the columns, and every form that it is written in."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from ddbench.api.table import Metric, TableSpec
from ddbench.tables.layout import format_table, text_blocks
from ddbench.tables.published_columns import with_published
from ddbench.tables.rows import FRAME_COLUMNS, SETTING_COLUMNS

if TYPE_CHECKING:
    from tests.unit.tables.conftest import Stored


SPEC = TableSpec("ablation", "hand-made", lambda request: [], "WMDD paper, Table 4", "loss + regulariser")


def hand_made() -> pd.DataFrame:
    setting = ("imagenette", 10, 224, "paper", "resnet18", "cpu fp32", "validation images", "", "s")
    common = {**dict(zip(SETTING_COLUMNS, setting, strict=True)), "table": "ablation", "ipc": 10, "protocol": "fkd v1"}
    common |= {"state": "measured", "differs": "", "set": "a", "teacher_digest": "t"}
    lines = [{**common, "row": "wasserstein + pcbn", "top1": top1, "set": f"set {top1}"} for top1 in (60.0, 62.0, 64.0)]
    lines += [
        {**common, "row": "cross-entropy + pcbn", "top1": 61.5, "differs": "64 px", "protocol": "hard v2"},
        {**common, "row": "wasserstein + bn", "state": "failed", "reason": "RuntimeError: 5 < 6 & all that"},
        {**common, "row": "cross-entropy + bn", "top1": 40.0},
        {**common, "row": "cross-entropy + bn", "state": "failed", "reason": "no images left"},
        {**common, "row": "an_other | <row>", "state": "never run"},
    ]
    loose = {"table": "ablation", "dataset": "imagenette", "ipc": 10, "row": "refused", "state": "failed"}
    lines.append({**loose, "reason": "RuntimeError: 5 < 6 & all that"})
    return with_published(SPEC, pd.DataFrame(lines, columns=list(FRAME_COLUMNS)).astype({"ipc": "Int64"}))


HEADING = "imagenette, 10 classes, 224 px, recipe paper, teacher resnet18, cpu fp32"
CELLS = {
    "wasserstein + pcbn": ["62.00 ± 2.00 (3 sets)", "64.7 ± 0.2", "-2.70"],
    "cross-entropy + pcbn": ["61.50 (1 set) hard v2", "63.5 ± 0.1", ""],
    "wasserstein + bn": ["failed [1]", "60.7 ± 0.2", ""],
    "cross-entropy + bn": ["40.00 (1 set), failed [2]", "54.2 ± 0.1", "-14.20"],
    "an_other | <row>": ["never run", "", ""],
    "refused": ["failed [1]", "", ""],
}
NOTES = [
    "[1] RuntimeError: 5 < 6 & all that",
    "[2] no images left",
    "published: WMDD paper, Table 4 (± standard error over 5)",
]
TEXT = """\
imagenette, 10 classes, 224 px, recipe paper, teacher resnet18, cpu fp32
loss + regulariser    IPC 10                     published   difference
--------------------  -------------------------  ----------  ----------
wasserstein + pcbn    62.00 ± 2.00 (3 sets)      64.7 ± 0.2  -2.70
cross-entropy + pcbn  61.50 (1 set) hard v2      63.5 ± 0.1
wasserstein + bn      failed [1]                 60.7 ± 0.2
cross-entropy + bn    40.00 (1 set), failed [2]  54.2 ± 0.1  -14.20
an_other | <row>      never run
refused               failed [1]
[1] RuntimeError: 5 < 6 & all that
[2] no images left
published: WMDD paper, Table 4 (± standard error over 5)"""


def test_a_block_as_text() -> None:
    assert format_table(SPEC, hand_made(), "text") == TEXT


def test_a_wide_block_repeats_its_row_names_and_keeps_numbers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = hand_made()
    both = pd.concat([frame, frame.assign(ipc=50).astype({"ipc": "Int64"})], ignore_index=True)
    monkeypatch.setenv("COLUMNS", "75")
    text = format_table(SPEC, both, "text")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 75
    assert [line.split() for line in lines if line.startswith("loss + regulariser")] == [
        ["loss", "+", "regulariser", *title.split(), "published", "difference"] for title in ("IPC 10", "IPC 50")
    ]
    assert [line for line in lines if line.startswith("wasserstein + pcbn")] == 2 * [
        "wasserstein + pcbn    62.00 ± 2.00 (3 sets)      64.7 ± 0.2  -2.70"
    ]


def test_a_difference_names_the_departures_of_its_records() -> None:
    frame = hand_made()
    frame["departures"] = [None, "bf16 instead of fp32", *[None] * (len(frame) - 2)]
    lines = format_table(SPEC, frame, "text").splitlines()
    assert lines[3].endswith("-2.70 [1]")
    assert "[1] measured with bf16 instead of fp32" in lines


def of_markdown(text: str) -> list[list[str]]:
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in line] for line in lines if "--" not in line[0]]


def of_latex(text: str) -> list[list[str]]:
    lines = [line.removesuffix(r"\\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    plain = [[cell.strip().replace(r"$\pm$", "±") for cell in line] for line in lines]
    # What is special must be escaped, and is by one backslash.
    assert not any(re.search(r"(?<!\\)[_#%]", cell) for line in plain for cell in line)
    return [[cell.replace(r"\_", "_").replace(r"\ensuremath{<}", "<").replace(r"\ensuremath{>}", ">") for cell in line]
            for line in plain]  # fmt: skip


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.notes: list[str] = []
        self.tag = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tag = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag in ("p", "h3"):
            self.notes.append("")

    def handle_data(self, data: str) -> None:
        if self.tag in ("td", "th"):
            self.rows[-1][-1] += data.strip()
        elif self.tag in ("p", "h3"):
            self.notes[-1] += data.strip()


def of_html(text: str) -> list[list[str]]:
    parser = _Cells()
    parser.feed(text)
    assert parser.notes == [HEADING, *NOTES]
    return parser.rows


@pytest.mark.parametrize(("form", "parse"), [("markdown", of_markdown), ("latex", of_latex), ("html", of_html)])
def test_other_forms_hold_the_same(form: str, parse: Callable[[str], list[list[str]]]) -> None:
    text = format_table(SPEC, hand_made(), form)
    assert parse(text) == [
        ["loss + regulariser", "IPC 10", "published", "difference"],
        *([row, *cells] for row, cells in CELLS.items()),
    ]
    if form == "latex":
        assert text.splitlines()[: 1 + len(NOTES)] == [f"% {line}" for line in (HEADING, *NOTES)]
        assert r"62.00 $\pm$ 2.00 (3 sets)" in text
    if form == "markdown":
        assert text.startswith(f"**{HEADING}**\n\n|")
        assert re.sub(r"\\(.)", r"\1", text).endswith("\n\n".join(NOTES))


HOSTILE = "my_set_ *b* `c` <i>d</i> [e](f) ~~g~~ &lt; \\ 50%"


def test_a_heading_of_markdown_reads_as_it_is_written() -> None:
    text = format_table(SPEC, hand_made().replace("imagenette", HOSTILE), "markdown")
    inline = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)[1].children or []
    assert [each.type for each in inline if each.type != "text"] == ["strong_open", "strong_close"]
    assert "".join(each.content for each in inline) == HEADING.replace("imagenette", HOSTILE)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\u2028"])
def test_a_line_end_in_a_name_stays_in_the_comment_of_latex(end: str) -> None:
    text = format_table(SPEC, hand_made().replace("imagenette", f"a{end}b"), "latex")
    heading, *lines = text.splitlines()
    assert heading == f"% {HEADING.replace('imagenette', 'a b')}"
    assert all(line.startswith(("% ", "\\")) or line.endswith("\\\\") for line in lines)


def test_csv_and_json_are_the_tidy_frame() -> None:
    frame = hand_made()
    rows = json.loads(format_table(SPEC, frame, "json"))
    table = list(csv.DictReader(io.StringIO(format_table(SPEC, frame, "csv"))))
    assert list(rows[0]) == list(table[0]) == list(frame.columns)
    for name in ("top1", "published_top1", "published_top1_error"):
        known = [None if pd.isna(value) else value for value in frame[name]]
        assert [row[name] for row in rows] == known
        assert [float(row[name]) if row[name] else None for row in table] == known
    for name in ("row", "dataset", "state"):
        assert [row[name] for row in rows] == [row[name] for row in table] == frame[name].tolist()


def test_columns_are_in_the_order_of_ipcs_and_the_whole_set_comes_last() -> None:
    frame = hand_made().head(3).assign(ipc=pd.array([50, None, 2], dtype="Int64"))
    frame = frame.drop(columns=[name for name in frame if name.startswith("published")])
    (block,) = text_blocks(SPEC, frame)
    assert list(block.cells) == ["loss + regulariser", "IPC 2", "IPC 50", "all"]
    spec = TableSpec("mine", "", lambda request: [], columns=("evaluator", "ipc"))
    (block,) = text_blocks(spec, frame.assign(evaluator=["hard", "full-data", "fkd"]))
    assert list(block.cells) == ["method", "IPC 2 fkd", "IPC 50 hard", "all full-data"]


def test_a_cell_names_its_protocol_and_student_if_most_cells_have_others() -> None:
    frame = hand_made()
    frame["student"] = frame["student"].where(frame["state"] != "measured", "resnet18")
    frame.loc[frame["protocol"] == "hard v2", "student"] = "convnet-d4"
    (block,) = text_blocks(SPEC, frame)
    cells = block.cells["IPC 10"].tolist()
    assert cells[:2] == ["62.00 ± 2.00 (3 sets)", "61.50 (1 set) hard v2, convnet-d4"]
    assert cells[3] == "40.00 (1 set), failed [2]"
    spec = replace(SPEC, columns=("ipc", "student"))
    (block,) = text_blocks(spec, frame)
    assert "61.50 (1 set) hard v2" in block.cells["IPC 10 convnet-d4"].tolist()


def test_metrics_of_a_cell_and_of_students() -> None:
    metrics = {"seconds": Metric("s"), "speed": Metric("speed", 1, per_cell=True), "share": Metric("x", per_cell=True)}
    spec = TableSpec("mine", "", lambda request: [], metrics=metrics)
    frame = (
        hand_made()
        .head(3)
        .assign(
            seconds=[0.1234, 0.1236, 0.1238],
            speed=7.25,
            share=1234.5,
            share_deviation=0.5,
            share_n=9,
            share_note="rough",
        )
    )
    (block,) = text_blocks(spec, frame)
    assert block.cells.iloc[0].to_dict() == {
        "method": "wasserstein + pcbn",
        "IPC 10 s": "0.124 ± 0.0002 (3 sets)",
        "IPC 10 speed": "7.2",
        "IPC 10 x": "1.23e+03 ± 0.5 (9) (rough)",
    }


def test_a_cell_pools_sets_and_says_what_is_mixed() -> None:
    frame = hand_made().head(3).assign(set=["a", "a", "b"], mixture="its records differ: 2 teachers")
    (block,) = text_blocks(SPEC, frame)
    assert block.cells["IPC 10"].tolist() == ["62.50 ± 2.12 (3 on 2 sets) [1]"]
    assert block.notes[0] == "[1] its records differ: 2 teachers"


# -- bold ------------------------------------------------------------------------------------------------------------


def sets_of(*values: float, row: str, **changes: Any) -> list[dict[str, Any]]:
    """One student on each set, with the seeds of all rows."""
    setting = ("imagenette", 10, 64, "quick", "resnet18", "cpu fp32", "validation images", "", "s")
    common = {**dict(zip(SETTING_COLUMNS, setting, strict=True)), "table": "ablation", "ipc": 10, "protocol": "fkd v1"}
    common |= {"state": "measured", "differs": "", "teacher_digest": "t", "student": "resnet18", "row": row}
    seeds = {"seed": 0, "student_seed": 0}
    return [
        {**common, **seeds, "repeat": repeat, "set": f"{row} {repeat}", "top1": value, **changes}
        for repeat, value in enumerate(values)
    ]


def compared(*rows: list[dict[str, Any]]) -> pd.DataFrame:
    lines = [line for row in rows for line in row]
    return with_published(SPEC, pd.DataFrame(lines, columns=list(FRAME_COLUMNS)).astype({"ipc": "Int64"}))


def test_the_best_number_is_bold_with_those_that_are_not_distinguished_from_it() -> None:
    frame = compared(
        sets_of(60.0, 62.0, 64.0, row="best & first"),
        sets_of(59.0, 60.0, 61.5, row="near"),  # two-sided p of the paired test: 0.08
        sets_of(50.0, 52.1, 54.0, row="far"),
        sets_of(61.0, row="one student"),
        sets_of(70.0, 71.0, 72.5, row="another protocol", protocol="hard v1"),
    )
    (block,) = text_blocks(SPEC, frame)
    assert block.best == {("best & first", "IPC 10"), ("near", "IPC 10")}
    shown = {form: format_table(SPEC, frame, form) for form in ("text", "markdown", "latex", "html")}
    assert re.findall(r"\*\*(\d.*?)\*\*( \(.*?\))?", shown["markdown"]) == [
        ("62.00 ± 2.00", " (3 sets)"),
        ("60.17 ± 1.26", " (3 sets)"),
    ]
    assert len({len(line) for line in shown["markdown"].splitlines() if line.startswith("|")}) == 1
    assert re.findall(r"\\textbf\{(.*?)\}", shown["latex"]) == [r"62.00 $\pm$ 2.00", r"60.17 $\pm$ 1.26"]
    assert re.findall(r"<b>(.*?)</b>", shown["html"]) == ["62.00 ± 2.00", "60.17 ± 1.26"]
    for form in ("markdown", "latex", "html"):
        assert "bold: the highest number of its column" in shown[form]
        assert "\ue000" not in shown[form]
    assert "bold" not in shown["text"]
    assert "62.00 ± 2.00 (3 sets)" in shown["text"]


@pytest.mark.parametrize(
    "rows",
    [
        [sets_of(60.0, row="a"), sets_of(50.0, row="b")],
        [sets_of(60.0, row="a"), sets_of(50.0, 51.0, 52.0, row="b")],
        [sets_of(60.0, 61.0, 63.0, row="a")],
    ],
)
def test_without_a_test_no_number_is_bold(rows: list[list[dict[str, Any]]]) -> None:
    frame = compared(*rows)
    (block,) = text_blocks(SPEC, frame)
    assert block.best == set()
    assert "bold" not in format_table(SPEC, frame, "markdown")


def test_pairs_have_the_same_seed_of_the_run() -> None:
    """Set 1 of seed 0 is set 0 of seed 1: the pairs show a constant loss, which Welch's test does not see."""
    first, second = sets_of(60.0, 65.0, 70.0, row="a"), sets_of(59.0, 64.1, 68.9, row="b")
    (block,) = text_blocks(SPEC, compared(first, second))
    assert block.best == {("a", "IPC 10")}
    shifted = [{**line, "seed": 10} for line in second]
    (block,) = text_blocks(SPEC, compared(first, shifted))
    assert block.best == {("a", "IPC 10"), ("b", "IPC 10")}


def test_hours_are_those_of_sets_not_of_students(stored: Stored) -> None:
    """Two recipes make sets of the same seeds: each set has its own hours, and a set with several students one."""
    stored_records = [
        stored.record(
            stored.experiment(ipcs=(1,), recipes=recipes).model_copy(
                update={"repeat": repeat, "student_seed": student}
            ),
            50.0,
            seconds={"evaluate": 1.0, "distill": 1800.0 * (repeat + 1) * len(recipes)},
            distilled_digest=f"{'+'.join(recipes)} {repeat}",
            name=f"r{repeat}{student}{len(recipes)}",
        )
        for recipes in (("smoke",), ("smoke", "tuned"))
        for repeat in (0, 1)
        for student in (0, 1, 2)
    ]
    (block,) = text_blocks(
        stored.registry.table("sliced"), stored.frame(*stored_records, name="sliced", datasets=("digits",), ipcs=(1,))
    )
    assert block.cells["IPC 1 hours"].tolist() == ["0.75 ± 0.354 (2 sets)", "1.5 ± 0.707 (2 sets)", ""]
    assert block.cells["IPC 1 top-1"].tolist() == [*2 * ["50.00 ± 0.00 (6 on 2 sets)"], "never run"]


def test_a_recipe_that_leaves_data_and_teacher_is_a_row_beside_the_others(stored: Stored) -> None:
    tuned = stored.experiment(recipes=("quick", "tuned"))
    sets = [stored.record(tuned.model_copy(update={"repeat": repeat}), 60.0 + 2 * repeat) for repeat in (0, 1)]
    others = [
        stored.record(stored.experiment(methods=(name,)), top1) for name, top1 in (("random", 30.0), ("kmeans", 40.0))
    ]
    frame = stored.frame(*sets, *others, stored.record(stored.experiment(), 50.0), name="comparison", ipcs=(10,))
    (block,) = text_blocks(stored.registry.table("comparison"), frame[frame["dataset"] == "digits"])
    assert block.heading.startswith("digits, 10 classes, 16 px, recipe quick, ")
    shown = dict(zip(block.cells["method"], block.cells["IPC 10"], strict=True))
    measured = {row: cell for row, cell in shown.items() if cell not in ("", "never run")}
    assert measured == {
        "kmeans": "40.00 (1 set)",
        "random": "30.00 (1 set)",
        "wmdd": "50.00 (1 set)",
        "wmdd, quick+tuned": "61.00 ± 1.41 (2 sets)",
    }
    assert list(shown).index("wmdd, quick+tuned") == list(shown).index("wmdd") + 1
    assert set(frame.loc[frame["top1"] >= 60, "recipe"]) == {"quick+tuned"}


def test_the_caveat_of_a_method_stands_beside_its_numbers(stored: Stored) -> None:
    """The caveat of RDED is about other protocols than its own."""
    measured = [
        stored.record(stored.experiment(methods=(name,), evaluators=("fkd",)), 30.0) for name in ("random", "rded")
    ]
    frame = stored.frame(*measured, name="regimes")
    (block,) = text_blocks(stored.registry.table("regimes"), frame[frame["dataset"] == "digits"])
    shown = block.cells.set_index("method")["IPC 10 fkd top-1"]
    assert (shown["random"], shown["rded"]) == ("30.00 (1 set)", "30.00 (1 set) [1]")
    assert block.notes == ["[1] rded: its crops are made for the protocol rded"]

    frame = stored.frame(stored.record(stored.experiment(methods=("rded",)), 30.0), name="comparison")
    (block,) = text_blocks(stored.registry.table("comparison"), frame[frame["dataset"] == "digits"])
    shown = block.cells.set_index("method")["IPC 10"]
    assert shown["rded"].startswith("30.00 (1 set)")
    assert not block.notes
