"""The loss of trajectory matching and its exact gradient, with the graph of one training step in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

TrainingLoss = Callable[[int, Tensor, Tensor], Tensor]
"""`loss(step, parameters, images)`: the loss of the student in a training step (from 0), for parameters [P]."""


class Matched(NamedTuple):
    """The loss of trajectory matching and its gradient.

    Attributes:
        loss: The loss, a scalar.
        images: Its gradient with respect to the images.
        rate: Its derivative with respect to the student's learning rate, a scalar.
    """

    loss: Tensor
    images: Tensor
    rate: Tensor


def match_trajectory(
    training_loss: TrainingLoss, start: Tensor, target: Tensor, images: Tensor, rate: Tensor, steps: int
) -> Matched:
    """Computes the loss of trajectory matching and its gradient.

    A student starts from the parameters p_0 of an expert and takes N = `steps` steps of SGD on synthetic images,
    p_{i+1} = p_i - r g_i, where g_i is the gradient of the student's training loss L_i at p_i. The loss is
    |p_N - target|^2 / |p_0 - target|^2 (MTT, Eq. 2).

    The gradient is that of the unrolled training, term for term: later gradients depend on earlier images and on the
    rate through p_i. The steps are visited twice. Forwards, only the parameters p_i are kept. Backwards, each step is
    computed again, with the adjoint a_i, the gradient of the loss with respect to p_i:

        a_N = 2 (p_N - target) / |p_0 - target|^2
        a_i = a_{i+1} - r H_i a_{i+1}

    H_i is the Hessian of L_i. Step i adds -r d<a_{i+1}, g_i>/d images to the gradient of the images and
    -<a_{i+1}, g_i> to that of the rate. Memory is that of one step and N + 1 vectors of parameters.

    Args:
        training_loss: The training loss; it must give the same value when it is called again.
        start: Parameters of the expert, from which the student starts, [P].
        target: Later parameters of the expert, [P].
        images: The synthetic images.
        rate: The student's learning rate, a scalar.
        steps: Number of training steps.

    Returns:
        The loss and its gradient.

    Example:
        The loss of the student is (p - x)^2 / 2, so that p_1 = 1 - 0.5 (1 - 3) = 2, and the target is 4:

        >>> one, four, x, half = torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([3.0]), torch.tensor(0.5)
        >>> matched = match_trajectory(lambda step, p, x: (p - x).square().sum() / 2, one, four, x, half, steps=1)
        >>> [round(float(value), 4) for value in matched]
        [0.4444, -0.2222, -0.8889]
    """
    path = [start]
    for step in range(steps):
        parameters = path[-1].detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(training_loss(step, parameters, images.detach()), parameters)
        path.append(path[-1] - rate * gradient)
    scale = (start - target).square().sum()
    error = path.pop() - target
    adjoint = 2 * error / scale
    image_gradient, rate_gradient = torch.zeros_like(images), torch.zeros_like(rate)
    for step in reversed(range(steps)):
        parameters, pixels = path.pop().detach().requires_grad_(True), images.detach().requires_grad_(True)
        loss = training_loss(step, parameters, pixels)
        (gradient,) = torch.autograd.grad(loss, parameters, create_graph=True)
        product = adjoint @ gradient
        to_parameters, to_pixels = torch.autograd.grad(product, (parameters, pixels))
        image_gradient -= rate * to_pixels
        rate_gradient -= product.detach()
        adjoint = adjoint - rate * to_parameters
    return Matched(error.square().sum() / scale, image_gradient, rate_gradient)
