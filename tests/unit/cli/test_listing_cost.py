"""The cost of methods, as `ddbench list methods` prints it: formulas, and numbers under each recipe."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest

from ddbench.api.distiller import Distiller
from ddbench.api.hookspecs import hookimpl
from ddbench.cli.listing import listing_text
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

REGISTRY = PluginRegistry()
IMAGES = 9469
"""Training images of ImageNette."""
METHODS = [cls for cls in REGISTRY.distillers() if REGISTRY.distribution_of("method", cls.name).startswith("ddbench")]


def printed(text: str) -> dict[tuple[str, str], list[int]]:
    """The numbers of the table, by recipe and stage."""
    if "Image passes" not in text:
        return {}
    lines = text.split("Image passes")[1].split("\n\n")[1].splitlines()[2:]
    return {(words[0], words[1]): [int(word.replace(",", "")) for word in words[2:]] for words in map(str.split, lines)}


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.name)
def test_the_formula_is_what_the_time_estimate_counts(cls: type[Distiller]) -> None:
    table = printed(listing_text("methods", cls.name, REGISTRY, 100))
    assert cls.summary
    formulas = dict(part.split(": ") for part in cls.cost.split("; ") if ": " in part) if "none" not in cls.cost else {}
    assert {stage for _, stage in table} == formulas.keys()
    for (recipe, stage), counts in table.items():
        for ipc, count in zip((1, 10, 50), counts, strict=True):
            settings = experiments(Request((cls.name,), ("imagenette",), (ipc,), (recipe,)), REGISTRY)[0].method
            values = {"classes": 10, "ipc": ipc, "images": IMAGES, "min": min, "len": len}
            for name in type(settings).model_fields:  # null: as many as there are, or the numbers of `loops`
                value = getattr(settings, name)
                values[name] = math.inf if value is None else value
            if hasattr(settings, "loops"):
                values["outer_loop"], values["inner_loop"] = settings.loops(ipc)
            assert eval(formulas[stage], {}, values) == pytest.approx(count, rel=1e-3), (recipe, stage, ipc)


class Plain(Distiller, frozen=True):
    """Does nothing."""

    name = "plain"
    version = "1"
    summary = "Averages images."
    cost: ClassVar[str] = "distill: images"

    def image_passes(self, num_classes: int, ipc: int) -> int:
        return 1000 * num_classes * ipc


def test_a_method_declares_its_texts() -> None:
    registry = PluginRegistry()
    registry.register(type("plugin", (), {"ddbench_distillers": hookimpl(staticmethod(lambda: [Plain]))}), "ddbench-x")
    text = listing_text("methods", "plain", registry, 80)
    assert "method             Averages images." in text
    assert "image passes       distill: images" in text
    assert "departures" not in text
    assert printed(text)["quick", "distill"] == [10_000, 100_000, 500_000]


def test_a_method_without_passes_has_no_table() -> None:
    text = listing_text("methods", "random", REGISTRY, 80)
    assert "image passes       none" in text
    assert not printed(text)
