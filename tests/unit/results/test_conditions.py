"""Which records are comparable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ddbench.methods.random import Random
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results.conditions import (
    dataset_names,
    distillation_config,
    evaluation_conditions,
    group_by_setting,
    is_result_of,
    recorded_datasets,
    student_key,
)
from ddbench.results.records import Record

ONE, OTHER = ("one", 76.0), ("other", 81.0)


def test_conditions_of_students_are_without_their_sets_and_seeds(record: Callable[..., Record]) -> None:
    plain = evaluation_conditions(record(50.0))
    assert evaluation_conditions(record(60.0, method="random", seed=3, repeat=2, bn_weight=1.0)) == plain
    for changes in ({"ipc": 1}, {"evaluator": "hard"}, {"student": "resnet50"}, {"dataset": "imagewoof"}):
        assert evaluation_conditions(record(50.0, **changes)) != plain


def test_a_teacher_counts_where_labels_or_images_come_from_it(record: Callable[..., Record]) -> None:
    for evaluator, labelled in (("fkd", True), ("hard", False)):
        one, other = (record(50.0, evaluator=evaluator, teacher=teacher) for teacher in (ONE, OTHER))
        assert (evaluation_conditions(one) != evaluation_conditions(other)) == labelled
    for method, matched in (("wmdd", True), ("random", False)):
        one, other = (record(50.0, method=method, teacher=teacher) for teacher in (ONE, OTHER))
        assert (distillation_config(one) != distillation_config(other)) == matched


def test_a_student_is_its_set_and_the_sum_of_both_seeds(record: Callable[..., Record]) -> None:
    one = record(50.0, seed=1)
    assert student_key(one) == student_key(record(51.0).model_copy(update={"seed": 1}))
    assert student_key(one) != student_key(record(50.0, seed=1, repeat=1))
    assert student_key(one) != student_key(record(50.0))


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


def folder(record: Callable[..., Record], name: str, fingerprint: str) -> Record:
    made = record(50.0, dataset=f"imagefolder:{name}", data={"fingerprint": fingerprint})
    assert made.dataset == f"imagefolder:{name}@{fingerprint[:8]}"
    return made


def test_copies_under_two_names_are_one_dataset(record: Callable[..., Record]) -> None:
    one, copy = (folder(record, name, "0123abcd" * 4) for name in ("pets", "animals"))
    assert evaluation_conditions(one) == evaluation_conditions(copy)
    ((setting, distinction, group),) = group_by_setting([one, copy])
    assert (setting.dataset, distinction, group) == ("imagefolder:animals@0123abcd", "", [one, copy])
    registered = record(50.0, dataset="pictures", data={"fingerprint": "0123abcd" * 4})
    assert set(dataset_names([one, copy, registered]).values()) == {"pictures"}
    for reference in ("imagefolder:/me/pets", "imagefolder:animals", one.dataset, copy.dataset):
        assert recorded_datasets([reference], [one, copy]) == (copy.dataset,)


def test_folders_of_one_name_are_two_datasets(record: Callable[..., Record]) -> None:
    one, other = (folder(record, "pets", digit * 32) for digit in "12")
    assert evaluation_conditions(one) != evaluation_conditions(other)
    assert [group for *_, group in group_by_setting([one, other])] == [[one], [other]]
    assert recorded_datasets(["imagefolder:pets"], [one, other]) == (one.dataset, other.dataset)
    assert recorded_datasets([other.dataset, "digits"], [one, other]) == (other.dataset, "digits")
