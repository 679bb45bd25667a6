"""Compares groups of records: their selection, the differences of their accuracies, and the text of both."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from ddbench.config.datasets import refers_to
from ddbench.core.canonical import canonical_json
from ddbench.core.errors import DDBenchError, unknown
from ddbench.core.text import counted, value_text
from ddbench.core.text_layout import UNLIMITED, format_rows, terminal_width
from ddbench.results.conditions import Facts, Pool, pools, seeds
from ddbench.results.labels import changed_settings, disambiguate_labels, natural_order
from ddbench.results.mixtures import describe_mixture, mixture
from ddbench.results.pooling import pool_top1
from ddbench.results.records import Record
from ddbench.results.significance import LEVEL, ON_ONE_SET, Difference, corrected, difference, results_of

SHOWN_CLASSES = 20
"""Largest number of classes that are shown."""
OF_THE_SET = ("method.", "statistics.", "distill.")
"""Settings on which the distilled sets depend. The others are conditions of the students."""


@dataclass(frozen=True)
class Filters:
    """The records that are compared. An empty filter accepts all."""

    datasets: tuple[str, ...] = ()
    ipcs: tuple[int, ...] = ()
    evaluators: tuple[str, ...] = ()
    students: tuple[str, ...] = ()

    def of(self, records: Iterable[Record]) -> list[Record]:
        """Returns the records that pass every filter."""
        return [
            one
            for one in records
            if (not self.datasets or any(refers_to(name, one.dataset) for name in self.datasets))
            and (not self.ipcs or one.ipc in self.ipcs)
            and (not self.evaluators or one.evaluator in self.evaluators)
            and (not self.students or one.student in self.students)
        ]


@dataclass(frozen=True)
class Block:
    """Groups whose students share their conditions (`conditions.evaluation_conditions`).

    Attributes:
        title: The conditions in words.
        groups: The groups by name.
    """

    title: str
    groups: Mapping[str, Pool]

    @property
    def students(self) -> list[Record]:
        """The students of all groups."""
        return [student for group in self.groups.values() for student in group.students]


def blocks_of(texts: Sequence[str], records: Sequence[Record]) -> list[Block]:
    """Returns the groups of records under each condition that two or more groups have.

    Args:
        texts: A group each: a method, followed by recipes or settings (`NAME=VALUE`), separated by spaces; or the name
            of a record, which stands for all students on its set. Of several variants that fit, the group is the one
            with the fewest recipes and changed settings.
        records: The records.

    Raises:
        DDBenchError: A group has no record, is ambiguous, or shares its conditions with no other group.
    """
    every = pools(records)
    by_text = {text: _candidates(text, every, records) for text in texts}
    if len(by_text) < 2:
        raise DDBenchError("compare needs two or more different groups, e.g. ddbench compare wmdd random")
    by_conditions: dict[str, dict[str, Pool]] = {}
    for text, candidates in by_text.items():
        grouped: dict[str, list[Pool]] = {}
        for candidate in candidates:
            grouped.setdefault(canonical_json(candidate.conditions), []).append(candidate)
        for conditions, variants in grouped.items():
            by_conditions.setdefault(conditions, {})[text] = _plainest(text, variants)
    shared = [groups for groups in by_conditions.values() if len(groups) > 1]
    if not shared:
        (one, first), (other, second) = list(by_text.items())[:2]
        names = _closest([each.conditions for each in first], [each.conditions for each in second])
        raise DDBenchError(f"'{one}' and '{other}' are not comparable: their closest records differ in {names}")
    for groups in shared:
        _refuse_equal(groups)
    firsts = [next(iter(groups.values())) for groups in shared]
    examples, facts = [each.example for each in firsts], [each.conditions for each in firsts]
    titles = disambiguate_labels(list(map(_title, examples)), facts, examples)
    return sorted(map(Block, titles, shared), key=lambda block: natural_order(block.title))


def _refuse_equal(groups: Mapping[str, Pool]) -> None:
    for one, other in combinations(groups, 2):
        if {*map(id, groups[one].records)} & {*map(id, groups[other].records)}:
            raise DDBenchError(f"'{one}' and '{other}' are the same records: add a recipe or a setting to one")


def _title(one: Record) -> str:
    """Returns the conditions of a record in words, with the settings that the user changed."""
    size = "whole training set" if one.ipc is None else f"IPC {one.ipc}"
    words = [one.dataset, f"{one.image_size} px", size, f"{one.evaluator} v{one.evaluator_version}", one.student]
    changed = {name: value for name, value in changed_settings(one).items() if not name.startswith(OF_THE_SET)}
    return ", ".join([*words, *(f"{name}={value_text(value)}" for name, value in changed.items())])


def _candidates(text: str, every: Sequence[Pool], records: Sequence[Record]) -> list[Pool]:
    """Returns the pools, or parts of pools, that a text names."""
    name, *words = text.split() or [""]
    methods = sorted({record.method for record in records})
    if name not in methods:
        named = [record for record in records if name and record.name.startswith(name)]
        if not named or words or len({record.distilled_digest for record in named}) > 1:
            raise unknown("method or record", name, methods)
        digest = named[0].distilled_digest
        parts = [Pool(p.config, p.conditions, [r for r in p.records if r.distilled_digest == digest]) for p in every]
        return [part for part in parts if part.records]
    candidates = [pool for pool in every if pool.example.method == name]
    for word in words:
        fitting = [pool for pool in candidates if _fits(word, pool)]
        if not fitting:
            recipes = sorted({recipe for pool in candidates for record in pool.records for recipe in record.recipes})
            raise DDBenchError(f"'{text}': no selected record has '{word}'; recipes of {name}: {', '.join(recipes)}")
        candidates = fitting
    return candidates


def _fits(word: str, pool: Pool) -> bool:
    name, is_setting, value = word.partition("=")
    if not is_setting:
        return any(word in record.recipes for record in pool.records)
    values = {path: value_text(actual) for path, actual in pool.config.items()}
    return any(value == actual and name in (path, path.rpartition(".")[2]) for path, actual in values.items())


def _plainest(text: str, variants: Sequence[Pool]) -> Pool:
    """Returns the pool with the fewest recipes and changed settings of the method."""

    def rank(pool: Pool) -> tuple[int, int]:
        changed = [name for name in changed_settings(pool.example) if name.startswith(OF_THE_SET)]
        return len(pool.example.recipes), len(changed)

    plainest = [pool for pool in variants if rank(pool) == min(map(rank, variants))]
    if len(plainest) > 1:
        examples = [pool.example for pool in plainest]
        labels = [f"{one.method} {'+'.join(one.recipes)}" for one in examples]
        listed = "; ".join(disambiguate_labels(labels, [pool.config for pool in plainest], examples))
        raise DDBenchError(f"'{text}' stands for {len(plainest)} variants: {listed}; add a recipe or NAME=VALUE")
    return plainest[0]


def _closest(first: Iterable[Facts], second: Iterable[Facts]) -> str:
    """Returns the names of the conditions that differ between the two closest."""
    names: list[str] = min(
        ([name for name in {**a, **b} if a.get(name) != b.get(name)] for a, b in product(first, list(second))), key=len
    )
    # The settings of another protocol say no more than its name.
    return ", ".join(name for name in names if "evaluator" not in names or not name.startswith("evaluator."))


def comparison_text(blocks: Sequence[Block], per_class: bool = False, wide: bool = False) -> str:
    """Formats the means, and a sentence for each difference with its test.

    The p-values are corrected over the differences of a block: those of top-1, and apart from them those of classes.

    Args:
        blocks: The groups, from `blocks_of`.
        per_class: Whether to show the differences of each class.
        wide: Whether each row has one line, instead of the width of the terminal.
    """
    width = UNLIMITED if wide else terminal_width()
    sections = []
    for block in blocks:
        sections += [_filled(block.title, width), format_rows(_group_rows(block), ("group", "top-1"), width)]
        pairs = list(combinations(block.groups, 2))
        if per_class:
            sections += [format_rows(rows, ("class", "p (Holm)"), width) for rows in _class_tables(block, pairs)]
        differences = [_difference(block, *pair) for pair in pairs]
        for pair, made, p in zip(pairs, differences, corrected(differences), strict=True):
            sections.append(_filled(_sentence(block.title, *pair, made, p, len(pairs)), width))
        notes = list(_notes(block, pairs))
        if any(made.over.endswith(ON_ONE_SET) for made in differences):
            notes.append("one set of each: the test says nothing about other sets of these methods")
        sections += [_filled(f"note: {note}", width) for note in notes]
    return "\n\n".join(sections)


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False)


def _difference(block: Block, one: str, other: str, label: int | None = None) -> Difference:
    return difference(*(results_of(block.groups[name].students, label) for name in (one, other)))


def _group_rows(block: Block) -> list[dict[str, str]]:
    rows = []
    for name, group in block.groups.items():
        pooled = pool_top1(group.students)
        recipe = "+".join(group.example.recipes)
        rows.append({"group": name, "recipe": recipe, "top-1": pooled.text, "n": pooled.count_text})
    return rows


def _class_tables(block: Block, pairs: Sequence[tuple[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Yields the rows of the classes for each pair of groups. Of many classes, those that differ most are shown."""
    students = block.students
    labels = range(min(len(one.metrics.per_class) for one in students))
    recorded = [names for one in students if len(names := one.data.get("class_names", ())) == len(labels)]
    names = [*map(str, recorded[0] if recorded else labels)]
    differences = [[_difference(block, *pair, label) for label in labels] for pair in pairs]
    p_values = iter(corrected([made for classes in differences for made in classes]))
    for (one, other), classes in zip(pairs, differences, strict=True):
        of_labels = [next(p_values) for _ in labels]
        largest = sorted(labels, key=lambda label: -abs(classes[label].mean))[:SHOWN_CLASSES]
        yield [
            {
                "class": names[label],
                one: f"{classes[label].first:.2f}",
                other: f"{classes[label].second:.2f}",
                "difference": f"{classes[label].mean:+.2f}",
                "95 % interval": _interval(classes[label]),
                "p (Holm)": _p_text(of_labels[label]),
            }
            for label in sorted(largest)
        ]


