"""Names the conditions in which averaged records differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ddbench.core.text import counted
from ddbench.results.records import Record

NOT_RECORDED = "not recorded"
_TITLES = {"digest": "code", "distribution": "package"}
"""Titles of names in `Record.stages` that are unclear in a message."""


def mixture(records: Sequence[Record]) -> str:
    """Names the conditions that differ between records whose numbers are averaged, or between the stages' artifacts.

    These conditions change numbers but do not distinguish cells: real images, teacher, device, compilation, versions of
    the core's numerical code; for each stage, threads, processes, versions of PyTorch and POT, and plugin code. How the
    teacher was built counts only if the teachers differ.

    Args:
        records: Records of one method and protocol with equal settings.

    Returns:
        For instance `2 teachers; threads 1, 2 (distill, evaluate)`; empty if nothing differs.
    """
    facts = [_facts(record) for record in records]
    names = dict.fromkeys(name for each in facts for name in each)
    values_of = {name: tuple(sorted(set().union(*(each.get(name, set()) for each in facts)))) for name in names}
    differing = {name: values for name, values in values_of.items() if len(values) > 1}
    same_teacher = ("", "teacher") not in differing
    stages: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (stage, name), values in differing.items():
        if not (stage == "teacher" and same_teacher):
            stages[name, values].append(stage)
    texts = [_text(name, values, where) for (name, values), where in stages.items()]
    unknown = sum(not record.stages for record in records)
    if 0 < unknown < len(records):
        texts.append(f"{unknown} of {len(records)} do not record how their stages were built")
    return "; ".join(texts)


def by_evaluate_key(stored: Iterable[Record]) -> dict[str, list[Record]]:
    """Returns records by the cache key of their evaluation, which covers all settings that determine their numbers."""
    found: dict[str, list[Record]] = {}
    for record in stored:
        for key in record.keys.get("evaluate", []):
            found.setdefault(key, []).append(record)
    return found


def other_numbers(records: Sequence[Record], by_key: Mapping[str, Sequence[Record]]) -> str:
    """Names records that have the `evaluate` key of one of `records`, but another top-1.

    Args:
        records: The records that are shown.
        by_key: All records, by the key of their evaluation.

    Returns:
        For instance `not shown: other top-1 with the same evaluate key: 40.56 (NAME)`; empty if there is none.
    """
    others = [
        f"{twin.metrics.top1_last:.2f} ({twin.name})"
        for record in records
        for key in record.keys.get("evaluate", [])
        for twin in by_key.get(key, [])
        if twin.metrics.top1_last != record.metrics.top1_last
    ]
    return f"not shown: other top-1 with the same evaluate key: {', '.join(others)}" if others else ""


def describe_mixture(records: Sequence[Record], by_key: Mapping[str, Sequence[Record]]) -> str:
    """Returns the text of `mixture` and that of `other_numbers`; empty if both are."""
    return "; ".join(filter(None, (mixture(records), other_numbers(records, by_key))))


def _facts(record: Record) -> dict[tuple[str, str], set[str]]:
    """Returns the values of each condition, by stage (empty: all stages) and name."""
    runtime = record.configuration["runtime"]
    facts: dict[tuple[str, str], set[str]] = {
        ("", "real images"): {str(record.data.get("fingerprint", NOT_RECORDED))},
        ("", "device"): {record.device["name"]},
        ("", "compile"): {str(runtime.get("compile", "off"))},
    }
    if record.teacher:
        facts["", "teacher"] = {str(record.teacher.get("digest", NOT_RECORDED))}
    for part in record.versions.get("numerics", "").split():
        name, _, version = part.partition("=")
        facts["", f"version of {name}"] = {version}
    versions, device = record.versions, record.device
    # Records of older versions describe the evaluation only.
    evaluation = {
        "torch": versions.get("torch"),
        "POT": versions.get("POT"),
        "threads": device["threads"],
        "processes": device.get("processes", 1),
    }
    for stage, conditions in (record.stages or {"evaluate": [evaluation]}).items():
        for condition in conditions:
            for name, value in condition.items():
                facts.setdefault((stage, name), set()).add(NOT_RECORDED if value is None else str(value))
    return facts


def _text(name: str, values: tuple[str, ...], stages: list[str]) -> str:
    if name in ("teacher", "real images"):
        return counted(len(values), "teacher") if name == "teacher" else f"{len(values)} versions of the real images"
    where = f" ({', '.join(stages)})" if stages != [""] else ""
    return f"{_TITLES.get(name, name)} {', '.join(value[:40] for value in values)}{where}"
