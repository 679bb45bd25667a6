"""What the protocols on a distilled set share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ddbench.augment.views import batch_slices, epoch_views
from ddbench.core import seeds
from ddbench.evaluators import ddbench_evaluators
from ddbench.evaluators.base import DistilledSetProtocol
from ddbench.evaluators.protocols import KnowledgeDistillation, SoftLabels

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

AUGMENTED = {
    protocol.name: protocol
    for protocol in ddbench_evaluators()
    if "augmentation" in protocol.model_fields and protocol.name != "replay"
}
SIAMESE = ("dsa", "own", "mtt", "datm-dsa")
SMALL: dict[str, Any] = {"epochs": 3, "batch_size": 8}


@pytest.mark.parametrize(
    ("share", "ipc", "refused"), [(None, 1, False), (0.2, 1, True), (0.2, 2, False), (0.2, None, False)]
)
def test_holding_out_needs_two_images_a_class(share: float | None, ipc: int | None, refused: bool) -> None:
    reason = KnowledgeDistillation(select_share=share).skip(ipc)
    assert (reason is not None) == refused
    assert reason is None or "evaluator.select_share" in reason


def test_every_image_is_passed_once_an_epoch() -> None:
    assert KnowledgeDistillation(epochs=7).image_passes(20) == 140


def test_a_setting_that_came_later_is_not_in_older_keys() -> None:
    assert "select_share" not in KnowledgeDistillation().model_dump()
    assert KnowledgeDistillation(select_share=0.2).model_dump()["select_share"] == 0.2
    assert issubclass(KnowledgeDistillation, DistilledSetProtocol)


def order_of(protocol: str, epoch: int) -> Tensor:
    """The images of an epoch in the order of the augmented student with seed 0."""
    seed = seeds.derive("student", 0)
    if protocol in SIAMESE:
        return torch.randperm(20, generator=seeds.generator("siamese", seed, epoch, "order"))
    return epoch_views(20, torch.tensor([8, 8]), seed, epoch, 8, cutmix_alpha=1.0, image_size=8).order


@pytest.mark.parametrize("name", AUGMENTED)
def test_without_augmentation_every_view_is_the_stored_image(name: str, make_task: Callable[..., WatchedTask]) -> None:
    task, augmented = make_task(), make_task()
    plain = AUGMENTED[name].model_validate({**SMALL, "augmentation": "none"}).evaluate(task)
    usual = AUGMENTED[name].model_validate(SMALL).evaluate(augmented)
    images = task.dataset.normalise(task.images)
    expected = [images[order_of(name, epoch)[part]] for epoch in range(3) for part in batch_slices(20, 8)]
    assert plain.student_steps == usual.student_steps == len(task.shown) == len(expected)
    for shown, stored in zip(task.shown, expected, strict=True):
        assert torch.equal(shown, stored)
    assert not any(torch.equal(a, b) for a, b in zip(task.shown, augmented.shown, strict=True))


def test_every_protocol_on_a_distilled_set_can_turn_its_augmentation_off() -> None:
    assert set(AUGMENTED) == {"fkd", "soft", "hard", "rded", "cv-dd", "edc", "gvbsm", "minimax-hard", *SIAMESE}
    for protocol in AUGMENTED.values():
        assert "augmentation" not in protocol().model_dump()
        assert protocol(augmentation="none").model_dump()["augmentation"] == "none"
        with pytest.raises(ValidationError, match="'default' or 'none'"):
            protocol(augmentation="off")


@pytest.mark.parametrize("name", SIAMESE)
def test_without_augmentation_is_without_a_strategy(name: str, make_task: Callable[..., WatchedTask]) -> None:
    tasks = [make_task(), make_task()]
    for task, settings in zip(tasks, ({"augmentation": "none"}, {"strategy": None}), strict=True):
        AUGMENTED[name].model_validate({**SMALL, **settings}).evaluate(task)
    for one, other in zip(*(task.students[0].parameters() for task in tasks), strict=True):
        assert torch.equal(one, other)


def test_without_augmentation_fkd_and_soft_are_one_student(make_task: Callable[..., WatchedTask]) -> None:
    """The label of every view is that of the stored image; the teacher labels it in other batches."""
    tasks = [make_task(), make_task()]
    for task, protocol in zip(tasks, (KnowledgeDistillation, SoftLabels), strict=True):
        protocol.model_validate({**SMALL, "augmentation": "none"}).evaluate(task)
    for one, other in zip(*(task.students[0].parameters() for task in tasks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
