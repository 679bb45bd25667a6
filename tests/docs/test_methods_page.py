"""The page on the methods is that of the texts that they declare, and their pictures are small."""

from __future__ import annotations

import runpy
from pathlib import Path

from ddbench.registry.registry import PluginRegistry

DOCS = Path(__file__).parents[2] / "docs"
REGISTRY = PluginRegistry()
LIMIT = 60_000
"""Bytes of a picture."""


def test_the_page_is_what_its_script_writes() -> None:
    script = runpy.run_path(str(DOCS / "scripts" / "methods.py"))
    assert (DOCS / "methods.md").read_text(encoding="utf-8") == script["page"](REGISTRY), "run docs/scripts/methods.py"


def test_pictures_are_small_and_of_methods() -> None:
    pictures = {path.stem: path.stat().st_size for path in (DOCS / "images" / "methods").iterdir()}
    assert pictures.keys() <= {cls.name for cls in REGISTRY.distillers()}
    assert max(pictures.values()) < LIMIT
