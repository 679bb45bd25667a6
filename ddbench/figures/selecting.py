"""Which records a figure is made of."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.core.errors import DDBenchError
from ddbench.results import records
from ddbench.results.records import Record
from ddbench.storage.cache import canonical_json


@dataclass(frozen=True)
class Filters:
    """The records that are asked for; what is None or empty is not asked. `recipes`: all of a record's, in order."""

    dataset: str | None = None
    ipc: int | None = None
    image_size: int | None = None
    methods: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()

    def match(self, record: Record) -> bool:
        """Whether this record is asked for."""
        asked = ((self.dataset, record.dataset), (self.ipc, record.ipc), (self.image_size, record.image_size))
        known = all(one in (None, other) for one, other in asked)
        of_method = not self.methods or record.method in self.methods
        return known and of_method and self.recipes in ((), tuple(record.recipes))

    def command(self, method: str) -> str:
        """A command that makes a record like those asked for, with examples for what is not asked."""
        size = f" --image-size {self.image_size}" if self.image_size else ""
        recipes = "".join(f" --recipe {shlex.quote(name)}" for name in self.recipes)
        dataset = shlex.quote(self.dataset or "digits")
        return f"ddbench run --method {method} --dataset {dataset} --ipc {self.ipc or 10}{size}{recipes}"


def select(folder: Path, filters: Filters, warn: Callable[[str], None]) -> list[Record]:
    """The records in `folder` that are asked for and have an IPC, by name.

    `warn` is told of files that are no records. Raises DDBenchError with a command to run where there is none, or none
    of a method that is asked for.
    """
    every = records.read_all(folder, warn)
    if not every:
        raise records.no_records_error(folder)
    found = [record for record in every if record.ipc is not None and filters.match(record)]
    missing = [method for method in filters.methods if all(record.method != method for record in found)]
    if missing or not found:
        which = f" of method '{missing[0]}'" if missing else ""
        command = filters.command(missing[0] if missing else "random")
        raise DDBenchError(f"no record{which} in {folder} is as asked; make one: {command}")
    return found


def command_of(record: Record) -> str:
    """The command that makes this record again; of a teacher's checkpoint a record knows the file's name alone."""
    configuration = record.configuration
    parts = ["ddbench", "run", "--method", record.method, "--dataset", configuration["dataset"]]
    parts += ["--ipc", str(record.ipc), "--image-size", str(record.image_size)]
    parts += [part for name in record.recipes for part in ("--recipe", name)]
    parts += [part for name in configuration.get("changed", ()) for part in ("--set", _assignment(name, configuration))]
    return shlex.join(parts)


def _assignment(name: str, configuration: dict[str, Any]) -> str:
    section, _, key = name.partition(".")
    value = (configuration.get(f"{section}_settings") or configuration[section])[key]
    return f"{name}={value if isinstance(value, str) else canonical_json(value)}"
