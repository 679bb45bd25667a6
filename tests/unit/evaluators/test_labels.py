"""Soft labels and class labels: mixed targets by hand, several teachers, bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ddbench.evaluators.labels import ClassLabels, FixedSoftLabels
from ddbench.evaluators.protocols import HardLabels, SoftLabels
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

SMALL = {"epochs": 4, "batch_size": 8}


def test_mixed_targets_by_hand(make_task: Callable[..., WatchedTask]) -> None:
    task = make_task()
    hard = ClassLabels(task, HardLabels.model_validate(SMALL))
    soft = FixedSoftLabels(task, SoftLabels.model_validate(SMALL), temperature=20)
    plain = task.dataset.normalise(task.images)
    with torch.no_grad():
        fixed = torch.softmax(task.teacher(plain).logits.half().float() / 20, 1)
    torch.testing.assert_close(soft.targets, fixed, atol=1e-4, rtol=0)
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    batch = next(iter(hard.batches(hard.views(0))))
    own, other = task.labels[batch.rows], task.labels[batch.pasted]
    expected = batch.share * functional.cross_entropy(logits, own, reduction="none") + (
        1 - batch.share
    ) * functional.cross_entropy(logits, other, reduction="none")
    torch.testing.assert_close(hard.losses(0, batch)(logits), expected)
    target = batch.share * soft.targets[batch.rows] + (1 - batch.share) * soft.targets[batch.pasted]
    expected = (target * (target.log() - torch.log_softmax(logits / 20, 1))).sum(1)
    torch.testing.assert_close(soft.losses(0, batch)(logits), expected, atol=1e-6, rtol=1e-4)


def test_the_soft_labels_of_several_teachers_are_those_of_their_mean_logits(
    make_task: Callable[..., WatchedTask],
) -> None:
    networks = {f"convnet-bn-d{depth}": TappedNetwork(build_network(f"convnet-bn-d{depth}", 10, 8)) for depth in (1, 2)}
    task = make_task(teachers=lambda *names: [networks[name] for name in names])
    soft = SoftLabels.model_validate({**SMALL, "teachers": list(networks)})
    plain = task.dataset.normalise(task.images)
    with torch.no_grad():
        logits = torch.stack([network(plain).logits for network in networks.values()]).mean(0).half()
    torch.testing.assert_close(FixedSoftLabels(task, soft, 20).targets, torch.softmax(logits.float() / 20, 1))


def test_sizes_are_recorded(make_task: Callable[..., WatchedTask]) -> None:
    assert SoftLabels.model_validate(SMALL).evaluate(make_task()).label_bytes == 20 * 10 * 2
    hard = HardLabels.model_validate(SMALL).evaluate(make_task())
    assert hard.label_bytes == 20 * 8
    assert hard.image_bytes == 20 * 3 * 8 * 8
