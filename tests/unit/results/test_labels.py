"""Labels of equal methods get the facts that distinguish them."""

from __future__ import annotations

from collections.abc import Callable

from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation
from ddbench.results.labels import changed_settings, disambiguate_labels, recipe_label
from ddbench.results.records import Record

PROTOCOLS = {"fkd": KnowledgeDistillation().model_dump(), "hard": HardLabels().model_dump()}


def test_three_facts_are_too_many_for_a_label(record: Callable[..., Record]) -> None:
    facts = [{"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 2}]
    actual = [record(1.0, name="x-1"), record(2.0, name="x-2")]
    assert disambiguate_labels(["m", "m"], facts, actual) == ["m [1]", "m [2]"]
    assert disambiguate_labels(["m", "m"], [{**one, "c": 0} for one in facts], actual) == ["m, a 1, b 1", "m, a 2, b 2"]
    assert disambiguate_labels(["m", "n"], facts, actual) == ["m", "n"]


def test_a_protocols_setting_that_one_record_lacks_has_its_default(record: Callable[..., Record]) -> None:
    facts = [{"evaluator.epochs": 3}, {"evaluator.epochs": 3, "evaluator.augmentation": "none"}]
    actual = [record(1.0, name="x-1"), record(2.0, name="x-2")]
    assert disambiguate_labels(["m", "m"], facts, actual) == ["m, augmentation default", "m, augmentation none"]


def test_a_recipe_says_how_many_settings_were_changed(record: Callable[..., Record]) -> None:
    plain = record(1.0, recipes=("quick", "tuned"))
    assert recipe_label(plain) == "quick+tuned"
    files = ["teacher.checkpoint", "teacher.classes"]
    changed = ["runtime.device", *files, "method.bn_weight", "method.bn_weight", "data.image_size"]
    actual = record(
        1.0,
        bn_weight=3.0,
        configuration={**plain.configuration, "changed": changed, "method_settings": {"bn_weight": 3.0}},
    )
    assert recipe_label(actual) == "quick + 2 changed"
    assert changed_settings(actual) == {"method.bn_weight": 3.0, "data.image_size": 64}
    assert recipe_label(actual, "method.bn_weight") == "quick + 1 changed"
