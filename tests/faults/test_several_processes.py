"""Training over several processes: the numbers of one, whatever becomes of the processes, and who says what."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ddbench.storage.artifacts import read_tensors

if TYPE_CHECKING:
    from conftest import Forked, Place, Shell, Small

PlaceAt = Callable[[Path], "Place"]


def free_port() -> int:
    with socket.socket() as actual:
        actual.bind(("127.0.0.1", 0))
        port: int = actual.getsockname()[1]
        return port


def start(small: Small, place: Place, count: int, *more: str, pause: str | None = None) -> list[Forked]:
    """What torchrun starts on one node, without its agent: nobody but they themselves sees to it that all end."""
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())
    ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [small.start(place, *more, pause=pause, environment=environment) for environment in ranks]


def end(processes: list[Forked]) -> list[int | None]:
    return [process.end() for process in processes]


def messages_of(processes: list[Forked]) -> list[list[str]]:
    return [process.lines() for process in processes]


def losses(lines: list[str], stage: str) -> list[float]:
    """The losses of a stage, from its progress lines."""
    return [
        float(match[1]) for line in lines if line.startswith(stage) and (match := re.search(r" loss ([\d.e-]+)", line))
    ]


def weights(place: Place) -> dict[str, torch.Tensor]:
    (path,) = (place.cache / "teacher").glob("[!.]*.safetensors")
    content = read_tensors(path)
    assert content is not None
    return content[0]


@pytest.fixture(scope="module")
def ours(small: Small) -> Small:
    """A run that trains a teacher and a student, and little else."""
    variant = small.variant({"wmdd": "random", "method.steps=30": "teacher.learning_rate=0.002"})
    variant.ask(**{"import": "ddbench.execution.parallel"})
    return variant


@pytest.mark.parametrize(("arch", "batch", "count"), [("convnet-d3", 11, 2), ("convnet-bn-d2", 17, 3)])
def test_a_network_is_trained_by_several_as_by_one(
    ours: Small, place_at: PlaceAt, tmp_path: Path, arch: str, batch: int, count: int
) -> None:
    """Shares of 5 and 6 images, of a last batch 1 and 2; with BatchNorm a last batch that is too small for three.

    The last of the student's four epochs ends after one of its two steps.
    """
    instead = {"convnet-bn-d2": arch, "teacher.batch_size=16": f"teacher.batch_size={batch}"}
    short = {"teacher.epochs=8": "teacher.epochs=4", "evaluator.epochs=15": "evaluator.steps=7"}
    curve = ("--set", "evaluator.batch_size=3", "--set", "evaluator.measure_at=[2,3]")
    ours = ours.variant({**instead, **short})
    one, several = place_at(tmp_path / "one"), place_at(tmp_path / "several")
    assert ours.start(one, *curve).end() == 0, one.lines()
    processes = start(ours, several, count, *curve)
    assert end(processes) == [0] * count, messages_of(processes)
    assert not any(process.lines() for process in processes[1:])

    for name, tensor in weights(one).items():
        torch.testing.assert_close(
            weights(several)[name], tensor, rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    for stage in ("teacher", "evaluate"):
        curves = [losses(place.lines(), stage) for place in (one, several)]
        assert len(curves[0]) == 4
        # A divergence is a difference of logarithms in float32, which have errors of about 1e-7.
        assert curves[1] == pytest.approx(curves[0], rel=2e-3, abs=1e-7)
    (of_one,), (of_several,) = one.records().values(), several.records().values()
    assert of_several["device"] == {**of_one["device"], "processes": count}
    assert of_several["keys"] == of_one["keys"]
    for record in (of_one, of_several):
        assert [step for step, _ in record["metrics"]["curve"]] == [2, 3, 7]
    assert several.left_over() == []


def test_whatever_becomes_of_one_of_them_all_end_and_the_next_run_goes_on(
    ours: Small, place_at: PlaceAt, tmp_path: Path, tally: Callable[[str], None]
) -> None:
    untouched = place_at(tmp_path / "untouched")
    processes = start(ours, untouched, 2)
    assert end(processes) == [0, 0], messages_of(processes)
    third = {"teacher": "learning_rate 0.001707", "evaluate": "learning_rate 0.0009568"}  # said after the third epoch

    faults = (("teacher", 0, signal.SIGKILL), ("evaluate", 1, signal.SIGKILL), ("evaluate", None, signal.SIGTERM))
    for stage, victim, number in faults:
        place = place_at(tmp_path / f"{stage} {victim}")
        processes = start(ours, place, 2, pause=third[stage])
        processes[0].wait_for(third[stage])
        for process in processes if victim is None else [processes[victim]]:
            process.signal(number)
        if victim != 0:
            processes[0].resume()
        codes = end(processes)
        (line,) = [line for line in processes[0].lines() if line.startswith("ddbench: ")][-1:] or [""]
        if victim is None:
            assert codes == [143, 0], messages_of(processes)
            assert line == "ddbench: stopped by SIGTERM; run the same command again to resume"
        elif victim == 1:
            assert codes == [2, -number], messages_of(processes)
            assert "have lost their connection; run the same command again to resume from the last checkpoint" in line
        else:
            assert codes in ([-number, 1], [-number, 2]), messages_of(processes)
        again = start(ours, place, 2)
        assert end(again) == [0, 0], messages_of(again)
        assert any(line.startswith(stage) and ": resumed" in line for line in again[0].lines())
        assert (place.records(), place.digests()) == (untouched.records(), untouched.digests())
        assert place.left_over() == []
    tally(f"two processes that train together, one killed or both stopped: {len(faults)} same records and artifacts")


def test_numbers_gone_bad_end_a_cell_in_all_processes_and_they_go_on_together(
    ours: Small, place_at: PlaceAt, tmp_path: Path
) -> None:
    place = place_at(tmp_path / "grid")
    ours = ours.variant({"teacher.epochs=8": "teacher.epochs=1"})
    processes = start(ours, place, 2, "--set", "evaluator.learning_rate=1e30", "--ipc", "1")
    assert end(processes) == [2, 0], messages_of(processes)
    lines = place.lines()
    assert sum("the loss is" in line for line in lines) == 1
    assert lines[-1].startswith("ddbench: every cell failed: ")
    assert lines[-1].count("; ") == 1
    assert not any("following stages alone" in line for line in lines)
    assert not processes[1].lines()


def test_torchrun(small: Small, place_at: PlaceAt, tmp_path: Path) -> None:
    place = place_at(tmp_path / "torchrun")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ddbench"]
    quick = ("--method", "full", "--set", "teacher.epochs=1")
    arguments = small.arguments[: small.arguments.index("--set")]
    arguments[arguments.index("wmdd")] = "full"
    done = subprocess.run(
        [*torchrun, *arguments, *quick, *place.options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (record,) = place.records().values()
    assert record["device"]["processes"] == 2
    assert done.stdout.count("top-1 (last epoch)") == 1
    assert sum(": started" in line for line in done.stderr.splitlines() if line.startswith("evaluate")) == 1
    assert "arning" not in done.stderr


def test_without_the_extra_it_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # as Python finds what is not there
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = shell("run", "--method", "full", "--dataset", "digits", "--recipe", "smoke", "--device", "cpu")
    assert outcome.code == 2
    assert outcome.errors == [
        "ddbench: training over several processes needs Lightning Fabric: pip install 'ddbench[fabric]'"
    ]
