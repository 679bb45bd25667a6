"""Batches of views against a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ddbench.augment import crops, mixing
from ddbench.data.dataset import Dataset
from ddbench.evaluators.labels import ClassLabels
from ddbench.evaluators.protocols import HardLabels
from ddbench.evaluators.view_batches import view_batches

if TYPE_CHECKING:
    from tests.unit.evaluators.conftest import WatchedTask

CPU = torch.device("cpu")


SMALL = {"epochs": 4, "batch_size": 8}


def test_views_are_those_of_a_loop(make_task: Callable[..., WatchedTask], digits: Dataset) -> None:
    task = make_task()
    epoch = ClassLabels(task, HardLabels.model_validate(SMALL)).views(2)
    for number, batch in enumerate(view_batches(task, epoch)):
        places = range(batch.positions.start, batch.positions.stop)
        alone = []
        for place in places:
            image = task.images[epoch.order[place]][None].float() / 255
            crop = crops.crop_resize(image, epoch.boxes[place], 8)
            alone.append(crop.flip(-1) if epoch.flips[place] else crop)
        mix = epoch.mixes[number]
        expected = digits.normalise(mixing.cutmix(torch.cat(alone), mix.partner, mix.box))
        torch.testing.assert_close(batch.images, expected, atol=1e-5, rtol=0)
        assert torch.equal(batch.rows, epoch.order[batch.positions])
        assert torch.equal(batch.pasted, epoch.order[batch.positions][mix.partner])
