"""Figures and previews as data URIs, with a limit on their total size."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.results.labels import recipe_label
from ddbench.results.preview import preview_path
from ddbench.results.records import Record

MAX_BYTES = 6_000_000
"""Bytes of all pictures in one report. In base64 they take 8 MB."""
MAX_PREVIEWS = 100
"""The most previews in one report."""
MAX_SIZE = (640, 960)
"""Width and height in pixels to which larger previews are reduced."""
WEBP_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """An embedded picture.

    Args:
        title: Its title.
        uri: Its content as a data URI.
        records: Names of the records of the distilled set that it shows; empty for a figure.
        size: Width and height of a preview in pixels.
    """

    title: str
    uri: str
    records: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None


@dataclass
class PictureBudget:
    """Embeds pictures until their total size reaches a limit.

    Args:
        remaining: Bytes that can still be used.
        left_out: Names of the pictures that did not fit.
    """

    remaining: int = MAX_BYTES
    left_out: list[str] = field(default_factory=list)

    def embed(self, name: str, media_type: str, content: bytes) -> str | None:
        """Encodes a picture if it fits.

        Args:
            name: Name of the picture for `left_out`.
            media_type: Its media type, e.g. `image/webp`.
            content: The bytes of its file.

        Returns:
            A data URI, or None if the picture does not fit.
        """
        if len(content) > self.remaining:
            self.left_out.append(name)
            return None
        self.remaining -= len(content)
        return f"data:{media_type};base64,{b64encode(content).decode('ascii')}"


def figures(results_dir: Path, budget: PictureBudget) -> list[Picture]:
    """Embeds all SVG files of the folder `figures`.

    Args:
        results_dir: The results folder.
        budget: The limit on the size of all pictures.

    Returns:
        The figures that fit, sorted by name.
    """
    pictures = []
    for path in sorted((results_dir / "figures").glob("*.svg")):
        uri = budget.embed(f"figures/{path.name}", "image/svg+xml", path.read_bytes())
        if uri is not None:
            pictures.append(Picture(path.stem, uri))
    return pictures


def previews(
    records: Iterable[Record], results_dir: Path, budget: PictureBudget, warn: Callable[[str], None]
) -> list[Picture]:
    """Embeds the previews of at most `MAX_PREVIEWS` distilled sets, scaled down, in WebP format.

    The first set of each run comes first.

    Args:
        records: The records whose sets are shown.
        results_dir: The results folder.
        budget: The limit on the size of all pictures.
        warn: Receives a message for each file that cannot be read.

    Returns:
        The previews that fit, sorted by title.
    """
    records_by_path: dict[Path, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.repeat, record.student_seed, record.name)):
        records_by_path.setdefault(preview_path(record, results_dir), []).append(record)
    pictures: list[Picture] = []
    for path, set_records in records_by_path.items():
        if not path.is_file():
            continue
        name = f"runs/{path.parent.name}/preview.png"
        if len(pictures) == MAX_PREVIEWS:
            budget.left_out.append(name)
            continue
        reduced = reduced_preview(path, warn)
        if reduced is None:
            continue
        content, size = reduced
        uri = budget.embed(name, "image/webp", content)
        if uri is not None:
            pictures.append(Picture(_title(set_records[0]), uri, [record.name for record in set_records], size))
    return sorted(pictures, key=lambda picture: picture.title)


def _title(record: Record) -> str:
    size = "whole training set" if record.ipc is None else f"IPC {record.ipc}"
    recipe = f"recipe {recipe_label(record)}"
    return f"{record.method}, {record.dataset}, {record.image_size} px, {size}, {recipe}, set {record.repeat}"


def reduced_preview(path: Path, warn: Callable[[str], None]) -> tuple[bytes, tuple[int, int]] | None:
    """Returns a preview as WebP of at most `MAX_SIZE`, and its size. None if it cannot be read.

    Args:
        path: The PNG file.
        warn: Receives a message if it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        warn(f"{path} cannot be read: {error}")
        return None
    image.thumbnail(MAX_SIZE)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue(), image.size
