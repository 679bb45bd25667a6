"""Scores of images by hand, against autograd and by brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional

from ddbench.methods import scores
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork


def test_el2n_by_hand() -> None:
    logits = torch.tensor([[math.log(2), math.log(3), math.log(5)]], dtype=torch.float64)  # 0.2, 0.3, 0.5
    for label, squares in enumerate((0.64 + 0.09 + 0.25, 0.04 + 0.49 + 0.25, 0.04 + 0.09 + 0.25)):
        actual = scores.error_norms(logits, torch.tensor([label]))
        torch.testing.assert_close(actual, torch.tensor([math.sqrt(squares)], dtype=torch.float64), rtol=1e-12, atol=0)


def test_gradient_norms_are_those_of_autograd_one_image_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("convnet-bn-d2", num_classes=4, image_size=8, seed=1).double()
    generator = Generator().manual_seed(0)
    images, labels = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=generator), torch.tensor([0, 3, 1, 1, 2])
    network(images)  # running statistics of its own
    network.eval()
    full, last = [], []
    for image, label in zip(images, labels, strict=True):
        network.zero_grad()
        functional.cross_entropy(network(image[None]), label[None]).backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        classifier = [gradients[name] for name in ("classifier.weight", "classifier.bias")]
        full.append(torch.cat([gradient.flatten() for gradient in gradients.values() if gradient is not None]).norm())
        last.append(torch.cat([gradient.flatten() for gradient in classifier if gradient is not None]).norm())

    torch.testing.assert_close(scores.gradient_norms(network, images, labels), torch.stack(full), rtol=1e-9, atol=0)
    monkeypatch.setattr(scores, "PARAMETERS_PER_PASS", 2 * sum(p.numel() for p in network.parameters()))
    torch.testing.assert_close(scores.gradient_norms(network, images, labels), torch.stack(full), rtol=1e-9, atol=0)
    output = TappedNetwork(network)(images, bn=False)
    actual = scores.last_layer_gradient_norms(output.logits, output.features, labels)
    torch.testing.assert_close(actual, torch.stack(last), rtol=1e-9, atol=0)


@settings(max_examples=25)
@given(epochs=st.integers(1, 7), seed=st.integers(0, 10**6))
def test_a_history_is_what_a_loop_over_images_and_epochs_counts(epochs: int, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    labels = torch.randint(3, (6,), generator=generator)
    logits = torch.randn(epochs, 6, 3, dtype=torch.float64, generator=generator)
    logits[:, 0] = -functional.one_hot(labels[0], 3).double()  # never learned
    history = scores.History(6)
    for of_epoch in logits:
        order = torch.randperm(6, generator=generator)
        for rows in (order[:4], order[:2], order[4:]):  # some are recorded again, as after a failed step
            history.record(rows, of_epoch[rows], labels[rows])
        history.finish_epoch()
    actual = history.scores(epochs)
    for image, label in enumerate(labels.tolist()):
        correct = [int(of_epoch[image].argmax()) == label for of_epoch in logits]
        events = sum(before and not now for before, now in itertools.pairwise(correct))
        assert float(actual["forgetting"][image]) == (events if any(correct) else epochs)
        for name, outputs in (("aum", logits[:, image]), ("probability_margin", logits[:, image].softmax(1))):
            rows = outputs.tolist()
            margins = [row[label] - max(value for other, value in enumerate(row) if other != label) for row in rows]
            assert float(actual[name][image]) == pytest.approx(sum(margins) / epochs, rel=1e-12, abs=1e-12)


def test_forgetting_events_of_a_history_made_by_hand() -> None:
    correct = torch.tensor([[1, 0, 1, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.float64)
    history = scores.History(4)
    for epoch in range(5):
        right = correct[:, epoch]
        history.record(torch.arange(4), torch.stack([right, 1 - right], 1), torch.zeros(4, dtype=torch.int64))
        history.finish_epoch()
    assert history.scores(5)["forgetting"].tolist() == [2, 0, 5, 1]


def test_orders_of_hardness_and_random_ties() -> None:
    hardness = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.4], dtype=torch.float64)
    ends = {take: scores.order(hardness, take, Generator()).tolist() for take in ("hardest", "easiest", "middle")}
    assert ends["hardest"] == [0, 2, 4, 3, 1]
    assert ends["easiest"] == ends["hardest"][::-1]
    assert ends["middle"] == [4, 2, 3, 0, 1]
    ties = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    firsts = {int(scores.order(ties, "hardest", Generator().manual_seed(seed))[0]) for seed in range(50)}
    assert firsts == {1, 2, 3, 4}


def budgets_one_stratum_after_the_other(counts: list[int], count: int) -> list[int]:
    """Algorithm 1 of CCS, as it is printed."""
    left, budgets = list(range(len(counts))), [0] * len(counts)
    while left:
        smallest = min(left, key=lambda stratum: counts[stratum])
        budgets[smallest] = min(counts[smallest], count // len(left))
        count -= budgets[smallest]
        left.remove(smallest)
    return budgets


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=12), data=st.data())
def test_strata_share_the_budget_as_algorithm_1_says(counts: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(counts)))
    actual = scores.strata_budgets(torch.tensor(counts), count).tolist()
    assert actual == budgets_one_stratum_after_the_other(counts, count)
    assert sum(actual) == count


def strata_of(values: Tensor, strata: int) -> list[int]:
    """The stratum of every value, by its bounds."""
    low, high = float(values.min()), float(values.max())
    bounds = [low + (high - low) * number / strata for number in range(1, strata)]
    return [sum(float(value) >= bound for bound in bounds) for value in values]


@given(seed=st.integers(0, 10**6), data=st.data())
def test_draws_fill_each_stratum_with_different_images(seed: int, data: st.DataObject) -> None:
    values = torch.randn(30, dtype=torch.float64, generator=Generator().manual_seed(seed)).exp()
    count, strata = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    rows = scores.draw_from_strata(values, count, strata, Generator().manual_seed(seed)).tolist()
    assert len(set(rows)) == count
    of_image = strata_of(values, strata)
    counts = [of_image.count(stratum) for stratum in range(strata)]
    drawn = [[of_image[row] for row in rows].count(stratum) for stratum in range(strata)]
    expected = budgets_one_stratum_after_the_other(counts, count)
    pairs = [sorted(zip(counts, budgets, strict=True)) for budgets in (drawn, expected)]
    assert pairs[0] == pairs[1]  # of strata of equal size, any may come first


def test_equal_scores_are_one_stratum() -> None:
    rows = scores.draw_from_strata(torch.ones(5, dtype=torch.float64), 3, 50, Generator().manual_seed(0))
    assert len(set(rows.tolist())) == 3
