"""The measures of a request, with their settings. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ddbench.api.measure import Measure
from ddbench.pipeline.overrides import SectionAlias, Settings, validated

if TYPE_CHECKING:
    from ddbench.registry.registry import PluginRegistry

MEASURE = "measure "
"""The beginning of the names of the measures' sections among the settings of a cell."""


def measure_section(name: str) -> str:
    """Returns the section of a measure's settings. It cannot be typed: `--set` has the name of the measure.

    >>> measure_section("pgd")
    'measure pgd'
    """
    return f"{MEASURE}{name}"


def measure_aliases(names: Sequence[str], registry: PluginRegistry) -> Iterator[SectionAlias]:
    """Yields the names of sections that measures add to `--set`: one per measure of the run, and all others.

    Args:
        names: The measures of the run.
        registry: The installed measures.

    Raises:
        DDBenchError: There is no such measure.
    """
    for name in names:
        own = frozenset({registry.measure(name).name})
        yield SectionAlias(measure_section(name), own, own, name)
    yield SectionAlias("measure", frozenset(cls.name for cls in registry.measures()) - set(names), frozenset(), "")


def chosen_measures(names: Sequence[str], registry: PluginRegistry, settings: Settings) -> dict[str, Measure]:
    """Returns the measures of a run by name.

    Args:
        names: Their names.
        registry: The installed measures.
        settings: The settings of the cell, with a section for each measure.

    Raises:
        DDBenchError: A setting is unknown or impossible.
    """
    measures: dict[str, Measure] = {}
    for name in names:
        with registry.attribute_errors("measure", name):
            measures[name] = validated(registry.measure(name), measure_section(name), settings)
    return measures
