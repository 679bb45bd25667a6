"""Full, failing and read-only disks at every kind of write: one line, exit code 2, nothing half; then it goes on."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from PIL import Image

from ddbench.api.context import DistillTask
from ddbench.api.dataset import Download, RemoteFile
from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.api.units import Unit
from ddbench.core.errors import DDBenchError
from ddbench.data.download import install
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.artifacts import read_tensors
from ddbench.storage.cache import Cache

if TYPE_CHECKING:
    from conftest import Outcome, Shell

ROOT = Path(__file__).parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")
MEASURED = {
    "created",
    "seconds",
    "seconds_per_iteration",
    "built",
    "peak_memory",
    "digest",
    "git_commit",
    "configuration",
}
"""What may differ in records: times, memory, what is committed meanwhile, and how often a checkpoint was saved."""
ORDER = ("data", "teacher", "statistics", "method", "distill", "labels", "evaluate", "measure")
BEFORE = {stage: ORDER[:number] for number, stage in enumerate(ORDER)} | {
    "checkpoint": ORDER[:4],
    "record": ORDER,
    "preview": ORDER,
    "lock": (),
}
"""What is in the cache already, so that the next thing to be written is this one."""
OUTPUTS: dict[str, tuple[str, ...]] = {
    "report": ("report", "--output", "out/report.html"),
    "table": ("table", "ablation", "--output", "out/table.txt"),
    "figure": ("figure", "barycenter", "--output", "out/figure"),
    "export of images": ("export", "wmdd", "--output", "out/set"),
    "export of tensors": ("export", "wmdd", "--format", "safetensors", "--output", "out/set"),
    "plugin": ("new-plugin", "mine", "--output", "out"),
}
PART = {"checkpoint": "/checkpoints/", "record": "/records/", "preview": "/runs/", "lock": "/locks/"}
"""What the path of each kind holds; a stage's folder has its name."""


def part_of(kind: str) -> str:
    return "out/" if kind in OUTPUTS else PART.get(kind, f"/{kind}/")


@dataclass(frozen=True)
class Reference:
    """A small experiment that has every stage, run once where nothing failed."""

    shell: Shell
    arguments: tuple[str, ...]

    def command(self, kind: str) -> tuple[str, ...]:
        """What makes this kind of file, where `lay_out` was called."""
        every = ("--set", f"distill.checkpoint_every={1 if kind == 'checkpoint' else 1000}")
        return OUTPUTS.get(kind, (*self.arguments, *every))

    def lay_out(self, root: Path, kind: str) -> None:
        """All that comes before this kind of file."""
        for stage in BEFORE.get(kind, ORDER):
            shutil.copytree(self.shell.cache / stage, root / "cache" / stage)
        (root / "out").mkdir()
        if kind in OUTPUTS:
            shutil.copytree(self.shell.results / "records", root / "results" / "records")

    def check(self, shell: Shell, kind: str) -> None:
        """The folder holds the same record, or what is made of it."""
        if kind in OUTPUTS:
            assert any((shell.root / "out").iterdir())
        else:
            assert record(shell) == record(self.shell)


def record(shell: Shell) -> dict[str, Any]:
    (path,) = (shell.results / "records").glob("*.json")
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in MEASURED}


def one_line(outcome: Outcome | SimpleNamespace) -> str:
    """The only line for the person; no table, no traceback, exit code 2."""
    assert (outcome.code, outcome.out) == (2, ""), outcome.err
    assert "Traceback" not in outcome.err
    (line,) = (line for line in outcome.errors if line.startswith("ddbench: "))
    assert outcome.errors[-1] == line
    return line


def line_of_fault(outcome: Outcome | SimpleNamespace, kind: str) -> str:
    """The line about a fault. A preview that cannot be written is a note: the record and its numbers stay."""
    if kind != "preview":
        return one_line(outcome)
    assert outcome.code == 0, outcome.err
    (line,) = (line for line in outcome.errors if "could not be drawn" in line)
    return str(line)


def nothing_half(shell: Shell) -> None:
    """Every file that is there is whole, and there is no other."""
    assert not list(shell.root.rglob("*.partial"))
    for path in shell.cache.rglob("*.safetensors"):
        assert read_tensors(path) is not None, path
    for path in shell.results.rglob("*.json"):
        json.loads(path.read_text())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, shell_in: Callable[[Path], Shell]) -> Reference:
    images = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for shade, name in enumerate(("cat", "dog")):
            (images / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (16, 16), (100 * shade, 40 * number, 50)).save(images / split / name / f"{number}.png")
    settings = {"data.stored_size": 16, "method.steps": 3, "evaluator.labels": "stored", "evaluator.epochs": 1}
    command = f"run --method wmdd --ipc 1 --recipe smoke --device cpu --precision fp32 --dataset imagefolder:{images}"
    arguments = (*command.split(), "--image-size", "16", "--arch", "convnet-bn-d2")
    arguments += tuple(word for name, value in settings.items() for word in ("--set", f"{name}={value}"))
    shell = shell_in(tmp_path_factory.mktemp("reference"))
    outcome = shell(*arguments)
    assert outcome.code == 0, outcome.err
    return Reference(shell, arguments)


