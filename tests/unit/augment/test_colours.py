"""Colour jitter and lighting noise against plain loops."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ddbench.augment.colours import EIGENVALUES, EIGENVECTORS, Colours, random_colours, shift_colours
from ddbench.augment.views import epoch_views


@given(st.integers(0, 1000))
def test_a_batch_is_shifted_image_by_image(seed: int) -> None:
    """In float64, operation by operation in the order of the image, as in the released code."""
    draws = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, 5, 6, generator=draws)
    colours = random_colours(4, 0.4, 0.1, draws)
    for number, shifted in enumerate(shift_colours(images, colours)):
        image = images[number].double()
        for operation in colours.orders[number].tolist():
            grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
            targets = (torch.zeros_like(image), grey.mean().expand_as(image), grey.expand_as(image))
            share = float(colours.shares[number, operation])
            image = (1 - share) * image + share * targets[operation]
        image = image + colours.shifts[number].double()[:, None, None]
        torch.testing.assert_close(shifted.double(), image, rtol=1e-5, atol=1e-6)


def test_the_draws_have_their_distributions() -> None:
    colours = random_colours(30_000, 0.4, 0.1, torch.Generator().manual_seed(0))
    orders, counts = colours.orders.unique(dim=0, return_counts=True)
    assert len(orders) == 6  # every order, equally often
    assert (counts / 30_000 - 1 / 6).abs().max() < 0.01
    assert colours.shares.abs().max() <= 0.4
    torch.testing.assert_close(colours.shares.std(0), torch.full((3,), 0.8 / 12**0.5), rtol=0.02, atol=0)
    scaled = torch.tensor(EIGENVECTORS) * 0.1 * torch.tensor(EIGENVALUES)
    torch.testing.assert_close(colours.shifts.T.cov(), scaled @ scaled.T, rtol=0.05, atol=1e-6)


def test_views_of_an_epoch_differ_only_in_their_colours() -> None:
    sizes = torch.tensor([8, 8])
    plain = epoch_views(6, sizes, 1, 2, 3, cutmix_alpha=1.0, image_size=8)
    noisy = epoch_views(6, sizes, 1, 2, 3, cutmix_alpha=1.0, image_size=8, colour_noise=(0.4, 0.1))
    for name in ("order", "boxes", "flips"):
        assert torch.equal(getattr(plain, name), getattr(noisy, name))
    assert [mix.box for mix in plain.mixes] == [mix.box for mix in noisy.mixes]
    assert plain.colours is None
    assert noisy.unaugmented(8).colours is None
    assert isinstance(noisy.colours, Colours)
    other = epoch_views(6, sizes, 1, 3, 3, colour_noise=(0.4, 0.1)).colours
    assert other is not None
    assert not torch.equal(noisy.colours.shares, other.shares)
