"""Files from strangers: checkpoints, recipes, images, archives. One line; nothing runs, and no memory is flooded."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ddbench.core.errors import DDBenchError
from ddbench.data import archives
from ddbench.data.archives import unpack
from ddbench.nn.build import build_network

if TYPE_CHECKING:
    from conftest import Shell

FAST = ("--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--ipc", "1")
RANDOM = ("run", "--method", "random", "--dataset", "digits", *FAST)
MIB = 2**20


class Payload:
    """Unpickling it makes a folder: what a hostile file might do."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A folder that a Payload would make; it must not be there at the end, and the payload must be live."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.is_dir()


@contextlib.contextmanager
def at_most(more: int) -> Iterator[None]:
    """The process may map so many bytes more than it has: a larger allocation fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# -- checkpoints ----------------------------------------------------------------------------------------------


def as_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


def as_zip(path: Path, content: object) -> None:
    torch.save(content, path)


def as_legacy(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [as_pickle, as_zip, as_legacy])
@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_no_form_of_a_pickled_checkpoint_runs(
    shell: Shell, marker: Path, write: Callable[[Path, object], None], suffix: str
) -> None:
    path = shell.root / f"teacher.{suffix}"
    wmdd = ("run", "--method", "wmdd", "--dataset", "digits", *FAST, "--set", f"teacher.checkpoint={path}")
    for content in (Payload(marker), {"model": Payload(marker)}, {"weight": torch.zeros(2), "x": [Payload(marker)]}):
        write(path, content)
        shell(*wmdd).refused(path.name, "cannot be read as weights")
    assert shell.files("cache") == shell.files("results") == {}


def network_of_ten() -> torch.nn.Module:
    return build_network("convnet-bn-d1", 10, 8)


def endless(path: Path) -> None:
    """A terabyte that is one number: a view without strides."""
    torch.save({"weight": torch.zeros(1).expand(2**20, 2**18)}, path)


def packed(path: Path) -> None:
    """100 MB of zeros in 400 kB."""
    archive_bytes = io.BytesIO()
    torch.save({"weight": torch.zeros(25 * MIB)}, archive_bytes)
    with (
        zipfile.ZipFile(archive_bytes) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))


def quantised(path: Path) -> None:
    torch.save({"weight": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}, path)


def imaginary(path: Path) -> None:
    state = network_of_ten().state_dict()
    torch.save({name: value.to(torch.complex64) for name, value in state.items()}, path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated, but such files are about
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (endless, "does not fit"),
        (packed, "its parts are compressed"),
        (quantised, "no state dict of tensors"),
        (imaginary, "no state dict of tensors"),
    ],
)
def test_weights_that_are_none_are_one_line(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    from ddbench.nn.checkpoint_files import read_checkpoint
    from ddbench.nn.checkpoints import load_checkpoint

    path = tmp_path / "odd.pt"
    write(path)
    network = network_of_ten()
    with at_most(64 * MIB), pytest.raises(DDBenchError, match=message):
        load_checkpoint(network, read_checkpoint(path))


@pytest.mark.parametrize("length", [2**32, 2**63, 2**64 - 1, 99 * MIB])
def test_a_header_that_says_gigabytes_is_not_believed(tmp_path: Path, length: int) -> None:
    from ddbench.nn.checkpoint_files import read_checkpoint
    from ddbench.nn.checkpoints import load_checkpoint
    from ddbench.storage.artifacts import read_tensors

    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + bytes(4))
    network = network_of_ten()
    with at_most(64 * MIB):
        assert read_tensors(path) is None
        with pytest.raises(DDBenchError, match="cannot be read as weights"):
            load_checkpoint(network, read_checkpoint(path))


def test_deep_class_names_beside_a_checkpoint_are_a_remark(shell: Shell) -> None:
    path = shell.root / "teacher.safetensors"
    save_file(build_network("convnet-bn-d3", 10, 16).state_dict(), path, metadata={"classes": "[" * 100_000})
    words = ("run", "--method", "random", "--dataset", "digits", *FAST, "--dry-run", "--arch", "convnet-bn-d3")
    outcome = shell(*words, "--set", f"teacher.checkpoint={path}")
    assert outcome.code == 0, outcome.err


# -- recipes --------------------------------------------------------------------------------------------------

LAUGHS = "&a0 [ha, ha]\n" + "".join(f"l{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
YAML: dict[str, tuple[str, str]] = {
    "an object": ("!!python/object/apply:os.mkdir [marker]", "python/object/apply"),
    "a name": ("!!python/name:os.system", "python/name"),
    "a module": ("!!python/module:antigravity", "python/module"),
    "laughs": (LAUGHS, "an alias"),
    "a loop": ("&a [*a]", "an alias"),
    "deep lists": ("[" * 5000, "recursion"),
    "deep mappings": ("{a: " * 5000, "recursion"),
    "nested": ("[" * 30 + "]" * 30, "nested deeper than 20"),
    "a long number": ("0x" + "f" * 5000, "more than 64 bits"),
    "bits": ("0b" + "1" * 70, "more than 64 bits"),
    "a date that is none": ("2026-99-99", "month must be in 1..12"),
    "a date": ("2026-01-01", "a date is not allowed: put text in quotes"),
    "bytes": ("!!binary aGVsbG8=", "a bytes"),
    "a set": ("!!set {a, b}", "a set"),
    "no number": ("!!int x", "invalid literal"),
    "no truth": ("!!bool x", "x"),
    "no moment": ("!!timestamp x", "NoneType"),
}


@pytest.mark.parametrize("what", YAML)
def test_a_recipe_is_plain_values_alone(shell: Shell, what: str) -> None:
    text, message = YAML[what]
    (shell.root / "mine.yaml").write_text(f"name: mine\nkind: numerics\nabout: x\nblocks: {text}\n")
    shell(*RANDOM, "--recipe", "mine.yaml").refused("recipe mine.yaml is not plain YAML", message)
    shell(*RANDOM, "--set", f"teacher.epochs={text}").refused("is not a plain value")
    assert [path.name for path in shell.root.iterdir()] == ["mine.yaml"]


def test_recipes_of_any_other_kind_are_one_line(shell: Shell, marker: Path) -> None:
    recipe = shell.root / "mine.yaml"
    recipe.write_bytes(pickle.dumps(Payload(marker)))
    shell(*RANDOM, "--recipe", "mine.yaml").refused("mine.yaml is not plain YAML")
    recipe.write_text("# " + "x" * 2 * MIB)
    shell(*RANDOM, "--recipe", "mine.yaml").refused(f"recipe mine.yaml is larger than {MIB} bytes")
    recipe.unlink()
    recipe.symlink_to("/dev/zero")
    with at_most(256 * MIB):
        shell(*RANDOM, "--recipe", "mine.yaml").refused(f"recipe mine.yaml is larger than {MIB} bytes")
    recipe.unlink()
    recipe.write_text("name: x\nkind: numerics\nabout: [" + ", ".join(["very long"] * 10_000) + "]\nblocks: []\n")
    shell(*RANDOM, "--recipe", "mine.yaml").refused("about: Input should be a valid string")


# -- images ---------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def sparse(path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(100 * 2**30)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def around(path: Path) -> None:
    for number in range(3):
        (path.parent / f"again{number}").symlink_to(path.parent)


ZEROS = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9 * MIB), 1))
IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bomb": (
        lambda path: path.write_bytes(png(60_000, 60_000)),
        "cannot be decoded: 3600000000 pixels is more than the 80000000 allowed",
    ),
    "large": (lambda path: path.write_bytes(png(10_000, 9_000)), "10000 x 9000 pixels is more than"),
    "long text": (lambda path: path.write_bytes(png(9, 9, ZEROS)), "cannot be decoded"),
    "cut": (lambda path: os.truncate(path, 300), "cannot be decoded"),
    "a page": (
        lambda path: path.write_text("<html><script>alert(1)</script></html>"),
        "cannot be decoded: an HTML page named .jpg",
    ),
    "a program": (
        lambda path: path.write_bytes(b"%!PS\n(x) (w) file\n"),
        "cannot be decoded: a PostScript file named .jpg",
    ),
    "100 GB": (sparse, "cannot be decoded: more than"),
    "a pipe": (pipe, "is not a regular file"),
    "a device": (device, "is not a regular file"),
    "a way around": (around, "is a link to a folder that is already part of"),
}


@pytest.mark.parametrize("what", IMAGES)
def test_what_is_no_image_is_named_and_stops(shell: Shell, image_folder: Callable[..., Path], what: str) -> None:
    write, message = IMAGES[what]
    folder = image_folder("pictures", train=2, val=1)
    bad = folder / "train" / "dog" / "1.jpg"
    write(bad)
    words = ("run", "--method", "random", "--dataset", f"imagefolder:{folder}", *FAST)
    with at_most(3 * 2**30):  # threads take address space of their own
        shell(*words).refused(message, str(bad.parent))
    assert not shell.results.exists() or shell.files("results") == {}


def test_a_pickled_image_runs_nothing(shell: Shell, image_folder: Callable[..., Path], marker: Path) -> None:
    folder = image_folder("pictures", train=2, val=1)
    (folder / "val" / "cat" / "0.jpg").write_bytes(pickle.dumps(Payload(marker)))
    outcome = shell("run", "--method", "random", "--dataset", f"imagefolder:{folder}", *FAST)
    outcome.refused("0.jpg cannot be decoded: not an image")


# -- archives (names, links, damage and contents: tests/unit/data/test_archives.py) --------------------------------


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header_of(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def of_headers(kind: bytes) -> Callable[[Path], None]:
    """A header that is 100 MB long, packed into 500 kB."""

    def write(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(header_of(kind, 100 * MIB))
            for _ in range(100):
                file.write(b"a" * MIB)

    return write


def holed(path: Path) -> None:
    """A sparse file that says a terabyte."""
    path.write_bytes(gzip.compress(header_of(tarfile.GNUTYPE_SPARSE, 0)[:512], 1))
    info = tarfile.TarInfo("set/holes")
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info.pax_headers = {"GNU.sparse.size": str(2**40), "GNU.sparse.map": "0,0"}
        tar.addfile(info)


def trailing(path: Path) -> None:
    """A tar that ends, and goes on for 100 MB."""
    path.write_bytes(gzip.compress(tar_of((tarfile.TarInfo("set/a"), b"a")) + bytes(100 * MIB), 1))


def many(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(200):
            file.writestr(f"set/{number}", b"")


def locked(path: Path) -> None:
    """A zip whose file says that it is encrypted."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("set/a", b"a" * 100)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a long name": (of_headers(tarfile.GNUTYPE_LONGNAME), "a header of 1048"),
    "a long header": (of_headers(tarfile.XHDTYPE), "a header of 1048"),
    "a long link": (of_headers(tarfile.GNUTYPE_LONGLINK), "a header of 1048"),
    "holes": (holed, "unpacks to more than 1000000 bytes"),
    "a long end": (trailing, "has trailing data after its last member"),
    "too many": (many, "holds more than 100 files"),
    "a lock": (locked, "encrypted"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_that_are_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    write, message = ARCHIVES[what]
    archive, out = tmp_path / "archive", tmp_path / "out"
    write(archive)
    assert archive.stat().st_size < 2 * MIB
    monkeypatch.setattr(archives, "MAX_MEMBERS", 100)
    with at_most(64 * MIB), pytest.raises(DDBenchError, match=message):
        unpack(archive, out, max_bytes=1_000_000)
    assert sum(path.stat().st_size for path in out.rglob("*")) <= 1_000_000 if out.exists() else True


def test_a_pickle_is_no_archive(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "set.tgz").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(DDBenchError, match="damaged or not an archive"):
        unpack(tmp_path / "set.tgz", tmp_path / "out", max_bytes=100)


def test_names_for_a_terminal_are_shown_not_obeyed(tmp_path: Path) -> None:
    content = tar_of((tarfile.TarInfo("../\x1b]0;mine\x07\n\x1b[2J"), b"a"))
    (tmp_path / "set.tar").write_bytes(content)
    with pytest.raises(DDBenchError) as caught:
        unpack(tmp_path / "set.tar", tmp_path / "out", max_bytes=100)
    assert r"\x1b]0;mine\x07" in str(caught.value)
    assert str(caught.value).isprintable()
    assert json.dumps(str(caught.value))
