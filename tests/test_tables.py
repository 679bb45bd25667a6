"""Tables without a run: which cells there are, what records fill them, how the frame is laid out, and bad input."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ddbench.tables
from ddbench import hookimpl, published, records
from ddbench.errors import DDBenchError
from ddbench.evaluator import Metrics
from ddbench.experiment import Experiment
from ddbench.plugins import PluginRegistry
from ddbench.records import Record
from ddbench.resolve import Request, experiments
from ddbench.tables import Asked, Cell, Metric, TableSpec
from ddbench.tables.cells import cells_of
from ddbench.tables.filling import beside, frame_of
from ddbench.tables.layout import blocks, text_of
from ddbench.tables.lines import COLUMNS, SETTING

if TYPE_CHECKING:
    from conftest import Shell

REGISTRY = PluginRegistry()
METHODS = tuple(method.name for method in REGISTRY.distillers())
MEASURING = tuple(spec.name for spec in REGISTRY.tables() if spec.fill is None)
NOWHERE = Path("nowhere")


def asked(**fields: Any) -> Request:
    return Request(**{"methods": (), "datasets": (), "ipcs": (), **fields})


# -- cells ----------------------------------------------------------------------------------------------------


@given(
    name=st.sampled_from([spec.name for spec in REGISTRY.tables()]),
    datasets=st.lists(st.sampled_from(["digits", "imagenette", "cifar10"]), min_size=1, max_size=4),
    methods=st.lists(st.sampled_from(METHODS), max_size=4, unique=True),
    ipcs=st.lists(st.integers(1, 100), max_size=3),
)
def test_cells_are_distinct_and_of_what_is_asked_for(
    name: str, datasets: list[str], methods: list[str], ipcs: list[int]
) -> None:
    spec = REGISTRY.table(name)
    request = asked(datasets=tuple(datasets), methods=tuple(methods), ipcs=tuple(ipcs))
    every = cells_of(spec, asked(datasets=tuple(datasets), ipcs=tuple(ipcs)), REGISTRY, NOWHERE)
    wanted = [cell for cell in every if not methods or cell.method in methods]
    if not wanted:
        with pytest.raises(DDBenchError, match=f"^table '{name}' has no cell of method "):
            cells_of(spec, request, REGISTRY, NOWHERE)
        return
    cells = cells_of(spec, request, REGISTRY, NOWHERE)
    key = {(cell.row, cell.dataset, *(getattr(cell, across) for across in spec.across)): cell for cell in cells}
    assert len(key) == len(cells)
    assert {cell.dataset for cell in cells} == set(datasets)
    assert {cell.ipc for cell in cells} <= {*(ipcs or spec.ipcs), None}
    assert {cell.method for cell in cells} == {cell.method for cell in wanted}
    for cell in cells:
        assert (cell.ipc is None) == (not REGISTRY.distiller(cell.method).needs_ipc or name == "hyperparameters")
    if name != "metric":  # whose rows depend on what other methods there are
        assert sorted(map(repr, cells)) == sorted(map(repr, wanted))


def test_a_method_without_an_ipc_has_one_cell_under_its_own_protocol() -> None:
    request = asked(datasets=("digits",), methods=("full", "random"), ipcs=(1, 10))
    cells = cells_of(REGISTRY.table("regimes"), request, REGISTRY, NOWHERE)
    assert [(cell.ipc, cell.evaluator) for cell in cells if cell.method == "full"] == [(None, "full-data")]
    assert len([cell for cell in cells if cell.method == "random"]) == 6
    # It has no distilled images to choose an epoch on.
    with pytest.raises(DDBenchError, match="no cell of method full"):
        cells_of(REGISTRY.table("cross-arch"), asked(datasets=("digits",), methods=("full",)), REGISTRY, NOWHERE)


def test_two_cells_in_one_place_are_refused() -> None:
    def cells(asked: Asked) -> list[Cell]:
        return [Cell("random", "random", "digits", ipc) for ipc in asked.ipcs]

    spec = TableSpec("mine", "mixes IPCs", cells, across=())
    with pytest.raises(DDBenchError, match="table 'mine' has two cells in row 'random'"):
        cells_of(spec, asked(ipcs=(1, 2)), REGISTRY, NOWHERE)
    assert len(cells_of(spec, asked(ipcs=(2, 2)), REGISTRY, NOWHERE)) == 1


def test_without_anything_a_table_is_the_papers_datasets_and_numbers(tmp_path: Path) -> None:
    for name in published.TABLES:
        if name == "hyperparameters":
            continue
        theirs = published.load(name)
        frame = ddbench.tables.load(name, tmp_path)
        assert set(frame["state"]) <= {"never run", "published only"}, name
        assert list(frame["dataset"].drop_duplicates()) == list(theirs["dataset"].drop_duplicates()), name
        spec = REGISTRY.table(name)
        shown = theirs[theirs["ipc"].isin(frame["ipc"]) | theirs["ipc"].isna()]
        for metric, how in spec.metrics.items():
            mine = shown.loc[shown["metric"] == (how.printed or metric), "value"]
            assert sorted(frame[f"published_{metric}"].dropna()) == sorted(mine), (name, metric)
        text = text_of(spec, frame, "text")
        assert "never run" in text
        assert f"published: {spec.reference}" in text
    for name in ("lambda", "metric", "regimes"):
        frame = ddbench.tables.load(name, tmp_path)
        assert list(frame["dataset"].drop_duplicates()) == list(published.PAPER_SIZES)
        assert set(frame["state"]) == {"never run"}


# -- records --------------------------------------------------------------------------------------------------


@functools.cache
def experiment(**fields: Any) -> Experiment:
    """WMDD's on digits at IPC 10 under `quick`, but for `fields`."""
    request = {"methods": ("wmdd",), "datasets": ("digits",), "ipcs": (10,), "device": "cpu", "precision": "fp32"}
    (found,) = experiments(Request(**{**request, "recipes": ("quick",), **fields}), REGISTRY)
    return found


