"""`ddbench evaluate`: sets that ddbench exported give the values of their run; other layouts are read or refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from conftest import FAST

if TYPE_CHECKING:
    from conftest import Outcome, Shell

CELL = ("--dataset", "digits", "--seed", "1", "--set", "evaluator.epochs=15", "--set", "evaluator.batch_size=10")
BYTES = torch.randint(0, 256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(20) // 2


@dataclass(frozen=True)
class Made:
    """A shell in which sets were made, with their records by method."""

    shell: Shell
    records: dict[str, list[dict[str, Any]]]

    def evaluate(self, *arguments: str | Path) -> Outcome:
        return self.shell("evaluate", *FAST, *CELL, *arguments)

    def evaluated(self, folder: Path, *arguments: str | Path) -> list[dict[str, Any]]:
        """The records of the given set, which must be evaluated in a copy of the results, in their order."""
        shutil.copytree(self.shell.results, folder)
        outcome = self.evaluate(*arguments, "--no-random", "--results-dir", folder)
        assert outcome.code == 0, outcome.err
        return in_order(one for one in records_in(folder) if one["method"].startswith("given:"))


def in_order(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: (record["evaluator"], record["student_seed"]))


def records_in(folder: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(path.read_text()) for path in (folder / "records").glob("*.json"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Made:
    """wmdd (with weights), sre2l (not class after class) and random at IPC 2, with two protocols."""
    shell = shell_in(tmp_path_factory.mktemp("made"))
    shell.run("--method", "wmdd,sre2l,random", "--ipc", "2", *CELL, "--evaluator", "fkd,hard")
    methods = ("wmdd", "sre2l", "random")
    return Made(
        shell, {name: in_order(r for r in records_in(shell.results) if r["method"] == name) for name in methods}
    )


def values(records: list[dict[str, Any]], *fields: str) -> list[list[Any]]:
    return [[record[field] for field in ("metrics", *fields)] for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wmdd", "sre2l"])
@pytest.mark.parametrize("form", ["imagefolder", "safetensors", "record", "record.json"])
def test_an_exported_set_gives_the_values_of_its_run(form: str, method: str, made: Made, tmp_path: Path) -> None:
    name = made.records[method][0]["name"]
    source: str | Path = name if form == "record" else tmp_path / "set"
    if form == "record.json":
        source = made.shell.results / "records" / f"{name}.json"
    elif form != "record":
        assert made.shell("export", name, "--format", form, "--output", source).code == 0
    evaluated = made.evaluated(tmp_path / "results", source, "--evaluator", "fkd,hard")
    fields = ("distilled_digest", "distilled_images", "ipc", "evaluator", "student_seed")
    assert values(evaluated, *fields) == values(made.records[method], *fields)
    # Only fkd has a teacher here, whose features the transport cost is measured in.
    costs = [[one["feature_transport_cost"] for one in records[:1]] for records in (evaluated, made.records[method])]
    assert costs[0] == costs[1]
    assert None not in costs[0]
    assert re.fullmatch(r"given:[\w.-]+@[0-9a-f]{16}", evaluated[0]["method"])
    files = {"name": "set", "files": 20 if form == "imagefolder" else 1}
    expected = {"record": name} if form.startswith("record") else files
    assert expected.items() <= evaluated[0]["origin"].items()
    assert str(tmp_path) not in json.dumps(evaluated)


@pytest.mark.slow
def test_a_set_of_real_images_gives_the_values_of_its_run(made: Made, tmp_path: Path) -> None:
    # Its digest is another one: that of the run covers the numbers of the real images.
    evaluated = made.evaluated(tmp_path / "results", made.records["random"][0]["name"], "--evaluator", "fkd,hard")
    assert values(evaluated) == values(made.records["random"])


@pytest.mark.slow
def test_a_set_in_jpeg_gives_the_values_within_the_loss_of_jpeg(made: Made, tmp_path: Path) -> None:
    assert made.shell("export", made.records["sre2l"][0]["name"], "--output", tmp_path / "png").code == 0
    loss = []
    for path in (tmp_path / "png").rglob("*.png"):
        target = tmp_path / "jpeg" / path.relative_to(tmp_path / "png").with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(target, quality=95, subsampling=0)
            with Image.open(target) as again:
                loss.append(np.abs(np.asarray(image, float) - np.asarray(again, float)).mean())
    listed = (tmp_path / "png" / "weights.csv").read_text().replace(".png", ".jpg")
    (tmp_path / "jpeg" / "weights.csv").write_text(listed)
    evaluated = made.evaluated(tmp_path / "results", tmp_path / "jpeg", "--evaluator", "fkd,hard")
    assert 0 < np.mean(loss) < 5  # levels of 255
    assert evaluated[0]["distilled_digest"] != made.records["sre2l"][0]["distilled_digest"]
    cost, own = (one[0]["feature_transport_cost"] for one in (made.records["sre2l"], evaluated))
    assert own == pytest.approx(cost, rel=0.05)


def sre2l_folder(root: Path) -> Path:
    for number, (image, label) in enumerate(zip(BYTES, LABELS.tolist(), strict=True)):
        path = root / "syn" / f"new{label:03d}" / f"class{label:03d}_id{number % 2:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return root / "syn"


def rded_folder(root: Path) -> Path:
    folder = sre2l_folder(root)
    for path in sorted(folder.iterdir()):
        path.rename(folder / f"{int(path.name[3:]):05d}")
    return folder


def uneven_folder(root: Path) -> Path:
    """A folder of RDED without one image."""
    folder = rded_folder(root)
    next(folder.rglob("*.jpg")).unlink()
    return folder


def normalised() -> torch.Tensor:
    return (BYTES.float() / 255 - 0.45) / 0.2


def dc_file(root: Path) -> Path:
    torch.save({"data": [[normalised(), LABELS]], "accs_all_exps": {"ConvNet": [0.5]}}, root / "res_DC.pt")
    return root / "res_DC.pt"


def mtt_folder(root: Path) -> Path:
    (root / "mtt").mkdir()
    for name, value in {"images_best": normalised(), "labels_best": LABELS, "lr": torch.tensor(0.01)}.items():
        torch.save(value, root / "mtt" / f"{name}.pt")
    return root / "mtt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "options", "line"),
    [
        (sre2l_folder, (), "classes: new000 = 0, new001 = 1,"),
        (rded_folder, (), "classes: 00000 = 0, 00001 = 1,"),
        (
            uneven_folder,
            (),
            "note: the classes differ in the number of images; records and random images have the mean, IPC 2",
        ),
        (dc_file, ("--pixels", "cifar10"), "classes: by their names"),
        (mtt_folder, ("--pixels", "cifar10"), "the set has a learning rate; the protocol own trains with these"),
    ],
    ids=["SRe2L", "RDED", "uneven", "DC", "MTT"],
)
def test_sets_of_other_projects_are_evaluated_beside_random(
    write: Callable[[Path], Path], options: tuple[str, ...], line: str, made: Made, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    outcome = made.evaluate(write(tmp_path), *options, "--evaluator", "hard", "--wide", "--results-dir", results)
    assert outcome.code == 0, outcome.err
    assert {"distill s", "student s"} <= outcome.rows[0].keys()
    assert line in outcome.err
    assert [row["method"].partition(":")[0] for row in outcome.rows] == ["given", "random"]
    records = list(records_in(results))
    top1 = {
        name: np.mean([one["metrics"]["top1_last"] for one in records if one["method"].startswith(name)])
        for name in ("given:", "random")
    }
    (difference,) = [text for text in outcome.out.splitlines() if text.startswith("difference to random, hard,")]
    assert float(re.findall(r"[-+]\d+\.\d\d", difference)[0]) == pytest.approx(
        top1["given:"] - top1["random"], abs=0.006
    )
    (origin,) = {json.dumps(one["origin"]) for one in records if one["method"].startswith("given:")}
    assert json.loads(origin)["files"] in (1, 3, 19, 20)
    stored = {one["distilled_images"] for one in records if one["method"].startswith("given:")}
    assert stored == {19 if write is uneven_folder else 20}
    assert str(tmp_path) not in json.dumps(records)


def datm_folder(root: Path) -> Path:
    """Images beyond black and white, logits as labels (the largest is the class), and a learning rate."""
    (root / "datm").mkdir()
    logits = torch.nn.functional.one_hot(LABELS, 10) * 5 + torch.rand(
        20, 10, generator=torch.Generator().manual_seed(1)
    )
    parts = {"images_best": normalised() * 1.5, "labels_best": logits, "lr_best": torch.tensor(0.02)}
    for name, value in parts.items():
        torch.save(value, root / "datm" / f"{name}.pt")
    return root / "datm"


@pytest.mark.slow
def test_a_set_with_soft_labels_floats_and_a_rate_is_evaluated_by_own(made: Made, tmp_path: Path) -> None:
    source, results = datm_folder(tmp_path), tmp_path / "results"
    cell = (*("--student", "convnet-d2"), *("--pixels", "cifar10", "--results-dir", results))
    outcome = made.evaluate(source, *cell)
    assert outcome.code == 0, outcome.err
    assert "labels: the set has logits and a learning rate; the protocol own trains with these" in outcome.err
    assert re.search(r"given: datm: the images are floats, \d+\.\d% of their values beyond", outcome.err)
    records = {one["method"].partition(":")[0]: one for one in records_in(results)}
    given = records["given"]
    assert {name: one["evaluator"] for name, one in records.items()} == {"given": "own", "random": "own"}
    rate = float(torch.tensor(0.02))
    assert given["distilled_form"] == {"pixels": "float32", "soft_labels": "logits", "learning_rate": rate}
    assert "distilled_form" not in records["random"]
    sizes = {name: given["metrics"][name] for name in ("regime", "image_bytes", "label_bytes")}
    assert sizes == {"regime": "soft", "image_bytes": 20 * 3 * 64 * 4, "label_bytes": 20 * 10 * 4}
    shown = made.shell("show", given["name"], "--results-dir", results)
    assert "float32 pixels, soft labels (logits), learning rate 0.02" in shown.out
    # Another protocol says what it does not use.
    other = made.evaluate(source, *cell, "--evaluator", "hard", "--no-random")
    assert "hard does not use the float pixels (it rounds and clamps them to bytes), the soft labels, the" in other.err
    # The set's learning rate comes before that of the options.
    set_by_hand = made.evaluate(source, *cell, "--set", "evaluator.learning_rate=1", "--no-random")
    assert re.search(r"own does not use evaluator.learning_rate for .*, which has its own: 0.02", set_by_hand.err)
    # An export, in any form, is the same set.
    for form in ("imagefolder", "safetensors"):
        exported = made.shell(
            "export", given["name"], "--format", form, "--output", tmp_path / form, "--results-dir", results
        )
        assert exported.code == 0, exported.err
        (again,) = made.evaluated(tmp_path / f"{form}-results", tmp_path / form, "--student", "convnet-d2")
        fields = ("distilled_digest", "distilled_form", "evaluator")
        assert values([again], *fields) == values([given], *fields)


@pytest.mark.slow
def test_classes_are_given_in_a_file_and_the_set_is_a_method_of_later_runs(made: Made, tmp_path: Path) -> None:
    torch.save({"images": BYTES, "labels": 9 - LABELS}, tmp_path / "reversed.pt")
    torch.save({"images": BYTES, "labels": LABELS}, tmp_path / "plain.pt")
    (tmp_path / "classes.txt").write_text("".join(f"{digit}\n" for digit in reversed(range(10))))
    evaluated = made.evaluated(
        tmp_path / "one", tmp_path / "reversed.pt", "--classes", tmp_path / "classes.txt", "--evaluator", "hard"
    )
    plain = made.evaluated(tmp_path / "two", tmp_path / "plain.pt", "--evaluator", "hard")
    assert [one["metrics"] for one in evaluated] == [one["metrics"] for one in plain]
    # The name in the record is a method of `ddbench run`, also as part of a grid.
    again = made.shell.run(
        *("--method", f"{plain[0]['method']},random", "--ipc", "2", "--evaluator", "hard", *CELL),
        *("--results-dir", tmp_path / "results"),
    )
    assert plain[0]["method"] in again.out
    (made_again,) = [
        one
        for one in records_in(tmp_path / "results")
        if one["method"] == plain[0]["method"] and one["student_seed"] == 0
    ]
    assert made_again["keys"] == plain[0]["keys"]
    assert made_again["metrics"] == plain[0]["metrics"]
    table = ("table", "comparison", "--dataset", "digits", "--ipc", "2", "--results-dir", tmp_path / "results")
    named = made.shell(*table, "--methods", f"{plain[0]['method']},random", "--evaluator", "hard")
    assert f"\n{plain[0]['method']} " in named.out
    assert "not shown" not in named.err
    assert f"not shown: records of 1 given set: name them with --methods, e.g. {plain[0]['method']}" in (
        made.shell(*table).err
    )


class Attack:
    """A pickle that creates a file when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("attacked"),)


