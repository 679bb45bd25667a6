"""IDM: a pool of networks that are trained on real images between the steps, and the loss that they give."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ddbench.losses import mean_match
from ddbench.nn import autocast, batch_norms
from ddbench.training import to_device
from ddbench_dm.matching import Networks, embedding, fresh_network

if TYPE_CHECKING:
    from ddbench.api import DistillTask
    from ddbench_dm import IDM
    from ddbench_dm.matching import Embed

INITIAL = 3
"""Networks before the first step, which adds one (`uitrbn/IDM:IDM_cifar10.py`)."""


def embedding_and_logits(network: nn.Module) -> Embed:
    """Returns a function that computes the input of a network's final classifier and its logits, as one vector.

    Args:
        network: The network, changed in place; see `embedding`.

    Returns:
        A function that returns vectors [B, d + K] in float32 or float64.
    """
    logits: list[Tensor] = []
    network.register_forward_hook(lambda _, __, output: logits.append(output))
    embed = embedding(network)

    def embed_with_logits(images: Tensor) -> Tensor:
        features = embed(images)
        return torch.cat([features, logits.pop().to(features.dtype)], 1)

    return embed_with_logits


def idm_distance(synthetic: Tensor, real: Tensor, label: int, classes: int, weight: Tensor | float) -> Tensor:
    """Computes the loss of IDM for one class: the distance of the mean embeddings, and the cross-entropy.

    Args:
        synthetic: Embeddings and logits of the synthetic images [m, d + K].
        real: Those of the real images [n, d + K].
        label: The class.
        classes: The number of classes K.
        weight: The weight of the cross-entropy of the synthetic images.

    Returns:
        The loss, a scalar.

    Example:
        >>> synthetic, real = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0]])
        >>> round(float(idm_distance(synthetic, real, 0, classes=2, weight=10)), 3)  # 2^2 + 10 log 2
        10.931
    """
    logits = synthetic[:, -classes:]
    targets = torch.full((len(logits),), label, device=logits.device)
    return mean_match(synthetic[:, :-classes], real[:, :-classes]) + weight * nn.functional.cross_entropy(
        logits, targets
    )


class NetworkPool(Networks):
    """Networks of different ages, which are trained on real images between the steps.

    The pool has three new networks at first. From the first step on, every `pool_interval` steps add one; of more than
    `pool_size` the oldest is removed. A step embeds with a random network, then trains `trained_networks` random ones.
    All draws are seeded by the seed of the set and the step, the initial weights by the number of the network. As in
    `embedding`, layers other than BatchNorm are in evaluation mode.

    Args:
        method: The hyper-parameters.
        task: The task.
    """

    method: IDM

    def __init__(self, method: IDM, task: DistillTask) -> None:
        super().__init__(method, task)
        self._network = fresh_network(method, task, 0).eval()
        for layer in batch_norms(self._network).values():
            layer.train()
        rows = min(method.pool_size, len(self._numbers(method.steps - 1)))
        weights = torch.zeros(rows, parameters_to_vector(self._network.parameters()).numel(), device=task.device)
        self._accuracy = torch.zeros((), device=task.device)
        self.state = {
            "pool": weights,
            "pool_velocity": torch.zeros_like(weights),
            "pool_accuracy": torch.zeros(rows, device=task.device),
        }

    def _numbers(self, step: int) -> range:
        """Returns the numbers of the networks of a step."""
        made = INITIAL + step // self.method.pool_interval + 1
        return range(max(0, made - self.method.pool_size), made)

    def of_step(self, step: int) -> nn.Module:
        """Adds the new networks of a step, and returns a copy of the one that embeds."""
        numbers = self._numbers(step)
        new = numbers if step == 0 else numbers[-1:] if step % self.method.pool_interval == 0 else range(0)
        for number in new:
            row = number % len(self.state["pool"])
            with torch.no_grad():
                fresh = fresh_network(self.method, self.task, number)
                self.state["pool"][row] = parameters_to_vector(fresh.parameters())
            self.state["pool_velocity"][row] = 0
            self.state["pool_accuracy"][row] = 0
        drawn = int(torch.randint(len(numbers), (1,), generator=self.task.generator("pool", "match", step)))
        row = numbers[drawn] % len(self.state["pool"])
        self._accuracy = self.state["pool_accuracy"][row].clone()
        network = copy.deepcopy(self._network)
        vector_to_parameters(self.state["pool"][row].clone(), network.parameters())
        return network

    def distance(self, synthetic: Tensor, real: Tensor, label: int) -> Tensor:
        """Computes the loss of a class under the network that `of_step` returned last."""
        weight = self.method.class_weight * self._accuracy
        return idm_distance(synthetic, real, label, self.task.info.num_classes, weight)

    def train(self, step: int) -> None:
        """Trains random networks on random real images of all classes."""
        numbers = self._numbers(step)
        order = torch.randperm(len(numbers), generator=self.task.generator("pool", "train", step))
        for place in order[: self.method.trained_networks].tolist():
            self._train_one(numbers[place], step)

    def _train_one(self, number: int, step: int) -> None:
        """Takes some steps of SGD, in place of the network's row of the pool."""
        method, task, data = self.method, self.task, self.task.dataset
        row = number % len(self.state["pool"])
        weights, velocity = self.state["pool"][row], self.state["pool_velocity"][row]
        parameters = list(self._network.parameters())
        vector_to_parameters(weights, parameters)
        correct, seen = torch.zeros((), device=task.device), 0
        for batch in range(method.network_steps):
            draws = task.generator("pool", "batch", step, number, batch)
            rows = torch.randperm(len(data.train), generator=draws)[: method.network_batch]
            images = data.normalise(to_device(data.train.centre(rows, task.info.image_size), task.device))
            labels = to_device(data.train.labels[rows], task.device)
            with autocast(task.device, task.precision):
                logits = self._network(images).float()
            gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), parameters)
            with torch.no_grad():
                gradient = torch.cat([part.flatten() for part in gradients]) + method.network_weight_decay * weights
                velocity.mul_(method.network_momentum).add_(gradient)
                weights.sub_(method.network_learning_rate * velocity)
                correct += (logits.argmax(1) == labels).sum()
            seen += len(rows)
        self.state["pool_accuracy"][row] = 100 * correct / seen
