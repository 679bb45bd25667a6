"""Results, caches and names from strangers: what cannot be is refused in a line, and nothing lies elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ddbench.results.record_checks import SECTIONS
from ddbench.storage.artifacts import read_tensors, write_tensors

if TYPE_CHECKING:
    from conftest import Shell

FAST = ("--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32")
DM = ("--method", "dm", "--set", "dm.steps=1", "--set", "dm.network=convnet-d1")
SMALL = ("run", *DM, *FAST, "--image-size", "8", "--student", "convnet-d2", "--evaluator", "hard")


class Payload:
    """Unpickling it makes a folder: what a hostile file might do."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Shell:
    """A shell in which one set of images was made and measured; read it, or copy it."""
    shell = shell_in(tmp_path_factory.mktemp("done"))
    outcome = shell(*SMALL)
    assert outcome.code == 0, outcome.err
    return shell


@pytest.fixture
def copied(done: Shell, tmp_path: Path) -> Shell:
    """A copy of it that may be harmed."""
    shutil.copytree(done.root, tmp_path / "mine")
    return type(done)(tmp_path / "mine")


def record_of(shell: Shell) -> Path:
    (path,) = (shell.results / "records").glob("*.json")
    return path


# -- records --------------------------------------------------------------------------------------------------


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def changed(**fields: str) -> Callable[[str], str]:
    """The record's text with other values, each given as JSON."""

    def change(text: str) -> str:
        tree = json.loads(text)
        tree.pop("digest")
        parts = [f"{json.dumps(name)}: {fields.get(name, json.dumps(value))}" for name, value in tree.items()]
        return "{" + ", ".join(parts) + "}"

    return change


