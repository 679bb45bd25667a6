"""Records: read back as written, whole or not at all, and found by name."""

import gc
import json
import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ddbench.api.evaluator import Metrics
from ddbench.core.errors import DDBenchError
from ddbench.results import provenance, record_checks, records, verified_json
from ddbench.results.records import Record
from ddbench.results.text import record_rows

SECTIONS: dict[str, Any] = {
    **{name: {} for name in record_checks.SECTIONS},
    "data": {"image_size": 16},
    "distill": {"jpeg_quality": None},
    "runtime": {"device": "cpu", "precision": "fp32"},
}


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "name": "wmdd-digits-ipc1-0123abcd",
        "created": provenance.provenance()["created"],
        "method": "wmdd",
        "method_version": "1",
        "dataset": "digits",
        "classes": 2,
        "ipc": 1,
        "image_size": 16,
        "recipes": ["smoke"],
        "evaluator": "fkd",
        "evaluator_version": "1",
        "student": "convnet-d3",
        "seed": 0,
        "repeat": 0,
        "student_seed": 0,
        "metrics": Metrics(
            top1_last=100 / 3, per_class=[0.1, 66.6], student_steps=3, label_bytes=10, image_bytes=20, regime="fkd"
        ),
        "teacher": {"name": "convnet-d3", "top1": 90.0, "key": "k"},
        "feature_transport_cost": 0.1 + 0.2,
        "distilled_digest": "d",
        "distilled_images": 2,
        "keys": {"evaluate": ["k"]},
        "configuration": {"dataset": "digits", "ipc": 1, "student_stem": "auto", **SECTIONS},
        "seconds": {"evaluate": 1.5},
        "seconds_per_iteration": None,
        "peak_memory": {"device": 0, "resident": 5},
        "device": {"type": "cpu", "name": "a CPU — ü", "threads": 1},
        "versions": provenance.provenance()["versions"],
        "git_commit": None,
    }
    return Record(**{**values, **changes})


def test_what_is_written_is_read_to_the_last_bit(tmp_path: Path) -> None:
    path = records.write(record(), tmp_path / "new" / "folder")
    assert records.read(path) == record(created=records.read(path).created)
    assert path.name == "wmdd-digits-ipc1-0123abcd.json"
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_values_are_sealed_and_their_form_is_free(tmp_path: Path) -> None:
    path = records.write(record(), tmp_path)
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(tree.items()))))
    assert records.read(path) == record(created=tree["created"])
    for changed in ({**tree, "seed": 1}, {**tree, "digest": ""}, {**tree, "digest": None}):
        path.write_text(json.dumps(changed))
        with pytest.raises(DDBenchError, match="is not a record: damaged, or changed by hand"):
            records.read(path)
    path.write_text(json.dumps({name: value for name, value in tree.items() if name != "digest"}))  # an older version's
    assert records.read(path) == record(created=tree["created"])


def test_the_same_run_replaces_its_record(tmp_path: Path) -> None:
    records.write(record(), tmp_path)
    path = records.write(record(seconds={"evaluate": 9.0}), tmp_path)
    assert records.read(path).seconds == {"evaluate": 9.0}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = records.write(record(), tmp_path)
    before = path.read_bytes()
    broken = record().model_copy(update={"configuration": {"x": object()}})
    with pytest.raises(Exception, match="serialize"):
        records.write(broken, tmp_path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DDBenchError, match="cannot write to"):
        records.write(record(), tmp_path / "file")


