"""Figure 4: where distilled images lie among real ones in a teacher's feature space, by t-SNE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
from ddbench.figures.selecting import command_of
from ddbench.figures.sets import LabelledSet, dataset_of, select_sets, sets_caption
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.results.preview import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ddbench.data.dataset import Dataset
    from ddbench.pipeline.workspace import Workspace
    from ddbench.results.records import Record

CLASSES = 10
REAL = 60
"""Real images a class."""
PERPLEXITY = 30.0
BATCH = 100
COLOURS = (*style.COLOURS, "#F0E442", "#999999", "#882255")
"""A colour a class; its name stands at its place, so that nobody depends on colours."""

Places = npt.NDArray[np.float32]


def draw(found: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]) -> Figure:
    """The figure. Raises DDBenchError as `sets_of`, and where no record's teacher is in the cache."""
    from matplotlib.figure import Figure

    shown = select_sets(found, workspace, warn)
    dataset = dataset_of(shown[0].record, workspace)
    taught, teacher = _teacher(found, workspace)
    labels, pixels = _real(dataset)
    mine = [one.labels < CLASSES for one in shown]
    parts = [pixels, *(one.images[kept] for one, kept in zip(shown, mine, strict=True))]
    points = tsne(torch.cat([features(part, teacher, dataset) for part in parts]))
    bounds = np.cumsum([0, *map(len, parts)])
    real, *distilled = (points[start:end] for start, end in pairwise(bounds))

    rows = 1 if len(shown) <= 3 else 2
    columns = -(-len(shown) // rows)
    figure = Figure(figsize=(max(5.4, 3.9 * columns), 3.9 * rows + 0.9), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    names = [short(name, 18) for name in dataset.info.class_titles[:CLASSES]]
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    for axes, one, kept, theirs in zip(grid, shown, mine, distilled, strict=False):
        _scatter(axes, real, labels, theirs, one.labels[kept], names)
        axes.set_title(one.label, loc="left")
    figure.suptitle(f"Features of the teacher: {taught.teacher['name']}, {taught.teacher['top1']:.1f} % top-1", size=10)
    style.caption(figure, caption(shown, len(real), len(points)))
    return figure


def _teacher(found: Sequence[Record], workspace: Workspace) -> tuple[Record, TappedNetwork]:
    """The teacher that most of the records used, and one of these; the first by name of several."""
    used = Counter(record.teacher["key"] for record in found if record.teacher)
    for key, _ in used.most_common():
        record = next(record for record in found if record.teacher.get("key") == key)
        artifact = workspace.cache.read("teacher", key)
        if artifact is not None and artifact.content == record.teacher.get("digest", artifact.content):
            config = record.configuration["teacher"]
            network = build_network(config["arch"], record.classes, record.image_size, config["stem"], config["seed"])
            network.load_state_dict(artifact.tensors)
            return record, TappedNetwork(network)
    needing = next((record for record in found if record.teacher), None)
    again = command_of(needing) if needing else f"ddbench run --method wmdd --dataset {found[0].dataset} --ipc 10"
    raise DDBenchError(f"figure 'embedding' needs the teacher of one of these records in the cache; make it: {again}")


def _real(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Labels and pixels (uint8 [n, 3, S, S]) of REAL training images a class, drawn with a fixed seed."""
    chosen = []
    for label in range(min(CLASSES, dataset.info.num_classes)):
        mine = dataset.train.of_class(label)
        chosen.append(mine[torch.randperm(len(mine), generator=generator("figure", "embedding", label))[:REAL]])
    indices = torch.cat(chosen)
    return dataset.train.labels[indices], dataset.train.centre(indices, dataset.config.image_size)


def features(pixels: Tensor, teacher: TappedNetwork, dataset: Dataset) -> Tensor:
    """What feeds the teacher's last layer [n, d], of uint8 images [n, 3, S, S] without augmentation."""
    with torch.no_grad():
        return torch.cat(
            [teacher(dataset.normalise(part), bn=False).features for part in torch.split(pixels, BATCH)]
        ).float()


def tsne(features: Tensor) -> Places:
    """Places [n, 2] of features [n, d]: scikit-learn's t-SNE (van der Maaten and Hinton 2008) from the first two
    principal components, seed 0; the perplexity is smaller where there are few points."""
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    found: Places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features.numpy())
    return found


def _scatter(
    axes: Axes, real: Places, labels: Tensor, theirs: Places, their_labels: Tensor, names: Sequence[str]
) -> None:
    from matplotlib.patheffects import withStroke

    for label, name in enumerate(names):
        colour = COLOURS[label]
        x, y = real[labels == label].T
        axes.scatter(x, y, s=7, color=colour, alpha=0.45, linewidths=0, gid=f"real-{label}")
        left, up = theirs[their_labels == label].T
        axes.scatter(
            left, up, s=34, marker="^", color=colour, edgecolors="black", linewidths=0.7, zorder=3, gid=f"set-{label}"
        )
        halo = [withStroke(linewidth=2.5, foreground="white")]
        axes.text(
            float(np.median(x)),
            float(np.median(y)),
            name,
            ha="center",
            va="center",
            fontsize=8.5,
            zorder=4,
            path_effects=halo,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE 1")
    axes.set_ylabel("t-SNE 2")


def caption(shown: Sequence[LabelledSet], real: int, points: int) -> str:
    """What is shown, and where it departs from the paper."""
    record = shown[0].record
    of_classes = f", the first {CLASSES} of {record.classes} classes" if record.classes > CLASSES else ""
    perplexity = min(PERPLEXITY, (points - 1) / 3)
    return (
        f"{record.dataset}, {record.image_size} px, {record.ipc} images per class{of_classes}. Dots: {real} training "
        f"images, the same in every panel. Triangles: distilled images. One t-SNE of all {points} (perplexity "
        f"{perplexity:g}, seed 0). The paper trains a model on the real and distilled images of each method (section "
        "5.8); here all features are the teacher's, which the distilled images may have been fitted to. "
        f"{sets_caption(shown)}"
    )
