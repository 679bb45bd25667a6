"""Names the conditions in which averaged records differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ddbench.core.text import counted
from ddbench.results.conditions import STUDENT_KEYS, Pool, distillation_config, evaluation_conditions
from ddbench.results.records import Record

NOT_RECORDED = "not recorded"
_TITLES = {"digest": "code", "distribution": "package"}
"""Titles of names in `Record.stages` that are unclear in a message."""


def mixture(records: Sequence[Record], only: str = "") -> str:
    """Names the conditions that differ between records whose numbers are averaged, or between the stages' artifacts.

    Within a pool, these are device, compilation and, for each stage, threads, processes, versions of PyTorch and POT,
    and plugin code. Records of several pools also differ in conditions that separate pools, e.g. the teacher. How the
    teacher was built counts only if the teachers differ.

    Args:
        records: Records of one method and protocol with equal settings.
        only: A stage: its conditions alone count, as for the students of several methods.

    Returns:
        For instance `2 teachers; threads 1, 2 (distill, evaluate)`; empty if nothing differs.
    """
    facts = [_facts(record) for record in records]
    if only:
        facts = [{key: value for key, value in each.items() if key[0] == only} for each in facts]
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


def other_numbers(records: Sequence[Record], of_pools: Iterable[Pool]) -> str:
    """Names records that count as one of `records` in a mean (`conditions.distinct_students`), but have another top-1.

    Args:
        records: The records that are averaged.
        of_pools: Their pools.

    Returns:
        For instance `not shown: 40.56 (NAME), with the same seeds or images`; empty if there is none.
    """
    shown = {key(record): record.metrics.top1_last for record in records for key in STUDENT_KEYS}
    averaged = set(map(id, records))
    others = [
        f"{record.metrics.top1_last:.2f} ({record.name})"
        for pool in of_pools
        for record in pool.records
        if id(record) not in averaged
        and any(shown.get(key(record), record.metrics.top1_last) != record.metrics.top1_last for key in STUDENT_KEYS)
    ]
    return f"not shown: {', '.join(others)}, with the same seeds or images" if others else ""


def describe_mixture(records: Sequence[Record], of_pools: Iterable[Pool]) -> str:
    """Returns the text of `mixture` and that of `other_numbers`; empty if both are."""
    return "; ".join(filter(None, (mixture(records), other_numbers(records, of_pools))))


def _facts(record: Record) -> dict[tuple[str, str], set[str]]:
    """Returns the values of each condition, by stage (empty: all stages) and name."""
    separating = {**evaluation_conditions(record), **distillation_config(record)}
    facts = {("", name): {str(value)} for name, value in separating.items()}
    facts["", "device"] = {record.device["name"]}
    facts["", "compile"] = {str(record.configuration["runtime"].get("compile", "off"))}
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
    if name in ("teacher", "dataset"):
        return counted(len(values), "teacher") if name == "teacher" else f"{len(values)} versions of the real images"
    where = f" ({', '.join(stages)})" if stages != [""] else ""
    return f"{_TITLES.get(name, name)} {', '.join(value[:40] for value in values)}{where}"
