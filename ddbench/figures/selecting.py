"""Selects the records of a figure."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddbench.config.datasets import refers_to
from ddbench.core.errors import DDBenchError
from ddbench.results import records
from ddbench.results.records import Record


@dataclass(frozen=True)
class Filters:
    """Conditions on records. None or an empty tuple is no condition.

    Attributes:
        dataset: Name of the dataset.
        ipc: Images per class.
        image_size: Image size in pixels.
        methods: Names of methods: any of them.
        recipes: All recipes of a record, in order.
    """

    dataset: str | None = None
    ipc: int | None = None
    image_size: int | None = None
    methods: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()

    def match(self, record: Record) -> bool:
        """Tests whether a record satisfies all conditions."""
        return (
            (self.dataset is None or refers_to(self.dataset, record.dataset))
            and self.ipc in (None, record.ipc)
            and self.image_size in (None, record.image_size)
            and (not self.methods or record.method in self.methods)
            and self.recipes in ((), tuple(record.recipes))
        )

    def command(self, method: str) -> str:
        """Returns a command that makes a matching record of a method. Missing conditions get example values."""
        size = f" --image-size {self.image_size}" if self.image_size else ""
        recipes = "".join(f" --recipe {shlex.quote(name)}" for name in self.recipes)
        dataset = shlex.quote(self.dataset or "digits")
        return f"ddbench run --method {method} --dataset {dataset} --ipc {self.ipc or 10}{size}{recipes}"


def select(folder: Path, filters: Filters, warn: Callable[[str], None]) -> list[Record]:
    """Returns the matching records of a folder that have an IPC, in the order of their names.

    Args:
        folder: Folder of records.
        filters: Conditions on the records.
        warn: Called with a message for each JSON file that is not a record.

    Raises:
        DDBenchError: If no record matches, or a method in `filters` has no matching record. The message contains a
            command that makes one.
    """
    candidates = records.read_all(folder, warn)
    if not candidates:
        raise records.no_records_error(folder)
    matching = [record for record in candidates if record.ipc is not None and filters.match(record)]
    missing = [method for method in filters.methods if all(record.method != method for record in matching)]
    if missing or not matching:
        of_method = f" of method '{missing[0]}'" if missing else ""
        command = filters.command(missing[0] if missing else "random")
        raise DDBenchError(f"no record{of_method} in {folder} matches the options; make one: {command}")
    return matching
