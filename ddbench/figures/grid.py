"""Figures 6 to 10: distilled images, a row for each class and a block of columns for each way of making them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ddbench.figures import style
from ddbench.figures.sets import LabelledSet, class_titles, select_sets, sets_caption
from ddbench.results.preview import GAP, scaled, short, tiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddbench.pipeline.workspace import Workspace
    from ddbench.results.records import Record

CLASSES = 10
IMAGES = 12
"""Images in a row, over all blocks; of each block at least two."""
LINE, GUTTER = 0.17, 0.14
"""Inches: of a line of text, and between two blocks."""
TILE = 0.55
"""About the inches of an image's side: the nearest whole number of dots a pixel."""


def draw(found: Sequence[Record], workspace: Workspace, warn: Callable[[str], None]) -> Figure:
    """The figure. Raises DDBenchError as `sets_of`."""
    from matplotlib.figure import Figure

    shown = select_sets(found, workspace, warn)
    first = shown[0].record
    count = min(first.ipc or 1, max(2, IMAGES // len(shown)))
    classes = range(min(first.classes, CLASSES))
    blocks = [
        tiled([[scaled(image) for image in one.images[one.labels == label][:count].numpy()] for label in classes])
        for one in shown
    ]
    tile = (blocks[0].shape[0] + GAP) // len(classes) - GAP
    scale = max(1, round(TILE * style.DPI / tile)) / style.DPI
    height, width = blocks[0].shape[0] * scale, blocks[0].shape[1] * scale
    heads = [style.wrapped(one.label.replace(", ", ",\n").replace(" [", "\n["), width) for one in shown]
    names = [short(name) for name in class_titles(shown[0], workspace)][: len(classes)]

    left, above = style.LETTER * max(map(len, names)) + 0.15, LINE * max(head.count("\n") + 1 for head in heads) + 0.15
    across = left + len(blocks) * (width + GUTTER)
    figure = Figure(figsize=(across, 1))
    below = LINE * style.caption(figure, caption(shown, count, len(classes))) + 0.2
    total = above + height + below
    figure.set_figheight(total)
    for number, (block, head) in enumerate(zip(blocks, heads, strict=True)):
        start = left + number * (width + GUTTER)
        axes = figure.add_axes((start / across, below / total, width / across, height / total))
        axes.imshow(block, interpolation="none", aspect="auto")
        axes.set_title(head, loc="left")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.set_yticks([(tile + GAP) * label + tile / 2 for label in classes], names)
        axes.tick_params(labelleft=number == 0)
    return figure


def caption(shown: Sequence[LabelledSet], count: int, classes: int) -> str:
    """What is shown, and of how much."""
    record = shown[0].record
    of_classes = f"the first {classes} of {record.classes} classes, " if classes < record.classes else ""
    of_images = f"the first {count} of " if count < (record.ipc or 1) else ""
    return (
        f"{record.dataset}, {record.image_size} px: {of_classes}{of_images}{record.ipc} images per class, as they "
        f"are stored: what students are trained on before augmentation. {sets_caption(shown)}"
    )
