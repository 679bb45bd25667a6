"""Views that are packed and unpacked are the same views."""

import pytest
import torch

from ddbench.augment.views import epoch_views
from ddbench.evaluators.packed_views import num_bytes, pack_views, unpack_views


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("factor", [1, 3])
def test_views_survive_packing(alpha: float | None, factor: int) -> None:
    settings = {"seed": 3, "epoch": 2, "batch_size": 3, "image_size": 8, "factor": factor}
    epoch = epoch_views(7, torch.tensor([12, 9]), cutmix_alpha=alpha, **settings)
    packed = pack_views(epoch)
    actual = unpack_views(packed, epoch.batches, 8)
    for name in ("order", "boxes", "flips", *(("places",) if factor > 1 else ())):
        left, right = getattr(actual, name), getattr(epoch, name)
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    assert len(actual.mixes) == len(epoch.mixes) == (0 if alpha is None else len(epoch.batches))
    for left, right in zip(actual.mixes, epoch.mixes, strict=True):
        assert torch.equal(left.partner, right.partner)
        assert (tuple(left.box), left.share) == (tuple(right.box), pytest.approx(right.share))
    plain = 7 * 4 + 7 * 4 * 2 + 7 + (7 * 2 * factor * 2 if factor > 1 else 0)
    assert (actual.places is None) == (factor == 1)
    assert num_bytes(packed) == plain + (0 if alpha is None else 7 * 4 + len(epoch.batches) * 8)