@pytest.mark.parametrize(
    "others",
    [[], None, {"convnet": []}, {"convnet": {"digest": 1, "used_by": []}}, {"convnet": {"digest": "0"}}],
)
def test_further_teachers_that_cannot_be_compared_are_refused(others: object, tmp_path: Path) -> None:
    tree = verified_json.load(records.write(record(), tmp_path).read_text())
    teacher = {"name": "resnet18", "top1": 90.0, "others": others}
    with pytest.raises(DDBenchError, match=r"changed\.json is not a record: teacher: .*'others'"):
        records.parse(verified_json.dump({**tree, "teacher": teacher}).encode(), "changed.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [("changed", None), ("changed", 3), ("changed", [1]), ("recipe_files", []), ("recipe_files", {"own": 1})],
)
def test_optional_parts_of_a_configuration_have_their_types(name: str, value: object, tmp_path: Path) -> None:
    tree = verified_json.load(records.write(record(), tmp_path).read_text())
    changed = {**tree, "configuration": {**tree["configuration"], name: value}}
    with pytest.raises(DDBenchError, match=rf"changed\.json is not a record: configuration: .*'{name}'"):
        records.parse(verified_json.dump(changed).encode(), "changed.json")


def test_unknown_and_missing_fields_are_refused(tmp_path: Path) -> None:
    tree = verified_json.load(records.write(record(), tmp_path).read_text())
    for changed, message in (({**tree, "top1": 99}, "top1"), ({k: v for k, v in tree.items() if k != "ipc"}, "ipc")):
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(changed))
        with pytest.raises(DDBenchError, match=f"changed.json is not a record: {message}"):
            records.read(path)


