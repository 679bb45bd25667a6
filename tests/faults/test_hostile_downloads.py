"""Downloads from servers that are broken or hostile; resuming, digests and sizes: tests/unit/data/test_download.py."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.api.dataset import Download, RemoteFile
from ddbench.core.errors import DDBenchError
from ddbench.data.download import install

if TYPE_CHECKING:
    from conftest import Server

PICTURE = bytes(range(256)) * 4000


@functools.cache  # a gzip file tells the second in which it was made
def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=0) as tar:
        info = tarfile.TarInfo("toy/picture")
        info.size = len(PICTURE)
        tar.addfile(info, io.BytesIO(PICTURE))
    return out.getvalue()


def toy(server: Server, name: str = "toy.tgz", folder: str = "toy", max_bytes: int = 10**7) -> Download:
    digest = f"sha256:{hashlib.sha256(archive()).hexdigest()}"
    return Download(folder, (RemoteFile(server.url(name), digest),), max_bytes)


def answer(head: str, body: bytes = b"", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode("latin-1") + body


def installed(download: Download, folder: Path) -> bytes:
    install(download, folder, lambda event: None)
    return (folder / "toy" / "picture").read_bytes()


def sent_to(address: str) -> bytes:
    return answer(f"Location: {address}\r\nContent-Length: 0", status="302 Found")


REDIRECTS = (
    "file:///etc/passwd",
    "ftp://127.0.0.1/toy.tgz",
    "data:,x",
    "http://[::1",
    "http://" + "a" * 300 + "/",
    "//",
)


@pytest.mark.parametrize("address", REDIRECTS)
def test_a_server_sends_nobody_elsewhere_than_to_the_web(server: Server, tmp_path: Path, address: str) -> None:
    server.answers = [sent_to(address)] * 20
    with pytest.raises(DDBenchError, match=r"^cannot download http://127"):
        installed(toy(server), tmp_path)
    assert not (tmp_path / "toy").exists()
    assert not list(tmp_path.rglob("*.tgz*"))


@pytest.mark.parametrize("length", ["\xb2", "-5", "1e9", "0x10", ""])
def test_a_length_that_is_none_is_not_read(server: Server, tmp_path: Path, length: str) -> None:
    server.answers = [answer(f"Content-Length: {length}", archive())]
    assert installed(toy(server), tmp_path) == PICTURE


def test_more_than_was_stated_is_not_taken(server: Server, tmp_path: Path) -> None:
    content = archive()
    server.answers = [
        answer(f"Content-Length: {len(content)}", content + b"and more"),
        answer("Connection: close", content + bytes(10**6)),
        answer(f"Content-Length: {10**8}"),
        answer(f"Content-Length: {'9' * 4000}"),
        answer("Connection: close", bytes(10**6) * 11),
    ]
    assert installed(toy(server), tmp_path / "stated") == PICTURE
    with pytest.raises(DDBenchError, match="is not the published file"):
        installed(toy(server), tmp_path / "unstated")
    with pytest.raises(DDBenchError, match=f"is larger than the 10000000 bytes expected: {10**8}; refused"):
        installed(toy(server), tmp_path / "large")
    with pytest.raises(DDBenchError, match="is larger than the 10000000 bytes expected: 9999"):
        installed(toy(server), tmp_path / "larger")
    with pytest.raises(DDBenchError, match="is larger than the 10000000 bytes expected; stopped"):
        installed(toy(server), tmp_path / "endless")
    for name in ("unstated", "large", "larger", "endless"):
        assert [path.suffix for path in (tmp_path / name / ".downloads").iterdir()] in ([], [".lock"])


def test_a_download_cut_many_times_is_whole_in_the_end(
    server: Server, tmp_path: Path, counted: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    """In pieces, then a server that begins again in spite of the range, then the wrong part, which the digest finds."""
    content, cuts = archive(), counted(8, 60)
    step = len(content) // (cuts + 1)
    for number in range(cuts):
        start = number * step
        status = "206 Partial Content" if start else "200 OK"
        server.answers = [answer(f"Content-Length: {len(content) - start}", content[start : start + step], status)]
        with pytest.raises(DDBenchError, match="run again to resume"):
            installed(toy(server), tmp_path)
        assert not (tmp_path / "toy").exists()
    assert server.asked == [None, *(f"bytes={number * step}-" for number in range(1, cuts))]
    server.answers = [answer(f"Content-Length: {len(content)}", content[: len(content) // 2])]
    with pytest.raises(DDBenchError, match="run again to resume"):
        installed(toy(server), tmp_path)
    wrong = answer(f"Content-Length: {len(content) - 7}", content[7:], "206 Partial Content")
    server.answers = [wrong, answer(f"Content-Length: {len(content)}", content)]
    with pytest.raises(DDBenchError, match="is not the published file"):
        installed(toy(server), tmp_path)
    assert installed(toy(server), tmp_path) == PICTURE
    tally(f"downloads: cut {cuts + 1} times, one wrong part, whole in the end")


def test_a_server_names_no_files_and_a_download_none_elsewhere(server: Server, tmp_path: Path) -> None:
    disposition = 'Content-Disposition: attachment; filename="../../evil.tgz"\r\nContent-Length: '
    server.answers = [answer(f"{disposition}{len(archive())}", archive())]
    assert installed(toy(server), tmp_path / "a" / "b") == PICTURE
    assert not list(tmp_path.rglob("evil*"))
    for name, folder in (("x/..", "toy"), ("x/", "toy"), ("toy.tgz", "../toy"), ("toy.tgz", ""), ("toy.tgz", "/toy")):
        with pytest.raises(DDBenchError, match="it would lie outside of the data folder"):
            install(toy(server, name, folder), tmp_path / "c", lambda event: None)
    assert not (tmp_path / "c").exists()


def test_a_file_that_was_whole_is_checked_again(server: Server, tmp_path: Path) -> None:
    store = tmp_path / ".downloads"
    store.mkdir()
    (store / "toy.tgz").write_bytes(archive()[:-9] + b"by others")
    with pytest.raises(DDBenchError, match="is not the published file"):
        installed(toy(server), tmp_path)
    server.answers = [answer(f"Content-Length: {len(archive())}", archive())]
    assert installed(toy(server), tmp_path) == PICTURE
