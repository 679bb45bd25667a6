"""The progress display: plain lines with a fake clock, bars on a real pseudo-terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from textwrap import dedent

import pytest

from ddbench.cli import progress
from ddbench.cli.progress import PlainDisplay
from ddbench.core.events import Event


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def display(clock: Clock) -> PlainDisplay:
    return PlainDisplay(every=5.0, now=clock)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    progress.close()
    yield
    progress.close()


def step(number: int, total: int = 500, stage: str = "distill", unit: str = "wmdd 1/2", **metrics: float) -> Event:
    return Event("step", stage, unit, number, total, metrics)


def test_plain_lines_are_rare_and_tell_step_eta_and_metrics(
    display: PlainDisplay, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    display.show(Event("started", "distill", "wmdd 1/2"))
    for number in range(1, 161):
        clock.time += 0.125
        display.show(step(number, total=480, loss=1 / number))
    display.show(Event("finished", "distill", "wmdd 1/2"))
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *steps, last = captured.err.splitlines()
    assert first == "distill wmdd 1/2: started"
    # 20 seconds, one line every 5: an eighth of a second a step.
    assert steps[0] == "distill wmdd 1/2: step 40/480, ETA 0:55, loss 0.025"
    assert [line.split("ETA ")[1].split(",")[0] for line in steps[:3]] == ["0:55", "0:50", "0:45"]
    assert len(steps) <= 4
    assert last == "distill wmdd 1/2: finished in 0:20, loss 0.00625"


def test_eta_of_a_resumed_run_counts_only_its_own_steps(
    display: PlainDisplay, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    display.show(Event("resumed", "distill", "wmdd 1/2"))
    display.show(step(300))
    clock.time += 20.0
    display.show(step(400))
    assert capsys.readouterr().err.splitlines()[-1] == "distill wmdd 1/2: step 400/500, ETA 0:20"


def test_thousands_of_quick_units_are_few_lines_but_a_long_one_always_ends_with_one(
    display: PlainDisplay, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in range(1000):
        display.show(Event("started", "statistics", f"class {label}"))
        clock.time += 0.01
        display.show(Event("finished", "statistics", f"class {label}"))
    # Ten seconds: at most one unit every five, and each with its end.
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 6
    assert sum("finished" in line for line in lines) >= sum("started" in line for line in lines)
    display.show(Event("started", "teacher", "resnet18"))
    clock.time += 3700.0
    display.show(step(100, 100, "teacher", "resnet18", top1=76.28))
    display.show(Event("finished", "teacher", "resnet18", metrics={"seconds": 3700.0}))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "teacher resnet18: started"
    assert lines[-1] == "teacher resnet18: finished in 1:01:40, top1 76.28"


def test_a_short_stage_whose_start_is_shown_has_an_end(
    display: PlainDisplay, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    display.show(Event("finished", "evaluate", "resnet18"))
    display.show(Event("started", "measure", "wmdd IPC 1"))
    clock.time += 1.0
    display.show(Event("finished", "measure", "wmdd IPC 1"))
    assert capsys.readouterr().err.splitlines()[1:] == [
        "measure wmdd IPC 1: started",
        "measure wmdd IPC 1: finished in 0:01",
    ]


def test_epochs_are_called_epochs(display: PlainDisplay, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    display.show(Event("started", "teacher", "resnet18"))
    clock.time += 10.0
    display.show(Event("step", "teacher", "resnet18", 1, 30, counted="epoch"))
    assert capsys.readouterr().err.splitlines()[-1].startswith("teacher resnet18: epoch 1/30, ETA ")


def test_notes_always_show_and_cached_stages_say_so(display: PlainDisplay, capsys: pytest.CaptureFixture[str]) -> None:
    display.show(Event("cached", "teacher", "resnet18"))
    display.show(Event("note", "data", message="3 unreadable images skipped"))
    display.show(Event("note", "data", message="again"))
    assert capsys.readouterr().err.splitlines() == [
        "teacher resnet18: cached",
        "data: 3 unreadable images skipped",
        "data: again",
    ]


def test_hook_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    progress.ddbench_event(Event("started", "teacher"))
    progress.ddbench_event(Event("step", "teacher", step=1, total=0, metrics={"loss": "not a number"}))  # type: ignore[dict-item]


def test_without_a_terminal_rich_is_not_even_imported() -> None:
    code = """
        import sys
        from ddbench.core.events import Event
        from ddbench.cli.progress import ddbench_event
        ddbench_event(Event("started", "teacher", "resnet18"))
        print("rich" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr == "teacher resnet18: started\n"


COLOUR = r"\x1b\[(\d+;)*3\d[m;]"


def read_to_the_end(terminal: int) -> bytes:
    """Everything written to a pseudo-terminal until its last writer has closed it."""
    parts = []
    with suppress(OSError):  # how Linux tells the end
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_on_a_terminal_bars_live_while_something_runs_and_give_the_terminal_back() -> None:
    code = """
        import sys
        from ddbench.core.events import Event
        from ddbench.cli.progress import ddbench_event as show
        show(Event("cached", "teacher", "resnet18"))
        show(Event("started", "distill", "wmdd [1/2]"))
        for step in range(1, 11):
            show(Event("step", "distill", "wmdd [1/2]", step, 10, {"loss": 1.5}))
        sys.stdin.readline()  # the test has seen the bars
        show(Event("note", "distill", "wmdd [1/2]", message="a [note]"))
        show(Event("finished", "distill", "wmdd [1/2]"))
        show(Event("started", "evaluate", "resnet18 seed 0"))
        show(Event("step", "evaluate", "resnet18 seed 0", 1, 10))
        print("result")
    """
    leader, follower = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-c", dedent(code)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=follower, env=environment) as child:
        os.close(follower)
        painted = b""
        while b"10/10" not in painted:
            painted += os.read(leader, 1 << 16)
        assert child.stdin is not None
        child.stdin.close()
        written = (painted + read_to_the_end(leader)).decode()
        out = child.stdout.read() if child.stdout else b""
    os.close(leader)
    assert child.returncode == 0
    assert out == b"result\n"
    assert "teacher resnet18: cached" in written
    assert "10/10" in written
    assert "loss 1.5" in written
    assert "wmdd [1/2]: a [note]" in written
    # The run above ends inside a stage: the cursor, hidden while bars are live, must be back all the same.
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert re.search(COLOUR, written)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
@pytest.mark.parametrize(
    ("unit", "title"),
    [
        ("wmdd IPC 10 fkd convnet-bn-d3 seed 0", "evaluate wmdd IPC 10 fkd convnet-bn-d3 seed 0"),
        (
            "wmdd-sliced, imagefolder:pictures@0123456789abcdef, IPC 10 set 1 fkd convnet-bn-d3 seed 0",
            "evaluate wmdd-sliced, i…kd convnet-bn-d3 seed 0",
        ),
    ],
    ids=["short", "long"],
)
def test_at_80_columns_counts_and_times_are_complete(unit: str, title: str) -> None:
    """The metrics are cut first, then the middle of the title."""
    code = f"""
        from ddbench.core.events import Event
        from ddbench.cli.progress import ddbench_event as show
        metrics = {{"loss": 0.1234, "feature": 866.7, "pcbn": 3262.0, "learning_rate": 0.025}}
        show(Event("started", "evaluate", {unit!r}))
        for step in range(1, 4):
            show(Event("step", "evaluate", {unit!r}, step, 300, metrics, counted="epoch"))
    """
    leader, follower = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", dedent(code)], stderr=follower, env=environment):
        os.close(follower)
        written = read_to_the_end(leader).decode()
    os.close(leader)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written).replace("\r", "\n").splitlines()
    (line,) = {line.rstrip() for line in lines if "3/300" in line}
    assert len(line) <= 80
    assert re.match(rf". {title} +3/300 0:00:0\d ETA (-+:)?[\d:-]+ ", line)
    assert line.endswith("…")
    assert not re.search(COLOUR, written)