def without(section: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        tree = json.loads(text)
        tree.pop("digest")
        del tree["configuration"][section]
        return json.dumps(tree)

    return change


RECORDS: dict[str, tuple[Callable[[str], str], str]] = {
    "100,000 levels": (lambda text: "[" * 100_000, "nested too deeply"),
    "1000 levels inside": (changed(configuration=deep(900)), "nested"),
    "40 levels inside": (changed(data='{"x": ' + deep(40) + "}"), "nested deeper than 20"),
    "a long number": (changed(seed="9" * 5000), "Exceeds the limit"),
    "a large number": (changed(ipc="1" + "0" * 30), "more than 64 bits"),
    "infinity": (changed(seconds='{"evaluate": 1e999}'), "1e999 is not a finite number"),
    "not a number": (changed(feature_transport_cost="NaN"), "NaN is not a finite number"),
    "120 percent": (
        lambda text: re.sub(r'"top1_last": [\d.]+', '"top1_last": 120.0', changed()(text)),
        "metrics.top1_last: Input should be less than or equal to 100",
    ),
    "a list": (lambda text: "[1, 2]", "it holds no JSON object"),
    "a number": (lambda text: "3", "it holds no JSON object"),
    "no configuration": (changed(configuration="{}"), "configuration: Dictionary should have at least 1"),
    "no device": (changed(device='{"name": 3}'), "device: 'type' is missing"),
    "a teacher of text": (changed(teacher='{"name": "x", "top1": "y"}'), "teacher: 'top1' is a str"),
    "a device of numbers": (
        lambda text: re.sub(r'"device": "cpu"', '"device": [1]', changed()(text)),
        "configuration: runtime.device: Input should be a valid string",
    ),
    "keys of anything": (changed(keys='{"distill": 5}'), "keys.distill: a list such as [1, 2] is needed"),
    **{f"no {section}": (without(section), f"configuration: '{section}' is missing") for section in SECTIONS},
}
READING = (("show",), ("records",), ("records", "--format", "json"), ("report",), ("figure", "scaling"))


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_is_none_is_one_line_wherever_it_is_read(copied: Shell, what: str) -> None:
    change, message = RECORDS[what]
    path = record_of(copied)
    path.write_text(change(path.read_text()))
    copied("export", path.stem, "--output", "out").refused(f"{path.name} is not a record", message)
    for command in READING if what in ("100,000 levels", "infinity", "no runtime") else READING[:2]:
        outcome = copied(*command)
        assert outcome.code == 2, outcome.out
        assert outcome.out == ""
        assert "Traceback" not in outcome.err
        assert message in outcome.err
    assert not (copied.root / "out").exists()
    assert not (copied.results / "report.html").exists()


def test_a_record_of_strange_settings_hurts_no_other(copied: Shell) -> None:
    """It has the shape of a record, and what its settings say is nothing that ddbench knows."""
    path = record_of(copied)
    tree = json.loads(path.read_text())
    tree.pop("digest")
    odd: dict[str, Any] = {name: {"strange": [1, {"x": None}]} for name in SECTIONS}
    odd["runtime"] |= {"device": "cpu", "precision": "fp32"}
    odd["distill"] |= {"jpeg_quality": None}
    for key, value in {"name": "odd", "configuration": {**tree["configuration"], **odd}}.items():
        tree[key] = value
    path.with_name("odd.json").write_text(json.dumps(tree))
    for command in (*READING, ("table", "comparison"), ("records", "--scores"), ("show", "odd")):
        outcome = copied(*command)
        assert outcome.code in (0, 2), outcome.err
        assert "Traceback" not in outcome.err
    listed = copied("records").out
    assert path.stem in listed
    assert "odd" in listed


def test_a_pickle_is_neither_record_nor_picture_nor_artifact(copied: Shell) -> None:
    """Every file of results and cache is one, in turn; the same command makes each again or names it."""
    marker = copied.root / "marker"
    hostile = pickle.dumps(Payload(marker))
    for name in copied.files("cache"):
        if Path(name).suffix == ".safetensors":
            (copied.root / name).write_bytes(hostile)
    slot = copied.cache / "checkpoints" / "teacher" / "0.safetensors"
    slot.parent.mkdir(parents=True, exist_ok=True)
    slot.write_bytes(hostile)
    before = json.loads(record_of(copied).read_text())
    outcome = copied(*SMALL)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("damaged") >= 3
    after = json.loads(record_of(copied).read_text())
    assert (after["metrics"], after["distilled_digest"]) == (before["metrics"], before["distilled_digest"])
    (preview,) = (copied.results / "runs").rglob("preview.png")
    preview.write_bytes(hostile)
    (copied.results / "records" / "bad.json").write_bytes(hostile)
    (copied.results / "efficiency").mkdir()
    (copied.results / "efficiency" / "dm.json").write_bytes(hostile)
    for command in (("report",), ("records",), ("table", "efficiency")):
        assert copied(*command).code == 0
    copied("show", "bad").refused("bad.json is not a record")
    assert not marker.exists()
    pickle.loads(hostile)
    assert marker.exists()


def test_what_records_say_is_text_in_every_table(copied: Shell) -> None:
    hostile = "<script>alert(1)</script>"
    path = record_of(copied)
    tree = json.loads(path.read_text())
    tree.pop("digest")
    tree |= {"name": hostile, "dataset": hostile, "student": hostile, "created": hostile, "recipes": [hostile]}
    tree["versions"] = {hostile: hostile}
    tree["device"] |= {"name": hostile}
    path.with_name("bad.json").write_text(json.dumps(tree))
    assert copied("report").code == 0
    html = copied("table", "comparison", "--format", "html")
    assert html.code == 0
    for text in ((copied.results / "report.html").read_text(encoding="utf-8"), html.out):
        assert hostile not in text
    assert "&lt;script&gt;alert(1)" in (copied.results / "report.html").read_text(encoding="utf-8")


# -- artifacts with the right digest and the wrong content ----------------------------------------------------

Tensors = dict[str, torch.Tensor]
FORGED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "other shapes": (lambda t: {**t, "images": t["images"][:, :, :4]}, "is not part of a distilled set"),
    "doubles": (lambda t: {**t, "images": t["images"].double()}, "is not part of a distilled set"),
    "pixels that are NaN": (lambda t: {**t, "images": t["images"] * torch.nan}, "pixels that are not finite"),
    "other sizes": (lambda t: {**t, "images": t["images"].repeat(1, 1, 2, 2)}, "have 16 px, not 8"),
    "too few labels": (lambda t: {**t, "labels": t["labels"][1:]}, "is not part of a distilled set"),
    "labels beyond": (lambda t: {**t, "labels": t["labels"] + 2**40}, "labels outside of the 10 classes"),
    "labels below": (lambda t: {**t, "labels": t["labels"] - 1}, "labels outside of the 10 classes"),
    "NaN": (lambda t: {**t, "weights": torch.full((10,), torch.nan)}, "weights that are not numbers"),
    "minus": (lambda t: {**t, "weights": -torch.ones(10)}, "weights that are not numbers"),
    "scalars": (
        lambda t: {"images": torch.tensor(1, dtype=torch.uint8), "labels": torch.tensor(0)},
        "is not part of a distilled set",
    ),
    "no images": (lambda t: {"labels": t["labels"]}, "stored: labels"),
    "nothing": (lambda t: {}, "stored: none"),
    "both": (lambda t: {**t, "indices": t["labels"].clone()}, "stored: images, indices, labels"),
    "indices of others": (lambda t: {"indices": t["labels"] + 10**6, "labels": t["labels"]}, "not of these training"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_set_is_neither_measured_nor_exported(copied: Shell, what: str) -> None:
    forge, message = FORGED[what]
    (unit,) = (copied.cache / "distill").glob("*.safetensors")
    content = read_tensors(unit)
    assert content is not None
    tensors, meta, _ = content
    write_tensors(unit, forge({name: value.clone() for name, value in tensors.items()}), meta)
    for path in (copied.cache / "evaluate").glob("*.safetensors"):
        path.unlink()
    copied(*SMALL).refused("method 'dm'", message)
    name = record_of(copied).stem
    copied("export", name, "--output", "out").refused()
    assert not (copied.root / "out").exists()


@pytest.mark.parametrize("meta", [deep(50_000), "[]", "3", "{}", '{"depends_on": 1}', '{"meta": {}, "depends_on": {}}'])
def test_a_forged_header_is_no_artifact(copied: Shell, meta: str) -> None:
    from safetensors.torch import save_file

    from ddbench.storage.artifacts import FORMAT, digest_of

    for path in (copied.cache / "distill").glob("*.safetensors"):
        tensors = {"labels": torch.zeros(2)}
        header = {"format": FORMAT, "meta": meta, "digest": digest_of(tensors, meta)}
        save_file(tensors, path, metadata=header)
        copied("export", record_of(copied).stem, "--output", "out").refused()
        save_file(tensors, path, metadata=header)
    outcome = copied(*SMALL)
    assert "Traceback" not in outcome.err
    assert outcome.code in (0, 2)  # computed again, or refused
    assert not (copied.root / "out").exists()


# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "", "*", "records/../../secret", "a\x00b"])
def test_a_record_is_a_name_in_its_folder(copied: Shell, name: str) -> None:
    shutil.copy(record_of(copied), copied.root / "secret.json")
    (copied.results / "records" / "other.json").write_text("{}")
    for words in (("show", name), ("export", name, "--output", "out")):
        outcome = copied(*words)
        outcome.refused()
        messages = ("no record", "2 records begin with", "records/other.json is not a record")  # two begin with ""
        assert any(message in outcome.err for message in messages)
    assert not (copied.root / "out").exists()


def test_keys_of_a_record_are_no_paths(copied: Shell) -> None:
    (unit,) = (copied.cache / "distill").glob("*.safetensors")
    shutil.move(unit, copied.root / "elsewhere.safetensors")
    path = record_of(copied)
    for key in ("../../elsewhere", str(copied.root / "elsewhere"), f"../distill/{unit.stem}"):
        tree = json.loads(path.read_text())
        tree.pop("digest", None)
        tree["keys"]["distill"] = [key]
        path.write_text(json.dumps(tree))
        copied("export", path.stem, "--output", "out").refused("no longer in the cache")
    assert (copied.root / "elsewhere.safetensors").exists()


def test_where_nothing_may_be_written_over(copied: Shell) -> None:
    name = record_of(copied).stem
    (copied.root / "link").symlink_to(copied.root / "nowhere")
    before = copied.files()
    for output in (".", "..", "/", "link", "results", "results/..", record_of(copied)):
        copied("export", name, "--output", output).refused("is not an empty folder")
    assert copied.files() == before
    empty = copied.root / "empty"
    empty.mkdir()
    outcome = type(copied)(empty)(
        "export", name, "--output", ".", "--results-dir", copied.results, "--cache-dir", copied.cache
    )
    outcome.refused("is the working directory")
    assert list(empty.iterdir()) == []