def record(made: Experiment, top1: float, **changes: Any) -> Record:
    """What a run of `made` would leave, with `top1`."""
    evaluation = f"{hash((made, top1)) & 0xFFFFFFFF:08x}"
    metrics = Metrics(top1_last=top1, per_class=[top1], student_steps=1, regime="soft", label_bytes=0, image_bytes=0)
    whole = {
        "name": f"{made.method}-{evaluation}",
        "created": "2026-01-01T00:00:00+00:00",
        "method": made.method,
        "method_version": made.method_settings.version,
        "dataset": made.dataset,
        "classes": 10,
        "ipc": made.ipc,
        "image_size": made.data.image_size,
        "recipes": list(made.recipes),
        "evaluator": made.evaluator,
        "evaluator_version": made.evaluator_settings.version,
        "student": made.student,
        "seed": made.seed,
        "repeat": made.repeat,
        "student_seed": made.student_seed,
        "metrics": metrics,
        "teacher": {"name": made.teacher.arch, "top1": 90.0, "key": "t", "digest": "t"},
        "feature_transport_cost": 1.0,
        "data": {"fingerprint": "f"},
        "distilled_digest": evaluation,
        "distilled_images": 100,
        "keys": {"evaluate": [evaluation]},
        "configuration": json.loads(made.model_dump_json()),
        "seconds": {"evaluate": 1.0, "distill": 3600.0},
        "seconds_per_iteration": None,
        "peak_memory": {"device": 0, "resident": 1},
        "device": {"type": "cpu", "name": "a CPU", "threads": 1},
        "versions": records.provenance()["versions"],
        "git_commit": None,
    }
    return Record(**{**whole, **changes})


Write = Callable[..., pd.DataFrame]


@pytest.fixture
def stored(tmp_path: Path) -> Write:
    """Writes records, and reads a table of them alone."""

    def write(*found: Record, name: str = "ablation", **fields: Any) -> pd.DataFrame:
        for each in found:
            records.write(each, tmp_path / "records")
        return frame_of(REGISTRY.table(name), asked(**fields), REGISTRY, None, tmp_path)

    return write


def measured(frame: pd.DataFrame) -> list[list[float]]:
    """The top-1 of WMDD's own cell, setting by setting."""
    mine = frame[(frame["state"] == "measured") & (frame["row"] == "wasserstein + pcbn")]
    return [sorted(part["top1"]) for _, part in mine.groupby(list(SETTING), sort=False, dropna=False)]