def save(**content: Any) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        torch.save(content, root / "set.pt")
        return root / "set.pt"

    return write


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (save(images=BYTES[:18], labels=LABELS[:18]), (), "the set has no image of class 9 ('9')"),
        (
            save(images=BYTES, labels=LABELS + 1),
            (),
            "the set has a class 10, and the classes of the dataset are 0 to 9",
        ),
        (save(images=BYTES * float("nan"), labels=LABELS), ("--pixels", "unit"), "are not finite (NaN or infinity)"),
        (save(images=Attack(), labels=LABELS), (), "nothing else is unpickled: save its tensors alone"),
        (save(images=BYTES, labels=torch.arange(20)), (), "the set has a class 10"),
        (save(images=BYTES, labels=torch.eye(20)[:, :12]), (), "soft labels are for 12 classes, and the dataset has"),
        (save(images=normalised(), labels=LABELS), ("--pixels", "unit"), "contradicts --pixels unit (0 to 1)"),
        (save(images=normalised(), labels=LABELS), (), "name their space with --pixels unit|imagenet|cifar10|cifar100"),
        (lambda root: root / "absent", (), "is neither a file nor a folder"),
        (lambda root: Path("no-record"), (), "no-record is neither a file nor a folder, and as a record: no record"),
    ],
)
def test_a_wrong_set_is_refused_in_one_line(
    write: Callable[[Path], Path], options: tuple[str, ...], message: str, shell: Shell
) -> None:
    source = write(shell.root)
    outcome = shell("evaluate", *FAST, *CELL, source, *options)
    outcome.refused(message)
    assert not (shell.root / "attacked").exists()
    assert not list(shell.root.rglob("records/*"))


