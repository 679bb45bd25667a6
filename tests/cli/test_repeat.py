"""`ddbench repeat`: the numbers of a record again, what differs here, and refusals in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ddbench.nn.build import build_network
from ddbench.pipeline.repetition import Files, recorded_experiment
from ddbench.registry.registry import PluginRegistry
from ddbench.results import records

if TYPE_CHECKING:
    from conftest import Finished, Outcome, Shell

Change = Callable[[dict[str, Any]], None]
REFERENCE = Path(__file__).parents[2] / "results" / "reference"
AGREES = "agrees: the same distilled set and the same accuracies"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"repeats", "locks"} & {*path.relative_to(folder).parts}
    }


def one(shell: Shell, start: str) -> Path:
    (path,) = [path for path in (shell.results / "records").iterdir() if path.name.startswith(start)]
    return path


@pytest.fixture
def edited(finished: Finished, tmp_path: Path) -> Callable[[Change], Path]:
    """Writes a changed copy of the record of random at IPC 1, as another machine would send it."""

    def edit(change: Change) -> Path:
        record = json.loads(one(finished.shell, "random-digits-ipc1-").read_text())
        record.pop("digest")  # that of the file: a record without it is accepted
        change(record)
        path = tmp_path / "sent.json"
        path.write_text(json.dumps(record))
        return path

    return edit


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wmdd", "random"])
def test_every_stage_is_computed_again_and_gives_the_same_numbers(method: str, finished: Finished) -> None:
    shell = finished.shell
    before = content(shell.cache), content(shell.results)
    path = one(shell, f"{method}-digits-ipc1-")
    outcome = shell("repeat", path.stem)
    assert outcome.code == 0, outcome.err
    assert AGREES in outcome.out
    assert "differs here" not in outcome.out
    assert "the cache keys equal those of the record" in outcome.out
    for stage in ("teacher", "distill", "evaluate"):
        assert re.search(rf"^{stage} .*: started$", outcome.err, re.MULTILINE), outcome.err
    assert "data train: cached" in outcome.err
    assert (content(shell.cache), content(shell.results)) == before
    assert not [*(shell.cache / "repeats").iterdir()]
    old, new = (json.loads((folder / path.name).read_text()) for folder in (path.parent, repeats(shell)))
    assert new["configuration"].pop("runtime") == {
        **old["configuration"].pop("runtime"),
        "threads": old["device"]["threads"],
    }
    for field in ("metrics", "distilled_digest", "teacher", "keys", "configuration"):
        assert new[field] == old[field]


def repeats(shell: Shell) -> Path:
    return shell.results / "repeats" / "records"


@pytest.mark.slow
def test_other_numbers_are_exit_code_1(edited: Callable[[Change], Path], finished: Finished) -> None:
    def change(record: dict[str, Any]) -> None:
        record["metrics"]["top1_last"] += 1.5
        record["metrics"]["per_class"][3] += 15

    outcome = finished.shell("repeat", edited(change))
    assert outcome.code == 1, outcome.err
    assert "largest difference of a class: 15.00 percentage points" in outcome.out
    assert outcome.out.endswith("differs: the same distilled set, top-1 -1.50 percentage points\n")


def test_what_cannot_be_the_same_is_named_first(edited: Callable[[Change], Path], finished: Finished) -> None:
    def change(record: dict[str, Any]) -> None:
        record["device"] |= {"type": "cuda", "name": "a GPU", "threads": 3, "processes": 2}
        for conditions in record["stages"].values():
            conditions[0] |= {"threads": 3, "processes": 2}
        record["stages"]["evaluate"][0]["threads"] = 5
        record["versions"] |= {"torch": "1.0", "numerics": "models=0 views=1"}
        record["data"]["fingerprint"] = "0" * 32
        record["method_version"], record["evaluator_version"] = "0", "7"
        record["git_commit"] = f"{'0123456789' * 4}+"
        record["configuration"]["runtime"] |= {"device": "cuda:7", "compile": "on"}
        del record["configuration"]["data"]["split"], record["configuration"]["evaluator_settings"]["min_crop"]
        record["keys"]["evaluate"] = ["0" * 32]

    outcome = finished.shell("repeat", edited(change), "--dry-run")
    assert outcome.code == 0, outcome.err
    table = outcome.out.partition("\n\n")[2]
    rows = {row["differs here"]: (row["record"], row["here"]) for row in _with_out(outcome, table).rows}
    assert rows["device"][0] == "a GPU (cuda)"
    assert re.fullmatch(r"3 \(.*\), 5 \(evaluate\)", rows["threads"][0])
    assert rows["threads"][1] == "3"
    assert rows["processes"] == ("2", "1")
    assert rows["torch"] == ("1.0", torch.__version__.partition("+")[0])
    assert rows["real images"][0] == "0" * 32
    assert rows["commit of ddbench"][0] == "012345678901+"
    assert rows["method random"] == ("version 0", "version 1")
    assert rows["protocol fkd"][0] == "version 7"
    assert rows["numerics of the core"] == ("models=0", "models=1")
    assert rows["settings"] == ("older than these", "data.split, evaluator.min_crop")
    assert "the cache keys differ from those of the record" in outcome.out
    assert not repeats(finished.shell).joinpath("sent.json").exists()


def test_measures_that_are_not_computed_again_are_named(edited: Callable[[Change], Path], finished: Finished) -> None:
    measured = {"version": "1", "settings": {}, "values": {"ece": 3.0}, "seconds": 1.0}
    path = edited(lambda record: record.update(measures={"ece": measured, "pgd": measured}))
    assert "measures are not computed again: ece, pgd" in finished.shell("repeat", path, "--dry-run").out.splitlines()


def _with_out(outcome: Outcome, text: str) -> Outcome:
    return replace(outcome, out=text)


def _set(path: str, value: Any) -> Change:
    def change(record: dict[str, Any]) -> None:
        *inner, last = path.split(".")
        for name in inner:
            record = record[name]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (_set("method", "wmbd"), ("unknown method 'wmbd'", "did you mean 'wmdd'?")),
        (_set("configuration.method_settings.colour", 1), ("this version cannot have", "colour: unknown name")),
        (_set("configuration.evaluator_settings.epochs", 0), ("epochs", "greater than or equal to 1")),
        (_set("configuration.data.depth", 3), ("data.depth: unknown name",)),
        (_set("configuration.future", 3), ("future: unknown name",)),
        (_set("configuration.evaluator_settings", None), ("sent.json is not a record", "evaluator_settings")),
        (_set("configuration.teacher.checkpoint", "own.pt"), ("the record needs 'own.pt'", "give it with --file")),
    ],
)
def test_a_record_that_cannot_be_repeated_is_refused(
    change: Change, parts: tuple[str, ...], edited: Callable[[Change], Path], finished: Finished
) -> None:
    finished.shell("repeat", edited(change)).refused(*parts)


def test_wrong_arguments_are_refused(finished: Finished, tmp_path: Path) -> None:
    shell, name = finished.shell, one(finished.shell, "random-digits-ipc1-").stem
    shell("repeat", "nosuch").refused("no record 'nosuch'")
    shell("repeat", tmp_path / "nosuch.json").refused("no record", "nosuch.json")
    shell("repeat", "random-digits").refused("2 records begin with 'random-digits'")
    shell("repeat", name, "--file", "absent.pt").refused("--file absent.pt: there is no such file or folder")
    (tmp_path / "more.pt").touch()
    shell("repeat", name, "--file", tmp_path / "more.pt").refused("the record names no file 'more.pt'")


@pytest.mark.slow
def test_the_teacher_is_verified_by_its_weights(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    own = folder / "own.safetensors"
    save_file(build_network("convnet-bn-d1", 10, 8).state_dict(), own)
    teacher = ("--arch", "convnet-bn-d1", "--set", f"teacher.checkpoint={own}", "--set", "evaluator.epochs=1")
    shell.run("--method", "random", "--dataset", "digits", "--ipc", "1", *teacher)
    name = one(shell, "random").stem
    shell("repeat", name).refused("the record needs 'own.safetensors'")
    assert AGREES in shell("repeat", name, "--file", own).out
    shutil.copy(own, shell.root)  # the working directory
    assert AGREES in shell("repeat", name).out
    save_file(build_network("convnet-bn-d1", 10, 8, seed=1).state_dict(), shell.root / own.name)
    shell("repeat", name).refused("own.safetensors is another teacher: it has the weights ")


@pytest.mark.slow
def test_a_given_set_is_read_from_its_file_where_the_cache_lacks_it(shell: Shell, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (10, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(10)}, shell.root / "own.safetensors")
    options = ("--dataset", "digits", "--evaluator", "hard", "--recipe", "smoke", "--image-size", "8", "--no-random")
    outcome = shell("evaluate", "own.safetensors", *options)
    assert outcome.code == 0, outcome.err
    name = one(shell, "given").stem
    fresh = ("--cache-dir", tmp_path / "fresh")
    assert AGREES in shell("repeat", name, *fresh).out
    save_file({"images": images.flip(0), "labels": torch.arange(10)}, shell.root / "own.safetensors")
    assert AGREES in shell("repeat", name).out  # the cache has the set
    shell("repeat", name, "--cache-dir", tmp_path / "third").refused("own holds another set")
    shell("repeat", name, "--file", shell.root / "own.safetensors").refused("own holds another set")

    # The space of floats is found by the digest. The set of a record is in no file.
    torch.save({"images": images.double() / 100 - 1, "labels": torch.arange(10)}, shell.root / "floats.pt")
    outcome = shell("evaluate", "floats.pt", "--pixels", "cifar100", *options)
    assert outcome.code == 0, outcome.err
    floats = one(shell, "given_floats").stem
    assert AGREES in shell("repeat", floats, *fresh, "--file", shell.root / "floats.pt").out
    assert shell("evaluate", one(shell, "given_floats"), *options, "--results-dir", tmp_path / "other").code == 0
    (of_record,) = (tmp_path / "other" / "records").iterdir()
    refusal = f"is the set of the record {floats}, which is no file: evaluate it once here"
    shell("repeat", of_record, *fresh).refused(refusal)
    assert AGREES in shell("repeat", of_record).out


def test_every_committed_record_can_be_repeated(tmp_path: Path) -> None:
    registry, seen = PluginRegistry(), 0
    for path in REFERENCE.rglob("records/*.json"):
        record = records.read(path)
        (tmp_path / str(record.configuration["teacher"].get("checkpoint"))).touch()
        folder = tmp_path
        if "@" in str(record.configuration["method_settings"].get("backbone")):  # the content of this file is compared
            if "DDBENCH_DATA" not in os.environ:
                continue
            folder = Path(os.environ["DDBENCH_DATA"])
        experiment = recorded_experiment(record, registry, Files((), [folder]))
        assert experiment.runtime.threads == record.device["threads"]
        given, recorded = experiment.public(), record.configuration
        for section in ("method_settings", "evaluator_settings", "teacher", "data", "statistics"):
            assert {name: given[section][name] for name in recorded[section]} == recorded[section]
        seen += 1
    assert seen > 200
