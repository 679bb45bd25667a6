"""What several tests share: a grid that was run once, and folders of images."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield found
        found.shutdown()
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
