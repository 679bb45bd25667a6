"""The program: groups, the version, pipes, full disks, interrupts, and what is not imported."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from ddbench.cli import progress
from ddbench.cli.listing import KINDS
from ddbench.core.events import Event

if TYPE_CHECKING:
    from conftest import Shell


@pytest.mark.parametrize("command", ["", "cache"])
def test_a_bare_group_shows_its_help_as_a_page(shell: "Shell", command: str) -> None:
    outcome = shell(*command.split())
    assert outcome.code == 2
    assert outcome.err.startswith("Usage: ddbench")
    assert len(outcome.errors) > 5


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ((), ["teacher net: started", "cell 1 of 2: a cell", "data: a note"]),
        (("-q",), ["data: a note"]),
        (("--verbose",), ["teacher net: started", "teacher net: step 1/9", "cell 1 of 2: a cell", "data: a note"]),
    ],
)
def test_quiet_and_verbose_choose_what_is_shown(
    options: tuple[str, ...], lines: list[str], shell: "Shell", capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell(*options, "list", "tables").code == 0
    try:
        for event in (
            Event("started", "teacher", "net"),
            Event("step", "teacher", "net", 1, 9),
            Event("cell", "grid", message="cell 1 of 2: a cell"),
            Event("note", "data", message="a note"),
        ):
            progress.ddbench_event(event)
    finally:
        progress.set_verbosity("normal")
    assert [line.partition(", ")[0] for line in capsys.readouterr().err.splitlines()] == lines


def test_options_of_the_program_go_before_the_command(shell: "Shell") -> None:
    outcome = shell("run", "-q", "--method", "random", "--dataset", "digits")
    assert (outcome.code, outcome.errors) == (2, ["ddbench: write -q before the command: ddbench -q run ..."])
    assert shell("-q", "-v", "list", "tables").errors == ["ddbench: --quiet and --verbose: give one of them"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "completion"), [("ddbench do", "plain,doctor"), ("ddbench run --tr", "plain,--track")]
)
def test_the_shell_completes_commands_and_options(words: str, completion: str) -> None:
    script = "import sys; from ddbench.cli.main import main; sys.argv = ['ddbench']; main()"
    number = len(words.split()) - 1
    environment = {"_DDBENCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    assert done.stdout.splitlines() == [completion]


def test_version(shell: "Shell") -> None:
    outcome = shell("--version")
    assert (outcome.code, outcome.out.split()[0]) == (0, "ddbench,")


LIGHT = """
import sys
from ddbench.cli.main import main
for line in {commands!r}:
    sys.argv = ["ddbench", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
heavy = {{"torch", "torchvision", "timm", "pandas", "matplotlib", "sklearn", "ot", "PIL", "ray"}} & sys.modules.keys()
print("heavy:", sorted(heavy))
"""


def test_help_and_list_load_no_heavy_library() -> None:
    commands = ["--help", "--version", "run --help", *(f"list {kind}" for kind in KINDS), "list methods wmdd"]
    commands += ["list datasets digits", "list recipes paper", "list evaluators fkd", "list models resnet18"]
    script = LIGHT.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "ddbench", "list", "methods", "wmd"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ddbench: unknown method 'wmd'; did you mean 'wmdd'?\n"


@pytest.mark.parametrize(
    ("encoding", "folder", "printed"),
    [("utf-8", b"caf\xe9", r"caf\xe9"), ("latin-1", "数据".encode(), r"\u6570\u636e"), ("utf-8", "é".encode(), "é")],
)
def test_what_the_terminal_cannot_show_is_printed_as_escapes(
    tmp_path: Path, encoding: str, folder: bytes, printed: str
) -> None:
    """Bytes of a path that are not UTF-8, and letters that the encoding of the terminal lacks."""
    command = [sys.executable, "-m", "ddbench", "new-plugin", "blur", "--output", folder]
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert f"{printed}/" in done.stdout.decode()
    assert Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + folder)).is_dir()


def test_a_closed_pipe_is_silent() -> None:
    command = [sys.executable, "-m", "ddbench", "list", "recipes", "paper"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode != 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_stdout_on_a_full_disk_is_one_line() -> None:
    command = [sys.executable, "-m", "ddbench", "list", "methods"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "ddbench: output: No space left on device\n"


@pytest.mark.slow
def test_an_interrupt_of_a_reading_command_promises_no_checkpoint_and_keeps_its_file(shell: "Shell") -> None:
    (shell.root / "report.html").write_text("old")
    with mock.patch("ddbench.report.page.page", side_effect=KeyboardInterrupt):
        outcome = shell("report", "--output", "report.html")
    assert (outcome.code, outcome.out, outcome.err.strip()) == (130, "", "ddbench: stopped by Ctrl-C")
    assert shell.files().keys() == {"report.html"}
    assert (shell.root / "report.html").read_text() == "old"


@pytest.mark.slow
def test_an_interrupt_is_one_line_and_130(tmp_path: Path, stop_at: Callable[..., dict[str, str]]) -> None:
    arguments = "run --method full --dataset digits --recipe smoke --device cpu --image-size 8 --student convnet-d1"
    arguments += " --set teacher.epochs=500"
    command = [sys.executable, "-m", "ddbench", *arguments.split(), "--cache-dir", str(tmp_path / "cache")]
    environment = {**os.environ, **stop_at("evaluate", "step", 3, "SIGINT")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "ddbench: stopped by Ctrl-C; run the same command again to resume"
    assert not list((tmp_path / "cache" / "evaluate").glob("[!.]*"))  # its checkpoint alone
