"""Labels that distinguish distilled sets and conditions in figures."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ddbench.core.canonical import canonical_json
from ddbench.results.conditions import Facts
from ddbench.results.records import Record

PROTOCOL = "evaluator."
"""Prefix of the facts that are settings of a protocol."""


def set_labels(records: Sequence[Record], facts: Sequence[Facts]) -> list[str]:
    """Labels each record by its method, and by further facts that are needed to distinguish the records.

    Args:
        records: The records.
        facts: The dependencies of each record's distilled set. If they contain `IPC` with several values, each label
            contains it.

    Returns:
        Labels such as `wmdd`, `wmdd, quick+tuned` or `wmdd, bn_weight 10`.
    """
    recipes = defaultdict(set)
    for record in records:
        recipes[record.method].add("+".join(record.recipes))
    labels = [
        f"{record.method}, {'+'.join(record.recipes)}" if len(recipes[record.method]) > 1 else record.method
        for record in records
    ]
    if len({each.get("IPC") for each in facts}) > 1:
        labels = [f"{label}, IPC {each['IPC']}" for label, each in zip(labels, facts, strict=True)]
    return disambiguate_labels(labels, facts, records)


def disambiguate_labels(labels: Sequence[str], facts: Sequence[Facts], records: Sequence[Record]) -> list[str]:
    """Makes equal labels distinct.

    Equal labels get the facts in which their records differ. They get the key of a record in brackets instead if more
    than two facts differ, or if the facts do not distinguish the record. A setting of the protocol that some records
    lack has its default there; other facts that some lack are ignored.

    Args:
        labels: A label for each record.
        facts: Facts of each record.
        records: The records.

    Example:
        >>> disambiguate_labels(["a", "b"], [{}, {}], [])
        ['a', 'b']
    """
    distinct = list(labels)
    for label in {label for label in labels if labels.count(label) > 1}:
        indices = [index for index, other in enumerate(labels) if other == label]
        common = set.intersection(*(set(facts[index]) for index in indices))
        names = common | {name for index in indices for name in facts[index] if name.startswith(PROTOCOL)}
        values = {i: {name: facts[i].get(name, "default") for name in names} for i in indices}
        differing = sorted(name for name in names if len({canonical_json(values[i][name]) for i in indices}) > 1)
        texts = {i: ", ".join(_fact_text(name, values[i][name], records[i]) for name in differing) for i in indices}
        for index, text in texts.items():
            sufficient = 0 < len(differing) <= 2 and list(texts.values()).count(text) == 1
            distinct[index] += f", {text}" if sufficient else f" [{records[index].name.rpartition('-')[2]}]"
    return distinct


def _fact_text(name: str, value: object, record: Record) -> str:
    if name == "dataset":
        return f"images {str(value)[:8]}"
    if name == "teacher":
        return f"teacher {record.teacher['top1']:.1f} %" if record.teacher else "no teacher"
    text = "none" if value is None else format(value, "g") if isinstance(value, float) else value
    return f"{name.rpartition('.')[2]} {text}"


def changed_settings(record: Record, swept: str = "") -> dict[str, object]:
    """Returns the settings that the user changed with `--set`, with their values, by dotted name.

    Args:
        record: The record.
        swept: Dotted name of a setting that does not count. The runtime and the files of the user's teacher do
            not count either.
    """
    changed = {}
    for path in record.configuration.get("changed", ()):
        section, _, name = path.partition(".")
        if section != "runtime" and path not in (swept, "teacher.checkpoint", "teacher.classes"):
            settings: Any = record.configuration.get(f"{section}_settings", record.configuration.get(section, {}))
            changed[path] = settings.get(name)
    return changed


def recipe_label(record: Record, swept: str = "") -> str:
    """Returns the recipes of a record, followed by the number of settings that the user changed with `--set`.

    Args:
        record: The record.
        swept: As for `changed_settings`.

    Returns:
        A label such as `quick`, `quick+tuned` or `quick + 2 changed`.
    """
    recipes, changed = "+".join(record.recipes), changed_settings(record, swept)
    return f"{recipes} + {len(changed)} changed" if changed else recipes


def natural_order(label: str) -> list[tuple[int, float, str]]:
    """Returns a sort key that orders the numbers in labels by value.

    Example:
        >>> sorted(["lambda 300", "lambda 50"], key=natural_order)
        ['lambda 50', 'lambda 300']
    """
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [(1, float(part), "") if part[:1].isdigit() else (0, 0.0, part) for part in parts]


def key_note(labels: Iterable[str]) -> str:
    """Returns the sentence of a caption that explains keys in brackets; empty if no label has one."""
    return " In brackets: a record's key." if any(label.endswith("]") for label in labels) else ""
