"""Three students of one set against one student: in turn with all threads, and at once on Ray with one thread each."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from measuring import Row, seconds, write

EPOCHS = 40
STUDENTS = 3


def run(folder: str, students: int, *options: str) -> float:
    """Returns the seconds of a whole command that trains new students of the cached set."""
    command = [sys.executable, "-m", "ddbench", "run", "--method", "random", "--dataset", "digits", "--ipc", "10"]
    command += ["--image-size", "64", "--recipe", "quick", "--evaluator", "fkd", "--arch", "resnet18"]
    command += ["--set", "teacher.arch=resnet18", "--set", "teacher.stem=imagenet", "--set", "teacher.epochs=1"]
    command += ["--set", f"evaluator.epochs={EPOCHS}", "--seeds", str(students), "--force", "evaluate"]
    command += ["--cache-dir", f"{folder}/cache", "--results-dir", f"{folder}/results", *options]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def measure(repetitions: int) -> list[Row]:
    """Measures each command once. The limit is the same command with one student."""
    cores = len(os.sched_getaffinity(0))
    ways: list[tuple[str, list[str], list[str]]] = [
        # the options of both commands, and those of the command with several students
        (f"one after another, {cores} threads", [], []),
        ("on Ray, 1 thread each", ["--set", "runtime.threads=1"], ["--executor", "ray"]),
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for way, options, executor in ways:
            run(folder, 1, *options)  # fills the cache
            one = run(folder, 1, *options)
            several = run(folder, STUDENTS, *options, *executor)
            case = f"ResNet-18, 100 x 64 px, {EPOCHS} epochs of fkd, {cores} cores, {way}"
            rows.append(Row(f"{STUDENTS} students", case, several, limit=one))
    return rows


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write("several_students", measure(1))
