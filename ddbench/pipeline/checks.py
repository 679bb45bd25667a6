"""Checks of a grid before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from torch import nn

from ddbench.config.schema import Stem
from ddbench.nn.build import build_network
from ddbench.nn.layers import batch_norms, weighted_layers
from ddbench.pipeline.pipeline import Pipeline


def check_networks(pipelines: Iterable[Pipeline]) -> None:
    """Builds every network once and reads the teacher's checkpoint, so that errors show before anything is trained.

    Raises:
        DDBenchError: A network is unknown or cannot take the images, or the method cannot use the teacher.
    """
    for pipeline in pipelines:
        experiment, teacher, info = pipeline.experiment, pipeline.experiment.teacher, pipeline.info
        sizes = (info.num_classes, info.image_size)
        _layer_counts(experiment.student, experiment.student_stem, *sizes)
        with pipeline.workspace.registry.attribute_errors("method", experiment.method_name):
            names = tuple(pipeline.method.networks())
        for name in names:
            _layer_counts(name, "auto", *sizes)
        if pipeline.uses_teacher:
            if teacher.checkpoint is None:
                counts = _layer_counts(teacher.arch, teacher.stem, *sizes)
            else:
                counts = _count_layers(pipeline.checkpoint_network())
            pipeline.check_teacher(*counts)


@cache
def _layer_counts(arch: str, stem: Stem, num_classes: int, image_size: int) -> tuple[int, int]:
    return _count_layers(build_network(arch, num_classes, image_size, stem))


def _count_layers(network: nn.Module) -> tuple[int, int]:
    """Returns the number of BatchNorm layers and the number of weighted layers."""
    return len(batch_norms(network)), len(weighted_layers(network))


def holdout_note(pipeline: Pipeline) -> str | None:
    """Returns a note if the user's teacher may have been trained on the held-out images, else None."""
    experiment = pipeline.experiment
    if not (pipeline.uses_teacher and experiment.data.holdout and experiment.teacher.checkpoint):
        return None
    name = experiment.teacher.checkpoint.name
    return f"note: {name} (teacher.checkpoint) may have been trained on the held-out images: accuracies may be too high"