# -- a disk that is full ------------------------------------------------------------------------------------------


class Disk:
    """A real file system of 8 MB; `fill` leaves so many pages free, `clear` makes room."""

    def __init__(self, root: Path) -> None:
        self.root, self.ballast = root, root / "ballast"

    def fill(self, pages: int) -> None:
        free = os.statvfs(self.root)
        with self.ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - pages * PAGE)
        assert os.statvfs(self.root).f_bavail == pages

    def clear(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this person may not mount a small disk")
    yield Disk(place)
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("kind", [*BEFORE, *OUTPUTS])
def test_a_full_disk_at_every_kind_of_write(
    reference: Reference, disk: Disk, shell_in: Callable[[Path], Shell], kind: str
) -> None:
    shell = shell_in(disk.root)
    reference.lay_out(disk.root, kind)
    if kind == "lock":  # it holds no bytes: no file can be added
        for folder in ("cache/locks", "results/records"):
            (disk.root / folder).mkdir(parents=True)
        files = os.statvfs(disk.root)
        used = files.f_files - files.f_ffree
        subprocess.run(["mount", "-o", f"remount,nr_inodes={used}", disk.root], check=True)
        line = one_line(shell(*reference.command(kind)))
        subprocess.run(["mount", "-o", "remount,nr_inodes=10000", disk.root], check=True)
        assert str(shell.cache) in line
    else:
        disk.fill(3 if kind == "preview" else 0)
        line = line_of_fault(shell(*reference.command(kind)), kind)
        disk.clear()
        assert part_of(kind) in line
    assert "the disk is full" in line or "No space left on device" in line
    nothing_half(shell)
    again = shell(*reference.command(kind))
    assert again.code == 0, again.err
    reference.check(shell, kind)


def test_a_full_disk_in_the_middle_of_a_file(
    reference: Reference, disk: Disk, shell_in: Callable[[Path], Shell]
) -> None:
    shell, kind = shell_in(disk.root), "teacher"
    reference.lay_out(disk.root, kind)
    (path,) = (reference.shell.cache / kind).glob("*.safetensors")
    disk.fill(path.stat().st_size // PAGE // 2)
    line = one_line(shell(*reference.command(kind)))
    assert line.startswith(f"ddbench: the disk is full: {shell.cache / kind / path.name} could not be written")
    nothing_half(shell)


def test_a_download_onto_a_full_disk_goes_on_when_there_is_room(disk: Disk, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "part.bin").write_bytes(content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        digest = f"md5:{hashlib.md5(content).hexdigest()}"
        file = RemoteFile(f"http://127.0.0.1:{server.server_port}/part.bin", digest)
        download = Download("toy", (file,), 4_000_000, unpack=False)
        disk.fill(300)
        with pytest.raises(DDBenchError, match=r"cannot write the dataset to .*: No space left on device"):
            install(download, disk.root, lambda event: None)
        assert not (disk.root / "toy").exists()
        disk.clear()
        install(download, disk.root, lambda event: None)
        server.shutdown()
    assert (disk.root / "toy" / "part.bin").read_bytes() == content


class Raiser(Distiller, frozen=True):
    """Fails."""

    name = "raiser"
    version = "1"
    needs_teacher = False

    def distill(self, task: DistillTask, unit: Unit) -> Any:
        raise ValueError("the cat sat on it")


def test_the_fault_of_a_plugin_is_told_where_its_traceback_cannot_be_written(
    reference: Reference, disk: Disk, shell_in: Callable[[Path], Shell]
) -> None:
    registry = PluginRegistry()
    registry.register(SimpleNamespace(ddbench_distillers=hookimpl(lambda: [Raiser])), "ddbench-bad")
    shell = shell_in(disk.root)
    reference.lay_out(disk.root, "distill")
    disk.fill(0)
    words = ["raiser" if word == "wmdd" else word for word in reference.arguments]
    words = [word for word in words if not word.startswith("method.")]
    words = [word for word, after in zip(words, [*words[1:], ""], strict=True) if (word, after) != ("--set", "--set")]
    with mock.patch("ddbench.cli.main.PluginRegistry", return_value=registry):
        line = one_line(shell(*words))
    assert "method 'raiser' of ddbench-bad" in line
    assert "ValueError: the cat sat on it" in line
    assert "the disk is full" in line
    assert "/failures/" in line
    nothing_half(shell)


# -- a disk that fails --------------------------------------------------------------------------------------------

CALLS = ("open", "write", "fsync", "rename")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
ONE_CALL = {"lock": ("open",), "plugin": ("open", "write"), "export of images": CALLS[:2]}
ONE_CALL["export of tensors"] = ONE_CALL["export of images"]
"""Locks hold nothing; what stands in a folder is written plainly, and the folder renamed."""


FAULTS = [
    (kind, call, ERRORS[(2 * number + turn) % len(ERRORS)])
    for number, kind in enumerate((*BEFORE, *OUTPUTS))
    for turn, call in enumerate(ONE_CALL.get(kind, CALLS))
]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to make a disk fail at a call of our choice")
def test_a_disk_that_fails_at_every_kind_of_write(
    reference: Reference,
    tmp_path: Path,
    shell_in: Callable[[Path], Shell],
    counted: Callable[[int, int], int],
    tally: Callable[[str], None],
) -> None:
    """In one process: each command on the failing disk, then again without the fault."""
    library = tmp_path / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    quick = dict.fromkeys(kind for kind, *_ in FAULTS if kind not in ("figure", "report"))
    one = [[fault for fault in FAULTS if fault[0] == kind] for kind in quick]
    chosen = FAULTS if counted(0, 1) else [each[number % len(each)] for number, each in enumerate(one[::2])]
    cases = []
    for number, (kind, call, error) in enumerate(chosen):
        root = tmp_path / str(number)
        root.mkdir()
        reference.lay_out(root, kind)
        cases.append(
            {"arguments": reference.command(kind), "root": str(root), "fault": f"{call} {error} {part_of(kind)}"}
        )
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("failing_disk.py")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for case, (kind, call, error), (failed, again, left) in zip(cases, chosen, json.loads(done.stdout), strict=True):
        shell = shell_in(Path(str(case["root"])))
        outcome = SimpleNamespace(code=failed[0], out=failed[1], err=failed[2], errors=failed[2].splitlines())
        line = line_of_fault(outcome, kind)
        full = error in (errno.ENOSPC, errno.EDQUOT)
        assert os.strerror(error) in line or (full and "the disk is full" in line), (kind, call, line)
        assert left == [], (kind, call)
        assert again[0] == 0, (kind, call, again[2])
        nothing_half(shell)
        reference.check(shell, kind)
    kinds = len({kind for kind, *_ in chosen})
    tally(f"disk faults: {len(chosen)}, at {kinds} kinds of files: one line each, then completed")


# -- a disk that is read-only -------------------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a folder read-only, also for root."""
    bound = []

    def bind(folder: Path) -> None:
        for options in (f"--bind|{folder}|{folder}", f"-o|remount,bind,ro|{folder}"):
            if subprocess.run(["mount", *options.split("|")], capture_output=True).returncode:
                pytest.skip("this person may not mount a folder read-only")
            bound.append(folder)

    yield bind
    for folder in dict.fromkeys(bound):
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_read_only_cache_is_read_and_what_it_lacks_is_one_line(
    reference: Reference, tmp_path: Path, shell_in: Callable[[Path], Shell], read_only: Callable[[Path], None]
) -> None:
    shell = shell_in(tmp_path)
    shutil.copytree(reference.shell.cache, shell.cache)
    (path,) = (shell.cache / "distill").glob("*.safetensors")
    broken = tmp_path / "broken"
    shutil.copytree(shell.cache, broken)
    os.truncate(broken / "distill" / path.name, 1000)
    read_only(shell.cache)
    read_only(broken)
    assert shell(*reference.arguments).code == 0
    assert record(shell) == record(reference.shell)
    line = one_line(shell(*reference.arguments, "--seed", "1"))
    assert line == f"ddbench: cannot write to {shell.cache}: Read-only file system"
    line = one_line(shell(*reference.arguments, "--cache-dir", broken))
    assert line == f"ddbench: cannot write to {broken}: Read-only file system"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two persons: root, and one who may not read root's files")
def test_an_artifact_that_may_not_be_read_is_not_damaged(
    reference: Reference,
) -> None:
    """It may be another person's, in a folder of many: it is left where it is."""
    (source,) = (reference.shell.cache / "teacher").glob("*.safetensors")
    content = read_tensors(source)
    assert content is not None
    root = Path(tempfile.mkdtemp())  # pytest's own folders are for one person alone
    try:
        root.chmod(0o755)
        (root / "teacher").mkdir()
        path = Path(shutil.copy(source, root / "teacher"))
        path.chmod(0o600)
        (root / "teacher").chmod(0o777)
        os.seteuid(65534)
        try:
            with pytest.raises(DDBenchError, match=f"^cannot read {path}: Permission denied$"):
                Cache(root).find("teacher", content[1]["depends_on"])
        finally:
            os.seteuid(0)
        assert [each.name for each in path.parent.iterdir()] == [path.name]
    finally:
        shutil.rmtree(root)


def test_a_cache_and_results_under_any_name(
    reference: Reference, tmp_path: Path, shell_in: Callable[[Path], Shell]
) -> None:
    folder = tmp_path / "Zwischenspeicher für 数据, [a]*{b}%s 'c' \"d\" $e;"
    folder.mkdir()
    shell = shell_in(folder)
    for stage in ORDER[:4]:
        shutil.copytree(reference.shell.cache / stage, shell.cache / stage)
    assert shell(*reference.arguments).code == 0
    assert record(shell) == record(reference.shell)
    (preview,) = shell.results.rglob("preview.png")
    assert str(preview.relative_to(shell.root)) in shell(*reference.arguments).out
    for output in (words for name, words in OUTPUTS.items() if name != "figure"):
        made = shell(*output)
        assert made.code == 0, made.err
        shutil.rmtree(shell.root / "out")
