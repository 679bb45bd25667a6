"""`ddbench list`: everything of a kind, and a page of each."""

from typing import TYPE_CHECKING

import pytest

from ddbench.cli.listing import KINDS
from ddbench.registry.registry import PluginRegistry

if TYPE_CHECKING:
    from conftest import Shell


def names_of(kind: str) -> list[str]:
    registry = PluginRegistry()
    things: dict[str, list[str]] = {
        "methods": [cls.name for cls in registry.distillers()],
        "evaluators": [cls.name for cls in registry.evaluators()],
        "measures": [cls.name for cls in registry.measures()],
        "datasets": [spec.name for spec in registry.datasets()],
        "tables": [spec.name for spec in registry.tables()],
        "models": ["resnet18"],
        "recipes": ["paper", "quick", "smoke", "released", "lloyd"],
    }
    return things[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_list_names_everything_of_a_kind_and_each_has_a_page(shell: "Shell", kind: str) -> None:
    complete = shell("list", kind)
    assert complete.code == 0
    for name in names_of(kind):
        assert name in complete.out
        page = shell("list", kind, name)
        assert (page.code, name in page.out) == (0, True)