def test_no_record_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(DDBenchError, match="no record"):
        records.read(tmp_path / "absent.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DDBenchError, match="cannot be read"):
        records.read(tmp_path / "folder.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for age, name in enumerate(["a-ipc1-00", "a-ipc10-00", "a-ipc10-01", "b-ipc1-00"]):
        path = records.write(record(name=name), tmp_path)
        os.utime(path, (1000 - age, 1000 - age))
    return tmp_path


def test_find_by_name_beginning_and_age(folder: Path) -> None:
    assert records.find(folder, None).stem == "a-ipc1-00"
    assert records.find(folder, "a-ipc1-00").stem == "a-ipc1-00"
    assert records.find(folder, "a-ipc10-01.json").stem == "a-ipc10-01"
    assert records.find(folder, "b").stem == "b-ipc1-00"
    assert records.find(folder, "a-ipc1-").stem == "a-ipc1-00"
    with pytest.raises(DDBenchError, match="2 records begin with 'a-ipc10'; the newest: a-ipc10-00, a-ipc10-01 "):
        records.find(folder, "a-ipc10")
    with pytest.raises(DDBenchError, match=r"no record 'a-ipc2-00' in .*did you mean 'a-ipc1-00'"):
        records.find(folder, "a-ipc2-00")
    with pytest.raises(DDBenchError, match=r"no record '\.\./secret'"):
        records.find(folder, "../secret")


def test_a_name_like_no_record_gives_the_newest_three(folder: Path) -> None:
    with pytest.raises(DDBenchError) as error:
        records.find(folder, "nothing")
    newest = "the newest: a-ipc1-00, a-ipc10-00, a-ipc10-01 (ddbench records lists all)"
    assert str(error.value) == f"no record 'nothing' in {folder}; {newest}"


def test_garbage_is_collected_again_after_the_records_are_read(folder: Path) -> None:
    (folder / "torn.json").write_text("{")
    enabled: list[bool] = []
    assert len(records.read_all(folder, lambda _: enabled.append(gc.isenabled()))) == 4
    assert (enabled, gc.isenabled()) == ([False], True)


def test_records_of_one_set_stand_for_it(folder: Path) -> None:
    assert records.find(folder, "a-ipc10", of_set=True).stem == "a-ipc10-00"
    records.write(record(name="a-ipc10-02", distilled_digest="another"), folder)
    with pytest.raises(DDBenchError, match="3 records begin with 'a-ipc10'"):
        records.find(folder, "a-ipc10", of_set=True)


def test_an_exact_name_wins_over_longer_ones(folder: Path) -> None:
    records.write(record(name="a-ipc1-00-again"), folder)
    assert records.find(folder, "a-ipc1-00").stem == "a-ipc1-00"


@given(st.text(max_size=80), st.text(max_size=200), st.none() | st.integers(1, 5000))
def test_a_run_is_a_file_name_and_nothing_more(method: str, dataset: str, ipc: int | None) -> None:
    name = records.run_name(method, dataset, ipc, "0123456789abcdef")
    assert set(name) <= set(string.ascii_letters + string.digits + "._-")
    assert len(name) < 120
    assert name.endswith(("-full-01234567", f"-ipc{ipc}-01234567"))


def test_the_name_of_a_given_set_is_shortened_before_its_digest() -> None:
    name = records.run_name("given:kmeans-digits-ipc2-41a6a881@b2ac372a35fab4ba", "digits", 2, "c9672243")
    assert name == "given_kmeans_digits_ipc_b2ac372a35fab4ba-digits-ipc2-c9672243"


def test_versions_name_what_numbers_depend_on() -> None:
    assert {"python", "ddbench", "torch", "numpy", "POT"} <= provenance.provenance()["versions"].keys()


def test_every_committed_record_can_be_read() -> None:
    paths = sorted((Path(__file__).parents[3] / "results" / "reference").glob("*/records/*.json"))
    assert paths
    for path in paths:
        record = records.read(path)
        assert record.name == path.stem
        assert str(Path.home()) not in path.read_text(encoding="utf-8")


def key(first: str) -> dict[str, list[str]]:
    return {"evaluate": [first.ljust(32, "0")]}


def test_a_record_of_another_key_with_the_same_name_is_kept(tmp_path: Path) -> None:
    first = records.store(record(keys=key("0123abcd1")), tmp_path)
    other = records.store(record(keys=key("0123abcd2")), tmp_path)
    assert first.name == "wmdd-digits-ipc1-0123abcd"
    assert other.name.startswith("wmdd-digits-ipc1-0123abcd-")
    assert {one.keys["evaluate"][0] for one in records.read_all(tmp_path)} == {
        one.keys["evaluate"][0] for one in (first, other)
    }
    assert records.store(record(keys=key("0123abcd2")), tmp_path).name == other.name


def test_a_record_with_other_numbers_of_the_same_key_is_kept_beside_the_old_one(tmp_path: Path) -> None:
    first = records.store(record(keys=key("0123abcd")), tmp_path)
    metrics = first.metrics.model_copy(update={"top1_last": 40.0})
    for changes in ({"metrics": metrics}, {"distilled_digest": "e"}, {"teacher": {**first.teacher, "digest": "u"}}):
        other = records.store(record(keys=key("0123abcd"), **changes), tmp_path)
        assert other.name.startswith(f"{first.name}-")
        again = records.store(record(keys=key("0123abcd"), seconds={"evaluate": 9.0}, **changes), tmp_path)
        assert again.name == other.name
    assert records.read(tmp_path / f"{first.name}.json") == first
    assert len(records.read_all(tmp_path)) == 4


def test_the_same_numbers_replace_the_record_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    records.store(record(keys=key("0123abcd")), tmp_path)
    records.store(record(keys=key("0123abcd"), seconds={"evaluate": 9.0}), tmp_path)
    (stored,) = records.read_all(tmp_path)
    assert stored.seconds == {"evaluate": 9.0}
    (tmp_path / f"{stored.name}.json").write_text("{}")
    assert records.store(record(keys=key("0123abcd")), tmp_path).name == stored.name
    assert len(records.read_all(tmp_path)) == 1


def test_a_record_keeps_the_trials_of_the_one_that_it_replaces(tmp_path: Path) -> None:
    """`ddbench run` of a cell that was a trial of a search, and a trial of another search."""
    trials = [{"search": name, "trial": 1, "of": 4, "settings": {"method.x": 1}} for name in ("one", "two")]
    for own in ([trials[0]], [], [trials[1]], [trials[0]]):
        stored = records.store(record(keys=key("0123abcd"), trials=own), tmp_path)
    assert [trial.model_dump() for trial in stored.trials] == trials
    assert records.read_all(tmp_path) == [stored]
    assert "trials" not in record().model_dump(mode="json")
    assert record_rows(stored)[-2] == ("tuning", "trial 1 of 4 of the search one; trial 1 of 4 of the search two")
    with pytest.raises(ValidationError, match="trials"):
        record(trials=[{}])