@pytest.mark.slow
def test_a_set_is_planned_and_computed_again_as_a_run_is(shell: Shell) -> None:
    source = save(images=BYTES, labels=LABELS)(shell.root)
    arguments = ("evaluate", *FAST, *CELL, source, "--evaluator", "hard")
    planned = shell(*arguments, "--dry-run")
    assert planned.code == 0, planned.err
    assert [(row["method"].partition(":")[0], row["evaluate"]) for row in planned.rows] == [
        ("given", "to do"),
        ("random", "to do"),
    ]
    whole = shell(*arguments, "--dry-run", "--verbose").out
    assert [one["ipc"] for one in yaml.safe_load_all(whole)] == [2, 2]
    assert not shell.results.exists()
    assert {path.split("/")[1] for path in shell.files("cache")} == {"given"}
    shell(*arguments, "--verbose").refused("--verbose: give --dry-run too")

    assert shell(*arguments).code == 0
    again = shell(*arguments, "--no-random", "--force", "evaluate").err
    assert re.search(r"distill given:set@\w+ IPC 2 1/1: cached", again)
    assert re.search(r"evaluate given:set@\w+ IPC 2 .*: started", again)


def test_strict_refuses_a_dataset_with_a_leak(shell: Shell) -> None:
    for number, name in enumerate(("cat", "dog")):
        for folder in ("data/train", "data/val", "set"):
            path = shell.root / folder / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(BYTES[number].permute(1, 2, 0).numpy()).save(path)
    arguments = ("evaluate", *FAST, "--dataset", f"imagefolder:{shell.root / 'data'}", shell.root / "set")
    shell(*arguments, "--strict").refused("2 of the 2 validation images", "are copies of training images")
    assert not shell.results.exists()