def _interval(made: Difference) -> str:
    return "" if made.interval is None else f"{made.interval[0]:+.2f} to {made.interval[1]:+.2f}"


def _p_text(p: float | None) -> str:
    return "not tested" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _sentence(title: str, one: str, other: str, made: Difference, p: float | None, comparisons: int) -> str:
    """Returns the sentence of a paper about a difference."""
    dataset, _, conditions = title.partition(", ")
    sign = 1 if made.mean >= 0 else -1
    (high_name, high), (low_name, low) = [(one, made.first), (other, made.second)][::sign]
    values = f"{high:.2f} % against {low:.2f} %, a difference of {abs(made.mean):.2f} percentage points"
    where = f"On {dataset} ({conditions})"
    if p is None or made.interval is None or made.statistic is None:
        return f"{where}, {high_name} and {low_name} have {values}. It cannot be tested: {made.over}."
    verb = "is higher than" if p < LEVEL else "cannot be distinguished from"
    start, end = sorted(sign * bound for bound in made.interval)
    test = f"{made.test} over {made.over}, t({made.freedom:.3g}) = {sign * made.statistic:.2f}"
    p_text = f"p {_p_text(p)}" if p < 0.001 else f"p = {_p_text(p)}"
    correction = f", Holm-corrected for {comparisons} comparisons" if comparisons > 1 else ""
    return (
        f"{where}, the top-1 of {high_name} {verb} that of {low_name}: {values} (95 % confidence interval "
        f"{start:.2f} to {end:.2f}; {test}, {p_text}{correction})."
    )


def _notes(block: Block, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields what else differs within the groups and between them, and which students are in no pair."""
    for name, group in block.groups.items():
        if text := describe_mixture(group.students, [group]):
            yield f"{name}: {text}"
    for one, other in pairs:
        first, second = ({seeds(student) for student in block.groups[name].students} for name in (one, other))
        if first & second and first != second:
            yield f"{one}, {other}: the pairs leave out {counted(len(first ^ second), 'student')} without a partner"
    if text := mixture(block.students, only="evaluate"):
        yield f"between the groups: {text}"
    teachers = {group.config["teacher"] for group in block.groups.values() if "teacher" in group.config}
    if len(teachers) > 1:
        yield "the sets were distilled with different teachers"
