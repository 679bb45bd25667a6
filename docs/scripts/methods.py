"""Writes docs/methods.md: a section for each method, from the texts that it declares and the comment of its picture.

    python docs/scripts/methods.py

`ddbench list methods NAME` prints the same texts. docs/scripts/pictures.py draws the pictures.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from ddbench.api.distiller import Distiller

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "methods.md"
WIDTH = 120
HEAD = """\
# Methods

Each method has a paragraph, its cost, and a picture of the images that it makes: the last one of each class. The data
are ImageNette at 64 px or, for methods whose sets take longer, scikit-learn's digits at 16 px. The recipe `quick` is
far below the budgets of the papers: the pictures show what a method does, not how good it is. [The
results](../results/README.md) compare the methods, and [faithfulness.md](faithfulness.md) compares each one with its
paper, point by point.

A cost is a number of image passes: one image forwards and backwards through a network; forwards alone is a third of a
pass. It does not include the teacher, which all methods share. Names in a formula are settings of the method;
`classes`, `ipc` and `images` are the numbers of classes, of images per class and of real training images. `ddbench list
methods NAME` prints the passes under each recipe, the settings and their sources.

`docs/scripts/methods.py` writes this page, `docs/scripts/pictures.py` draws the pictures.
"""


def page(registry: PluginRegistry) -> str:
    """Returns the text of the page."""
    return "\n\n".join([HEAD.rstrip(), *(section(cls) for cls in registry.distillers())]) + "\n"


def section(cls: type[Distiller]) -> str:
    """Returns the section of a method: paper, picture, and the texts that it declares."""
    lines = [f"## {cls.name}"]
    picture = DOCS / "images" / "methods" / f"{cls.name}.jpg"
    if picture.exists():
        comment = Image.open(picture).info["comment"].decode()
        lines += [f"![Images of {cls.name}]({picture.relative_to(DOCS)})", wrap(f"*{comment}.*")]
    lines += [wrap(sentence(cls.paper)), wrap(cls.summary)]
    if cls.departures:
        lines.append(wrap(f"Departures: {cls.departures}"))
    lines.append(wrap(f"Image passes: {formula(cls.cost)}."))
    return "\n\n".join(lines)


def sentence(text: str) -> str:
    """Returns a text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def formula(cost: str) -> str:
    """Returns a cost with its formulas as code."""
    return re.sub(r"((?:^|; )\w+: )([^;]+)", r"\1`\2`", cost)


def wrap(text: str) -> str:
    """Breaks a paragraph into lines."""
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


if __name__ == "__main__":
    PAGE.write_text(page(PluginRegistry()), encoding="utf-8")
