"""Batches of views against a loop, whole and shared among processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddbench.augment import crops, mixing, shuffling
from ddbench.augment.views import epoch_views
from ddbench.data.dataset import Dataset
from ddbench.training.view_batches import view_batches

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8)


@pytest.fixture
def read(digits: Dataset) -> Callable[[Tensor], Tensor]:
    return lambda rows: digits.train.read(rows)[0]


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_views_are_those_of_a_loop(
    digits: Dataset, read: Callable[[Tensor], Tensor], alpha: float | None, factor: int
) -> None:
    epoch = epoch_views(20, torch.tensor([8, 8]), 3, 2, 8, cutmix_alpha=alpha, image_size=8, factor=factor)
    for number, batch in enumerate(view_batches(read, digits, epoch, CPU)):
        alone = []
        for place in range(batch.positions.start, batch.positions.stop):
            image = read(epoch.order[place : place + 1]).float() / 255
            if epoch.places is not None:
                image = shuffling.shuffle_patches(image, epoch.places[place : place + 1])
            crop = crops.crop_resize(image, epoch.boxes[place], 8)
            alone.append(crop.flip(-1) if epoch.flips[place] else crop)
        images, rows, pasted, share = torch.cat(alone), epoch.order[batch.positions], batch.rows, 1.0
        if alpha is not None:
            mix = epoch.mixes[number]
            images, pasted, share = mixing.cutmix(images, mix.partner, mix.box), rows[mix.partner], mix.share
        torch.testing.assert_close(batch.images, digits.normalise(images), atol=1e-5, rtol=0)
        assert torch.equal(batch.rows, rows)
        assert torch.equal(batch.pasted, pasted)
        assert batch.share == share


def test_shares_of_processes_are_parts_of_the_batch(digits: Dataset, read: Callable[[Tensor], Tensor]) -> None:
    """Two processes train on the halves of each batch; CutMix pastes from images of both."""
    epoch = epoch_views(12, torch.tensor([8, 8]), 0, 0, 6, cutmix_alpha=1.0, image_size=8, factor=2)

    def half(number: int) -> Callable[[slice], slice]:
        return lambda batch: slice(batch.start + 3 * number, batch.start + 3 * number + 3)

    whole = view_batches(read, digits, epoch, CPU)
    shares = [view_batches(read, digits, epoch, CPU, half(number)) for number in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert first.global_size == second.global_size == batch.global_size == 6
        torch.testing.assert_close(torch.cat([first.images, second.images]), batch.images, atol=1e-6, rtol=0)
        assert torch.equal(torch.cat([first.rows, second.rows]), batch.rows)
        assert torch.equal(torch.cat([first.pasted, second.pasted]), batch.pasted)
        assert first.share == second.share == batch.share
