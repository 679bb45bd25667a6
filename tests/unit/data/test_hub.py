"""Datasets of the Hugging Face hub: parquet files that the library writes, and a small hub on this machine."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from ddbench.api.dataset import MissingDataError
from ddbench.core.errors import DDBenchError
from ddbench.data.hub import FOLDER, HubSplit, fetch_hub, open_hub, open_hub_split

MakeFolder = Callable[..., Path]
datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'ddbench[hf]'")
parquet = pytest.importorskip("pyarrow.parquet")
IMAGE, LABEL = datasets.Image(), datasets.ClassLabel(names=["cat", "dog"])
USUAL = {"image": IMAGE, "label": LABEL}


def ignore(event: object) -> None:
    pass


def png(value: int = 0) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def read(root: Path, split: str) -> Any:
    path = root / "data" / f"{split}-00000-of-00001.parquet"
    return datasets.Dataset.from_parquet(str(path), keep_in_memory=True)


def write(folder: Path, features: dict[str, Any], split: str = "train", **columns: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(folder / f"{split}.parquet")
    return folder


def test_images_and_labels_are_those_that_the_library_reads(parquet_folder: MakeFolder) -> None:
    root = parquet_folder(classes=("cat", "dog", "bee"), splits={"train": 9, "test": 6})
    source = open_hub(f"hf:{root}", None)
    source.check()
    assert source.class_names == ("cat", "dog", "bee")
    assert source.notes == (f"the validation images of hf:{root} are those of the split test",)
    assert source.val is not None
    for name, split in (("train", source.train), ("test", source.val)):
        theirs = datasets.Dataset.from_parquet(
            str(root / "data" / f"{name}-00000-of-00001.parquet"), keep_in_memory=True
        )
        order = np.argsort(theirs["label"], kind="stable").tolist()
        assert split.labels.tolist() == sorted(theirs["label"])
        for index, row in enumerate(order):
            assert split.name(index) == f"hf:{root}, split {name}, row {row}"
            np.testing.assert_array_equal(np.asarray(split.image(index)), np.asarray(theirs[row]["image"]))
            assert split.shape(index) == (20, 24)


def test_the_fingerprint_is_that_of_the_content(parquet_folder: MakeFolder, tmp_path: Path) -> None:
    root = parquet_folder()
    fingerprint = open_hub(f"hf:{root}", None).fingerprint()
    other = tmp_path / "elsewhere"
    for name in ("train", "test"):
        table = datasets.Dataset.from_parquet(
            str(root / "data" / f"{name}-00000-of-00001.parquet"), keep_in_memory=True
        )
        for number in range(2):
            (other / name).mkdir(parents=True, exist_ok=True)
            table.shard(2, number, contiguous=True).to_parquet(other / name / f"{number}.parquet")
    assert open_hub(f"hf:{other}", None).fingerprint() == fingerprint
    changed = open_hub(f"hf:{parquet_folder('changed', splits={'train': 10, 'test': 4})}", None)
    assert changed.fingerprint() != fingerprint


def test_a_split_is_named_or_the_only_one(parquet_folder: MakeFolder) -> None:
    root = parquet_folder(splits={"train": 8, "validation": 4, "test": 6})
    whole = open_hub(f"hf:{root}", None)
    assert whole.val is not None
    assert len(whole.val.labels) == 4
    assert whole.notes[0].endswith("are those of the split validation, those of test are not used")
    named = open_hub(f"hf:{root}:test", None)
    assert (len(named.train.labels), named.val, named.notes) == (6, None, ())
    only = open_hub(f"hf:{parquet_folder('only', splits={'distilled': 4})}", None)
    assert (len(only.train.labels), only.val) == (4, None)
    names, split = open_hub_split(f"hf:{root}:validation", ignore)
    assert (names, len(split.labels)) == (("cat", "dog"), 4)
    with pytest.raises(DDBenchError, match=r"has the splits train, validation, test: name one, e\.g\. hf:.*:train"):
        open_hub_split(f"hf:{root}", ignore)
    with pytest.raises(DDBenchError, match="there is no split 'val', only train, validation, test"):
        open_hub(f"hf:{root}:val", None)


def test_features_of_the_readme_are_used(parquet_folder: MakeFolder) -> None:
    root = parquet_folder()
    fingerprint = open_hub(f"hf:{root}", None).fingerprint()
    for path in root.rglob("*.parquet"):  # as other programs write them
        table = parquet.read_table(path)
        parquet.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(DDBenchError, match="has no column of type Image"):
        open_hub(f"hf:{root}", None)
    (root / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': cat\n          '1': dog\n---\n"
    )
    assert open_hub(f"hf:{root}", None).fingerprint() == fingerprint


TWO = {"image": [png(), png()], "label": [0, 1]}
README = "---\nconfigs:\n{}---\n"
CONFIG = "- config_name: {}\n  data_files: {}\n"


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        (
            {"image": IMAGE, "fine": LABEL, "coarse": LABEL},
            {"image": [png(), png()], "fine": [0, 1], "coarse": [1, 0]},
            "has several columns of type ClassLabel: fine, coarse; exactly one is needed",
        ),
        (
            {"image": IMAGE, "label": datasets.Value("int64")},
            TWO,
            r"has no column of type ClassLabel \(its columns: image, label\); exactly one is needed",
        ),
        (
            {"image": IMAGE, "mask": IMAGE, "label": LABEL},
            {**TWO, "mask": [png(), png()]},
            "several columns of type Image: image, mask",
        ),
        ({"label": LABEL}, {"label": [0, 1]}, "no column of type Image"),
        (
            USUAL,
            {**TWO, "label": [-1, -1]},
            "labels .* are from -1 to -1, and there are 2 classes",
        ),
        (USUAL, {**TWO, "label": [1, 1]}, "the split train has no image of class 'cat'"),
        (
            USUAL,
            {**TWO, "label": [0, None]},
            "images or labels of the split train are missing",
        ),
        (USUAL, {**TWO, "image": [png(), None]}, "images or labels of the split train are missing"),
        (USUAL, {"image": [], "label": []}, "the split train is empty"),
    ],
    ids=["labels", "integers", "images", "no image", "unknown", "empty class", "null label", "null image", "empty"],
)
def test_what_is_ambiguous_or_incomplete_is_one_line(
    tmp_path: Path, features: dict[str, Any], columns: dict[str, list[Any]], message: str
) -> None:
    folder = write(tmp_path / "pets", features, **columns)
    with pytest.raises(DDBenchError, match=message) as caught:
        open_hub(f"hf:{folder}", None)
    assert "\n" not in str(caught.value)


def damages() -> dict[Callable[[Path], None], str]:
    def no_files(root: Path) -> None:
        shutil.rmtree(root / "data")

    def other_files(root: Path) -> None:
        (root / "README.md").write_text(README.format(CONFIG.format("default", "x.csv")))
        (root / "x.csv").write_text("label\n0\n")

    def not_parquet(root: Path) -> None:
        (root / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing else")

    def cut_off(root: Path) -> None:
        path = root / "data" / "test-00000-of-00001.parquet"
        path.write_bytes(path.read_bytes()[:-100])

    def two_configurations(root: Path) -> None:
        configs = [CONFIG.format(name, f"data/{name}-*") for name in ("train", "test")]
        (root / "README.md").write_text(README.format("".join(configs)))

    def no_train(root: Path) -> None:
        (root / "data" / "train-00000-of-00001.parquet").rename(root / "data" / "validation-00000-of-00001.parquet")

    def outside(root: Path) -> None:
        write(root.parent / "other", USUAL, **TWO)
        (root / "README.md").write_text(README.format(CONFIG.format("default", "../other/train.parquet")))

    def other_names(root: Path) -> None:
        names = datasets.ClassLabel(names=["cat", "cow"])
        write(root / "data", {"image": IMAGE, "label": names}, "test-00000-of-00001", **TWO)

    return {
        no_files: "holds no parquet files",
        other_files: "holds other files than parquet files, which are not read",
        not_parquet: "the files of split train cannot be read: ",
        cut_off: "the files of split test cannot be read: ",
        two_configurations: "cannot be assigned to splits: .*[Cc]onfig name is missing",
        no_train: "has the splits validation, test and none named train: name the one with training images",
        outside: "the README names a file outside of the folder: .*other/train.parquet",
        other_names: "the splits train and test have different class names",
    }


@pytest.mark.parametrize(("damage", "line"), damages().items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_folder_is_one_line(parquet_folder: MakeFolder, damage: Callable[[Path], None], line: str) -> None:
    root = parquet_folder()
    damage(root)
    with pytest.raises(DDBenchError, match=line) as caught:
        open_hub(f"hf:{root}", None)
    assert "\n" not in str(caught.value)


def test_without_the_library_the_line_names_the_extra(
    parquet_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = parquet_folder()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DDBenchError, match=r"needs the package datasets, .*: pip install 'ddbench\[hf\]'$"):
        open_hub(f"hf:{root}", None)


def test_a_folder_of_a_record_is_searched_by_name(parquet_folder: MakeFolder, tmp_path: Path) -> None:
    root = parquet_folder()
    for data_dir in (tmp_path, root):
        assert len(open_hub("hf:pets@0123abcd", data_dir).train.labels) == 8
    assert len(open_hub("hf:pets:test@0123abcd", tmp_path).train.labels) == 4
    for reference in ("hf:cows@0123abcd", f"hf:{tmp_path}/cows", "hf:me/cows"):
        with pytest.raises(MissingDataError, match=f"{reference}: no folder .*cows"):
            open_hub(reference, tmp_path)


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as a download needs: the files of one dataset at every revision."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = files
        self.asked: list[str] = []
        self.refused: set[str] = set()

    def contents_of(self, path: str) -> int:
        """How often the content of a file was sent."""
        return self.asked.count(f"GET {path}")


class HubHandler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    commit = "0123456789abcdef0123456789abcdef01234567"

    def _answer(self, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        """The list of files, or a file."""
        path, files = unquote(self.path.partition("?")[0]), self.server.files
        self.server.asked.append(f"{self.command} {path}")
        if path in self.server.refused:
            self.send_error(404)
        elif path == "/api/datasets/me/pets" or path.startswith("/api/datasets/me/pets/revision/"):
            siblings = [{"rfilename": name} for name in files]
            content = {"id": "me/pets", "sha": self.commit, "siblings": siblings, "tags": [], "private": False}
            self._answer(json.dumps(content).encode(), "application/json")
        elif path.startswith("/api/datasets/me/pets/tree/"):
            tree = [{"type": "file", "oid": "0" * 40, "size": len(data), "path": name} for name, data in files.items()]
            self._answer(json.dumps(tree).encode(), "application/json")
        elif path.startswith("/datasets/me/pets/resolve/"):
            name = path.split("/", 6)[6]
            etag = f'"{len(files[name]):040x}"'
            self._answer(files[name], "application/octet-stream", ETag=etag, X_Repo_Commit=self.commit)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def set_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Sets the address of the hub, which HF_ENDPOINT sets when the library is imported; older versions copy it."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in ("constants", "hf_api", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", url, raising=False)
        monkeypatch.setattr(f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub(parquet_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine with one dataset and one file that is not wanted."""
    root = parquet_folder()
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Hub({**files, "load.py": b"raise SystemExit"}) as server:
        set_address(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("revision", ["", "@refs/convert/parquet"])
def test_a_dataset_of_the_hub_is_downloaded_once_it_is_complete(
    hub: Hub, parquet_folder: MakeFolder, tmp_path: Path, revision: str
) -> None:
    reference, data_dir = f"hf:me/pets{revision}", tmp_path / "data"
    with pytest.raises(MissingDataError):
        open_hub(reference, data_dir)
    fetch_hub(reference, data_dir, ignore)
    source = open_hub(reference, data_dir)
    assert isinstance(source.train, HubSplit)
    assert source.fingerprint() == open_hub(f"hf:{tmp_path / 'pets'}", None).fingerprint()
    (folder,) = (data_dir / FOLDER).iterdir()
    assert folder.name == "me--pets" + revision.replace("/", "--")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {*hub.files} - {
        "load.py"
    }


def test_a_set_of_the_hub_is_downloaded_to_the_default_folder(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for _ in range(2):
        names, split = open_hub_split("hf:me/pets:train", ignore)
        assert (names, len(split.labels)) == (("cat", "dog"), 8)
    assert len([line for line in hub.asked if line.startswith("GET /datasets/")]) == 2  # two files, once
    assert (tmp_path / "home" / "ddbench" / "data" / FOLDER / "me--pets").is_dir()


def test_an_interrupted_download_continues_and_leaves_no_folder(hub: Hub, tmp_path: Path) -> None:
    first, second = (f"/datasets/me/pets/resolve/{HubHandler.commit}/{name}" for name in [*hub.files][:2])
    hub.refused = {second}
    with pytest.raises(DDBenchError, match=r"^hf:me/pets cannot be downloaded: "):
        fetch_hub("hf:me/pets", tmp_path / "data", ignore)
    assert not (tmp_path / "data" / FOLDER).exists()
    hub.refused, before = set(), hub.contents_of(first)
    fetch_hub("hf:me/pets", tmp_path / "data", ignore)
    assert hub.contents_of(first) == before == 1
    assert len(open_hub("hf:me/pets", tmp_path / "data").train.labels) == 8


def test_a_dataset_without_parquet_files_and_no_network_are_one_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"load.py": b""}
    with pytest.raises(DDBenchError, match=r"holds no parquet files; .* hf:me/pets@refs/convert/parquet$"):
        fetch_hub("hf:me/pets", tmp_path / "data", ignore)
    with pytest.raises(DDBenchError, match=r"^hf:me/cows cannot be downloaded: ") as caught:
        fetch_hub("hf:me/cows", tmp_path / "data", ignore)
    assert "\n" not in str(caught.value)
    set_address(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(DDBenchError, match=r"^hf:me/pets cannot be downloaded: ") as caught:
        fetch_hub("hf:me/pets", tmp_path / "data", ignore)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / FOLDER).exists()
