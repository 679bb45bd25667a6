"""Figures 6 to 10: distilled images. Each class has a row, each set a group of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ddbench.figures import style
from ddbench.figures.sets import LabelledSet, class_titles, select_sets, sets_caption
from ddbench.results.preview import GAP, scale_image, shorten, tile_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddbench.pipeline.workspace import Workspace
    from ddbench.results.records import Record

MAX_CLASSES = 10
IMAGES_PER_ROW = 12
"""Images in a row over all sets. Each set has at least two."""
LINE_HEIGHT, GUTTER = 0.17, 0.14
"""Height of a line of text and distance between two sets, in inches."""
IMAGE_WIDTH = 0.55
"""Approximate width of an image in inches. It is rounded to a whole number of dots per pixel."""


def draw(records: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]) -> Figure:
    """Draws the figure.

    Args:
        records: Records of one dataset, image size and IPC.
        workspace: The cache and the datasets.
        warn: Called with a message for each set that is left out.

    Raises:
        DDBenchError: As in `select_sets`.
    """
    from matplotlib.figure import Figure

    sets = select_sets(records, workspace, warn)
    first = sets[0].record
    count = min(first.ipc or 1, max(2, IMAGES_PER_ROW // len(sets)))
    classes = range(min(first.classes, MAX_CLASSES))
    pictures = [
        tile_images(
            [
                [scale_image(image) for image in labelled.images[labelled.labels == label][:count].numpy()]
                for label in classes
            ]
        )
        for labelled in sets
    ]
    tile = (pictures[0].shape[0] + GAP) // len(classes) - GAP
    scale = max(1, round(IMAGE_WIDTH * style.DPI / tile)) / style.DPI
    height, width = pictures[0].shape[0] * scale, pictures[0].shape[1] * scale
    titles = [style.wrapped(labelled.label.replace(", ", ",\n").replace(" [", "\n["), width) for labelled in sets]
    names = [shorten(name) for name in class_titles(sets[0], workspace)][: len(classes)]

    left = style.LETTER * max(map(len, names)) + 0.15
    above = LINE_HEIGHT * max(title.count("\n") + 1 for title in titles) + 0.15
    total_width = left + len(pictures) * (width + GUTTER)
    figure = Figure(figsize=(total_width, 1))
    below = LINE_HEIGHT * style.add_caption(figure, caption(sets, count, len(classes))) + 0.2
    total_height = above + height + below
    figure.set_figheight(total_height)
    for number, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        start = left + number * (width + GUTTER)
        position = (start / total_width, below / total_height, width / total_width, height / total_height)
        axes = figure.add_axes(position)
        axes.imshow(picture, interpolation="none", aspect="auto")
        axes.set_title(title, loc="left")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.set_yticks([(tile + GAP) * label + tile / 2 for label in classes], names)
        axes.tick_params(labelleft=number == 0)
    return figure


def caption(sets: Sequence[LabelledSet], count: int, classes: int) -> str:
    """Returns the caption.

    Args:
        sets: The sets.
        count: Number of images that are shown of each class and set.
        classes: Number of classes that are shown.
    """
    record = sets[0].record
    of_classes = f"the first {classes} of {record.classes} classes, " if classes < record.classes else ""
    of_images = f"the first {count} of " if count < (record.ipc or 1) else ""
    return (
        f"{record.dataset}, {record.image_size} px: {of_classes}{of_images}{record.ipc} images per class, as stored: "
        f"students are trained on augmented views of them. {sets_caption(sets)}"
    )
