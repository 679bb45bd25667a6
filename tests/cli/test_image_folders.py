"""Image folders as people have them, from the command line to the record, the preview and the export."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddbench.pipeline import run as running

if TYPE_CHECKING:
    from conftest import Outcome, Shell

MakeFolder = Callable[..., Path]


def run(shell: Shell, folder: Path, *more: str) -> Outcome:
    """A cell of `random` with a student of one layer."""
    options = ("--method", "random", "--ipc", "1", "--evaluator", "hard", "--student", "convnet-d1")
    return shell.quick_run("--dataset", f"imagefolder:{folder}", "--set", "data.stored_size=8", *options, *more)


def records(shell: Shell) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((shell.results / "records").iterdir())]


def test_a_flat_folder_is_split_by_a_setting_that_the_record_has(shell: Shell, image_folder: MakeFolder) -> None:
    folder = image_folder(train=5) / "train"
    run(shell, folder).refused("has no validation images", "--set data.split=0.2")
    assert not shell.results.exists()
    outcome = run(shell, folder, "--set", "data.split=0.2")
    assert outcome.code == 0, outcome.err
    assert "has no train/: its 2 class folders are read as training images" in outcome.err
    (record,) = records(shell)
    assert record["configuration"]["data"]["split"] == 0.2
    assert "% on validation images (data.split 0.2)" in shell("show", record["name"]).out
    assert record["data"] | {"train_images": 8, "val_images": 2, "val_images_in_train": 0} == record["data"]


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_validation_images_of_another_name_are_used_and_named(
    name: str, shell: Shell, image_folder: MakeFolder
) -> None:
    folder = image_folder(train=3, val=2)
    (folder / "val").rename(folder / name)
    outcome = run(shell, folder)
    assert outcome.code == 0, outcome.err
    assert f"the validation images of {folder} are those in {name}/" in outcome.err
    (record,) = records(shell)
    assert record["data"] | {"train_images": 6, "val_images": 4} == record["data"]


def test_an_image_of_16_bits_is_the_image_of_8_bits_and_one_note(shell: Shell, image_folder: MakeFolder) -> None:
    folders = image_folder("flat"), image_folder("deep")
    levels = np.arange(400, dtype=np.uint8).reshape(20, 20)
    for folder, stored in zip(folders, (levels, levels.astype(np.uint16) * 257), strict=True):
        for path in (folder / "train").rglob("*.jpg"):
            Image.fromarray(stored).save(path.with_suffix(".png"))
            path.unlink()
    outcomes = [run(shell, folder, "--dataset", f"imagefolder:{folder}") for folder in folders]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    notes = [outcome.err.count("of train above 8 bits per channel") for outcome in outcomes]
    assert notes == [0, 1]
    pixels = []
    for number, record in enumerate(records(shell)):
        assert shell("export", record["name"], "--output", f"set{number}", "--format", "imagefolder").code == 0
        files = sorted((shell.root / f"set{number}").rglob("*.png"))
        pixels.append([np.asarray(Image.open(path)) for path in files])
    np.testing.assert_array_equal(*pixels)
    assert len(pixels[0]) == 2


def test_copies_are_one_note_a_number_in_the_record_and_refused_by_strict(
    shell: Shell, image_folder: MakeFolder
) -> None:
    folder = image_folder()
    for number in range(2):
        shutil.copy(folder / "val" / "cat" / f"{number}.jpg", folder / "train" / "cat" / f"copy{number}.jpg")
    message = ("2 of the 4 validation images of imagefolder:pictures@", " are copies of training images")
    for dry in ((), ("--dry-run",)):
        run(shell, folder, "--strict", *dry).refused(*message)
    assert all(run(shell, folder, "--dry-run").out.count(words) == 1 for words in message)
    fast = ("--recipe", "smoke", "--device", "cpu", "--image-size", "8", "--arch", "convnet-bn-d1")
    table = ("table", "comparison", "--methods", "random", "--ipc", "1", "--dataset", f"imagefolder:{folder}", *fast)
    for dry in ((), ("--dry-run",)):
        shell(*table, "--run", "--strict", *dry).refused(*message)
    shell(*table, "--strict").refused("--strict: give --run or --dry-run too")
    assert all(shell(*table, "--dry-run").out.count(words) == 1 for words in message)
    assert not shell.results.exists()
    outcome = run(shell, folder, "--seeds", "2")
    assert outcome.code == 0, outcome.err
    assert all(outcome.err.count(words) == 1 for words in message)
    assert [record["data"]["val_images_in_train"] for record in records(shell)] == [2, 2]
    for split in ("train", "val"):
        for path in (folder / split).rglob("copy*"):
            path.unlink()
    assert run(shell, folder, "--strict").code == 0


def test_file_names_that_are_not_utf8_go_all_the_way(shell: Shell, image_folder: MakeFolder) -> None:
    folder = image_folder(classes=("chat à", "猫"))
    for number, name in enumerate((b"\xe9t\xe9.jpg", b"\xff\xfe.jpg")):
        (folder / "train" / "猫" / f"{number}.jpg").rename(folder / "train" / "猫" / os.fsdecode(name))
    (folder / "train" / "猫" / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"")
    run(shell, folder).refused(r"\xff\xfe.jpg cannot be decoded: empty file")
    outcome = run(shell, folder, "--set", "data.skip_corrupt=true")
    assert outcome.code == 0, outcome.err
    assert r"\xff\xfe.jpg (empty file)" in outcome.err
    (record,) = records(shell)
    assert record["data"]["skipped"] == {"train": {"empty file": 1}}
    for form in ("imagefolder", "safetensors"):
        assert shell("export", record["name"], "--output", form, "--format", form).code == 0
    outcome.err.encode()


def test_a_class_name_that_is_not_utf8_stops_before_anything_is_made(shell: Shell, image_folder: MakeFolder) -> None:
    folder = image_folder()
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / os.fsdecode(b"caf\xe9"))
    for more in ((), ("--set", "data.holdout=0.5"), ("--dataset", "digits")):
        run(shell, folder, *more).refused(r"train/caf\xe9 has a name that is not UTF-8; rename it: (cd ", "café")
    options = ("--cache-dir", os.fsdecode(b"caf\xe9"))
    run(shell, folder, *options).refused("the cache folder ", r"caf\xe9 has a name that is not UTF-8; rename it: (cd ")
    folder = folder.rename(folder.with_name(os.fsdecode(b"\xe9t\xe9")))
    run(shell, folder).refused("the image folder ", r"\xe9t\xe9 has a name that is not UTF-8; rename it: (cd ", "été")
    assert not shell.results.exists()
    assert not shell.cache.exists()


def test_a_preview_that_fails_costs_neither_the_record_nor_the_next_cell(
    shell: Shell, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise UnicodeEncodeError("utf-8", "x", 0, 1, "a fault of the picture")

    monkeypatch.setattr(running, "draw_preview", fail)
    outcome = run(shell, image_folder(), "--ipc", "2")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("could not be drawn: UnicodeEncodeError: ") == 2
    assert "preview:" not in outcome.out
    assert [record["ipc"] for record in records(shell)] == [1, 2]
    assert not list((shell.results / "runs").rglob("*.png"))


def test_notes_on_a_folder_are_printed_once_for_a_grid(shell: Shell, image_folder: MakeFolder) -> None:
    one, two = image_folder("one"), image_folder("two")
    (one / "val").rename(one / "test")
    (one / "train" / "cat" / "x.gif").write_bytes(b"GIF89a")
    outcome = run(shell, one, "--dataset", f"imagefolder:{two}", "--ipc", "2", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("the validation images of") == outcome.err.count("ignored 1 .gif (read: .jpg") == 1


@pytest.mark.slow
def test_a_method_is_not_blamed_for_what_the_first_import_of_a_library_draws(
    shell: Shell, image_folder: MakeFolder
) -> None:
    places = ("--cache-dir", shell.cache, "--results-dir", shell.results)
    given = ("--dataset", f"imagefolder:{image_folder()}", "--method", "wmdd", "--ipc", "1", "--arch", "convnet-bn-d1")
    command = (
        sys.executable,
        "-m",
        "ddbench",
        "run",
        *given,
        "--recipe",
        "smoke",
        "--image-size",
        "8",
        *places,
    )  # no library is imported yet
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "changed" not in done.stderr
    assert len(records(shell)) == 1
