"""`ddbench show`, `records` and `export`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ddbench.results import records
from ddbench.results.records import Record
from ddbench.results.scores import SCORE_COLUMNS

if TYPE_CHECKING:
    from conftest import Finished, Shell
    from tests.unit.conftest import Change, MakeTree, Scored


def records_in(shell: Shell) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((shell.results / "records").glob("*.json"))]


def test_show_finds_a_record_by_the_beginning_of_its_name(finished: Finished) -> None:
    for record in records_in(finished.shell):
        for name in (record["name"], record["name"][:-3]):
            outcome = finished.shell("show", name)
            assert outcome.code == 0
            assert f"{record['metrics']['top1_last']:.2f} %" in outcome.out
            assert record["distilled_digest"] in outcome.out
            head, _, configuration = outcome.out.partition("\n\n")
            assert record["name"] in head
            assert yaml.safe_load(configuration) == record["configuration"]


def test_show_without_a_name_is_the_newest(finished: Finished) -> None:
    newest = max((finished.shell.results / "records").iterdir(), key=lambda path: path.stat().st_mtime)
    assert newest.stem in finished.shell("show").out


@pytest.mark.parametrize("method", ["wmdd", "random"])
def test_both_exports_hold_the_images_of_the_record(finished: Finished, tmp_path: Path, method: str) -> None:
    record = next(r for r in records_in(finished.shell) if (r["method"], r["ipc"]) == (method, 2))
    folder, file = tmp_path / "folder", tmp_path / "file"
    for target, form in ((folder, "imagefolder"), (file, "safetensors")):
        outcome = finished.shell("export", record["name"], "--format", form, "--output", target)
        assert (outcome.code, outcome.out) == (0, f"written: {target}\n"), outcome.err
    tensors = load_file(file / "distilled.safetensors")
    assert tensors["images"].shape == (20, 3, 8, 8)
    assert tensors["labels"].bincount().tolist() == [2] * 10
    pictures = sorted(folder.rglob("*.png"))
    assert len(pictures) == 20
    with Image.open(pictures[0]) as first:
        pixels = torch.tensor(list(first.convert("RGB").tobytes())).view(8, 8, 3).permute(2, 0, 1)
    assert torch.equal(pixels, tensors["images"][0].long())
    assert json.loads((file / "card.json").read_text())["distilled_digest"] == record["distilled_digest"]


def test_the_table_of_records(shell: Shell) -> None:
    grid = ("--dataset", "digits", "--method", "random", "--method", "full", "--set", "data.holdout=0.1")
    shell.run(*grid, "--ipc", "1", "--set", "data.image_size=8")
    actual = {path.stem: records.read(path) for path in (shell.results / "records").glob("*.json")}
    text = shell("records").out
    assert text.split()[:6] == ["name", "image_size", "recipe", "evaluator", "holdout", "top1_last"]
    assert shell("records", "--wide").out.split()[:2] == ["name", "method"]
    assert len(text.splitlines()) == 2 + len(actual) == 4
    for name, record in actual.items():
        (shown,) = (row for row in text.splitlines() if row.startswith(name))
        assert shown.split()[-2:] == ["0.1", f"{record.metrics.top1_last:.2f}"]

    table = {row["name"]: row for row in csv.DictReader(io.StringIO(shell("records", "--format", "csv").out))}
    plain = {row["name"]: row for row in json.loads(shell("records", "--format", "json").out)}
    assert table.keys() == plain.keys() == actual.keys()
    for name, record in actual.items():
        row = table[name]
        assert float(row["top1_last"]) == plain[name]["top1_last"] == record.metrics.top1_last
        assert row["ipc"] == ("" if record.ipc is None else str(record.ipc))
        assert plain[name]["ipc"] == record.ipc
        assert row["data.fingerprint"] == record.data["fingerprint"]
        assert row["configuration.data.holdout"] == row["holdout"] == "0.1"
        assert json.loads(row["per_class"]) == record.metrics.per_class
        assert plain[name]["configuration"] == record.configuration


# -- records that no run made -----------------------------------------------------------------------------------


def test_records_are_filtered_and_sorted(scored: Scored, changed: Change, shell: Shell) -> None:
    actual = [
        *scored.random,
        *scored.own,
        changed(scored.own[0], "recipes", ["quick", "tuned"]),
        changed(scored.hard[0], "dataset", "digits"),
    ]
    actual[4] = changed(actual[4], "configuration.method_settings", {"steps": 400})
    for number, one in enumerate(actual):
        records.write(Record(**{**one, "name": f"{number:03d}"}), shell.results / "records")

    def names(*options: str) -> list[str]:
        outcome = shell("records", "--format", "json", *options)
        assert outcome.code == 0, outcome.err
        return [row["name"] for row in json.loads(outcome.out)]

    assert names() == ["000", "001", "002", "003", "004", "005"]
    assert names("--method", "random,wmdd", "--dataset", "imagenette") == ["000", "001", "002", "003", "004"]
    assert names("--method", "random") == ["000", "001"]
    assert names("--recipe", "quick", "--recipe", "tuned") == ["004"]
    assert names("--recipe", "quick") == ["000", "001", "002", "003", "005"]
    assert names("--sort", "top1_last") == ["003", "002", "004", "001", "000", "005"]
    assert names("--sort", "method") == ["000", "001", "002", "003", "004", "005"]
    shell("records", "--method", "dm").refused("unknown method of a record 'dm'; did you mean 'random'?")
    shell("records", "--sort", "top1").refused("unknown column 'top1'")
    shell("records", "--method", "random", "--dataset", "digits").refused("no record has this method, dataset and")
    # Scores use all records as references, whatever is shown.
    chosen = ("--method", "wmdd", "--recipe", "quick", "--dataset", "imagenette")
    (row,) = json.loads(shell("records", "--scores", "--format", "json", *chosen).out)
    assert row["ior"] == 63.0 - 52.0
    assert "recipe" in shell("records").out.splitlines()[0].split()


@pytest.mark.parametrize("form", ["text", "csv"])
def test_without_a_method_to_score_there_is_a_heading(scored: Scored, shell: Shell, form: str) -> None:
    records.write(Record(**scored.full[0]), shell.results / "records")
    outcome = shell("records", "--scores", "--format", form, "--wide")
    assert outcome.code == 0
    heading = outcome.out.splitlines()[0]
    shown = [name for name in SCORE_COLUMNS if form == "csv" or name != "records"]
    assert heading.replace(",", " ").split() == shown


def test_no_record_is_one_line_and_a_damaged_one_is_named(tree: MakeTree, shell: Shell) -> None:
    outcome = shell("records")
    assert (outcome.code, outcome.out, len(outcome.errors)) == (2, "", 1)
    assert "no records in results/records; start a run first" in outcome.err
    records.write(Record(**tree("wmdd", "fkd", 12.5)), shell.results / "records")
    (shell.results / "records" / "torn.json").write_text('{"name":')
    outcome = shell("records")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 3
    assert len(outcome.errors) == 1
    assert "torn.json is not a record" in outcome.err
