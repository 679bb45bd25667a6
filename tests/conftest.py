"""What several tests share: a grid that was run once, and folders of images."""

from __future__ import annotations

import http.server
import io
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from conftest import Outcome, Shell


@dataclass(frozen=True)
class Finished:
    """A shell in which a grid of two methods and two IPCs on digits was run, and what it printed."""

    shell: Shell
    grid: tuple[str, ...]
    first: Outcome


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Finished:
    """wmdd and random at IPC 1 and 2 on digits, run once: read it, or copy its folder to change it."""
    shell = shell_in(tmp_path_factory.mktemp("finished"))
    grid = ("--method", "wmdd", "--method", "random", "--dataset", "digits", "--ipc", "1", "--ipc", "2")
    return Finished(shell, grid, shell.run(*grid))


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `cut` closes the connection after so many bytes; `ranges` answers byte ranges.

    Where there are `answers`, the next of them is written to the connection instead, byte by byte. `asked`: the ranges.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.answers: list[bytes] = []
        self.asked: list[str | None] = []

    def url(self, name: str) -> str:
        """The address of a file."""
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        """As the server says."""
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        if self.server.answers:
            self.wfile.write(self.server.answers.pop(0))
            return
        data = self.server.files.get(self.path[1:])
        if data is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:] if self.server.cut is None else data[start : self.server.cut])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as actual:
        thread = threading.Thread(target=actual.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield actual
        actual.shutdown()
        thread.join()


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes train/ and val/ of small JPEGs, each class of its own brightness."""

    def make(name: str = "pictures", classes: Sequence[str] = ("cat", "dog"), train: int = 4, val: int = 2) -> Path:
        random = np.random.default_rng(0)
        root = tmp_path / name
        for split, count in (("train", train), ("val", val)):
            for number, title in enumerate(classes):
                folder = root / split / title
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = random.integers(0, 100, (40, 48, 3)) + 70 * number
                    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg")
        return root

    return make


@pytest.fixture
def parquet_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes parquet files with `image` and `label` as the hub stores them, each class of its own brightness."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'ddbench[hf]'")

    def make(
        name: str = "pets", classes: Sequence[str] = ("cat", "dog"), splits: Mapping[str, int] | None = None
    ) -> Path:
        random = np.random.default_rng(0)
        root = tmp_path / name
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))}
        for split, count in (splits or {"train": 8, "test": 4}).items():
            rows: dict[str, list[Any]] = {"image": [], "label": []}
            for index in range(count):
                label = index % len(classes)
                pixels = random.integers(0, 100, (20, 24, 3)) + 70 * label
                stream = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
                rows["image"].append({"bytes": stream.getvalue(), "path": None})
                rows["label"].append(label)
            (root / "data").mkdir(parents=True, exist_ok=True)
            table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
            table.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
        return root

    return make


class Storage:
    """A real S3-compatible server, and what it can be told to do; every test has a bucket of its own in it."""

    def __init__(self, folder: Path, port: str) -> None:
        self._folder, self._numbers, self.bucket = folder, itertools.count(), ""
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # who asks again is ddbench
        }

    @property
    def files(self) -> Any:
        """The server as fsspec sees it."""
        import fsspec

        actual = fsspec.filesystem("s3")
        actual.invalidate_cache()
        return actual

    def fresh(self) -> None:
        """Another bucket; a server that neither fails nor is slow."""
        self.fails(False)
        self.slow(False)
        self.bucket = f"bucket-{next(self._numbers)}"
        self.files.mkdir(self.bucket)

    def url(self, prefix: str = "here") -> str:
        """A folder in the bucket."""
        return f"s3://{self.bucket}/{prefix}"

    def objects(self, prefix: str = "here") -> dict[str, bytes]:
        """What is below a folder, by name."""
        root = f"{self.bucket}/{prefix}"
        return {path.removeprefix(f"{root}/"): self.files.cat_file(path) for path in self.files.find(root)}

    def put(self, name: str, content: bytes, prefix: str = "here") -> None:
        """An object with this content."""
        self.files.pipe_file(f"{self.bucket}/{prefix}/{name}", content)

    def fails(self, now: bool) -> None:
        """Whether it answers everything with 503."""
        self._told("fail", now)

    def slow(self, now: bool) -> None:
        """Whether uploads take long."""
        self._told("slow", now)

    def log(self) -> list[str]:
        """A line for every request that changed something."""
        path = self._folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def _told(self, what: str, now: bool) -> None:
        path = self._folder / what
        path.touch() if now else path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def storage_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """The server's process (s3_server.py)."""
    folder = tmp_path_factory.mktemp("storage")
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py")), str(folder)]
    with (folder / "messages").open("w") as messages:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    assert port, (folder / "messages").read_text()
    yield Storage(folder, port)
    server.kill()
    server.wait(60)


@pytest.fixture
def storage(storage_server: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Storage:
    """The server with an empty bucket; this process uses it, and keeps its local copies below `tmp_path`."""
    monkeypatch.setattr("ddbench.storage.remote_folder.local_copies", lambda: tmp_path / "copies")
    for name, value in storage_server.environment.items():
        monkeypatch.setenv(name, value)
    storage_server.fresh()
    return storage_server
