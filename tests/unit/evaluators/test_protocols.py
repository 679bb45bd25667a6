"""The protocols: equal steps, seeds, defaults, and settings that are refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ddbench.api.evaluator import Metrics
from ddbench.data.dataset import Dataset
from ddbench.distillation.distilled_set import DistilledSet, class_weights
from ddbench.evaluators import ddbench_evaluators
from ddbench.evaluators.protocols import DistilledSetProtocol, FullData, HardLabels, KnowledgeDistillation, SoftLabels

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

CPU = torch.device("cpu")


SMALL = {"epochs": 4, "batch_size": 8}


def fkd(**settings: Any) -> KnowledgeDistillation:
    return KnowledgeDistillation.model_validate({**SMALL, **settings})


def test_all_regimes_take_the_same_steps_on_the_same_views(make_task: Callable[..., WatchedTask]) -> None:
    results: dict[str, Metrics] = {}
    shown: dict[str, list[Tensor]] = {}
    protocols: list[type[DistilledSetProtocol]] = [KnowledgeDistillation, SoftLabels, HardLabels]
    for protocol in protocols:
        task = make_task()
        results[protocol.name] = protocol.model_validate(SMALL).evaluate(task)
        shown[protocol.name] = task.shown
    assert [result.regime for result in results.values()] == ["fkd", "soft", "hard"]
    assert {result.student_steps for result in results.values()} == {4 * 3}
    for name in ("soft", "hard"):
        assert all(torch.equal(a, b) for a, b in zip(shown["fkd"], shown[name], strict=True))


def test_the_batch_is_at_most_the_set(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    result = HardLabels(epochs=2, batch_size=100).evaluate(task)
    assert result.student_steps == 2
    assert [len(images) for images in task.shown] == [20, 20]


def test_seeds_repeat_and_differ(make_task: Callable[..., WatchedTask]) -> None:
    runs = [make_task(0), make_task(0), make_task(1)]
    results = [fkd().evaluate(task) for task in runs]
    assert results[0] == results[1]
    assert not torch.equal(runs[0].shown[0], runs[2].shown[0])


def test_best_is_tracked_only_when_asked_and_never_changes_the_result(
    make_task: Callable[..., WatchedTask],
) -> None:
    plain = fkd(epochs=6).evaluate(make_task())
    tracked = fkd(epochs=6, validate_every=2).evaluate(make_task())
    assert plain.top1_best is None
    assert tracked.top1_best is not None
    assert tracked.top1_best >= tracked.top1_last
    assert tracked.model_copy(update={"top1_best": None}) == plain


@pytest.mark.slow
def test_bf16_trains(make_task: Callable[..., WatchedTask]) -> None:
    online = fkd().evaluate(make_task(precision="bf16"))
    assert online == fkd(labels="stored").evaluate(make_task(precision="bf16"))


def test_full_data_is_the_teacher_recipe_on_every_real_image(
    make_task: Callable[..., WatchedTask], digits: Dataset
) -> None:
    task = make_task()
    result = FullData(cutmix_alpha=None).evaluate(task)
    assert result.student_steps == len(task.shown) == -(-len(digits.train) // 100)
    assert sum(len(images) for images in task.shown) == len(digits.train)
    assert not task.labelled
    assert result.label_bytes == len(digits.train) * 8


@pytest.mark.slow
def test_a_student_learns_digits_from_a_hundred_of_them(make_task: Callable[..., WatchedTask], digits: Dataset) -> None:
    indices = torch.cat([digits.train.of_class(k)[:10] for k in range(10)])
    labels = digits.train.labels[indices]
    distilled = DistilledSet(digits, labels, class_weights(labels, None), ("unit",), indices=indices)
    task = dataclasses.replace(make_task(), distilled=distilled)
    result = HardLabels(epochs=40, batch_size=20, cutmix_alpha=None, min_crop=0.6).evaluate(task)
    assert result.top1_last > 60
    assert sum(result.per_class) / 10 == pytest.approx(result.top1_last, abs=3)


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        {"epochs": 0},
        {"temperature": 0},
        {"min_crop": 0},
        {"labels": "both"},
        {"epoch": 3},
        {"cutmix_alpha": 0},
        {"select_share": 0},
        {"select_share": 1},
    ):
        with pytest.raises(ValidationError):
            KnowledgeDistillation.model_validate(wrong)


def test_defaults_are_the_published_protocol() -> None:
    """300 epochs, batch 100, AdamW 1e-3 and 0.01, temperature 20, crops from 0.08, CutMix alpha 1."""
    published = {
        "epochs": 300, "batch_size": 100, "learning_rate": 1e-3, "weight_decay": 0.01, "min_crop": 0.08,
        "cutmix_alpha": 1.0, "validate_every": 0, "temperature": 20.0, "labels": "online",
    }  # fmt: skip
    assert KnowledgeDistillation().model_dump() == published
    names = {
        "fkd",
        "soft",
        "hard",
        "dsa",
        "rded",
        "cv-dd",
        "edc",
        "gvbsm",
        "own",
        "mtt",
        "datm-dsa",
        "minimax-hard",
        "replay",
        "full-data",
    }
    assert {protocol.name for protocol in ddbench_evaluators()} == names
    assert [p.name for p in ddbench_evaluators() if p.needs_teacher] == ["fkd", "soft", "rded", "cv-dd", "edc", "gvbsm"]


def test_the_hook_imports_no_torch() -> None:
    code = "import sys, ddbench.evaluators as e; e.ddbench_evaluators(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
