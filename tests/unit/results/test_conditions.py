"""Which records are comparable."""

from __future__ import annotations

from collections.abc import Callable

from ddbench.results.conditions import distillation_config, evaluation_conditions, student_key
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
