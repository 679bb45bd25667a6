"""Checks of a grid before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import torch
from torch import nn

from ddbench.config.experiment import Experiment
from ddbench.config.schema import Stem
from ddbench.core.errors import DDBenchError
from ddbench.nn.build import build_network
from ddbench.nn.layers import batch_norms, weighted_layers
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.workspace import Workspace
from ddbench.results.records import measured_on


def open_grid(experiments: Sequence[Experiment], workspace: Workspace) -> list[Pipeline]:
    """Returns the pipelines of a grid.

    Raises:
        DDBenchError: A method or a protocol does not support its cell. If there are several cells, it is named.
    """
    pipelines = []
    for experiment in experiments:
        with _named(experiment, experiments):
            pipelines.append(Pipeline(workspace, experiment))
    return pipelines


@contextlib.contextmanager
def _named(experiment: Experiment, grid: Sequence[object]) -> Iterator[None]:
    """Adds the name of the cell to an error about it, if the grid has several cells."""
    try:
        yield
    except DDBenchError as error:
        if len(grid) == 1 or type(error) is not DDBenchError:
            raise
        raise DDBenchError(f"{experiment.name}: {error}") from error


def check_networks(pipelines: Sequence[Pipeline]) -> None:
    """Builds every network once and reads the teacher's checkpoint, so that errors show before anything is trained.

    Raises:
        DDBenchError: A network is unknown or cannot take the images, or the method cannot use the teacher. In the last
            case the cell is named, if there are several.
    """
    for pipeline in pipelines:
        experiment, teacher, info = pipeline.experiment, pipeline.experiment.teacher, pipeline.info
        sizes = (info.num_classes, info.image_size)
        if (teacher.start_size or 0) > info.image_size:
            raise DDBenchError(f"teacher.start_size {teacher.start_size} is larger than image_size {info.image_size}")
        start_size = None if experiment.ipc else teacher.start_size
        _layer_counts(experiment.student, experiment.student_stem, *sizes, start_size)
        with pipeline.workspace.registry.attribute_errors("method", experiment.method_name):
            names = tuple(pipeline.method.networks())
        for name in names:
            _layer_counts(name, "auto", *sizes)
        if pipeline.needs_teacher:
            if teacher.checkpoint is None:
                counts = _layer_counts(teacher.arch, teacher.stem, *sizes, teacher.start_size)
            else:
                counts = _count_layers(pipeline.pool.checkpoint_network())
            for name in pipeline.pool.networks[1:]:
                _layer_counts(name, "auto", *sizes, teacher.start_size)
            with _named(experiment, pipelines):
                pipeline.pool.check(*counts)


@cache
def _layer_counts(
    arch: str, stem: Stem, num_classes: int, image_size: int, start_size: int | None = None
) -> tuple[int, int]:
    network = build_network(arch, num_classes, image_size, stem)
    if start_size is not None:
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, start_size, start_size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise DDBenchError(
                f"network '{arch}' for {image_size}-pixel images does not take images of {start_size} pixels "
                "(teacher.start_size): --set teacher.start_size=null"
            ) from error
    return _count_layers(network)


def _count_layers(network: nn.Module) -> tuple[int, int]:
    """Returns the number of BatchNorm layers and the number of weighted layers."""
    return len(batch_norms(network)), len(weighted_layers(network))


def check_leaks(pipelines: Iterable[Pipeline], strict: bool) -> list[str]:
    """Returns a note for each possible data leak in a grid. Leaks can make accuracies too high.

    Args:
        pipelines: The cells.
        strict: Whether a possible leak is an error.

    Raises:
        DDBenchError: A possible leak was found, and `strict` is set.
    """
    notes = list(dict.fromkeys(note for pipeline in pipelines for note in _leaks(pipeline)))
    if strict and notes:
        raise DDBenchError(f"{notes[0]} (--strict)")
    return [f"note: {note}" for note in notes]


def _leaks(pipeline: Pipeline) -> Iterator[str]:
    experiment, dataset = pipeline.experiment, pipeline.dataset
    if count := dataset.measured_in_train:
        images = f"{sum(dataset.info.val_counts)} {measured_on(experiment.data.holdout, experiment.data.split)}"
        yield f"{count} of the {images} of {dataset.info.name} are copies of training images: accuracies are too high"
    if pipeline.uses_teacher and experiment.data.holdout and experiment.teacher.checkpoint:
        name = experiment.teacher.checkpoint.name
        yield f"{name} (teacher.checkpoint) may have been trained on the held-out images: accuracies may be too high"
