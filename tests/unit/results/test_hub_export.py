"""Sets as datasets of the Hugging Face hub: read by its own library, by Croissant's, and by ddbench; and uploaded."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.distillation.hub_set import read_hub_set
from ddbench.distillation.set_files import Form, SetFile
from ddbench.results import hub_export
from ddbench.results.export import export_set
from ddbench.results.hub_export import push_folder, require_push
from ddbench.results.stored_sets import StoredSet

NAMES = ("English springer", "church", "a: b")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def stored(count: int = 6, floats: bool = False, **extras: Tensor) -> StoredSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels, weights = torch.arange(count) * 3 // count, torch.rand(count, generator=generator)
    return StoredSet(images / 255 if floats else images, labels, weights, NAMES, extras)


def export(exported: StoredSet, folder: Path) -> None:
    export_set(exported, {"method": "wmdd", "ipc": 2}, folder, "huggingface")


def read(folder: Path) -> SetFile:
    return read_hub_set(f"hf:{folder}", Form(None), lambda event: None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to write. The caches of the library are in the temporary folder too."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "set"


def test_the_library_of_the_hub_reads_images_labels_weights_and_soft_labels(folder: Path) -> None:
    from datasets import load_dataset

    soft = torch.softmax(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), 1)
    rate = torch.tensor([0.013], dtype=torch.float64)
    extras = {"probabilities": soft, "learning_rate": rate, "decode_factor": torch.tensor([2])}
    expected = stored(**extras)
    export(expected, folder)
    rows = load_dataset(str(folder))["train"]
    assert rows.features["label"].names == [*NAMES]
    stacked = np.stack([np.array(row["image"]) for row in rows])
    assert torch.equal(torch.from_numpy(stacked).permute(0, 3, 1, 2), expected.images)
    assert rows["label"][:] == expected.labels.tolist()
    assert torch.equal(torch.tensor(rows["weight"][:]), expected.weights)
    assert torch.equal(torch.tensor(rows["probabilities"][:]), soft)
    assert rows["learning_rate"][:] == [0.013] * 6
    assert rows["decode_factor"][:] == [2] * 6
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(metadata)["task_categories"] == ["image-classification"]
    assert "6 images of 3 classes, 8 x 8 pixels" in text
    assert "Each image holds 2 x 2 images of its class." in text
    back = read(folder)
    assert (back.names, back.extras.keys()) == (NAMES, extras.keys())
    assert back.weights is not None
    for name, tensor in {"images": back.images, "labels": back.labels, "weights": back.weights}.items():
        assert torch.equal(tensor, expected.tensors[name])
    assert all(torch.equal(back.extras[name], tensor) for name, tensor in extras.items())
    with pytest.raises(DDBenchError, match="2 x 2 images in each image, so it cannot be resized to 16 px"):
        read_hub_set(f"hf:{folder}", Form(16), lambda event: None)


def test_large_sets_are_several_files_of_row_groups_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_export, "ROWS", 5)
    monkeypatch.setattr(hub_export, "GROUP", 2)
    expected = stored(12)
    export(expected, folder)
    files = sorted((folder / "data").iterdir())
    assert [path.name for path in files] == [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    groups = [pyarrow.parquet.ParquetFile(path).metadata for path in files]
    assert [[group.row_group(i).num_rows for i in range(group.num_row_groups)] for group in groups] == [
        [2, 2, 1],
        [2, 2, 1],
        [2],
    ]
    back = read(folder)
    assert torch.equal(back.images, expected.images)
    assert torch.equal(back.labels, expected.labels)


def test_classes_of_one_name_get_their_numbers(folder: Path) -> None:
    export(replace(stored(), class_names=("crane", "church", "crane")), folder)
    back = read(folder)
    assert back.names == ("0_crane", "1_church", "2_crane")
    assert torch.equal(back.labels, stored().labels)


def test_floats_are_in_a_file_of_tensors_beside_rounded_images(folder: Path) -> None:
    from safetensors.torch import load_file

    expected = stored(floats=True)
    export(expected, folder)
    assert torch.equal(load_file(folder / "distilled.safetensors")["images"], expected.images)
    assert "`distilled.safetensors` holds the exact set: float32 pixels." in (folder / "README.md").read_text()
    assert torch.equal(read(folder).images, stored().images)


def test_croissant_metadata_are_read_by_the_library_of_the_format(folder: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    expected = stored(logits=torch.eye(3).repeat(2, 1))
    export(expected, folder)
    records = [*mlcroissant.Dataset(folder / "croissant.json").records("images")]
    images = torch.from_numpy(np.stack([np.array(row["images/image"]) for row in records])).permute(0, 3, 1, 2)
    assert torch.equal(images, expected.images)
    assert [row["images/label"] for row in records] == expected.labels.tolist()
    assert [row["images/weight"] for row in records] == pytest.approx(expected.weights.tolist())
    assert [list(row["images/logits"]) for row in records] == torch.eye(3).repeat(2, 1).tolist()


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"weight": ["heavy"] * 4}, "the column weight does not hold numbers"),
        ({"weight": [-1.0] * 4}, "the weights are not one number >= 0 per image"),
        ({"weight": [0.5] * 4, "learning_rate": [0.1, 0.1, 0.2, 0.2]}, "learning rate that is not one number"),
        ({"probabilities": [[0.9, 0.9]] * 4}, "do not sum to 1"),
    ],
)
def test_columns_that_are_no_weights_or_soft_labels_are_refused(
    tmp_path: Path, extras: dict[str, list[Any]], message: str
) -> None:
    from datasets import ClassLabel, Dataset, Image

    export(stored(), tmp_path / "set")
    (path,) = (tmp_path / "set" / "data").iterdir()
    images = pyarrow.parquet.read_table(path)["image"].to_pylist()[:4]
    rows = Dataset.from_dict({"image": images, "label": [0, 0, 1, 1], **extras})
    rows.cast_column("image", Image()).cast_column("label", ClassLabel(names=["a", "b"])).to_parquet(path)
    with pytest.raises(DDBenchError, match=message):
        read(tmp_path / "set")


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as an upload needs: it keeps the last commit to the dataset `me/set`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class HubHandler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def _answer(self, content: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Facts about the dataset."""
        self._answer({"id": "me/set", "sha": COMMIT, "siblings": [], "tags": [], "private": False})

    def do_POST(self) -> None:
        """Creates the dataset, checks the card, or takes a commit."""
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(path)
        self.server.tokens.add(self.headers["Authorization"])
        if path == "/api/repos/create":
            name = json.loads(body)
            self._answer({"url": f"{self.server.url}/datasets/{name['organization']}/{name['name']}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == "/api/datasets/me/set/preupload/main":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._answer({"files": modes})
        elif path == "/api/datasets/me/set/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            values = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files = {value["path"]: base64.b64decode(value["content"]) for value in values}
            self._answer({"commitUrl": f"{self.server.url}/datasets/me/set/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._answer({"error": "no rights for this dataset"}, 403)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and a token for it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub() as server:
        for module in ("constants", "hf_api"):
            monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", server.url, raising=False)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint=server.url))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_upload_is_one_commit_with_every_file(hub: Hub, folder: Path) -> None:
    export(stored(), folder)
    assert push_folder(folder, "me/set") == f"{hub.url}/datasets/me/set/commit/{COMMIT}"
    assert hub.files == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert len(hub.files) == 3
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_refused_upload_is_one_line_that_says_where_the_files_are(hub: Hub, folder: Path) -> None:
    export(stored(), folder)
    with pytest.raises(DDBenchError, match=f"^you/set cannot be uploaded, the files are in {folder}: .*403") as raised:
        push_folder(folder, "you/set")
    assert "\n" not in str(raised.value)
    assert hub.files == {}


def test_an_upload_without_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(DDBenchError, match=r"^--push needs a token of the hub: run 'hf auth login', or set HF_TOKEN$"):
        require_push()
