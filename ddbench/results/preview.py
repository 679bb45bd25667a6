"""Draws the preview of a distilled set that each run writes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from ddbench.results.records import Record

    Pixels = npt.NDArray[np.uint8]

MAX_COLUMNS = 10
MAX_ROWS = 20
GAP = 2
"""Pixels between two images."""
SMALL, LARGE = 64, 96
"""Images are scaled by whole factors: enlarged to at most SMALL pixels, or reduced to at most LARGE."""
DPI = 100


def preview_path(record: Record, results_dir: Path) -> Path:
    """Returns the path of the preview of a record's distilled set.

    Args:
        record: A record of the set.
        results_dir: The results folder.
    """
    from ddbench.results.records import run_name

    name = run_name(record.method, record.dataset, record.ipc, record.distilled_digest)
    return results_dir / "runs" / name / "preview.png"


def preview(images: Tensor, labels: Tensor, class_names: Sequence[str], path: Path, title: str) -> None:
    """Writes a PNG grid with one row per class: at most 10 images of at most 20 classes.

    The heading states how many classes and images are shown. Small images are enlarged without smoothing, so that each
    pixel stays a square. Large images are reduced by a box mean.

    Args:
        images: uint8 [m, 3, S, S].
        labels: int64 [m], indices into `class_names`.
        class_names: Names of the classes.
        path: File to write.
        title: First line of the heading.
    """
    import numpy as np

    pixels: Pixels = images.detach().cpu().numpy()
    label_array = labels.detach().cpu().numpy()
    classes = np.unique(label_array)
    per_class = int(max(np.count_nonzero(label_array == label) for label in classes))
    shown = classes[:MAX_ROWS]
    rows = [[scale_image(image) for image in pixels[label_array == label][:MAX_COLUMNS]] for label in shown]
    _draw(
        tile_images(rows),
        [shorten(class_names[int(label)]) for label in shown],
        f"{title}\n{_shown_part(len(shown), len(classes), per_class)}".strip(),
        path,
    )


def _shown_part(shown: int, classes: int, per_class: int) -> str:
    parts = []
    if classes > shown:
        parts.append(f"{shown} of {classes} classes")
    if per_class > MAX_COLUMNS:
        parts.append(f"{MAX_COLUMNS} of {per_class} images per class")
    return f"shown: {', '.join(parts)}" if parts else ""


def scale_image(image: Pixels) -> Pixels:
    """Scales an image by a whole factor.

    Args:
        image: uint8 [3, S, S].

    Returns:
        uint8 [T, T, 3].

    Example:
        >>> import numpy as np
        >>> scale_image(np.zeros((3, 32, 32), np.uint8)).shape, scale_image(np.zeros((3, 224, 224), np.uint8)).shape
        ((64, 64, 3), (74, 74, 3))
    """
    size = image.shape[-1]
    shown = image.transpose(1, 2, 0).copy()
    if size < SMALL:
        factor = SMALL // size
        return shown.repeat(factor, axis=0).repeat(factor, axis=1)
    factor = -(-size // LARGE)
    if factor == 1:
        return shown
    side = size // factor
    blocks = shown[: side * factor, : side * factor].reshape(side, factor, side, factor, 3)
    mean: Pixels = blocks.mean(axis=(1, 3)).round().astype("uint8")
    return mean


def tile_images(rows: list[list[Pixels]]) -> Pixels:
    """Puts rows of images of equal size on a white canvas, with gaps.

    Example:
        >>> import numpy as np
        >>> tile = np.zeros((64, 64, 3), np.uint8)
        >>> tile_images([[tile, tile], [tile]]).shape
        (130, 130, 3)
    """
    import numpy as np

    tile = rows[0][0].shape[0]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (tile + GAP) - GAP, columns * (tile + GAP) - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (tile + GAP), j * (tile + GAP)
            canvas[top : top + tile, left : left + tile] = image
    return canvas


def shorten(name: str, longest: int = 24) -> str:
    """Cuts a name to at most `longest` characters.

    Example:
        >>> shorten("yellow lady's slipper", 10)
        'yellow la…'
    """
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _draw(grid: Pixels, names: list[str], heading: str, path: Path) -> None:
    """Draws the grid pixel by pixel on a figure that is just large enough for its texts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    margin = 10
    height, width = grid.shape[:2]
    figure = Figure(dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    texts = [figure.text(0, 0, name, fontsize=8, ha="right", va="center", parse_math=False) for name in names]
    head = figure.text(0, 0, heading, fontsize=9, ha="left", va="top", parse_math=False)
    with warnings.catch_warnings():
        # Letters that the bundled font lacks are drawn as boxes. Suppress the warnings about them.
        warnings.filterwarnings("ignore", message="Glyph")
        renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
        side = max(text.get_window_extent(renderer).width for text in texts)
        above = head.get_window_extent(renderer)
        left, top = round(side) + 2 * margin, round(above.height) + 2 * margin
        total_width = max(left + width, margin + round(above.width)) + margin
        total_height = top + height + margin
        figure.set_size_inches(total_width / DPI, total_height / DPI)
        figure.figimage(grid, left, margin, origin="upper")
        step = (height + GAP) / len(names)
        for i, text in enumerate(texts):
            middle = margin + height - (i * step + (step - GAP) / 2)
            text.set_position(((left - margin) / total_width, middle / total_height))
        head.set_position((margin / total_width, 1 - margin / total_height))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, format="png")
