"""Measures of a record: numbers beside top-1. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

PREFIX = "measure."
"""The beginning of the names of their columns."""


class Measured(BaseModel, frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False):
    """The result of one measure of a student or of its distilled set."""

    version: str = Field(description="version of the measure")
    settings: dict[str, Any] = Field(description="settings of the measure")
    values: dict[str, float] = Field(description="values by name, in the unit of the measure")
    refused: str = Field(default="", exclude_if=lambda reason: not reason, description="why there are no values")
    seconds: float = Field(ge=0, description="seconds of the computation")


def measure_columns(measures: Mapping[str, Measured]) -> dict[str, float]:
    """Returns the values of measures by the name of their column.

    Args:
        measures: The measures by name.

    Example:
        >>> ece = Measured(version="1", settings={}, values={"ece": 4.5}, seconds=1.0)
        >>> pgd = Measured(version="1", settings={}, values={"top1": 20.0, "clean": 60.0}, seconds=1.0)
        >>> measure_columns({"ece": ece, "pgd": pgd})
        {'measure.ece': 4.5, 'measure.pgd.top1': 20.0, 'measure.pgd.clean': 60.0}
    """
    return {
        f"{PREFIX}{name}" if value == name else f"{PREFIX}{name}.{value}": number
        for name, measured in measures.items()
        for value, number in measured.values.items()
    }


def measured_text(measured: Measured) -> str:
    """Returns the values of a measure in one line, or why there are none."""
    if measured.refused:
        return f"no value: {measured.refused}"
    return ", ".join(f"{name} {number:.4g}" for name, number in measured.values.items())
