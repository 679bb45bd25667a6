"""Downloads, from a real server on this machine: digests, resuming, nothing in place that is not whole."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.api.dataset import Download, RemoteFile
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.download import install

if TYPE_CHECKING:
    from conftest import Server

PICTURE = bytes(range(256)) * 4000


def tgz(folder: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=0) as tar:
        info = tarfile.TarInfo(f"{folder}/train/picture")
        info.size = len(PICTURE)
        tar.addfile(info, io.BytesIO(PICTURE))
    return out.getvalue()


def of(server: Server, data: bytes, max_bytes: int = 10**7, algorithm: str = "md5") -> Download:
    server.files["toy.tgz"] = data
    digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    return Download("toy", (RemoteFile(server.url("toy.tgz"), digest),), max_bytes)


def ignore(event: Event) -> None:
    pass


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_an_archive_is_fetched_checked_and_unpacked_once(server: Server, tmp_path: Path, algorithm: str) -> None:
    events: list[Event] = []
    download = of(server, tgz("toy"), algorithm=algorithm)
    for _ in range(2):
        install(download, tmp_path / "data", events.append)
    assert (tmp_path / "data" / "toy" / "train" / "picture").read_bytes() == PICTURE
    assert len(server.asked) == 1
    assert [path.suffix for path in (tmp_path / "data" / ".downloads").iterdir()] in ([], [".lock"])
    assert [event.kind for event in events] == ["started", "finished", "note"]


def test_plain_files_are_put_into_the_folder(server: Server, tmp_path: Path) -> None:
    server.files = {"one.gz": b"1" * 10, "two.gz": b"2" * 20}
    files = tuple(
        RemoteFile(server.url(name), f"md5:{hashlib.md5(data).hexdigest()}") for name, data in server.files.items()
    )
    install(Download("toy", files, 100, unpack=False), tmp_path, ignore)
    assert {path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()} == server.files


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    download = of(server, tgz("toy"))
    server.cut = 300_000
    with pytest.raises(DDBenchError, match=r"^cannot download http.*toy.tgz: .*run again to resume"):
        install(download, tmp_path, ignore)
    assert not (tmp_path / "toy").exists()
    server.cut = None
    install(download, tmp_path, ignore)
    assert server.asked == [None, "bytes=300000-"]
    assert (tmp_path / "toy" / "train" / "picture").read_bytes() == PICTURE


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    download = of(server, tgz("toy"))
    server.cut, server.ranges = 300_000, False
    with pytest.raises(DDBenchError, match="cannot download"):
        install(download, tmp_path, ignore)
    server.cut = None
    install(download, tmp_path, ignore)
    assert (tmp_path / "toy" / "train" / "picture").read_bytes() == PICTURE


def test_a_complete_part_needs_only_its_digest(server: Server, tmp_path: Path) -> None:
    data = tgz("toy")
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "toy.tgz.part").write_bytes(data)
    install(of(server, data), tmp_path, ignore)
    assert (tmp_path / "toy" / "train" / "picture").read_bytes() == PICTURE


def test_another_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    download = of(server, tgz("toy"))
    good = server.files["toy.tgz"]
    server.files["toy.tgz"] = good[:-1] + b"!"
    with pytest.raises(DDBenchError, match=r"is not the published file: its md5 is \w+, expected \w+; removed"):
        install(download, tmp_path, ignore)
    assert not list(tmp_path.rglob("toy*.part"))
    assert not (tmp_path / "toy").exists()
    server.files["toy.tgz"] = good
    install(download, tmp_path, ignore)


def test_more_than_expected_is_not_taken(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match="is larger than the 1000 bytes expected"):
        install(of(server, tgz("toy"), max_bytes=1000), tmp_path, ignore)
    assert not list(tmp_path.rglob("*.part"))


def test_an_archive_of_something_else_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match=r"toy.tgz does not hold the folder toy/"):
        install(of(server, tgz("other")), tmp_path, ignore)
    assert [path.name for path in tmp_path.iterdir()] == [".downloads"]
    assert not (tmp_path / ".downloads" / "toy.unpacking").exists()


def test_no_server_and_no_file_are_one_line(server: Server, tmp_path: Path) -> None:
    nobody = Download("toy", (RemoteFile("http://127.0.0.1:9/toy.tgz", "md5:0"),), 100)
    gone = Download("toy", (RemoteFile(server.url("gone.tgz"), "md5:0"),), 100)
    for download, reason in ((nobody, "refused"), (gone, "Not Found")):
        with pytest.raises(DDBenchError, match=rf"cannot download http.*{reason}.*--data-dir"):
            install(download, tmp_path, ignore)


def test_a_place_that_cannot_be_written_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DDBenchError, match=r"cannot write the dataset to .*data"):
        install(of(server, tgz("toy")), tmp_path / "data", ignore)
