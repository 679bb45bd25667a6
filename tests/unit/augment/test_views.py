"""Epochs of views: pure functions of their seeds."""

import math

import torch

from ddbench.augment import views
from ddbench.core import seeds


def test_batches_keep_the_last_and_never_leave_one_alone() -> None:
    assert views.batch_slices(10, 4) == (slice(0, 4), slice(4, 8), slice(8, 10))
    assert views.batch_slices(8, 4) == (slice(0, 4), slice(4, 8))
    assert views.batch_slices(9, 4) == (slice(0, 4), slice(4, 9))
    assert views.batch_slices(1, 4) == (slice(0, 1),)


def assert_same(left: views.EpochViews, right: views.EpochViews) -> None:
    for name in ("order", "boxes", "flips"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    assert left.batches == right.batches


def test_epoch_views_are_a_pure_function_of_their_arguments() -> None:
    sizes = torch.randint(20, 60, (23, 2), generator=seeds.generator("epoch sizes"))

    def draw(seed: int = 3, epoch: int = 5, alpha: float | None = 1.0, factor: int = 1) -> views.EpochViews:
        return views.epoch_views(23, sizes, seed, epoch, 6, cutmix_alpha=alpha, image_size=16, factor=factor)

    first = draw()
    torch.manual_seed(99)  # the global generator plays no part
    torch.rand(10)
    draw(epoch=4)
    again = draw()
    assert_same(first, again)
    assert [(m.box, m.share) for m in first.mixes] == [(m.box, m.share) for m in again.mixes]
    assert all(torch.equal(a.partner, b.partner) for a, b in zip(first.mixes, again.mixes, strict=True))
    assert_same(first, draw(alpha=None))
    shuffled, other = draw(factor=2), draw(factor=2, epoch=6)
    assert_same(first, shuffled)
    assert [(m.box, m.share) for m in first.mixes] == [(m.box, m.share) for m in shuffled.mixes]
    assert first.places is None
    assert shuffled.places is not None
    assert other.places is not None
    again = draw(factor=2).places
    assert again is not None
    assert torch.equal(shuffled.places, again)
    assert not torch.equal(shuffled.places, other.places)
    assert not torch.equal(first.order, draw(seed=4).order)
    assert not torch.equal(first.order, draw(epoch=6).order)


def test_epoch_views_cover_every_image_once_with_boxes_of_its_own_size() -> None:
    sizes = torch.tensor([[10, 80], [80, 10]] * 8)
    actual = views.epoch_views(16, sizes, 0, 0, 5, scale=(0.5, 1.0), cutmix_alpha=1.0, image_size=16)
    assert sorted(actual.order.tolist()) == list(range(16))
    assert bool((actual.boxes[:, :2] + actual.boxes[:, 2:] <= sizes[actual.order]).all())
    assert len(actual.mixes) == len(actual.batches) == 3
    for batch, mix in zip(actual.batches, actual.mixes, strict=True):
        assert sorted(mix.partner.tolist()) == list(range(batch.stop - batch.start))


def test_flips_are_fair() -> None:
    flips = views.epoch_views(20000, torch.tensor([8, 8]), 0, 0, 100).flips
    assert abs(float(flips.double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(20000)
