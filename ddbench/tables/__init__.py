"""What a table is: a named function from records to a pandas frame. Imports no torch and no pandas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TableSpec:
    """A table over records: `build(records, options)` takes a row a record and returns the table's rows.

    `about` says in one line what it shows; `reference` names the paper's table that it stands beside, e.g.
    "Liu et al., Table 1", or is empty.
    """

    name: str
    about: str
    build: Callable[[pd.DataFrame, Mapping[str, Any]], pd.DataFrame]
    reference: str = ""
