"""The command that makes a record again has every option on which the record depends."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import save_file

from ddbench.nn.build import build_network
from ddbench.results import records
from ddbench.results.command import command_of, inputs_of
from ddbench.results.records import Record

if TYPE_CHECKING:
    from conftest import Shell


def test_it_holds_recipes_seeds_and_what_was_set(record: Callable[..., Record]) -> None:
    one = record(1.0, recipes=("quick", "lloyd"), bn_weight=0.5, seed=2, repeat=1, evaluator="hard")
    one.configuration["changed"] = ["method.bn_weight", "evaluator.epochs", "data.stored_size"]
    command = command_of(one)
    assert command.startswith("ddbench run --method wmdd --dataset imagenette --ipc 10 --student resnet18 ")
    for part in ("--evaluator hard --recipe quick --recipe lloyd --image-size 64", "--seeds 3 --repeats 2"):
        assert part in command
    assert command.endswith("--set method.bn_weight=0.5 --set evaluator.epochs=300 --set data.stored_size=72")


def test_it_can_be_changed_for_another_method_or_other_sizes(record: Callable[..., Record]) -> None:
    one = record(1.0, bn_weight=0.5)
    one.configuration["changed"] = ["method.bn_weight", "evaluator.epochs"]
    assert "--ipc 1 --ipc 50" in command_of(one, ipcs=(1, 50))
    other = command_of(one, method="kmeans")
    assert "--method kmeans" in other
    assert "bn_weight" not in other
    assert "--set evaluator.epochs=300" in other
    assert command_of(one, settings=("method.bn_weight=1",)).count("method.bn_weight") == 1


def test_files_of_a_method_are_inputs_without_their_digests(record: Callable[..., Record]) -> None:
    stored = record(50.0)
    settings = {"start": "a.pt@ca978112", "more": [{"x": "b@3e23e816"}], "initial": "given:set@0123456789abcdef"}
    changed = ["method.start", "method.more", "method.initial", "teacher.checkpoint"]
    teacher = {"arch": "resnet18", "checkpoint": "c.pt@ca978112"}
    configuration = {**stored.configuration, "method_settings": settings, "changed": changed, "teacher": teacher}
    own = stored.model_copy(update={"configuration": configuration})
    words = shlex.split(command_of(own))
    assignments = ["method.start=a.pt", 'method.more=[{"x":"b"}]', "method.initial=given:set@0123456789abcdef"]
    for text in (*assignments, "teacher.checkpoint=c.pt@ca978112"):
        assert words[words.index(text) - 1] == "--set"
    assert inputs_of(own) == "c.pt@ca978112, a.pt, b in the working directory"


def test_text_that_looks_like_another_value_is_quoted(record: Callable[..., Record]) -> None:
    one = record(1.0)
    one.configuration["changed"] = [f"method.{name}" for name in ("a", "b", "c", "d")]
    one.configuration["method_settings"] |= {"a": "no", "b": "two words", "c": None, "d": [1, 2]}
    words = shlex.split(command_of(one))
    assert [word for word in words if word.startswith("method.")] == [
        'method.a="no"',
        "method.b=two words",
        "method.c=null",
        "method.d=[1,2]",
    ]


SHORT = ("--evaluator", "hard", "--set", "evaluator.epochs=1", "--set", "teacher.epochs=1")
RUNS = {
    "a second student on a second set": (
        *("--method", "random", "--dataset", "digits", "--ipc", "1", "--seed", "5", "--seeds", "2", "--repeats", "2"),
        *("--student", "convnet-d1", *SHORT),
    ),
    "another teacher and its method": (
        *("--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--arch", "convnet-bn-d1", "--image-size", "12"),
        *("--set", "wmdd.steps=2", "--set", "method.bn_weight=3", *SHORT),
    ),
    "a size that was set": (
        *("--method", "random", "--dataset", "digits", "--ipc", "1", "--image-size", "12"),
        *("--set", "data.image_size=10", *SHORT),
    ),
    "a recipe file with another name": (
        *("--method", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "deeper/own.yaml"),
        *("--set", "teacher.epochs=1"),
    ),
    "a teacher's checkpoint": (
        *("--method", "random", "--dataset", "digits", "--ipc", "1", "--arch", "convnet-bn-d1"),
        *("--set", "teacher.checkpoint=own.safetensors", "--set", "evaluator.epochs=1"),
    ),
    "a part of the training images": (
        *("--method", "random", "--dataset", "digits", "--ipc", "1", "--set", "data.holdout=0.1"),
        *("--precision", "bf16", "--compile", "off", "--set", "statistics.variance=batch-mean", *SHORT),
    ),
    "an image folder": ("--method", "full", "--dataset", "imagefolder:pictures", "--set", "teacher.epochs=1"),
}


RECIPE = """
name: mild
kind: numerics
about: A temperature of one's own.
blocks:
  - source: made up
    settings: {evaluator: {epochs: 1, temperature: 5}}
"""


@pytest.fixture(params=RUNS)
def made(request: pytest.FixtureRequest, shell: Shell, image_folder: Callable[..., Path]) -> Shell:
    """A shell in which one of RUNS was run."""
    image_folder("pictures")
    save_file(build_network("convnet-bn-d1", 10, 8).state_dict(), shell.root / "own.safetensors")
    (shell.root / "deeper").mkdir()
    (shell.root / "deeper" / "own.yaml").write_text(RECIPE)
    shell.run(*RUNS[request.param])
    for path in (shell.root / "deeper").iterdir():  # a record does not name the folder
        path.rename(shell.root / path.name)
    return shell


def test_the_command_gives_the_same_keys_and_the_repetition_the_same_numbers(made: Shell) -> None:
    stored = {path.stem: records.read(path) for path in (made.results / "records").glob("*.json")}
    last = max(stored.values(), key=lambda record: (record.repeat, record.student_seed))
    shown = made("show", last.name).out
    program, *words = shlex.split(command_of(last))
    assert program == "ddbench"
    inputs = [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("inputs")]
    assert inputs == [
        f"{text} in the working directory"
        for name, text in (("mild", "own.yaml"), ("own.safetensors", "own.safetensors"))
        if name in shown
    ] + ["--data-dir: the folder that contains the image folder pictures"] * ("imagefolder:" in shown)
    # The original images are found in the data folder: the record has no path.
    again = made(*words, "--results-dir", "again", "--data-dir", made.root)
    assert again.code == 0, again.err
    assert not [line for line in again.errors if line.endswith(": started")]
    actual = json.loads((made.root / "again" / "records" / f"{last.name}.json").read_text())
    assert actual["keys"] == last.keys
    assert actual["distilled_digest"] == last.distilled_digest
    repeated = made("repeat", last.name, "--data-dir", made.root)
    assert repeated.out.endswith("agrees: the same distilled set and the same accuracies\n"), repeated.err
