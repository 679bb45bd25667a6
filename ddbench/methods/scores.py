"""Scores of training images from the training of networks, and the selection of images by them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

PARAMETERS_PER_PASS = 2**27
"""Entries of the gradients of the images of one pass of `gradient_norms`."""


def error_norms(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes EL2N, the norm of the error vector: ||softmax(logits) - one-hot label|| (Paul et al. 2021).

    Args:
        logits: Logits [B, K].
        labels: Classes, int64 [B].

    Returns:
        The scores, float64 [B], from 0 to sqrt(2).

    Example:
        >>> error_norms(torch.tensor([[0.0, 0.0], [9.0, -9.0]]), torch.tensor([0, 1])).round(decimals=3)
        tensor([0.7070, 1.4140], dtype=torch.float64)
    """
    errors: Tensor = logits.double().softmax(1) - functional.one_hot(labels, logits.shape[1])
    return errors.square().sum(1).sqrt()


def last_layer_gradient_norms(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Computes the norm of the gradient of each image's cross-entropy in the weights and biases of the last layer.

    The gradient is the outer product of the error vector and (features, 1).

    Args:
        logits: Logits [B, K].
        features: Inputs of the last layer [B, d].
        labels: Classes, int64 [B].

    Returns:
        The norms, float64 [B].

    Example:
        >>> last_layer_gradient_norms(torch.zeros(1, 2), torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([0]))
        tensor([1.4142], dtype=torch.float64)
    """
    return error_norms(logits, labels) * (features.double().square().sum(1) + 1).sqrt()


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Computes GraNd, the norm of the gradient of each image's cross-entropy in all parameters (Paul et al. 2021).

    Args:
        network: The network, in evaluation mode.
        images: Normalised images [B, 3, S, S].
        labels: Classes, int64 [B].

    Returns:
        The norms, float64 [B].

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).requires_grad_(False)
        >>> _ = [parameter.zero_() for parameter in network.parameters()]
        >>> gradient_norms(network, torch.ones(1, 3, 1, 1), torch.tensor([0]))
        tensor([1.4142], dtype=torch.float64)
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, (parameters, buffers), (image[None],))
        return functional.cross_entropy(logits, label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    size = max(1, PARAMETERS_PER_PASS // sum(parameter.numel() for parameter in parameters.values()))
    norms = []
    for part, part_labels in zip(torch.split(images, size), torch.split(labels, size), strict=True):
        of_layers = gradients(parameters, part, part_labels).values()
        norms.append(torch.stack([layer.flatten(1).double().square().sum(1) for layer in of_layers]).sum(0).sqrt())
    return torch.cat(norms)


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """Computes margins: the output of the class minus the largest output of another class.

    Args:
        outputs: Logits or probabilities [B, K].
        labels: Classes, int64 [B].

    Returns:
        The margins, float64 [B]; negative for an image that is misclassified.

    Example:
        >>> margins(torch.tensor([[3.0, 1.0, 0.5], [3.0, 1.0, 0.5]]), torch.tensor([0, 2]))
        tensor([ 2.0000, -2.5000], dtype=torch.float64)
    """
    outputs = outputs.double()
    columns = labels[:, None]
    others = outputs.scatter(1, columns, -torch.inf)
    return outputs.gather(1, columns).squeeze(1) - others.amax(1)


class History:
    """Counts forgetting events and adds up margins over the epochs of a training.

    Each image is recorded once in an epoch. Recording it again in the same epoch replaces the first values.

    Args:
        n: Number of images.
        device: The device of the records.

    Attributes:
        tensors: The state. A checkpoint stores it.

    Example:
        An image that is correct, wrong and correct again in three epochs, and one that is never correct:

        >>> history, both = History(2), torch.tensor([0, 1])
        >>> for logit in (1.0, -2.0, 4.0):
        ...     history.record(both, torch.tensor([[logit, 0.0], [-1.0, 0.0]]), torch.tensor([0, 0]))
        ...     history.finish_epoch()
        >>> scores = history.scores(epochs=3)
        >>> scores["forgetting"], scores["aum"]
        (tensor([1., 3.], dtype=torch.float64), tensor([ 1., -1.], dtype=torch.float64))
    """

    def __init__(self, n: int, device: torch.device | None = None) -> None:
        self.tensors = {
            "correct": torch.zeros(n, dtype=torch.bool, device=device),
            "was_correct": torch.zeros(n, dtype=torch.bool, device=device),
            "learned": torch.zeros(n, dtype=torch.bool, device=device),
            "events": torch.zeros(n, dtype=torch.int64, device=device),
            "margins": torch.zeros(2, n, dtype=torch.float64, device=device),
            "margin_sums": torch.zeros(2, n, dtype=torch.float64, device=device),
        }

    def record(self, rows: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Records the logits of images in the current epoch.

        Args:
            rows: The numbers of the images, int64 [B].
            logits: Their logits [B, K].
            labels: Their classes, int64 [B].
        """
        logits = logits.detach().double()
        self.tensors["correct"][rows] = logits.argmax(1) == labels
        self.tensors["margins"][:, rows] = torch.stack([margins(logits, labels), margins(logits.softmax(1), labels)])

    def finish_epoch(self) -> None:
        """Adds the records of the current epoch to those of the earlier ones."""
        now, before = self.tensors["correct"], self.tensors["was_correct"]
        self.tensors["events"] += before & ~now
        self.tensors["learned"] |= now
        before.copy_(now)
        self.tensors["margin_sums"] += self.tensors["margins"]

    def scores(self, epochs: int) -> dict[str, Tensor]:
        """Returns the scores after the last epoch.

        Args:
            epochs: Number of epochs that were recorded.

        Returns:
            `forgetting`: the number of times that an image was correct in one epoch and wrong in the next; `epochs` for
            an image that was never correct (Toneva et al. 2019). `aum`: the mean margin of the logits (Pleiss et al.
            2020). `probability_margin`: the mean margin of the probabilities (CCS). Float64 [n].
        """
        logits, probabilities = self.tensors["margin_sums"] / epochs
        events = self.tensors["events"].where(self.tensors["learned"], epochs)
        return {"forgetting": events.double(), "aum": logits, "probability_margin": probabilities}


def order(hardness: Tensor, take: str, generator: torch.Generator) -> Tensor:
    """Orders the images of a class by their hardness. Of equal images, the order is random.

    Args:
        hardness: Float64 [n].
        take: Which images come first: the `hardest`, the `easiest`, or those of `middle` hardness, nearest to the
            median.
        generator: A random generator.

    Returns:
        The rows of `hardness`, int64 [n].

    Example:
        >>> hardness = torch.tensor([0.1, 0.9, 0.4], dtype=torch.float64)
        >>> [order(hardness, take, torch.Generator()).tolist() for take in ("hardest", "easiest", "middle")]
        [[1, 2, 0], [0, 2, 1], [2, 0, 1]]
    """
    costs = {
        "hardest": -hardness,
        "easiest": hardness,
        "middle": (hardness - hardness.quantile(0.5)).abs(),
    }[take]
    shuffled = torch.randperm(len(hardness), generator=generator)
    return shuffled[costs[shuffled].argsort(stable=True)]


def strata_budgets(counts: Tensor, count: int) -> Tensor:
    """Divides a budget between strata, the smallest first (CCS: Zheng et al. 2023, Algorithm 1).

    Each stratum gets an equal share of what is left, rounded down, or all of its images if it has fewer.

    Args:
        counts: Number of images of each stratum, int64 [k].
        count: Number of images to draw, at most the sum of `counts`.

    Returns:
        Number of images to draw from each stratum, int64 [k]; their sum is `count`.

    Example:
        >>> strata_budgets(torch.tensor([1, 10, 0, 5]), 8)
        tensor([1, 4, 0, 3])
    """
    budgets = torch.zeros_like(counts)
    for done, stratum in enumerate(counts.argsort(stable=True).tolist()):
        budgets[stratum] = min(int(counts[stratum]), count // (len(counts) - done))
        count -= int(budgets[stratum])
    return budgets


def draw_from_strata(scores: Tensor, count: int, strata: int, generator: torch.Generator) -> Tensor:
    """Draws images at random from strata of equal width between the lowest and the highest score (CCS).

    Of strata with equally many images, the order in `strata_budgets` is random.

    Args:
        scores: Float64 [n].
        count: Number of images to draw, at most n.
        strata: Number of strata.
        generator: A random generator.

    Returns:
        Distinct rows of `scores`, int64 [count], by stratum.

    Example:
        >>> scores = torch.tensor([0.0, 0.0, 0.0, 5.0, 9.0], dtype=torch.float64)
        >>> rows = draw_from_strata(scores, count=3, strata=3, generator=torch.Generator())
        >>> rows[0] < 3, rows[1:]
        (tensor(True), tensor([3, 4]))
    """
    low, high = scores.aminmax()
    width = ((high - low) / strata).clamp(min=torch.finfo(scores.dtype).tiny)
    of_image = ((scores - low) / width).long().clamp(max=strata - 1)
    places = torch.randperm(strata, generator=generator)  # of strata of equal size, a random one comes first
    budgets = torch.empty_like(places)
    budgets[places] = strata_budgets(of_image.bincount(minlength=strata)[places], count)
    shuffled = torch.randperm(len(scores), generator=generator)
    parts = [shuffled[of_image[shuffled] == stratum][:budget] for stratum, budget in enumerate(budgets.tolist())]
    return torch.cat(parts)
