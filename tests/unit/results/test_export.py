"""Exported sets read back by other people's readers, byte for byte, and never half written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torchvision.datasets import ImageFolder

from ddbench.core.errors import DDBenchError
from ddbench.results.export import export_set, folder_names
from ddbench.results.stored_sets import StoredSet

NAMES = ("English springer", "../../etc/passwd", "church")
CARD = {"method": "wmdd", "ipc": 2, "settings": {"bn_weight": 10.0, "checkpoint": Path("a/b")}}


@pytest.fixture
def stored() -> StoredSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=generator, dtype=torch.uint8)
    weights = torch.tensor([0.25, 0.1, 0.5, 0.9, 0.5, 0.75])
    return StoredSet(images, torch.tensor([2, 0, 1, 0, 1, 2]), weights, NAMES)


def pixels(path: str) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_imagefolder_is_lossless_and_keeps_labels_and_weights(tmp_path: Path, stored: StoredSet) -> None:
    target = tmp_path / "deep" / "set"
    export_set(stored, CARD, target, "imagefolder")
    read = ImageFolder(str(target), loader=pixels)
    with (target / "weights.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(read) == len(rows) == 6
    actual = []
    for (path, _), (image, label) in zip(read.samples, read, strict=True):
        row = rows[Path(path).relative_to(target).as_posix()]
        assert int(row["label"]) == label
        assert row["class"] == NAMES[label]
        number = next(i for i in range(6) if torch.equal(image, stored.images[i]))
        assert label == stored.labels[number]
        assert np.float32(row["weight"]) == stored.weights[number]
        actual.append(number)
    assert sorted(actual) == list(range(6))
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "bn_weight: 10.0" in card
    assert "6 images of 3 classes, 16 x 16 pixels" in card
    assert [path.name for path in target.parent.iterdir()] == ["set"]


def test_safetensors_holds_everything(tmp_path: Path, stored: StoredSet) -> None:
    target = tmp_path / "set"
    target.mkdir()
    export_set(stored, CARD, target, "safetensors")
    with safe_open(target / "distilled.safetensors", framework="pt") as file:
        for name, tensor in stored.tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
        assert json.loads(file.metadata()["class_names"]) == list(NAMES)
    card = json.loads((target / "card.json").read_text(encoding="utf-8"))
    assert card["settings"] == {"bn_weight": 10.0, "checkpoint": "a/b"}
    assert sorted(path.name for path in target.iterdir()) == ["card.json", "distilled.safetensors"]


@pytest.mark.parametrize("format", ["imagefolder", "safetensors"])
def test_others_may_read_every_exported_file(tmp_path: Path, stored: StoredSet, format: str) -> None:
    export_set(stored, CARD, tmp_path / "set", format)
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "set").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("format", ["imagefolder", "safetensors"])
def test_nothing_is_written_over(tmp_path: Path, stored: StoredSet, format: str) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    file.write_text("mine")
    for target in (folder, file):
        with pytest.raises(DDBenchError, match="is not an empty folder"):
            export_set(stored, CARD, target, format)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "mine.txt"]


@pytest.mark.parametrize("format", ["imagefolder", "safetensors"])
def test_a_failure_half_way_leaves_nothing(
    tmp_path: Path, stored: StoredSet, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = Path.write_text

    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        write_text(path, "half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DDBenchError, match=r"the disk is full: .*set could not be written"):
        export_set(stored, CARD, tmp_path / "set", format)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_parent_is_one_line(tmp_path: Path, stored: StoredSet) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DDBenchError, match="cannot write"):
        export_set(stored, CARD, tmp_path / "file" / "set", "imagefolder")


def test_bad_parts_are_refused(tmp_path: Path, stored: StoredSet) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"images": stored.images.double()}, "uint8"),
        ({"extras": {"logits": torch.zeros(6, 2)}}, r"logits of torch.float32 \[6, 2\]; floats \[6, 3\] are needed"),
        ({"labels": stored.labels[:5]}, "5 labels"),
        ({"labels": stored.labels + 1}, "beyond the 3 classes"),
    ]
    for change, says in wrong:
        with pytest.raises(DDBenchError, match=says):
            export_set(replace(stored, **change), CARD, tmp_path / "set", "safetensors")
    with pytest.raises(DDBenchError, match="did you mean 'imagefolder'"):
        export_set(stored, CARD, tmp_path / "set", "image-folder")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.text(max_size=100), min_size=1, max_size=20))
def test_folder_names_stay_inside_are_distinct_and_sort_in_class_order(names: list[str]) -> None:
    folders = folder_names(names)
    assert len(folders) == len(names)
    assert folders == sorted(folders)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert Path(folder).name == folder
        assert folder not in ("", ".", "..")
        assert not folder.startswith(".")
        assert len(folder.encode()) <= 255


def test_usual_names_are_kept() -> None:
    assert folder_names(["n01440764", "n02102040"]) == ["n01440764", "n02102040"]
    assert folder_names(["T-shirt/top", "Ankle boot"]) == ["0_T-shirt_top", "1_Ankle_boot"]
