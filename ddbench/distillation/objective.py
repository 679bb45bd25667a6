"""The objective of the recover loop: a pass through a network, the loss terms, and their gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import EllipsisType

import torch
from torch import Tensor

from ddbench.api.context import DistillTask
from ddbench.api.teacher import Objective, Output, Teacher
from ddbench.core.errors import DDBenchError
from ddbench.nn import compile
from ddbench.nn.batchnorm_moments import Moments, moments
from ddbench.nn.device import autocast
from ddbench.nn.taps import TappedNetwork

Terms = dict[str, Tensor]


class NetworkObjective:
    """An objective on the outputs of a network, with its gradient.

    Args:
        task: The task whose device and precision are used.
        network: The network.
        objective: Computes the loss terms from the output of the network.
        layer: The layer whose features are passed to the objective; None: the input of the classifier.
        forward: Runs the network and returns moments in place of the BatchNorm inputs. It may be compiled.
        turn: The number of the network among those that take turns (`Output.turn`).
    """

    def __init__(
        self,
        task: DistillTask,
        network: Teacher,
        objective: Objective,
        layer: int | None,
        forward: compile.Forward,
        turn: int = 0,
    ) -> None:
        self._task, self._network, self._layer, self._forward = task, network, layer, forward
        self._objective: Objective = lambda output: objective(replace(output, turn=turn, rows=self._rows))
        self._rows: Tensor | EllipsisType = ...
        self._moments_suffice: bool | None = None
        """Whether the objective accepts moments in place of the BatchNorm inputs; None: not tried yet."""

    def backward(self, view: Tensor, images_at_once: int, rows: Tensor | EllipsisType = ...) -> Terms:
        """Computes the loss terms of a view, and propagates the gradient of their sum into it.

        Args:
            view: Normalised images [n, 3, S, S].
            images_at_once: The number of images that pass through the network at a time. Fewer than n need less memory
                and two forward passes; the result is the same up to rounding.
            rows: The rows of the unit that the view shows (`Output.rows`).

        Returns:
            The loss terms, detached scalars.

        Raises:
            DDBenchError: `images_at_once` is less than n, and the objective needs the BatchNorm inputs themselves.
        """
        self._rows = rows
        return self._backward(view) if images_at_once == len(view) else self._backward_in_parts(view, images_at_once)

    def _backward(self, view: Tensor) -> Terms:
        with autocast(self._task.device, self._task.precision):
            images = view.contiguous(memory_format=torch.channels_last)
            terms = self._terms_from_moments(images) if self._moments_suffice is not False else None
            if terms is None:
                terms = self._objective(self._network(images, layer=self._layer))
        return backpropagate(terms)

    def _terms_from_moments(self, images: Tensor) -> Terms | None:
        """Computes the loss terms from the moments. Returns None if the objective needs the inputs themselves."""
        output, terms = self._forward(images), None
        try:
            terms = self._objective(output)
        except (AttributeError, TypeError):
            if self._moments_suffice:
                raise
        self._moments_suffice = terms is not None
        return terms

    def _backward_in_parts(self, view: Tensor, images_at_once: int) -> Terms:
        """Computes the result of `_backward` with less memory (gradient caching, Gao et al. 2021).

        The objective may be any function of the whole unit: a norm over the batch, or statistics of a class. In
        evaluation mode the network's outputs of an image depend on that image only. So a first pass without a graph
        gives the outputs of all images, the objective gives its gradient with respect to them, and a second pass
        propagates this gradient part by part. The BatchNorm inputs would take most of the memory; their moments replace
        them.
        """
        parts = torch.split(view.detach(), images_at_once)
        with torch.no_grad():
            columns = zip(*(self._outputs(part) for part in parts), strict=True)
        outputs = [torch.cat(column).requires_grad_() for column in columns]
        logits, features, *statistics = outputs
        bn_moments = [Moments(*pair) for pair in zip(statistics[::2], statistics[1::2], strict=True)]
        with autocast(self._task.device, self._task.precision):
            try:
                terms = self._objective(Output(logits, features, bn_moments))  # type: ignore[arg-type]
            except (AttributeError, TypeError) as error:
                raise DDBenchError(
                    "out of memory, and this method's objective needs more of the BatchNorm inputs than their moments: "
                    "use a smaller batch size or a device with more memory"
                ) from error
        terms = backpropagate(terms)
        output_gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in outputs]
        per_part = zip(*(torch.split(gradient, images_at_once) for gradient in output_gradients), strict=True)
        gradients = []
        for part, gradient in zip(parts, per_part, strict=True):
            pixels = part.requires_grad_()
            torch.autograd.backward(self._outputs(pixels), gradient)
            gradients.append(pixels.grad)
        view.backward(torch.cat(gradients))  # type: ignore[arg-type,no-untyped-call]
        return terms

    def _outputs(self, part: Tensor) -> list[Tensor]:
        """Returns logits, features, and mean and variance of every BatchNorm input, each with one row per image."""
        with autocast(self._task.device, self._task.precision):
            images = part.contiguous(memory_format=torch.channels_last)
            output = self._network(images, layer=self._layer, moments=True)
            return [output.logits, output.features, *(value for x in output.bn_inputs for value in moments(x))]


@contextlib.contextmanager
def network_objective(
    task: DistillTask, network: Teacher, objective: Objective, layer: int | None, shape: torch.Size, turn: int = 0
) -> Iterator[NetworkObjective]:
    """Provides an objective on the outputs of a network, which is compiled if `task.compile` is set.

    Args:
        task: The task.
        network: The network.
        objective: Computes the loss terms from the output of the network.
        layer: The layer whose features are passed to the objective; None: the input of the classifier.
        shape: The shape of every view, for compilation.
        turn: The number of the network among those that take turns (`Output.turn`).

    Yields:
        The objective.
    """
    if not task.compile:
        yield NetworkObjective(task, network, objective, layer, partial(network, layer=layer, moments=True), turn)
        return
    assert isinstance(network, TappedNetwork)
    with compile.network(network, layer, shape, task.precision, task.note) as forward:
        yield NetworkObjective(task, network, objective, layer, forward, turn)


def backpropagate(terms: Terms) -> Terms:
    """Propagates the gradient of the sum of the terms, and returns the detached terms."""
    torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: term.detach() for name, term in terms.items()}
