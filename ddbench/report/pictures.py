"""Figures and previews as data URIs: what is put into a page, and what is left out so that it stays small."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.results.records import Record, run_name

BUDGET = 12_000_000
"""Bytes of all pictures together; base64 makes 16 MB of them."""
WIDTH = 800
"""Pixels that a preview is reduced to where it is wider."""
QUALITY = 80
"""Of WebP."""


@dataclass(frozen=True)
class Picture:
    """An image with what is said of it. `records` are the names of those that it is of."""

    title: str
    uri: str
    records: list[str] = field(default_factory=list)


@dataclass
class Album:
    """Pictures in the order in which they are taken, until `left` bytes are used up; `out` names those left out."""

    left: int = BUDGET
    out: list[str] = field(default_factory=list)

    def taken(self, name: str, kind: str, content: bytes) -> str | None:
        """`content` as a data URI, or None where there is no room for it."""
        if len(content) > self.left:
            self.out.append(name)
            return None
        self.left -= len(content)
        return f"data:{kind};base64,{b64encode(content).decode('ascii')}"


def figures(results_dir: Path, album: Album) -> list[Picture]:
    """Every SVG in the folder of figures, by name."""
    found = []
    for path in sorted((results_dir / "figures").glob("*.svg")):
        uri = album.taken(f"figures/{path.name}", "image/svg+xml", path.read_bytes())
        if uri is not None:
            found.append(Picture(path.stem, uri))
    return found


def previews(records: Iterable[Record], results_dir: Path, album: Album, warn: Callable[[str], None]) -> list[Picture]:
    """The previews that runs left behind, one a distilled set; first sets come first.

    `warn` is told of a picture that cannot be read.
    """
    sets: dict[Path, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.repeat, record.student_seed, record.name)):
        run = run_name(record.method, record.dataset, record.ipc, record.distilled_digest)
        sets.setdefault(results_dir / "runs" / run / "preview.png", []).append(record)
    found = []
    for path, of in sets.items():
        if not path.is_file():
            continue
        content = _reduced(path, warn)
        uri = album.taken(f"runs/{path.parent.name}/preview.png", "image/webp", content) if content else None
        if uri is not None:
            first = of[0]
            size = "whole training set" if first.ipc is None else f"IPC {first.ipc}"
            title = f"{first.method}, {first.dataset}, {first.image_size} px, {size}, recipe {'+'.join(first.recipes)}"
            found.append(Picture(f"{title}, set {first.repeat}", uri, [record.name for record in of]))
    return sorted(found, key=lambda picture: picture.title)


def _reduced(path: Path, warn: Callable[[str], None]) -> bytes | None:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        warn(f"{path} cannot be read: {error}")
        return None
    small.thumbnail((WIDTH, 4 * WIDTH))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
