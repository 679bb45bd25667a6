"""A folder of images is one dataset for everybody: by its own name and fingerprint, wherever it lies."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddbench.report.pictures import PictureBudget, previews
from ddbench.results import records, verified_json

if TYPE_CHECKING:
    from conftest import Outcome, Shell

SHORT = ("--ipc", "1", "--image-size", "16", "--evaluator", "hard", "--set", "evaluator.epochs=1")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> dict[str, Shell]:
    """Two people with the same images in folders of other names, and one results folder and cache.

    The first ran random with a relative and with an absolute path, the second herding.
    """
    root = tmp_path_factory.mktemp("people")
    shells = {name: shell_in(root / name) for name in ("alice", "bob")}
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for label in ("cat", "dog"):
            folder = root / "alice" / "pets" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    shutil.copytree(root / "alice" / "pets", root / "bob" / "animals")
    places = ("--cache-dir", root / "cache", "--results-dir", root / "results")
    for path in ("pets", root / "alice" / "pets"):
        shells["alice"].run("--method", "random", "--dataset", f"imagefolder:{path}", *SHORT, *places)
    shells["bob"].run("--method", "herding", "--dataset", "imagefolder:animals", *SHORT, *places)
    return shells


def root_of(people: dict[str, Shell]) -> Path:
    return people["alice"].root.parent


def stored(people: dict[str, Shell]) -> dict[str, dict[str, Any]]:
    paths = (root_of(people) / "results" / "records").glob("*.json")
    return {content["method"]: content for content in (json.loads(path.read_text()) for path in paths)}


def test_a_record_is_named_by_the_folder_and_its_fingerprint(people: dict[str, Shell]) -> None:
    actual = stored(people)
    assert len([*(root_of(people) / "results" / "records").iterdir()]) == 2  # relative and absolute: one record
    for method, own in (("random", "pets"), ("herding", "animals")):
        short = actual[method]["data"]["fingerprint"][:8]
        assert actual[method]["dataset"] == actual[method]["configuration"]["dataset"] == f"imagefolder:{own}@{short}"
        assert actual[method]["name"].startswith(f"{method}-imagefolder_{own}_{short}-ipc1-")


def test_no_stored_file_has_a_path_of_a_person(people: dict[str, Shell]) -> None:
    root = root_of(people)
    files = [path for name in ("results", "cache") for path in (root / name).rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if str(root).encode() in path.read_bytes()]


def test_equal_images_have_equal_keys_and_are_compared(people: dict[str, Shell]) -> None:
    alice, bob = people.values()
    places = ("--cache-dir", root_of(people) / "cache", "--results-dir", "own")
    again = bob.run("--method", "random", "--dataset", "imagefolder:animals", *SHORT, *places)
    assert not [line for line in again.errors if line.endswith(": started")]
    (path,) = (bob.root / "own" / "records").glob("*.json")
    assert json.loads(path.read_text())["keys"] == stored(people)["random"]["keys"]
    rows = json.loads(
        alice("records", "--scores", "--format", "json", "--results-dir", root_of(people) / "results").out
    )
    (herding,) = [row for row in rows if row["method"] == "herding"]
    assert herding["ior"] is not None
    assert herding["random_n"] == 1


def test_the_report_has_every_preview(people: dict[str, Shell]) -> None:
    results = root_of(people) / "results"
    shown = previews(records.read_all(results / "records"), results, PictureBudget(), pytest.fail)
    assert [picture.records for picture in shown] == [[stored(people)[name]["name"]] for name in ("herding", "random")]


def test_a_table_finds_records_by_name_and_by_path(people: dict[str, Shell], shell: Shell) -> None:
    places = ("--results-dir", root_of(people) / "results", "--format", "csv")
    short = stored(people)["random"]["data"]["fingerprint"][:8]
    for name in ("/somewhere/else/pets", f"pets@{short}", f"animals@{short}"):
        given = ("--dataset", f"imagefolder:{name}", "--ipc", "1", "--image-size", "16", "--set", "evaluator.epochs=1")
        outcome = shell("table", "regimes", *given, *places)
        assert outcome.code == 0, outcome.err
        measured = [line for line in outcome.out.splitlines() if ",measured," in line]
        # Copies are one dataset, under one name.
        assert {line.split(",")[3] for line in measured} == {f"imagefolder:animals@{short}"}
        assert {line.split(",")[2] for line in measured} == {"random", "herding"}


def export(people: dict[str, Shell], target: Path, *options: str | Path) -> Outcome:
    root = root_of(people)
    places = ("--cache-dir", root / "cache", "--results-dir", root / "results")
    return people["bob"]("export", "random", *places, "--output", target, *options)


def test_an_export_says_how_to_give_the_images(people: dict[str, Shell], tmp_path: Path) -> None:
    root, target = root_of(people), tmp_path / "set"
    export(people, target).refused("the images of imagefolder:pets@", "are needed", "--data-dir")
    (tmp_path / "pets" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "val" / "cat").mkdir(parents=True)
    for split in ("train", "val"):
        Image.new("RGB", (20, 20)).save(tmp_path / "pets" / split / "cat" / "0.png")
    export(people, target, "--data-dir", tmp_path).refused("does not hold the images of imagefolder:pets@")
    assert not target.exists()
    for number, folder in enumerate((root / "alice", root / "alice" / "pets", root / "bob" / "animals")):
        done = export(people, target / str(number), "--data-dir", folder)
        assert done.code == 0, done.err
        card = (target / str(number) / "README.md").read_text()
        assert "dataset: imagefolder:pets@" in card
        assert str(root) not in card


def test_an_older_record_with_a_path_is_read_under_the_name(people: dict[str, Shell], tmp_path: Path) -> None:
    new = stored(people)["random"]
    old = {name: value for name, value in new.items() if name != "digest"}
    old |= {"dataset": "imagefolder:pets", "configuration": {**new["configuration"], "dataset": "imagefolder:/me/pets"}}
    path = tmp_path / "records" / "old.json"
    path.parent.mkdir()
    path.write_text(verified_json.dump(old))
    record = records.read(path)
    assert record.dataset == record.configuration["dataset"] == new["dataset"]
    assert "/me/" not in people["bob"]("show", "old", "--results-dir", tmp_path).out


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_a_failure_of_the_images_is_said_once(shell: Shell, image_folder: Callable[..., Path]) -> None:
    folder = image_folder("pictures", train=2, val=1)
    cut_short(folder / "train" / "dog" / "1.jpg")
    methods = [word for name in ("random", "herding", "k-center") for word in ("--method", name)]
    outcome = shell("run", *methods, "--dataset", f"imagefolder:{folder}", *SHORT, "--recipe", "smoke")
    assert outcome.code == 2
    assert outcome.err.count("cannot be decoded") == 1
    assert outcome.errors[-1].startswith("ddbench: every cell failed: random, imagefolder:pictures@")
    for name in ("random", "herding", "k-center"):
        assert f"{name}, imagefolder:pictures@" in outcome.errors[-1]


def test_cells_that_fail_for_one_reason_are_listed(shell: Shell, image_folder: Callable[..., Path]) -> None:
    folder = image_folder("pictures", train=2, val=1)
    cut_short(folder / "train" / "dog" / "1.jpg")
    good = image_folder("others", train=2, val=1)
    datasets = ("--dataset", f"imagefolder:{good}", "--dataset", f"imagefolder:{folder}")
    outcome = shell("run", "--method", "random", "--method", "herding", *datasets, *SHORT, "--recipe", "smoke")
    assert outcome.code == 1
    assert (outcome.err.count("cannot be decoded"), outcome.out.count("cannot be decoded")) == (1, 1)
    # Progress lines of a grid with several datasets name the dataset.
    for name in ("random", "herding"):
        assert re.search(rf"^evaluate imagefolder:others@\w+ {name} IPC 1 hard .* seed 0: ", outcome.err, re.MULTILINE)
    reason, others = outcome.out.splitlines()[-2:]
    assert reason.startswith("failed:   random, imagefolder:pictures@")
    assert others.strip().startswith("for the same reason: herding, imagefolder:pictures@")


def test_a_table_says_once_why_cells_failed(shell: Shell, image_folder: Callable[..., Path]) -> None:
    folder = image_folder("pictures", train=2, val=1)
    cut_short(folder / "train" / "dog" / "1.jpg")
    given = ("--dataset", f"imagefolder:{folder}", "--ipc", "1", "--image-size", "16", "--recipe", "smoke")
    outcome = shell("table", "regimes", "--run", *given, "--methods", "random,herding")
    assert outcome.code == 1
    assert (outcome.err.count("cannot be decoded"), outcome.out.count("cannot be decoded")) == (1, 1)
