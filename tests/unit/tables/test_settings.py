"""Settings of records: pools of one setting, and which records are results of an experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ddbench.methods.random import Random
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results.conditions import pools
from ddbench.results.records import Record
from ddbench.tables.settings import group_by_setting, is_result_of

REGISTRY = PluginRegistry()


def test_a_setting_has_the_pools_of_all_names_of_its_images(record: Callable[..., Record]) -> None:
    one, copy, other = (
        record(50.0, method=method, dataset=name, data={"fingerprint": digit * 32})
        for method, name, digit in (
            ("wmdd", "pictures", "1"),
            ("random", "imagenette", "1"),
            ("wmdd", "imagenette", "2"),
        )
    )
    groups = [
        (setting.dataset, distinction[:32], [pool.records for pool in group])
        for setting, distinction, group in group_by_setting(pools([one, copy, other]))
    ]
    assert groups == [("imagenette", "1" * 32, [[one], [copy]]), ("imagenette", "2" * 32, [[other]])]


class Inpaint(Random):
    name = "inpaint"
    start: Path | None = None


def test_a_record_of_a_method_with_files_is_found_by_their_names(record: Callable[..., Record]) -> None:
    (made,) = experiments(Request(("random",), ("digits",), (3,), recipes=("smoke",)), PluginRegistry())
    experiment = made.model_copy(update={"method": Inpaint(start=Path("/me/start"))})
    stored = record(
        50.0,
        method=experiment.method_name,
        ipc=3,
        student=experiment.student,
        evaluator=experiment.evaluator_name,
        evaluator_version=experiment.evaluator.version,
        configuration=experiment.public(),
    )
    assert is_result_of(stored, experiment)
    assert not is_result_of(stored, made)
    for start, is_equal in (("/you/start", True), ("/me/end", False)):
        other = experiment.model_copy(update={"method": Inpaint(start=Path(start))})
        assert is_result_of(stored, other) == is_equal


def test_a_record_of_a_method_with_a_file_of_other_content_is_not_found(
    record: Callable[..., Record], tmp_path: Path
) -> None:
    (made,) = experiments(Request(("random",), ("digits",), (3,), recipes=("smoke",)), PluginRegistry())
    for place, content in (("one", "a"), ("same", "a"), ("other", "b")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "start").write_text(content)
    one, same, other = (
        made.model_copy(update={"method": Inpaint(start=tmp_path / place / "start")})
        for place in ("one", "same", "other")
    )
    run = {"ipc": 3, "student": made.student, "evaluator": made.evaluator_name}
    version = {"evaluator_version": made.evaluator.version, "configuration": one.public()}
    stored = record(50.0, method=made.method_name, **run, **version)
    assert [is_result_of(stored, each) for each in (one, same, other)] == [True, True, False]


def test_a_record_of_a_method_that_starts_from_a_set_is_found_by_the_content_of_its_file(
    record: Callable[..., Record], tmp_path: Path
) -> None:
    for name, content in (("one", b"a"), ("same", b"a"), ("other", b"b")):
        (tmp_path / f"{name}.pt").write_bytes(content)
    (one, same, other, absent) = (
        experiments(
            Request(("wmdd",), ("digits",), (3,), assignments=(f"wmdd.initial={tmp_path / name}.pt",)), REGISTRY
        )[0]
        for name in ("one", "same", "other", "absent")
    )
    configuration = one.public()
    configuration["method_settings"]["initial"] = "set:0123456789abcdef"
    run = {"ipc": 3, "student": one.student, "evaluator": one.evaluator_name, "method_version": one.method.version}
    origin = {"name": "one", "files": 1, "sha256": hashlib.sha256(b"a").hexdigest()}
    versions = {"evaluator_version": one.evaluator.version, "configuration": configuration}
    stored = record(50.0, **run, **versions, origin=origin)
    assert [is_result_of(stored, each) for each in (one, same, other, absent)] == [True, True, False, False]