@pytest.mark.slow
def test_stored_labels_leave_with_an_export(made: Made, tmp_path: Path) -> None:
    results = tmp_path / "results"
    stored = ("--set", "evaluator.labels=stored", "--results-dir", results)
    made.shell.run("--method", "random", "--ipc", "2", *CELL, *stored)
    (record,) = records_in(results)
    target = tmp_path / "set"
    outcome = made.shell("export", record["name"], "--labels", "--output", target, "--results-dir", results)
    assert outcome.code == 0, outcome.err
    about = json.loads((target / "labels.json").read_text())
    assert about["tensors"]["logits"]["shape"] == [15, 20, 10]
    assert (target / "labels.safetensors").is_file()
    # The protocol replay trains the same students on the files, without the teacher.
    labels = ("--evaluator", "replay", "--set", f"evaluator.labels={target}", "--set", "evaluator.epochs=15")
    again = made.shell(
        "evaluate", *FAST, "--dataset", "digits", "--seed", "1", target, *labels, "--results-dir", results
    )
    assert again.code == 0, again.err
    (replayed,) = [one for one in records_in(results) if one["method"].startswith("given:")]
    assert (replayed["evaluator"], replayed["metrics"]) == ("replay", record["metrics"])
    assert replayed["teacher"] == {}
    assert str(tmp_path) not in json.dumps(replayed)
    assert [one["method"] for one in records_in(results) if one["evaluator"] == "replay"] == [replayed["method"]]
    online = made.records["random"][0]["name"]
    made.shell("export", online, "--labels", "--output", tmp_path / "none").refused("has no stored labels")
    assert not (tmp_path / "none").exists()
