"""Archives: honest ones come out whole, hostile and damaged ones are refused and write nothing outside."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.data.archives import unpack

FILES = {"set/a.txt": b"alpha", "set/deep/b.bin": bytes(range(256)) * 50, "set/empty": b""}


def make_tar(path: Path, files: dict[str, bytes], *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in odd:
            tar.addfile(info)
    return path


def make_zip(path: Path, files: dict[str, bytes], *odd: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
        for info in odd:
            file.writestr(info, "/etc/passwd")
    return path


MAKE: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {"tgz": make_tar, "zip": make_zip}


@pytest.mark.parametrize("kind", MAKE)
def test_an_archive_comes_out_whole(tmp_path: Path, kind: str) -> None:
    archive = MAKE[kind](tmp_path / f"a.{kind}", FILES)
    out = tmp_path / "out"
    unpack(archive, out, max_bytes=sum(map(len, FILES.values())))
    actual = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert actual == FILES


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("name", ["/absolute", "../up", "set/../../up", "C:/drive", "set\\..\\..\\up"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    archive = MAKE[kind](tmp_path / f"a.{kind}", {name: b"bad"})
    with pytest.raises(DDBenchError, match="unsafe name"):
        unpack(archive, tmp_path / "in" / "out", max_bytes=100)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]


def tar_member(kind: bytes, name: str = "set/link", target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a.tgz", FILES, tar_member(kind))
    with pytest.raises(DDBenchError, match="'set/link', a link or device"):
        unpack(archive, tmp_path / "out", max_bytes=10**6)
    assert not (tmp_path / "out" / "set" / "link").is_symlink()


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("set/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DDBenchError, match="'set/link', a link or device"):
        unpack(make_zip(tmp_path / "a.zip", FILES, info), tmp_path / "out", max_bytes=10**6)


@pytest.mark.parametrize("kind", MAKE)
def test_more_than_the_bound_is_refused_as_it_is_written(tmp_path: Path, kind: str) -> None:
    archive = MAKE[kind](tmp_path / f"a.{kind}", {"set/zeros": bytes(50_000_000)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(DDBenchError, match="unpacks to more than 3000000 bytes"):
        unpack(archive, tmp_path / "out", max_bytes=3_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) < 3_100_000


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    again = tarfile.TarInfo("set/a.txt")
    with pytest.raises(DDBenchError, match=r"holds 'set/a.txt' twice"):
        unpack(make_tar(tmp_path / "a.tgz", FILES, again), tmp_path / "out", max_bytes=10**6)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("damage", ["cut", "flip", "junk"])
def test_damaged_archives_are_refused(tmp_path: Path, kind: str, damage: str) -> None:
    archive = MAKE[kind](tmp_path / f"a.{kind}", FILES)
    data = bytearray(archive.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 3] ^= 0xFF
    else:
        data = bytearray(b"no archive")
    archive.write_bytes(bytes(data))
    with pytest.raises(DDBenchError, match="damaged"):
        unpack(archive, tmp_path / "out", max_bytes=10**6)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DDBenchError, match=r"cannot unpack into .*out: Not a directory"):
        unpack(make_tar(tmp_path / "a.tgz", FILES), tmp_path / "out", max_bytes=10**6)
