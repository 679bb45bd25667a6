"""The budgets of the methods in docs/recipes.md are those of the recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BUDGETS = ("paper", "quick", "smoke")
METHODS = {method.name for method in PluginRegistry().distillers()}
ROWS = {
    method: cells
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    for names, *cells in [line.strip("| ").split(" | ")]
    for method in names.split(", ")
    if len(cells) == len(BUDGETS) and method in METHODS
}
SETTINGS = {
    "step": ("steps", "outer_loop"),
    "round": ("rounds",),
    "teacher": ("teachers",),
    "network": ("trainings", "pool_size", "iterations"),
    "epoch": ("backbone_epochs", "expert_epochs", "epochs"),
    "expert": ("experts",),
    "iteration": ("iterations",),
    "real image": ("real_batch",),
}
"""The settings that a word of the page stands for: the first one that a method has."""


def test_every_method_that_a_budget_scales_is_listed() -> None:
    fixed = {"random", "full", "given", "kmeans", "herding", "k-center", "confidence", "rded"}
    assert ROWS.keys() == METHODS - fixed


@pytest.mark.parametrize("method", ROWS)
def test_the_budgets_of_a_method_are_those_of_the_recipes(method: str) -> None:
    """On ImageNette, whose numbers are before the first semicolon of a cell."""
    for budget, text in zip(BUDGETS, ROWS[method], strict=True):
        (cell,) = experiments(Request((method,), ("imagenette",), (10,), (budget,)), PluginRegistry())
        settings = cell.method.model_dump()
        numbers = re.findall(rf"([\d,]+) ({'|'.join(SETTINGS)})", text.partition(";")[0])
        assert numbers
        for number, word in numbers:
            value = next(settings[name] for name in SETTINGS[word] if name in settings)
            assert int(number.replace(",", "")) == (value if isinstance(value, int) else len(value)), (budget, word)
