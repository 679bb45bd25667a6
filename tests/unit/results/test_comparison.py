"""Groups of records and the text of their differences, by hand and on the committed records."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddbench.core.errors import DDBenchError
from ddbench.results.comparison import Filters, blocks_of, comparison_text
from ddbench.results.records import Record
from ddbench.results.significance import holm

if TYPE_CHECKING:
    from conftest import Shell

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "results" / "reference" / "imagenette-64px"
MakeRecord = Callable[..., Record]


@pytest.fixture
def group(record: MakeRecord) -> Callable[..., list[Record]]:
    """One student on each of several sets, with the accuracies of two classes around its top-1."""

    def make(values: Sequence[float], method: str = "wmdd", first: int = 0, **changes: Any) -> list[Record]:
        made = [record(value, method, repeat=number, **changes) for number, value in enumerate(values, first)]
        for one in made:
            one.metrics.per_class[:] = [one.metrics.top1_last + 2, one.metrics.top1_last - 2]
        return made

    return make


def test_the_sentence_of_a_paper(group: Callable[..., list[Record]]) -> None:
    stored = [*group((60.0, 62.0, 64.0)), *group((59.0, 60.0, 61.0), "random")]
    text = comparison_text(blocks_of(["random", "wmdd"], stored))
    title, table, sentence = text.split("\n\n")
    assert title == "imagenette, 64 px, IPC 10, fkd v1, resnet18"
    assert re.search(r"^wmdd +quick +62\.00 ± 2\.00 +3 sets$", table, re.MULTILINE)
    # t = 2 / (1 / sqrt 3), and 4.3027 is the 97.5 % quantile of t with 2 degrees of freedom.
    assert sentence == (
        "On imagenette (64 px, IPC 10, fkd v1, resnet18), the top-1 of wmdd cannot be distinguished from that of "
        "random: 62.00 % against 60.00 %, a difference of 2.00 percentage points (95 % confidence interval -0.48 to "
        "4.48; paired t-test over 3 shared sets, t(2) = 3.46, p = 0.074)."
    )


def test_more_groups_and_classes_are_corrected(group: Callable[..., list[Record]]) -> None:
    values = {"wmdd": (72.0, 70.0, 68.0), "random": (60.0, 61.0, 59.0), "sre2l": (60.4, 58.2, 61.5)}
    stored = [one for method, top1 in values.items() for one in group(top1, method)]
    text = comparison_text(blocks_of(list(values), stored), per_class=True)
    pattern = r"top-1 of (\w+) .* that of (\w+): .*, p = ([\d.]+)"
    uncorrected = {
        (one, other): float(re.findall(pattern, comparison_text(blocks_of([one, other], stored)))[0][2])
        for one, other in (("wmdd", "random"), ("wmdd", "sre2l"), ("random", "sre2l"))
    }
    in_all = {tuple(sorted(names)): float(p) for *names, p in re.findall(pattern, text)}
    assert text.count(", Holm-corrected for 3 comparisons).") == 3
    expected = holm([*uncorrected.values()])
    for pair, p in zip(uncorrected, expected, strict=True):
        assert in_all[tuple(sorted(pair))] == pytest.approx(p, abs=0.002)  # the texts have three decimals
    tables = [part for part in text.split("\n\n") if part.startswith("class ")]
    assert [re.split(r"  +", table.splitlines()[0])[1:3] for table in tables] == [
        ["wmdd", "random"],
        ["wmdd", "sre2l"],
        ["random", "sre2l"],
    ]
    assert re.search(r"^0 +72\.00 +62\.00 +\+10\.00 ", tables[0], re.MULTILINE)


def test_variants_are_recipes_settings_or_the_plainest(group: Callable[..., list[Record]]) -> None:
    tuned = group((66.0, 67.0, 67.5), recipes=("quick", "tuned"), bn_weight=1.0)
    changed = group((50.0, 51.0, 53.0), bn_weight=0.5)
    for one in changed:
        one.configuration["changed"] = ["method.bn_weight"]
    stored = [*tuned, *changed, *group((60.0, 62.0, 64.0)), *group((59.0, 60.0, 61.0), "random")]
    (block,) = blocks_of(["wmdd", "wmdd tuned", "wmdd bn_weight=0.5", "random"], stored)
    tops = {name: [one.metrics.top1_last for one in pool.records] for name, pool in block.groups.items()}
    assert list(tops) == ["wmdd", "wmdd tuned", "wmdd bn_weight=0.5", "random"]
    assert [values[0] for values in tops.values()] == [60.0, 66.0, 50.0, 59.0]
    (block,) = blocks_of(["wmdd method.bn_weight=1.0", "random"], stored)
    assert block.students[0].metrics.top1_last == 66.0


def test_a_record_stands_for_the_students_on_its_set(group: Callable[..., list[Record]], record: MakeRecord) -> None:
    stored = [record(60.0 + seed * seed, seed=seed) for seed in range(3)]
    stored += [record(50.0 + seed, "random", seed=seed) for seed in range(3)]
    other_sets = group((90.0, 91.0), first=1)
    text = comparison_text(blocks_of([stored[0].name, "random"], [*stored, *other_sets]))
    assert "paired t-test over 3 students on one set" in text
    assert "note: one set of each: the test says nothing about other sets of these methods" in text


def test_only_equal_conditions_are_compared(group: Callable[..., list[Record]]) -> None:
    other = group((59.0, 60.0, 61.0), "random", teacher=("two", 80.0))
    with pytest.raises(DDBenchError, match=r"'wmdd' and 'random' are not comparable: .* differ in teacher$"):
        blocks_of(["wmdd", "random"], [*group((60.0, 62.0)), *other])
    newer = group((59.0, 60.0, 61.0), "random", evaluator_version="2")
    with pytest.raises(DDBenchError, match=r"differ in evaluator$"):
        blocks_of(["wmdd", "random"], [*group((60.0, 62.0)), *newer])
    both = [*other, *newer, *group((60.0, 62.0, 64.0)), *group((70.0, 71.0, 73.0), teacher=("two", 80.0))]
    (block,) = blocks_of(["wmdd", "random"], both)
    assert [one.metrics.top1_last for one in block.students] == [70.0, 71.0, 73.0, 59.0, 60.0, 61.0]


def test_what_differs_besides_is_noted(group: Callable[..., list[Record]]) -> None:
    device = {"type": "cpu", "name": "a CPU", "threads": 4}
    stored = [*group((60.0, 62.0, 64.0)), *group((59.0, 60.0, 61.0), "random", device=device)]
    text = comparison_text(blocks_of(["wmdd", "random"], [*stored, *group((65.0,), seed=1)]))
    assert "note: between the groups: threads 1, 4 (evaluate)" in text
    assert "note: wmdd, random: the pairs leave out 1 student without a partner" in text


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["wmdd"], "two or more different groups"),
        (["wmdd", "wmdd"], "two or more different groups"),
        (["wmdd", "wmd"], "unknown method or record 'wmd'; did you mean 'wmdd'?"),
        (["wmdd", ""], "unknown method or record ''"),
        (["wmdd", "random tuned"], "'random tuned': no selected record has 'tuned'; recipes of random: quick"),
        (["wmdd", "wmdd quick"], "'wmdd' and 'wmdd quick' are the same records"),
        (["sre2l", "random"], "'sre2l' stands for 2 variants: sre2l quick, bn_weight 1; sre2l quick, bn_weight 2;"),
    ],
)
def test_wrong_groups_are_refused(texts: list[str], message: str, group: Callable[..., list[Record]]) -> None:
    stored = [*group((60.0, 62.0)), *group((59.0, 60.0), "random")]
    for weight in (1.0, 2.0):
        stored += [
            one.model_copy(
                update={
                    "name": f"{one.name}-{weight}",
                    "method": "sre2l",
                    "configuration": {**one.configuration, "method_settings": {"bn_weight": weight}},
                }
            )
            for one in group((50.0, 51.0), bn_weight=weight)
        ]
    with pytest.raises(DDBenchError, match=re.escape(message)):
        blocks_of(texts, stored)


def test_filters_select_records(record: MakeRecord) -> None:
    stored = [record(1.0), record(2.0, ipc=1), record(3.0, evaluator="hard"), record(4.0, student="convnet-d3")]
    assert [one.metrics.top1_last for one in Filters(ipcs=(1,)).of(stored)] == [2.0]
    assert [one.metrics.top1_last for one in Filters(evaluators=("hard",)).of(stored)] == [3.0]
    assert [one.metrics.top1_last for one in Filters(students=("convnet-d3",)).of(stored)] == [4.0]
    assert Filters(datasets=("digits",)).of(stored) == []
    assert Filters(datasets=("imagenette",)).of(stored) == stored


def test_the_results_page_quotes_the_committed_records(shell: Shell) -> None:
    page = " ".join((ROOT / "results" / "README.md").read_text().split())
    options = ("--results-dir", REFERENCE, "--ipc", "10", "--student", "resnet18", "--wide")
    for groups in (("wmdd tuned", "random"), ("wmdd", "sre2l")):
        outcome = shell("compare", *groups, *options)
        assert outcome.code == 0, outcome.err
        # Of the protocols as they are: after the student, a sentence names the changed settings of other students.
        tested = [line for line in outcome.out.splitlines() if line.startswith("On ") and "t-test" in line]
        tested = [line for line in tested if "resnet18), the top-1" in line]
        assert len(tested) == 3
        for sentence in tested:
            assert sentence in page


def test_the_command_refuses_an_empty_selection(shell: Shell) -> None:
    shell("compare", "wmdd", "random").refused("no records in results/records")
    shell("compare", "wmdd", "random", "--results-dir", REFERENCE, "--ipc", "3").refused(
        "no record has this dataset, IPC"
    )
