"""The loss of trajectory matching and its exact gradient, with the graph of one training step in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Synthetic = Mapping[str, Tensor]
"""The synthetic data by name: `images`, and `labels` if they are learned."""

TrainingLoss = Callable[[int, Tensor, Synthetic], Tensor]
"""`loss(step, parameters, synthetic)`: the loss of the student in a training step (from 0), for parameters [P]."""


class Matched(NamedTuple):
    """The loss of trajectory matching and its gradient.

    Attributes:
        loss: The loss, a scalar.
        gradients: Its gradients with respect to the synthetic data, by name, and to the student's rate, `rate`.
    """

    loss: Tensor
    gradients: dict[str, Tensor]


def match_trajectory(
    training_loss: TrainingLoss, start: Tensor, target: Tensor, synthetic: Synthetic, rate: Tensor, steps: int
) -> Matched:
    """Computes the loss of trajectory matching and its gradient.

    A student starts from the parameters p_0 of an expert and takes N = `steps` steps of SGD on synthetic data,
    p_{i+1} = p_i - r g_i, where g_i is the gradient of the student's training loss L_i at p_i. The loss is
    |p_N - target|^2 / |p_0 - target|^2 (MTT, Eq. 2).

    The gradient is that of the unrolled training, term for term: later gradients depend on earlier data and on the
    rate through p_i. The steps are visited twice. Forwards, only the parameters p_i are kept. Backwards, each step is
    computed again, with the adjoint a_i, the gradient of the loss with respect to p_i:

        a_N = 2 (p_N - target) / |p_0 - target|^2
        a_i = a_{i+1} - r H_i a_{i+1}

    H_i is the Hessian of L_i. Step i adds -r d<a_{i+1}, g_i>/dx to the gradient with respect to the data x
    and -<a_{i+1}, g_i> to that of the rate. Memory is that of one step and N + 1 vectors of parameters.

    Args:
        training_loss: The training loss; it must give the same value when it is called again.
        start: Parameters of the expert, from which the student starts, [P].
        target: Later parameters of the expert, [P].
        synthetic: The synthetic data. Each of its tensors must change the gradient of the training loss.
        rate: The student's learning rate, a scalar.
        steps: Number of training steps.

    Returns:
        The loss and its gradient.

    Example:
        The loss of the student is (p - x)^2 / 2, so that p_1 = 1 - 0.5 (1 - 3) = 2, and the target is 4:

        >>> one, four, half = torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor(0.5)
        >>> loss = lambda step, p, synthetic: (p - synthetic["images"]).square().sum() / 2
        >>> matched = match_trajectory(loss, one, four, {"images": torch.tensor([3.0])}, half, steps=1)
        >>> {name: round(float(value), 4) for name, value in {"loss": matched.loss, **matched.gradients}.items()}
        {'loss': 0.4444, 'images': -0.2222, 'rate': -0.8889}
    """
    data = {name: value.detach() for name, value in synthetic.items()}
    path = [start]
    for step in range(steps):
        parameters = path[-1].detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(training_loss(step, parameters, data), parameters)
        path.append(path[-1] - rate * gradient)
    scale = (start - target).square().sum()
    error = path.pop() - target
    adjoint = 2 * error / scale
    gradients = {name: torch.zeros_like(value) for name, value in {**data, "rate": rate}.items()}
    for step in reversed(range(steps)):
        parameters = path.pop().detach().requires_grad_(True)
        leaves = {name: value.detach().requires_grad_(True) for name, value in data.items()}
        (gradient,) = torch.autograd.grad(training_loss(step, parameters, leaves), parameters, create_graph=True)
        product = adjoint @ gradient
        to_parameters, *to_data = torch.autograd.grad(product, (parameters, *leaves.values()))
        for name, value in zip(data, to_data, strict=True):
            gradients[name] -= rate * value
        gradients["rate"] -= product.detach()
        adjoint = adjoint - rate * to_parameters
    return Matched(error.square().sum() / scale, gradients)
