"""The functions of the package: the values and the errors of their commands, in a notebook too."""

from __future__ import annotations

import io
import json
import linecache
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import ddbench
from conftest import FAST
from ddbench.methods.random import Random

if TYPE_CHECKING:
    from conftest import Shell

SETTINGS = {"evaluator.epochs": 3, "evaluator.batch_size": 10}
OPTIONS = (
    "--arch",
    "convnet-bn-d1",
    *(word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")),
)
METHOD = """
import signal
from pathlib import Path
from typing import ClassVar
from ddbench.api import Distiller


class Grey(Distiller):
    name, version, needs_teacher, default_evaluator = "grey", "1", False, "hard"
    level: float = {level}
    stop: str = ""

    def distill(self, task, unit):
        import torch

        if self.stop and not Path(self.stop).exists():
            Path(self.stop).touch()
            signal.raise_signal(signal.SIGINT)
        side = task.info.image_size
        return torch.full((len(unit.slots), 3, side, side), self.level)
"""


def fast(**settings: Any) -> dict[str, Any]:
    """`FAST` and `OPTIONS` as arguments."""
    sizes = {"recipe": "smoke", "device": "cpu", "precision": "fp32", "image_size": 8, "arch": "convnet-bn-d1"}
    return {**sizes, "settings": {"teacher.batch_size": 256, **SETTINGS, **settings}}


@pytest.fixture
def place(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in whose folder and with whose cache the functions run too."""
    monkeypatch.chdir(shell.root)
    monkeypatch.setenv("DDBENCH_CACHE", str(shell.cache))
    monkeypatch.delenv("DDBENCH_DATA", raising=False)
    return shell


def stored(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]


def method_in_cell(code: str) -> Any:
    """The class that a cell of a notebook defines: its module has no file, and its text is in `linecache`."""
    cell = f"<cell {hash(code)}>"
    linecache.cache[cell] = (len(code), None, code.splitlines(keepends=True), cell)
    module = ModuleType("module_without_file")
    exec(compile(code, cell, "exec"), vars(module))
    return vars(module)["Grey"]


def test_importing_the_package_imports_no_other_package() -> None:
    code = "import sys; import ddbench; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(Path(ddbench.__file__).parents[1])!r}); {code}",
    ]
    names = subprocess.run(environment, capture_output=True, text=True, check=True).stdout.split()
    assert "ddbench" in names
    assert set(names) - sys.stdlib_module_names - {"__main__"} == {"ddbench"}


@pytest.mark.slow
def test_run_and_evaluate_give_the_records_of_the_commands(place: Shell) -> None:
    cell = ("--dataset", "digits", "--ipc", "1", "--evaluator", "hard", "--seeds", "2", *OPTIONS)
    place.run("--method", "random,kmeans", *cell, "--results-dir", "one")
    methods, numbers = pd.Series(["random", "kmeans"]), pd.Series([1, 2])  # values of a frame, also its integers
    frame = ddbench.run(methods, "digits", numbers[0], evaluator="hard", seeds=numbers[1], **fast())  # type: ignore[arg-type]
    by_command, by_function = stored(place.root / "one"), stored(place.results)
    same = ("name", "keys", "metrics", "configuration", "recipes")
    assert [[one[field] for field in same] for one in by_function] == [
        [one[field] for field in same] for one in by_command
    ]
    assert set(frame["name"]) == {one["name"] for one in by_function}
    assert len(frame) == 4

    name = frame["name"][0]
    given = ddbench.evaluate(name, "digits", evaluator="hard", measure="ece", seeds=2, **fast())
    assert given["measure.ece"].between(0, 100).all()
    means = given.assign(given=given["method"].str.startswith("given:")).groupby("given")["top1_last"].mean()
    assert means[True] == means[False]  # the set is that of `random`
    (line,) = [
        line
        for line in place("evaluate", *FAST, *cell[:2], *cell[4:], name).out.splitlines()
        if line.startswith("difference")
    ]
    assert line.endswith("+0.00 percentage points")


@pytest.mark.slow
def test_records_table_and_load_read_what_the_commands_print(place: Shell) -> None:
    place.run("--method", "random,kmeans", "--dataset", "digits", "--ipc", "2", "--evaluator", "hard", *OPTIONS)
    frame = ddbench.records(method="kmeans", sort="top1_last")
    listed = pd.read_csv(io.StringIO(place("records", "--method", "kmeans", "--format", "csv").out))
    assert list(frame["name"]) == list(listed["name"])
    assert frame["top1_last"].tolist() == listed["top1_last"].tolist()
    assert list(ddbench.records(scores=True)["top1"]) == [
        row["top1"] for row in json.loads(place("records", "--scores", "--format", "json").out)
    ]
    table = ddbench.table("comparison", method=["random", "kmeans"], dataset="digits", ipc=2)
    printed = place(
        "table", "comparison", "--methods", "random,kmeans", "--dataset", "digits", "--ipc", "2", "--format", "json"
    )
    assert list(table["state"]) == [row["state"] for row in json.loads(printed.out)]

    name = frame["name"].iloc[0]
    loaded = ddbench.load(name)
    for form in ("imagefolder", "safetensors"):
        place("export", name, "--format", form, "--output", form)
        read = ddbench.load(place.root / form)
        assert torch.equal(read.images, loaded.images)
        assert torch.equal(read.labels, loaded.labels)
        assert torch.equal(read.weights, loaded.weights)
        assert read.class_names == loaded.class_names == tuple("0123456789")
    ((images, labels),) = DataLoader(loaded, batch_size=20)
    assert torch.equal((images * 255).round().to(torch.uint8), loaded.images)
    assert torch.equal(labels, loaded.labels)
    sent = place.root / "sent.json"
    sent.write_text((place.results / "records" / f"{name}.json").read_text())
    assert torch.equal(ddbench.load("sent.json").images, loaded.images)
    assert torch.equal(ddbench.load(sent).images, loaded.images)
    assert repr(loaded) == "LoadedSet(20 images of 10 classes, 8 x 8 pixels)"


@pytest.mark.slow
def test_a_class_of_a_notebook_is_a_method_and_an_edit_of_its_cell_is_noticed(
    place: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for level in ("0.25", "0.25  # grey", "0.5 / 2"):
        frame = ddbench.run(method_in_cell(METHOD.format(level=level)), "digits", 1, **fast())
        text = capsys.readouterr().err
        lines.append(("distill grey IPC 1 1/1: cached" in text, "its source has changed" in text))
    assert lines == [(False, False), (True, False), (False, True)]
    assert ddbench.load(frame["name"][0]).images.unique().tolist() == [64]
    assert list(ddbench.run([Random, "random"], "digits", 1, evaluator="hard", **fast())["method"]) == ["random"]


def test_a_class_whose_code_is_unknown_is_refused(place: Shell) -> None:
    method = method_in_cell(METHOD.format(level=0.25))
    linecache.cache.pop(method.distill.__code__.co_filename)
    with pytest.raises(ddbench.DDBenchError, match="method 'grey': its code is in no file and no notebook"):
        ddbench.run(method, "digits", 1)


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_written_and_the_same_call_resumes(place: Shell) -> None:
    method, handler = method_in_cell(METHOD.format(level=0.25)), signal.getsignal(signal.SIGINT)
    options = fast(**{"method.stop": str(place.root / "stopped")})
    with pytest.raises(KeyboardInterrupt, match="stopped by Ctrl-C; the same call resumes"):
        ddbench.run(method, "digits", 1, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert stored(place.results) == []
    assert not list(place.root.rglob("*.partial"))
    assert len(ddbench.run(method, "digits", 1, **options)) == 1


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (lambda: ddbench.run("randm", "digits", 1), ("run", "--method", "randm", "--dataset", "digits", "--ipc", "1")),
        (lambda: ddbench.run("random", "digts", 1), ("run", "--method", "random", "--dataset", "digts", "--ipc", "1")),
        (lambda: ddbench.run("random", "digits"), ("run", "--method", "random", "--dataset", "digits")),
        (
            lambda: ddbench.run("random", "digits", 1, settings={"methd.steps": 1}),
            ("run", "--method", "random", "--dataset", "digits", "--ipc", "1", "--set", "methd.steps=1"),
        ),
        (lambda: ddbench.evaluate("absent", "digits"), ("evaluate", "absent", "--dataset", "digits")),
        (lambda: ddbench.table("comparisn"), ("table", "comparisn")),
        (lambda: ddbench.records(), ("records",)),
    ],
)
def test_errors_are_those_of_the_commands(call: Callable[[], Any], arguments: tuple[str, ...], place: Shell) -> None:
    with pytest.raises(ddbench.DDBenchError) as error:
        call()
    place(*arguments).refused(f"ddbench: {error.value}")
    assert error.value._render_traceback_() == [f"DDBenchError: {error.value}"]
    assert not list(place.root.rglob("*.json"))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: ddbench.run("random", "digits", "1"),
            TypeError,
            r"run: ipc is '1' \(str\); pass a value of type int, or",
        ),
        (lambda: ddbench.run("random", "digits", 1, seeds=2.0), TypeError, r"run: seeds is 2.0 \(float\)"),
        (
            lambda: ddbench.run("random", "digits", 1, seeds=0),
            ddbench.DDBenchError,
            "seeds is 0; pass a number of at least 1",
        ),
        (lambda: ddbench.run("random", "digits", 0), ddbench.DDBenchError, "images per class must be at least 1"),
        (lambda: ddbench.run("random", "digits", 1, settings=["a"]), TypeError, r"run: settings is \['a'\] \(list\)"),
        (lambda: ddbench.run([], "digits", 1), ddbench.DDBenchError, "pass at least one method and one dataset"),
        (
            lambda: ddbench.evaluate("a.pt", "digits", random_sets=-1),
            ddbench.DDBenchError,
            "random_sets is -1; pass a number of at least 0",
        ),
        (lambda: ddbench.evaluate("a.pt", "digits", classes=3), TypeError, r"evaluate: classes is 3 \(int\)"),  # type: ignore[arg-type]
        (lambda: ddbench.run(int, "digits", 1), TypeError, "is not a subclass of Distiller"),
        (lambda: ddbench.load(7), TypeError, r"load: set is 7 \(int\); pass a file, a folder or the name of a record"),  # type: ignore[arg-type]
        (lambda: ddbench.load("absent.pt"), ddbench.DDBenchError, "absent.pt is neither a file nor a folder"),
        (
            lambda: ddbench.load("x.pt", pixels="unti"),
            ddbench.DDBenchError,
            "unknown space of pixels 'unti'; did you mean 'unit'",
        ),
        (lambda: ddbench.table("comparison", ipc="10"), TypeError, r"table: ipc is '10' \(str\); pass"),
        (lambda: ddbench.table("comparison", ipc=("10",)), TypeError, r"table: ipc is '10' \(str\); pass"),
        (
            lambda: ddbench.table("comparison", ipc=0),
            ddbench.DDBenchError,
            "--ipc 0: images per class must be at least 1",
        ),
        (
            lambda: ddbench.table("comparison", results_dir=None),
            TypeError,
            r"results_dir is None \(NoneType\); pass the",
        ),
        (lambda: ddbench.table(7), TypeError, r"table: name is 7 \(int\); pass the name of a table"),
        (
            lambda: ddbench.table("comparisn"),
            ddbench.DDBenchError,
            "unknown table 'comparisn'; did you mean 'comparison'",
        ),
    ],
)
def test_wrong_arguments_are_refused(
    call: Callable[[], Any], kind: type[Exception], message: str, place: Shell
) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_grid_of_several_default_protocols_is_noted(place: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ddbench.DDBenchError, match="9999"):
        ddbench.run(["dm", "random"], "digits", ipc=9999, recipe="smoke")
    assert "by their authors' protocols: dm: dsa, random: fkd;" in capsys.readouterr().err
