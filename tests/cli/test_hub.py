"""Parquet files as the Hugging Face hub has them, as a dataset and as a set, from the command line to the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ddbench

if TYPE_CHECKING:
    from conftest import Outcome, Shell

MakeFolder = Callable[..., Path]
SMALL = ("--student", "convnet-d1", "--evaluator", "hard", "--set", "data.stored_size=8")


def run(shell: Shell, dataset: str, *more: str) -> Outcome:
    """A cell of `random` with a student of one layer."""
    return shell.quick_run("--dataset", dataset, "--method", "random", "--ipc", "1", *SMALL, *more)


def records(shell: Shell) -> list[dict[str, Any]]:
    paths = (shell.results / "records").iterdir()
    return [json.loads(path.read_text()) for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]


def test_a_folder_of_parquet_files_is_a_dataset_with_a_name_without_its_path(
    shell: Shell, parquet_folder: MakeFolder, tmp_path: Path
) -> None:
    root = parquet_folder()
    outcome = run(shell, f"hf:{root}")
    assert outcome.code == 0, outcome.err
    assert f"the validation images of hf:{root} are those of the split test" in outcome.err
    (record,) = records(shell)
    assert record["dataset"] == f"hf:pets@{record['data']['fingerprint'][:8]}"
    assert str(tmp_path) not in json.dumps(record)
    assert record["data"] | {"train_images": 8, "val_images": 4, "val_images_in_train": 0} == record["data"]
    elsewhere = shutil.copytree(root, tmp_path / "elsewhere" / "pets")
    assert "everything is in the cache" in run(shell, f"hf:{elsewhere}", "--dry-run").out
    plan = run(shell, record["dataset"], "--data-dir", str(tmp_path / "elsewhere"), "--dry-run")
    assert "everything is in the cache" in plan.out
    run(shell, "hf:cows@0123abcd", "--data-dir", str(tmp_path)).refused("hf:cows@0123abcd: no folder ", "--data-dir")
    run(shell, record["dataset"][:-8] + "00000000", "--data-dir", str(tmp_path)).refused("have the fingerprint ")
    assert shell("show", record["name"]).code == 0


def test_a_split_alone_needs_a_share_for_validation(shell: Shell, parquet_folder: MakeFolder) -> None:
    root = parquet_folder()
    run(shell, f"hf:{root}:train").refused("hf:pets:train has no validation images", "--set data.split=0.2")
    outcome = run(shell, f"hf:{root}:train", "--set", "data.split=0.25")
    assert outcome.code == 0, outcome.err
    (record,) = records(shell)
    assert record["dataset"].startswith("hf:pets:train@")
    assert (record["data"]["train_images"], record["data"]["val_images"]) == (6, 2)


def test_wrong_names_and_damaged_images_are_one_line(shell: Shell, parquet_folder: MakeFolder) -> None:
    for name in ("hf:", "hf:pets", "hf:a/b/c"):
        run(shell, name).refused(f"dataset '{name}': expected hf:OWNER/NAME")
    run(shell, "hf:me/pets", "--data-dir", str(shell.root)).refused("hf:me/pets: no folder", "the Hugging Face hub")
    root = parquet_folder()
    path = root / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAX", 1))
    run(shell, f"hf:{root}").refused("split train, row ", "cannot be decoded", "data.skip_corrupt=true")


def test_a_set_in_parquet_files_gives_the_numbers_of_the_same_set_in_a_folder(
    shell: Shell, parquet_folder: MakeFolder
) -> None:
    data = f"hf:{parquet_folder(classes=('dog', 'cat'))}"
    small = parquet_folder("small", splits={"distilled": 4})
    options = ("--dataset", data, "--recipe", "smoke", "--image-size", "8", "--device", "cpu", *SMALL, "--no-random")
    outcome = shell("evaluate", f"hf:{small}", *options)
    assert outcome.code == 0, outcome.err
    assert "4 images of 2 classes, 2 per class" in outcome.err
    assert "images of 24 x 20 pixels are resized to 8 x 8" in outcome.err
    for index, row in enumerate(_rows(small)):
        folder = shell.root / "folder" / ("cat", "dog")[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(row["image"]["bytes"])
    assert shell("evaluate", "folder", *options).code == 0
    hub, folder = sorted(records(shell), key=lambda record: record["method"])[::-1]
    assert (hub["method"].partition("@")[0], folder["method"].partition("@")[0]) == ("given:small", "given:folder")
    assert hub["distilled_digest"] == folder["distilled_digest"]
    assert hub["metrics"] == folder["metrics"]
    assert str(shell.root.parent) not in json.dumps(hub)
    elsewhere = ("--cache-dir", shell.root / "fresh", "--data-dir", small.parent)  # of the dataset
    again = shell("repeat", hub["name"], *elsewhere, "--file", small)
    assert again.out.endswith("agrees: the same distilled set and the same accuracies\n"), again.err
    loaded = ddbench.load(f"hf:{small}", results_dir=shell.results, cache_dir=shell.cache)
    assert (loaded.images.shape, loaded.class_names) == ((4, 3, 20, 20), ("cat", "dog"))
    assert loaded.labels.tolist() == [0, 0, 1, 1]
    shell("evaluate", f"hf:{small}", "--pixels", "cifar10", *options).refused("--pixels cifar10: ", "bytes")
    shell("evaluate", data, *options).refused("has the splits train, test: name one, e.g. hf:")
    other = parquet_folder("cows", classes=("cat", "cow"), splits={"train": 4})
    shell("evaluate", f"hf:{other}", *options).refused("cows: 'cow' in the set is not the name of a class")


def _rows(folder: Path) -> list[dict[str, Any]]:
    import datasets

    (path,) = folder.rglob("*.parquet")
    table = datasets.Dataset.from_parquet(str(path), keep_in_memory=True)
    return list(table.cast_column("image", datasets.Image(decode=False)))


def test_an_export_is_read_by_the_library_of_the_hub_and_has_the_digest_of_its_run(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from datasets import load_dataset

    assert run(shell, "digits", "--method", "dm").code == 0
    (made,) = [record for record in records(shell) if record["method"] == "dm"]
    folder = shell.root / "set"
    options = ("--format", "huggingface", "--output", folder)
    assert shell("export", made["name"], *options).code == 0
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    assert len(load_dataset(str(folder))["train"]) == 10
    options = ("--dataset", "digits", "--recipe", "smoke", "--image-size", "8", "--device", "cpu", *SMALL)
    assert shell("evaluate", f"hf:{folder}", "--no-random", *options).code == 0
    assert records(shell)[-1]["distilled_digest"] == made["distilled_digest"]


def test_an_upload_needs_its_format_and_a_token(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    options = ("export", "x", "--output", tmp_path / "set", "--push", "me/set")
    shell(*options).refused("--push uploads the files of --format huggingface, and --format is imagefolder")
    shell(*options, "--format", "huggingface").refused("--push needs a token of the hub")