def test_records_fill_the_cell_that_they_are_of(stored: Write) -> None:
    ce = experiment(assignments=("method.feature_loss=cross-entropy",))
    sets = [
        record(experiment().model_copy(update={"repeat": repeat, "student_seed": student}), 50.0 + repeat + student / 2)
        for repeat in (0, 1)
        for student in (0, 1)
    ]
    frame = stored(*sets, record(ce, 40.0), record(experiment(methods=("random",)), 30.0))
    by_row = {row: sorted(part["top1"].dropna()) for row, part in frame[frame["dataset"] == "digits"].groupby("row")}
    assert by_row == {
        "wasserstein + pcbn": [50.0, 50.5, 51.0, 51.5],
        "cross-entropy + pcbn": [40.0],
        "wasserstein + bn": [],
        "cross-entropy + bn": [],
    }
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    # The datasets of the paper's table are there, never run.
    assert set(frame.loc[frame["dataset"] != "digits", "state"]) == {"never run"}
    (block,) = blocks(REGISTRY.table("ablation"), frame[frame["dataset"] == "digits"])
    assert block.heading == "digits, 10 classes, 16 px, recipe quick, teacher convnet-bn-d3, cpu fp32"
    assert block.cells["IPC 10"].tolist() == ["50.75 ± 0.65 (4)", "40.00 (1)", "never run", "never run"]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"assignments": ("method.bn_form=norm",)}, {}),
        ({"assignments": ("method.steps=299",)}, {}),
        ({"assignments": ("evaluator.epochs=299",)}, {}),
        ({"assignments": ("evaluator.select_share=0.2",)}, {}),
        ({"assignments": ("statistics.variance=batch-mean",)}, {}),
        ({"assignments": ("distill.jpeg_quality=75",)}, {}),
        ({"students": ("convnet-d3",)}, {}),
        ({"evaluator": "hard"}, {}),
        ({}, {"method_version": "0"}),
        ({}, {"evaluator_version": "0"}),
    ],
)
def test_what_differs_in_method_or_protocol_is_in_no_cell(
    stored: Write, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    other = record(experiment(**options), 90.0, **changes)
    assert measured(stored(other)) == []
    assert measured(stored(record(experiment(), 50.0))) == [[50.0]]


@pytest.mark.parametrize(
    ("options", "changes", "says"),
    [
        ({"image_size": 8}, {}, ", 8 px, "),
        ({"assignments": ("data.holdout=0.1",)}, {}, "measured on held-out training images (0.1)"),
        ({"assignments": ("teacher.epochs=5",)}, {}, "recipe quick --set teacher.epochs=5, "),
        ({"assignments": ("data.resize=bicubic",)}, {}, "recipe quick --set data.resize=bicubic, "),
        ({"recipes": ("quick", "lloyd")}, {}, "recipe quick+lloyd, "),
        ({"precision": "bf16"}, {}, ", cpu bf16"),
        ({"assignments": ("teacher.checkpoint=other.pt",)}, {}, "(checkpoint other.pt)"),
        ({}, {"data": {"fingerprint": "another"}}, "(setting "),
        ({}, {"classes": 9}, ", 9 classes, "),
        ({}, {"versions": {"numerics": "views=0 models=1"}}, "other numerics: views=0"),
    ],
)
def test_what_differs_in_the_setting_is_in_a_block_of_its_own(
    stored: Write, options: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    other = record(experiment(**options), 90.0, **changes)
    frame = stored(record(experiment(), 50.0), other)
    assert sorted(measured(frame)) == [[50.0], [90.0]]
    digits = blocks(REGISTRY.table("ablation"), frame[frame["dataset"] == "digits"])
    shown = {block.heading: block.cells["IPC 10"].iloc[0] for block in digits}
    assert sorted(shown.values()) == ["50.00 (1)", "90.00 (1)"]
    (heading,) = [heading for heading, text in shown.items() if text == "90.00 (1)"]
    assert says in heading


def test_two_checkpoints_of_one_name_are_two_teachers_and_hard_labels_need_neither(stored: Write) -> None:
    given = experiment(assignments=("teacher.checkpoint=a.pt",))
    hard = experiment(assignments=("teacher.checkpoint=a.pt",), methods=("random",), evaluator="hard")
    frame = stored(
        record(given, 50.0),
        record(given, 90.0, teacher={"key": "u"}),
        record(hard, 30.0, teacher={}),
        name="regimes",
    )
    lines = frame[frame["state"] == "measured"]
    parts = [sorted(part["top1"]) for _, part in lines.groupby(list(SETTING), dropna=False)]
    assert sorted(parts) == [[30.0, 50.0], [30.0, 90.0]]


def test_a_record_from_before_a_setting_existed_is_one_of_its_default(stored: Write) -> None:
    def aged(made: Experiment) -> Record:
        configuration = json.loads(made.model_dump_json())
        for section, name in (
            ("data", "holdout"),
            ("method_settings", "feature_loss"),
            ("method_settings", "regulariser"),
            ("method_settings", "initial"),
            ("evaluator_settings", "select_share"),
        ):
            configuration[section].pop(name, None)
        return record(made, 60.0 + made.student_seed, configuration=configuration, name=f"old-{made.student_seed}")

    old = [aged(experiment().model_copy(update={"student_seed": seed})) for seed in (1, 2)]
    assert measured(stored(record(experiment(), 50.0), *old)) == [[50.0, 61.0, 62.0]]


@pytest.mark.parametrize("section", ["method_settings", "evaluator_settings", "data", "teacher"])
def test_a_record_with_a_setting_that_is_no_more_is_in_no_cell(stored: Write, section: str) -> None:
    configuration = json.loads(experiment().model_dump_json())
    configuration[section]["gone"] = 1
    assert measured(stored(record(experiment(), 90.0, configuration=configuration))) == []


def test_of_one_set_and_student_the_newest_record_counts(stored: Write) -> None:
    newer = record(experiment(), 55.0, created="2026-02-01T00:00:00+00:00")
    assert measured(stored(newer, record(experiment(), 50.0))) == [[55.0]]
    # Base seed 1, first student, and base seed 0, second student, are the same student, but not the same set.
    moved = experiment().model_copy(update={"seed": 1})
    assert measured(stored(record(moved, 70.0))) == [[55.0, 70.0]]


def test_records_alone_are_what_was_asked_for(stored: Write) -> None:
    five = experiment(assignments=("teacher.epochs=5",))
    steps = experiment(assignments=("method.steps=299",))
    made = (experiment(), five, steps, experiment(image_size=8))
    found = [record(each, top1) for each, top1 in zip(made, (50.0, 60.0, 70.0, 80.0), strict=True)]
    assert sorted(measured(stored(*found))) == [[50.0], [60.0], [80.0]]
    assert measured(stored(assignments=("teacher.epochs=5",))) == [[60.0]]
    assert measured(stored(assignments=("wmdd.steps=299",))) == [[70.0]]
    assert measured(stored(image_size=8)) == [[80.0]]
    assert measured(stored(recipes=("quick", "released"))) == []
    assert measured(stored(device="cuda")) == []
    assert measured(stored(precision="bf16")) == []
    assert measured(stored(arch="convnet-d3", methods=("wmdd",))) == []
    # Without a budget the default one is meant, which for digits is quick.
    assert sorted(measured(stored(recipes=("released",)))) == []
    with pytest.raises(DDBenchError, match="unknown recipe 'quik'; did you mean 'quick'"):
        stored(recipes=("quik",))


def test_records_bring_their_own_ipcs_and_no_empty_columns(stored: Write) -> None:
    frame = stored(record(experiment(ipcs=(2,)), 50.0), record(experiment(ipcs=(3,), methods=("random",)), 20.0))
    assert set(frame.loc[frame["dataset"] == "digits", "ipc"]) == {2}
    assert set(frame.loc[frame["dataset"] == "imagenette", "ipc"]) == {10}
    assert set(stored(ipcs=(3, 4), datasets=("digits",))["ipc"]) == {3, 4}


def test_records_of_a_folder_of_images_go_by_its_name(stored: Write) -> None:
    made = experiment(datasets=("imagefolder:/somewhere/cats",))
    frame = stored(record(made, 50.0, dataset="imagefolder:cats"))
    assert measured(frame) == [[50.0]]


def test_the_difference_to_the_paper_is_under_the_papers_conditions_alone(stored: Write) -> None:
    of_paper = {"recipes": ("paper",), "datasets": ("imagenette",)}
    spec = REGISTRY.table("ablation")
    found = [
        record(experiment(**of_paper), 60.0),
        record(experiment(**of_paper, image_size=64), 61.0),
        record(experiment(**of_paper, assignments=("teacher.epochs=5",)), 62.0),
    ]
    frame = stored(*found, datasets=("imagenette",))
    shown = [block.cells.iloc[0].to_dict() for block in blocks(spec, frame)]
    assert sorted((cells["IPC 10"], cells.get("IPC 10 difference", "")) for cells in shown) == [
        ("60.00 (1)", "-4.70"),
        ("61.00 (1)", ""),
        ("62.00 (1)", ""),
    ]


def test_no_difference_to_what_the_paper_quotes_from_elsewhere(stored: Write) -> None:
    of_paper = {"recipes": ("paper",), "datasets": ("imagenette",)}
    found = [record(experiment(**of_paper, methods=(name,)), 60.0) for name in ("wmdd", "random", "sre2l")]
    frame = stored(*found, name="comparison", datasets=("imagenette",), methods=("wmdd", "random", "sre2l"))
    (block,) = blocks(REGISTRY.table("comparison"), frame)
    cells = block.cells.set_index("method")
    assert cells["IPC 10 difference"].to_dict() == {"wmdd": "-4.80", "random": "", "sre2l": ""}
    assert cells.loc[["wmdd", "random", "sre2l"], "IPC 10 published"].tolist() == [
        *("64.8 ± 0.4", "47.7 ± 2.4 [1]", "54.2 ± 0.4 [2]")
    ]
    assert block.notes[0].startswith("[1] reported elsewhere")
    assert block.notes[1].startswith("[2] replicated")


def test_hours_are_those_of_sets_not_of_students(stored: Write) -> None:
    found = [
        record(
            experiment(ipcs=(1,)).model_copy(update={"repeat": repeat, "student_seed": student}),
            50.0,
            seconds={"evaluate": 1.0, "distill": 1800.0 * (repeat + 1)},
            name=f"r{repeat}{student}",
        )
        for repeat in (0, 1)
        for student in (0, 1, 2)
    ]
    (block,) = blocks(REGISTRY.table("sliced"), stored(*found, name="sliced", datasets=("digits",), ipcs=(1,)))
    assert block.cells["IPC 1 hours"].tolist() == ["0.75 ± 0.354 (2)", ""]
    assert block.cells["IPC 1 top-1"].tolist() == ["50.00 ± 0.00 (6)", "never run"]


def test_published_hyperparameters_are_those_of_the_recipe_paper(shell: Shell) -> None:
    options = [word for dataset in published.PAPER_SIZES for word in ("--dataset", dataset)]
    told = shell("table", "hyperparameters", "--methods", "wmdd", "--recipe", "paper", *options, "--format", "json")
    assert told.code == 0, told.err
    lines = [line for line in json.loads(told.out) if line["published_value"] is not None]
    theirs = published.load("hyperparameters")
    named = theirs[theirs["ours"] != ""]
    assert len(lines) == 3 * (named["dataset"] == "all").sum() + (named["dataset"] != "all").sum()
    numbers = 0
    for line in lines:
        ours, printed = line["value"].split(", "), line["published_value"].split(", ")
        try:
            assert [float(part) for part in ours] == [float(part) for part in printed], line["row"]
            numbers += 1
        except ValueError:
            assert [part.lower() for part in ours] == [part.lower() for part in printed], line["row"]
    assert numbers == len(lines) - 3  # the optimiser's name
    digits = shell("table", "hyperparameters", "--methods", "wmdd", "--dataset", "digits")
    assert re.search(r"^wmdd.steps +300$", digits.out, re.MULTILINE)
    assert "published" not in digits.out


# -- layout ---------------------------------------------------------------------------------------------------

SPEC = TableSpec("ablation", "hand-made", lambda asked: [], "WMDD paper, Table 4", "loss + regulariser")


def hand_made() -> pd.DataFrame:
    setting = ("imagenette", 10, 224, "paper", "resnet18", "cpu fp32", "validation images", "", "s")
    common = {**dict(zip(SETTING, setting, strict=True)), "table": "ablation", "ipc": 10, "protocol": "fkd v1"}
    common |= {"state": "measured", "differs": ""}
    lines = [{**common, "row": "wasserstein + pcbn", "top1": top1} for top1 in (60.0, 62.0, 64.0)]
    lines += [
        {**common, "row": "cross-entropy + pcbn", "top1": 61.5, "differs": "64 px", "protocol": "hard v2"},
        {**common, "row": "wasserstein + bn", "state": "failed", "reason": "RuntimeError: 5 < 6 & all that"},
        {**common, "row": "cross-entropy + bn", "top1": 40.0},
        {**common, "row": "cross-entropy + bn", "state": "failed", "reason": "no images left"},
        {**common, "row": "an_other | <row>", "state": "never run"},
    ]
    loose = {"table": "ablation", "dataset": "imagenette", "ipc": 10, "row": "refused", "state": "failed"}
    lines.append({**loose, "reason": "RuntimeError: 5 < 6 & all that"})
    return beside(SPEC, pd.DataFrame(lines, columns=list(COLUMNS)).astype({"ipc": "Int64"}))


HEADING = "imagenette, 10 classes, 224 px, recipe paper, teacher resnet18, cpu fp32"
CELLS = {
    "wasserstein + pcbn": ["62.00 ± 2.00 (3)", "64.7 ± 0.2", "-2.70"],
    "cross-entropy + pcbn": ["61.50 (1) hard v2", "63.5 ± 0.1", ""],
    "wasserstein + bn": ["failed [1]", "60.7 ± 0.2", ""],
    "cross-entropy + bn": ["40.00 (1), failed [2]", "54.2 ± 0.1", "-14.20"],
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
loss + regulariser    IPC 10                 published    difference
--------------------  ---------------------  -----------  ------------
wasserstein + pcbn    62.00 ± 2.00 (3)       64.7 ± 0.2   -2.70
cross-entropy + pcbn  61.50 (1) hard v2      63.5 ± 0.1
wasserstein + bn      failed [1]             60.7 ± 0.2
cross-entropy + bn    40.00 (1), failed [2]  54.2 ± 0.1   -14.20
an_other | <row>      never run
refused               failed [1]
[1] RuntimeError: 5 < 6 & all that
[2] no images left
published: WMDD paper, Table 4 (± standard error over 5)"""


def test_a_block_as_text() -> None:
    assert "\n".join(line.rstrip() for line in text_of(SPEC, hand_made(), "text").splitlines()) == TEXT


def of_markdown(text: str) -> list[list[str]]:
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace(r"\|", "|") for cell in line] for line in lines if "--" not in line[0]]


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
    text = text_of(SPEC, hand_made(), form)
    assert parse(text) == [
        ["loss + regulariser", "IPC 10", "published", "difference"],
        *([row, *cells] for row, cells in CELLS.items()),
    ]
    if form == "latex":
        assert text.splitlines()[: 1 + len(NOTES)] == [f"% {line}" for line in (HEADING, *NOTES)]
        assert r"62.00 $\pm$ 2.00 (3)" in text
    if form == "markdown":
        assert text.startswith(f"**{HEADING}**\n\n|")
        assert text.endswith("\n\n".join(NOTES))


def test_csv_and_json_are_the_tidy_frame() -> None:
    frame = hand_made()
    rows = json.loads(text_of(SPEC, frame, "json"))
    table = list(csv.DictReader(io.StringIO(text_of(SPEC, frame, "csv"))))
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
    (block,) = blocks(SPEC, frame)
    assert list(block.cells) == ["loss + regulariser", "IPC 2", "IPC 50", "all"]
    spec = TableSpec("mine", "", lambda asked: [], across=("evaluator", "ipc"))
    (block,) = blocks(spec, frame.assign(evaluator=["hard", "full-data", "fkd"]))
    assert list(block.cells) == ["method", "IPC 2 fkd", "IPC 50 hard", "all full-data"]


def test_metrics_of_a_cell_and_of_students() -> None:
    metrics = {"seconds": Metric("s"), "speed": Metric("speed", 1, of_cell=True), "share": Metric("x", of_cell=True)}
    spec = TableSpec("mine", "", lambda asked: [], metrics=metrics)
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
    (block,) = blocks(spec, frame)
    assert block.cells.iloc[0].to_dict() == {
        "method": "wasserstein + pcbn",
        "IPC 10 s": "0.124 ± 0.0002 (3)",
        "IPC 10 speed": "7.2",
        "IPC 10 x": "1.23e+03 ± 0.5 (9) (rough)",
    }


# -- the command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ablatoin",), "unknown table 'ablatoin'; did you mean 'ablation'?"),
        (("comparison", "--methods", "random,wmd"), "unknown method 'wmd'; did you mean 'wmdd'?"),
        (("ablation", "--methods", "random"), "table 'ablation' has no cell of method random"),
        (("ablation", "--dataset", "digit"), "unknown dataset 'digit'; did you mean 'digits'?"),
        (("ablation", "--dataset", "digits", "--recipe", "smok"), "unknown recipe 'smok'; did you mean 'smoke'?"),
        (("ablation", "--dataset", "digits", "--set", "method.stepz=3"), "method (wmdd) has no setting 'stepz'; did"),
        (("ablation", "--set", "wmdd.steps=none"), "method.steps: "),
        (("ablation", "--dataset", "digits", "--ipc", "0"), "--ipc 0: images per class must be at least 1"),
        (("sliced", "--dataset", "digits", "--ipc", "9999", "--recipe", "smoke"), "--ipc 9999 is more than the 142"),
        (("ablation", "--dataset", "imagefolder:/no/such", "--recipe", "smoke"), "/no/such"),
        (("ablation", "--format", "yaml"), "'yaml' is not one of 'text', 'markdown'"),
        (("ablation", "--output", "file/table.txt"), "cannot write to file/table.txt: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_computed(shell: Shell, arguments: tuple[str, ...], says: str) -> None:
    (shell.root / "file").touch()
    outcome = shell("table", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    lines = [line for line in outcome.errors if line.startswith("ddbench: ")]
    assert len(lines) == 1
    assert says in lines[0]
    written = {name for name in shell.files() if not name.startswith("cache/data/")}
    assert written == {"file"}


def test_a_table_goes_to_a_file(shell: Shell) -> None:
    outcome = shell("table", "layers", "--format", "markdown", "--output", "new/folder/layers.md")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "written: new/folder/layers.md\n"
    text = (shell.root / "new/folder/layers.md").read_text(encoding="utf-8")
    assert text == shell("table", "layers", "--format", "markdown").out
    assert "| 18      | never run | 41.8        |" in text
    assert list(shell.files()) == ["new/folder/layers.md"]


def test_without_data_it_says_so(shell: Shell) -> None:
    said = "no dataset is named and none is in the data folder: from records and published numbers alone"
    assert shell("table", "layers").errors == [said]
    assert shell("table", "layers", "--only-cached").errors == []
    told = shell("table", "layers", "--dry-run")
    assert told.errors == [said]
    assert told.out.splitlines()[2].split() == ["5", "tiny-imagenet", "10"]


def test_a_broken_record_is_named_and_the_table_is_there(shell: Shell) -> None:
    records.write(record(experiment(), 50.0), shell.results / "records")
    (shell.results / "records" / "broken.json").write_text("{")
    outcome = shell("table", "sliced", "--only-cached", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [line["top1"] for line in json.loads(outcome.out) if line["top1"] is not None] == [50.0]
    (said,) = outcome.errors
    assert "broken.json is not a record" in said


def test_a_plugins_table_is_found_beside_the_others() -> None:
    registry = PluginRegistry()
    spec = TableSpec("mine", "my own", lambda asked: [Cell("a", "random", "digits", 1)])
    registry.register(SimpleNamespace(ddbench_tables=hookimpl(lambda: [spec])), "mine")
    assert registry.table("mine") is spec
    with pytest.raises(DDBenchError, match="unknown table 'mien'; did you mean 'mine'"):
        registry.table("mien")


def test_help_and_list_import_neither_torch_nor_pandas() -> None:
    code = """
        import contextlib, io, sys
        from ddbench.cli import main
        for words in ("--help", "table --help", "list tables", "list tables ablation"):
            sys.argv = ["ddbench", *words.split()]
            with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
                main()
            assert len(told.getvalue()) > 100, words
        print(sorted({"torch", "pandas", "numpy", "matplotlib"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
