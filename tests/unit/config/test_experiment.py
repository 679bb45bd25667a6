"""An experiment: its name, and the names under which records and keys store it."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ddbench.api.settings import Section
from ddbench.config.experiment import Experiment
from ddbench.methods.random import Random
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    request = Request(methods=("random",), datasets=("digits",), ipcs=(3,), recipes=("smoke",), seed=5, seeds=2)
    return experiments(request, PluginRegistry())[1]


def test_its_name_gives_the_seed_of_the_student(experiment: Experiment) -> None:
    assert experiment.name == f"random, digits, IPC 3, set 0, fkd, {experiment.student} seed 6"
    changed = experiment.model_copy(update={"ipc": None, "repeat": 2})
    assert changed.name.startswith("random, digits, whole training set, set 2, ")


def test_it_is_stored_under_aliases_and_read_back(experiment: Experiment) -> None:
    stored = experiment.model_dump()
    assert (stored["method"], stored["evaluator"]) == ("random", experiment.evaluator_name)
    assert stored["evaluator_settings"] == experiment.evaluator.model_dump()
    assert {"method_name", "evaluator_name"}.isdisjoint(stored)


def test_what_is_written_for_others_has_no_path_of_a_person(tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pt"
    request = Request(("random",), (f"imagefolder:{tmp_path}",), (3,), assignments=(f"teacher.checkpoint={weights}",))
    (made,) = experiments(request, PluginRegistry())
    assert made.teacher.checkpoint == weights
    public = made.public()
    assert (public["dataset"], public["teacher"]["checkpoint"]) == (f"imagefolder:{tmp_path.name}", "teacher.pt")
    assert str(tmp_path) not in json.dumps(public) + made.name
    assert public.keys() == made.model_dump().keys()


class Files(Section):
    one: Path
    several: tuple[Path, ...]
    by_name: dict[str, list[Path]]


class Inpaint(Random):
    name = "inpaint"
    start: Path | None = None
    files: Files | None = None


def test_files_of_a_method_are_named_without_their_folders_wherever_they_stand(experiment: Experiment) -> None:
    files = Files(one=Path("/me/a.pt"), several=(Path("/me/b.pt"), Path("c")), by_name={"x": [Path("/me/d.pt")]})
    method = Inpaint(start=Path("/me/start"), files=files)
    public = experiment.model_copy(update={"method": method}).public()
    assert public == experiment.public() | {
        "method_settings": {
            "start": "start",
            "files": {"one": "a.pt", "several": ["b.pt", "c"], "by_name": {"x": ["d.pt"]}},
        }
    }
    assert method.start == Path("/me/start")


def test_files_of_one_name_and_other_content_are_other_settings(experiment: Experiment, tmp_path: Path) -> None:
    recorded = []
    for place, content in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.pt").write_text(content)
        method = Inpaint(start=tmp_path / place / "a.pt")
        recorded.append(experiment.model_copy(update={"method": method}).public()["method_settings"]["start"])
    assert recorded == ["a.pt@ca978112", "a.pt@ca978112", "a.pt@3e23e816"]  # the beginnings of SHA-256


@pytest.mark.parametrize("change", [{"seed": -1}, {"ipc": 0}, {"strange": 1}])
def test_values_that_cannot_be_are_refused(experiment: Experiment, change: dict[str, int]) -> None:
    values = {**{field.alias or name: getattr(experiment, name) for name, field in Experiment.model_fields.items()}}
    assert Experiment(**values) == experiment
    with pytest.raises(ValidationError):
        Experiment(**{**values, **change})
