"""Figure 4: t-SNE of real and distilled images in the feature space of a teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from ddbench.core.errors import DDBenchError
from ddbench.core.seeds import generator
from ddbench.figures import style
from ddbench.figures.sets import LabelledSet, dataset_of, select_sets, sets_caption
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.results.command import command_of
from ddbench.results.preview import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ddbench.data.dataset import Dataset
    from ddbench.pipeline.workspace import Workspace
    from ddbench.results.records import Record

MAX_CLASSES = 10
REAL = 60
"""Real images per class."""
PERPLEXITY = 30.0
BATCH_SIZE = 100
COLOURS = (*style.COLOURS, "#F0E442", "#999999", "#882255")
"""Colour of each class. The class names are drawn too, for readers who do not distinguish the colours."""

Points = npt.NDArray[np.float32]


def draw(records: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]) -> Figure:
    """Draws the figure.

    Args:
        records: Records of one dataset, image size and IPC.
        workspace: The cache and the datasets.
        warn: Called with a message for each set that is left out.

    Raises:
        DDBenchError: If no teacher of the records is in the cache, or as in `select_sets`.
    """
    from matplotlib.figure import Figure

    selected = select_sets(records, workspace, warn)
    sets = [replace(labelled, stored=labelled.stored.decoded()) for labelled in selected]
    dataset = dataset_of(sets[0].record, workspace)
    teacher_record, teacher = _teacher(records, workspace)
    labels, pixels = _real_images(dataset)
    masks = [labelled.labels < MAX_CLASSES for labelled in sets]
    parts = [pixels, *(labelled.images[mask] for labelled, mask in zip(sets, masks, strict=True))]
    points = tsne(torch.cat([features(part, teacher, dataset) for part in parts]))
    bounds = np.cumsum([0, *map(len, parts)])
    real, *distilled = (points[start:end] for start, end in pairwise(bounds))

    rows = 1 if len(sets) <= 3 else 2
    columns = -(-len(sets) // rows)
    figure = Figure(figsize=(max(5.4, 3.9 * columns), 3.9 * rows + 0.9), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    names = [shorten(name, 18) for name in dataset.info.class_titles[:MAX_CLASSES]]
    for axes in grid[len(sets) :]:
        axes.set_axis_off()
    for axes, labelled, mask, set_points in zip(grid, sets, masks, distilled, strict=False):
        _scatter(axes, real, labels, set_points, labelled.labels[mask], names)
        axes.set_title(labelled.label, loc="left")
    name, top1 = teacher_record.teacher["name"], teacher_record.teacher["top1"]
    figure.suptitle(f"Features of the teacher: {name}, {top1:.1f} % top-1", size=10)
    style.add_caption(figure, caption(sets, len(real), len(points)))
    return figure


def _teacher(records: Sequence[Record], workspace: Workspace) -> tuple[Record, TappedNetwork]:
    """Returns the cached teacher that most records used (of several, the first by name), and one of these records."""
    used = Counter(record.teacher["key"] for record in records if record.teacher)
    for key, _ in used.most_common():
        record = next(record for record in records if record.teacher.get("key") == key)
        artifact = workspace.cache.read("teacher", key)
        if artifact is not None and artifact.content == record.teacher.get("digest", artifact.content):
            config = record.configuration["teacher"]
            network = build_network(config["arch"], record.classes, record.image_size, config["stem"], config["seed"])
            network.load_state_dict(artifact.tensors)
            return record, TappedNetwork(network)
    example = next((record for record in records if record.teacher), None)
    command = command_of(example) if example else command_of(records[0], method="kmeans")
    raise DDBenchError(f"figure 'embedding' needs the teacher of one of these records in the cache; make it: {command}")


def _real_images(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Draws REAL training images per class with a fixed seed. Returns labels and pixels (uint8 [n, 3, S, S])."""
    parts = []
    for label in range(min(MAX_CLASSES, dataset.info.num_classes)):
        members = dataset.train.of_class(label)
        order = torch.randperm(len(members), generator=generator("figure", "embedding", label))
        parts.append(members[order[:REAL]])
    indices = torch.cat(parts)
    return dataset.train.labels[indices], dataset.train.centre(indices, dataset.config.image_size)


def features(pixels: Tensor, teacher: TappedNetwork, dataset: Dataset) -> Tensor:
    """Computes the input of the teacher's last layer, without augmentation.

    Args:
        pixels: uint8 [n, 3, S, S].
        teacher: The teacher.
        dataset: The dataset, for its normalisation.

    Returns:
        float32 [n, d].
    """
    with torch.no_grad():
        return torch.cat(
            [teacher(dataset.normalise(part), bn=False).features for part in torch.split(pixels, BATCH_SIZE)]
        ).float()


def tsne(features: Tensor) -> Points:
    """Embeds features in the plane by t-SNE (van der Maaten and Hinton, 2008; scikit-learn).

    Starts from the first two principal components, with seed 0. The perplexity is PERPLEXITY, or less for few points.

    Args:
        features: float [n, d].

    Returns:
        float32 [n, 2].
    """
    points: Points = TSNE(perplexity=_perplexity(len(features)), init="pca", random_state=0).fit_transform(
        features.numpy()
    )
    return points


def _perplexity(points: int) -> float:
    return min(PERPLEXITY, (points - 1) / 3)


def _scatter(
    axes: Axes, real: Points, real_labels: Tensor, distilled: Points, distilled_labels: Tensor, names: Sequence[str]
) -> None:
    from matplotlib.patheffects import withStroke

    for label, name in enumerate(names):
        colour = COLOURS[label]
        x, y = real[real_labels == label].T
        axes.scatter(x, y, s=7, color=colour, alpha=0.45, linewidths=0, gid=f"real-{label}")
        set_x, set_y = distilled[distilled_labels == label].T
        axes.scatter(
            set_x,
            set_y,
            s=34,
            marker="^",
            color=colour,
            edgecolors="black",
            linewidths=0.7,
            zorder=3,
            gid=f"set-{label}",
        )
        axes.text(
            float(np.median(x)),
            float(np.median(y)),
            name,
            ha="center",
            va="center",
            fontsize=8.5,
            zorder=4,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE 1")
    axes.set_ylabel("t-SNE 2")


def caption(sets: Sequence[LabelledSet], real: int, points: int) -> str:
    """Returns the caption.

    Args:
        sets: The distilled sets.
        real: Number of real images.
        points: Number of all images.
    """
    record = sets[0].record
    of_classes = f", the first {MAX_CLASSES} of {record.classes} classes" if record.classes > MAX_CLASSES else ""
    return (
        f"{record.dataset}, {record.image_size} px, {record.ipc} images per class{of_classes}. Dots: {real} training "
        f"images, the same in every panel. Triangles: distilled images. One t-SNE of all {points} (perplexity "
        f"{_perplexity(points):g}, seed 0). The paper trains a model on the real and distilled images of each method "
        "(section 5.8); here all features are the teacher's, which the distilled images may have been fitted to. "
        f"{sets_caption(sets)}"
    )
