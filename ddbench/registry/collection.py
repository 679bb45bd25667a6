"""A collection of registered items of one kind, with the distribution that provides each item. Imports no torch."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import Generic, Literal, TypeVar

from ddbench.core.errors import DDBenchError, unknown

Kind = Literal["method", "evaluator", "measure", "dataset", "table", "stage", "tracker"]
"""The kinds of items that a plugin registers by name."""
T = TypeVar("T")


@functools.cache
def known_packages() -> dict[tuple[str, str], str]:
    """Returns the packages of ddbench's own plugins, by kind and name of their items."""
    text = (resources.files("ddbench.registry") / "packages.csv").read_text(encoding="utf-8")
    return {(row["kind"], row["name"]): row["package"] for row in csv.DictReader(io.StringIO(text))}


def unknown_item(kind: str, name: str, known: Iterable[str]) -> DDBenchError:
    """Returns the error for a name that is not registered. The message names its package, or the closest name.

    Args:
        kind: The kind of the item, e.g. `method` or `recipe`.
        name: The name that the user gave.
        known: The valid names.

    Returns:
        The error; the caller raises it.
    """
    if package := known_packages().get((kind, name)):
        return DDBenchError(
            f"{kind} '{name}' is in the package {package}, which is not installed here (pip install 'ddbench[methods]')"
        )
    return unknown(kind, name, known)


@dataclass(frozen=True)
class Collection(Generic[T]):
    """The registered items of one kind. Names are unique in a collection.

    Attributes:
        kind: The kind of the items, for error messages.
        items: The items by name.
        owners: The distribution that provides each item, by the item's name.
    """

    kind: Kind
    items: dict[str, T] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def check_unique(self, named_items: Iterable[tuple[str, T]], owner: str) -> None:
        """Checks that the items can be added.

        Args:
            named_items: Pairs of a name and an item.
            owner: The distribution that provides the items.

        Raises:
            DDBenchError: If a name is registered already or occurs twice in `named_items`.
        """
        owners = dict(self.owners)
        for name, _ in named_items:
            if name in owners:
                raise DDBenchError(
                    f"{self.kind} '{name}' is registered by both {owners[name]} and {owner}: uninstall one of them"
                )
            owners[name] = owner

    def add(self, named_items: Iterable[tuple[str, T]], owner: str) -> None:
        """Adds items that `check_unique` has accepted.

        Args:
            named_items: Pairs of a name and an item.
            owner: The distribution that provides the items.
        """
        for name, item in named_items:
            self.items[name] = item
            self.owners[name] = owner

    def find(self, name: str) -> T:
        """Returns the item called `name`.

        Raises:
            DDBenchError: If there is no such item. The message names the package that has it, or the closest name.
        """
        if name not in self.items:
            raise unknown_item(self.kind, name, self.items)
        return self.items[name]

    def all(self) -> tuple[T, ...]:
        """Returns the items in alphabetical order of their names."""
        return tuple(self.items[name] for name in sorted(self.items))
