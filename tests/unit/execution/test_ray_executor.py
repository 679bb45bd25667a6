"""The address of a Ray cluster, and equal numbers by default.

Grids on Ray are in tests/faults/test_grids_on_ray.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Shell


def test_an_address_where_nobody_listens_is_one_line(shell: Shell) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ddbench[ray]'")
    request = ("--method", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--device", "cpu")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        for wrong, line in ((address, "no Ray cluster answers"), ("ray://there:10001", "write HOST:PORT")):
            outcome = shell("run", *request, "--executor", "ray", "--ray-address", wrong)
            assert (outcome.code, len(outcome.errors)) == (2, 1), outcome.err
            assert line in outcome.err


OBSERVER = """
import json
from dataclasses import asdict

from ddbench.api import hookimpl


def write(*words):
    with open({path!r}, "a") as file:
        file.write(json.dumps(words) + "\\n")


@hookimpl
def ddbench_event(event):
    if event.kind in ("finished", "preview") and event.context:
        write(event.kind, event.stage, event.part, str(event.image), asdict(event.context))


@hookimpl
def ddbench_record(record):
    write("record", record.name)
"""


@pytest.mark.slow(27)
def test_the_same_command_gives_the_same_numbers_and_events_inline_and_on_ray(
    tmp_path: Path, in_one_process: Callable[..., list[str]]
) -> None:
    """Neither sets a number of threads: several cores would otherwise add up in another order than one."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ddbench[ray]'")
    observer, seen = tmp_path / "observer.py", tmp_path / "events.jsonl"
    observer.write_text(OBSERVER.format(path=str(seen)))
    request = "--method wmdd --dataset digits --ipc 2 --recipe smoke --device cpu --precision fp32"
    command = f"ddbench --plugin {observer} run {request}"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["OMP_WAIT_POLICY"] = "passive"  # threads that wait leave the cores to others
    folders = {executor: tmp_path / executor for executor in ("inline", "ray")}
    runs = [
        f"{command} --executor {executor} --cache-dir {folder / 'cache'} --results-dir {folder}"
        for executor, folder in folders.items()
    ]
    words = [sys.executable, *in_one_process(*runs)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    actual: dict[str, dict[str, Any]] = {}
    for executor, folder in folders.items():
        (path,) = (folder / "records").glob("*.json")
        actual[executor] = json.loads(path.read_text())
    for name in ("distilled_digest", "metrics", "feature_transport_cost", "teacher", "keys", "configuration"):
        assert actual["inline"][name] == actual["ray"][name]
    threads = [
        [build["threads"] for builds in record["stages"].values() for build in builds] for record in actual.values()
    ]
    assert threads[0] == threads[1]
    lines = seen.read_text().splitlines()
    end = lines.index(json.dumps(["record", actual["inline"]["name"]]))
    inline = set(lines[: end + 1])
    ray = {line.replace(str(folders["ray"]), str(folders["inline"])) for line in lines[end + 1 :]}
    assert {json.loads(line)[1] for line in inline} >= {"teacher", "statistics", "distill", "evaluate", "measure"}
    assert inline == ray
    events = [json.loads(line) for line in inline if '"record"' not in line[:9]]
    assert {event[4]["record"] for event in events} == {actual["inline"]["name"]}
    configuration = {**actual["inline"]["configuration"], "measures": {}}
    assert all({**event[4]["configuration"], "measures": {}} == configuration for event in events)
    (preview,) = [event for event in events if event[0] == "preview"]
    assert Path(preview[3]).read_bytes().startswith(b"\x89PNG")
