"""Every table of measured numbers in README.md, results/README.md and docs/ is that of the committed records."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from ddbench.pipeline.request import Request
from ddbench.registry.registry import PluginRegistry
from ddbench.results import records
from ddbench.results.conditions import Pool, pools
from ddbench.results.pooling import pool_top1
from ddbench.results.records import Record
from ddbench.tables.frame import build_frame

if TYPE_CHECKING:
    from tests.docs.conftest import Results

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "imagenette-64px"
PAGE, README = ROOT / "results" / "README.md", ROOT / "README.md"

COMPARED = {
    "| set on digits | `fkd` | `hard` | W_2^2 |",
    "| labels | bytes at IPC 10 | random, IPC 10 | wmdd, `tuned`, IPC 10 | bytes at IPC 20 | random, IPC 20 |",
    "| set | `fkd` | `soft` | `hard` |",
    "| method | `fkd` | IOR | `soft` | IOR | `hard` | IOR | HLR | W_2^2 |",
    "| set | `fkd` | `hard` | W_2^2 | n |",
    "| | `fkd` | `rded` |",
    "| set | lambda | learning rate | cross-entropy | smallest crop | `fkd` | `hard` | W_2^2 |",
    "| | Wasserstein + PCBN | cross-entropy + PCBN | Wasserstein + BN | cross-entropy + BN |",
    "| layer | 5 | 10 | 15 | 16 | 17 | 18 |",
    "| lambda | 0.1 | 1 | 10 | 100 | 1000 |",
    "| | WMDD (Wasserstein) | WMDD with MMD instead | DM (MMD, 60 steps) |",
    "| images per class | WMDD | wmdd-sliced |",
    "| | WMDD | random | SRe2L | RDED | CDA | DC |",
    "| method | with augmentation | IOR | without augmentation | IOR | raw ARS | ARS |",
    "| set | `dsa` | n |",
    "| method | protocol | top-1 | published | source |",
    "| record | distilled set | top-1 in the record | top-1 repeated |",
    "| | ResNet-18 | ResNet-50 | ViT-Tiny |",
    "| | DC | DM | SRe2L | WMDD |",
    "| set | protocol | 20 | 50 | 100 | 200 | 300 | n |",
    "| set at IPC 1 | protocol | top-1 | random | `fkd` | `soft` | `hard` |",
    "| set at IPC 10 | protocol | top-1 | random | `fkd` | `soft` | `hard` |",
    "| set | teacher of `fast-teacher` | given teacher |",
}
"""Headings of the tables that a test compares with records."""
NOT_RECORDED = {
    "| points and weights | W_2^2 |",
    "| points and weights | W_2^2 | d times sliced W_2^2 |",
    "| set | learning rate | top-1 |",
}
"""Headings of measured tables that state that their records are not committed."""


def printed(name: str, results: Results) -> dict[str, dict[str, str]]:
    """The cells of a printed table without counts and notes, by row and column; `COLUMN published` beside a column."""
    (table,) = results.tables(REFERENCE / "tables" / f"{name}.md").items()
    columns = [cell.strip() for cell in table[0].split("|")[1:-1]]
    for number, column in enumerate(columns):
        if column == "published":
            columns[number] = f"{columns[number - 1]} published"
    return {
        row[0]: {
            column: re.sub(r" [\[(].*", "", cell).replace("**", "") for column, cell in zip(columns, row, strict=True)
        }
        for row in table[1]
    }


def value(text: str) -> str:
    """The number without its error."""
    return text.partition(" ± ")[0]


def cost(members: Iterable[Pool], digits: int = 2) -> str:
    """The mean transport cost over distilled sets."""
    students = [student for pool in members for student in pool.students]
    costs = {r.distilled_digest: r.feature_transport_cost for r in students if r.feature_transport_cost is not None}
    return f"{fmean(costs.values()):.{digits}f}" if costs else ""


def test_every_table_of_measured_numbers_is_compared(results: Results) -> None:
    """Results: a heading of accuracies, costs or times, in a page that reports results."""
    pages = (README, PAGE, ROOT / "docs" / "numerics.md")
    measured = {
        heading
        for page in pages
        for heading, rows in results.tables(page).items()
        if any(re.fullmatch(r"[-+]?\d+\.\d+( ± .*)?", cell) for row in rows for cell in row[1:])
    }
    assert measured == COMPARED | NOT_RECORDED
    text = " ".join((ROOT / "docs" / "numerics.md").read_text(encoding="utf-8").split())
    assert text.count("are not committed") == len(NOT_RECORDED)


def test_the_first_table_is_that_of_its_records(results: Results) -> None:
    rows = results.rows("| set | `fkd` | `hard` | W_2^2 | n |")
    names = {
        "ten random real images per class": ("random", ["quick"]),
        "wmdd, `quick` + `released`": ("wmdd", ["quick", "released"]),
        "wmdd, `quick` (the paper's formulas)": ("wmdd", ["quick"]),
        "wmdd, `quick` + `lloyd`": ("wmdd", ["quick", "lloyd"]),
    }
    assert rows.keys() == names.keys()
    every = [
        pool
        for pool in pools(results.collection("imagenette-64px-earlier"))
        if pool.example.configuration["method_settings"].get("regulariser") != "bn"  # of the table `ablation`
    ]
    for label, (method, recipes) in names.items():
        own = {p.example.evaluator: p for p in every if (p.example.method, p.example.recipes) == (method, recipes)}
        fkd, hard, transport, n = rows[label]
        for text, name in ((fkd, "fkd"), (hard, "hard")):
            assert text == (results.number(pool_top1(own[name].students)) if name in own else "no record"), label
        assert transport == cost(own.values()), label
        counts = {f"{c.sets} set{'s' * (c.sets > 1)}" + f", {c.students} students" * (c.students > c.sets)
                  for c in (pool_top1(p.students) for p in own.values())}  # fmt: skip
        assert counts == {n}, label


def test_the_methods_are_those_of_the_printed_table(results: Results) -> None:
    """`regimes.md` is what the program prints from the records (test_readme)."""
    values = printed("regimes", results)
    values["wmdd, tuned"] = values.pop("wmdd, quick+tuned")

    def shown(heading: str, page: Path) -> dict[str, list[str]]:
        """The rows of a table, by their label without quotes and notes."""
        return {re.sub(r"`| \[\d\]| \(.*", "", label): cells for label, cells in results.rows(heading, page).items()}

    regimes = ("fkd", "soft", "hard")
    rows = shown("| set | `fkd` | `soft` | `hard` |", README)
    rows["wmdd, tuned"] = rows.pop("wmdd, recipe tuned after quick")
    assert len(rows) == 8
    for method, cells in rows.items():
        assert cells == [values[method][f"IPC 10 {regime} top-1"] for regime in regimes], method

    columns = [f"IPC 10 {regime} {number}" for regime in regimes for number in ("top-1", "IOR")] + ["IPC 10 hard HLR"]
    rows = shown("| method | `fkd` | IOR | `soft` | IOR | `hard` | IOR | HLR | W_2^2 |", PAGE)
    assert len(rows) == 16
    for method, cells in rows.items():
        for ours, column in zip(cells[:7], columns, strict=True):
            theirs = values[method][column]
            if ours:
                assert float(value(ours)) == float(value(theirs)), (method, column)
                assert ours.partition(" ± ")[2] in ("", theirs.partition(" ± ")[2]), (method, column)


def test_the_costs_of_the_methods_are_those_of_their_records(results: Results) -> None:
    rows = results.rows("| method | `fkd` | IOR | `soft` | IOR | `hard` | IOR | HLR | W_2^2 |")
    request = Request(
        *((), ("imagenette",), (10,)),
        assignments=("dm.steps=60", "dm-rbf.steps=60", "teacher.checkpoint=teacher-resnet18-imagenette64.safetensors"),
    )
    stored = [record for record in records.read_all(REFERENCE / "records") if record.student_seed == 0]
    frame = build_frame(PluginRegistry().table("regimes"), request, PluginRegistry(), None, REFERENCE, stored=stored)
    measured = frame[(frame["state"] == "measured") & (frame["evaluator"] == "fkd") & (frame["ipc"] == 10)]
    quick = measured[measured["recipe"].str.startswith("quick --set")]
    tuned = measured[measured["recipe"].str.startswith("quick+tuned")]
    costs = {row: f"{part['transport_cost'].mean():.2f}" for row, part in quick.groupby("row")}
    costs["wmdd, `tuned`"] = f"{tuned[tuned['row'] == 'wmdd']['transport_cost'].mean():.2f}"
    assert {label.partition(" [")[0]: cells[-1] for label, cells in rows.items()} == costs


def test_rded_under_both_protocols_is_that_of_its_records(results: Results) -> None:
    stored = results.collection("imagenette-64px")

    def top1(method: str, protocol: str) -> str:
        """The number over the sets that are measured under `rded`."""
        named = [
            r for r in stored if (r.method, r.ipc, r.student) == (method, 10, "resnet18") and r.recipes == ["quick"]
        ]
        sets = {r.repeat for r in named if r.evaluator == "rded"}
        others = {"select_share", "augmentation"}
        plain = [r for r in named if not others & r.configuration["evaluator_settings"].keys()]
        used = [r for r in plain if r.evaluator == protocol and r.repeat in sets and r.student_seed == 0]
        assert len(used) == len(sets)
        return results.number(pool_top1(used))

    assert results.rows("| | `fkd` | `rded` |") == {
        method: [top1(method, protocol) for protocol in ("fkd", "rded")] for method in ("rded", "random")
    }


def test_the_sentences_on_el2n_are_those_of_its_records(results: Results) -> None:
    def top1(name: str) -> list[str]:
        measured = [r for r in results.collection(name) if (r.method, r.ipc) == ("el2n", 10)]
        plain = [r for r in measured if "augmentation" not in r.configuration["evaluator_settings"]]
        own = {pool.example.evaluator: pool_top1(pool.students) for pool in pools(plain)}
        return [results.number(own[protocol]) for protocol in ("fkd", "soft", "hard")]

    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    fkd, soft, hard = top1("imagenette-64px")
    assert f"`quick` has it, has {fkd} under `fkd`, {soft} under `soft` and {hard} under `hard`" in text
    fkd, soft, hardest = top1("imagenette-64px-coresets")
    assert f"The hardest images, which the paper keeps, have {fkd}, {soft} and {hardest} (one student each)" in text
    numerics = " ".join((ROOT / "docs" / "numerics.md").read_text(encoding="utf-8").split())
    assert f"`el2n` have {value(hard)} under `hard` and the hardest {hardest}" in numerics


def test_the_search_is_that_of_its_records(results: Results) -> None:
    names = ("bn_weight", "learning_rate", "cross_entropy_weight", "crop_scale_min")
    every: dict[tuple[str, ...], dict[str, Pool]] = {}
    for pool in pools(results.collection("imagenette-64px-search")):
        settings = pool.example.configuration["method_settings"]
        method = pool.example.method
        title = f"{settings.get('solver', 'sliced')} barycenter" if settings else method
        key = (title, *(f"{settings[name]:g}" if settings else "" for name in names))
        every.setdefault(key, {})[pool.example.evaluator] = pool
    expected = [
        [
            *key,
            *(f"{pool_top1(own[name].students).mean:.2f}" if name in own else "not run" for name in ("fkd", "hard")),
            cost(own.values(), 1),
        ]
        for key, own in every.items()
    ]
    heading = "| set | lambda | learning rate | cross-entropy | smallest crop | `fkd` | `hard` | W_2^2 |"
    assert sorted(results.tables(PAGE)[heading]) == sorted(expected)


def test_the_sentence_on_32_px_is_that_of_its_records(results: Results) -> None:
    own = {pool.example.method: pool_top1(pool.students) for pool in pools(results.collection("imagenette-32px"))}
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert [own[name].count_text for name in ("dm", "random")] == ["3 on 1 set", "3 on 2 sets"]
    dm, random = (results.number(own[name]) for name in ("dm", "random"))
    assert f"reaches {dm} over three students on one set, against {random} for ten random" in text
    assert "(three students on two sets)" in text


def test_the_sentence_on_crops_once_per_batch_is_that_of_its_records(results: Results) -> None:
    (changed,) = [
        pool
        for pool in pools(results.collection("imagenette-64px"))
        if pool.example.method == "wmdd"
        and not pool.example.configuration["method_settings"].get("crop_per_image", True)
        and pool.example.recipes == ["quick"]
    ]
    pooled = pool_top1(changed.students)
    assert (changed.example.evaluator, pooled.count_text) == ("fkd", "3 sets")
    for path in (PAGE, PAGE.parents[1] / "docs" / "faithfulness.md"):
        assert results.number(pooled) in path.read_text(encoding="utf-8")


def test_the_sentence_on_large_batches_is_that_of_its_record(results: Results) -> None:
    (record,) = [
        record
        for record in results.collection("imagenette-64px")
        if record.ipc == 50 and record.configuration["evaluator_settings"].get("batch_size") == 1024
    ]
    assert (record.method, record.evaluator) == ("random", "fkd")
    for path in (PAGE, PAGE.parents[1] / "docs" / "faithfulness.md"):
        assert f"{record.metrics.top1_last:.2f}" in path.read_text(encoding="utf-8")


def test_the_numbers_under_dsa_are_those_of_their_records(results: Results) -> None:
    expected = {}
    for pool in pools(results.collection("imagenette-64px-dsa")):
        method, settings = pool.example.method, pool.example.configuration["method_settings"]
        words = [settings["network"], f"learning rate {settings['learning_rate']:g}"] if settings else []
        if pool.example.configuration["evaluator_settings"]["strategy"] is None:
            words.append("no augmentation")
        pooled = pool_top1(pool.students)
        expected[", ".join([method, *words])] = [results.number(pooled), pooled.count_text]
    assert results.rows("| set | `dsa` | n |") == expected


def test_repeated_records_are_beside_those_that_they_repeat(results: Results) -> None:
    originals = {one.name: one for one in results.collection("imagenette-64px")}
    expected = {}
    for repeated in results.collection("imagenette-64px-repeats"):
        one = originals[repeated.name]
        same = repeated.distilled_digest == one.distilled_digest
        assert (repeated.metrics.per_class == one.metrics.per_class) == same
        assert repeated.keys == one.keys
        top1 = [f"{record.metrics.top1_last:.2f}" for record in (one, repeated)]
        expected[f"`{one.name}`"] = ["the same" if same else "another", *top1]
    assert results.rows("| record | distilled set | top-1 in the record | top-1 repeated |") == expected


def test_the_accuracies_of_the_performance_page_are_those_of_the_records(results: Results) -> None:
    before = printed("ablation", results)["wasserstein + pcbn"]["IPC 10"]
    runs = results.collection("imagenette-64px-benchmarks")
    after, compiled = (
        results.number(pool_top1([run for run in runs if run.configuration["runtime"]["compile"] == value]))
        for value in ("off", "on")
    )
    line = f"{before} before the optimisations, {after} after, {compiled} with `--compile on`"
    assert line in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("layers", "| layer | 5 | 10 | 15 | 16 | 17 | 18 |"),
        ("lambda", "| lambda | 0.1 | 1 | 10 | 100 | 1000 |"),
    ],
)
def test_the_tables_of_one_setting_are_those_printed(results: Results, name: str, heading: str) -> None:
    cells = printed(name, results)
    assert heading.split(" | ")[1:] == [*list(cells)[:-1], f"{list(cells)[-1]} |"]
    assert results.rows(heading)["here (one student each)"] == [row["IPC 10"] for row in cells.values()]


def test_ablation_and_metric_are_those_printed(results: Results) -> None:
    rows = results.rows("| | Wasserstein + PCBN | cross-entropy + PCBN | Wasserstein + BN | cross-entropy + BN |")
    order = ("wasserstein + pcbn", "cross-entropy + pcbn", "wasserstein + bn", "cross-entropy + bn")
    cells = [printed("ablation", results)[name] for name in order]
    earlier: dict[str, list[Record]] = {}
    for record in results.collection("imagenette-64px-earlier"):
        settings = record.configuration["method_settings"]
        if settings.get("regulariser") == "bn":
            earlier.setdefault(settings["feature_loss"], []).append(record)
    assert rows == {
        "here (three students on one set each)": [row["IPC 10"] for row in cells],
        "BN with earlier settings": [
            "",
            "",
            *(results.number(pool_top1(earlier[n])) for n in ("wasserstein", "cross-entropy")),
        ],
        "paper": [value(row["IPC 10 published"]) for row in cells],
    }
    rows = results.rows("| | WMDD (Wasserstein) | WMDD with MMD instead | DM (MMD, 60 steps) |")
    cells = [printed("metric", results)[name] for name in ("wasserstein (wmdd)", "mmd in WMDD", "mmd (dm)")]
    assert rows == {
        "class labels, no CutMix": [row["IPC 10 hard"] for row in cells],
        "FKD": [row["IPC 10 fkd"] for row in cells],
    }


def test_sliced_and_comparison_are_those_printed(results: Results) -> None:
    sliced, comparison = printed("sliced", results), printed("comparison", results)
    methods = ("wmdd", "wmdd-sliced")
    three = printed("regimes", results)
    assert results.rows("| images per class | WMDD | wmdd-sliced |") == {
        "1 (both are the class mean)": [sliced[name]["IPC 1 top-1"] for name in methods],
        "10, one set": [sliced[name]["IPC 10 top-1"] for name in methods],
        "10, three sets": [three[name]["IPC 10 fkd top-1"] for name in methods],
        "50 (one student each)": [sliced[name]["IPC 50 top-1"] for name in methods],
    }
    order = ("wmdd", "random", "sre2l", "rded", "cda", "dc")
    assert results.rows("| | WMDD | random | SRe2L | RDED | CDA | DC |") == {
        "here (three students on one set)": [comparison[name]["IPC 1"] for name in order],
        "paper": [value(comparison[name]["IPC 1 published"]) for name in order],
    }


def test_students_of_other_networks_are_those_of_the_records(results: Results) -> None:
    checkpoint = "teacher.checkpoint=teacher-resnet18-imagenette64.safetensors"
    methods = {"random": "random", "WMDD": "wmdd", "SRe2L": "sre2l"}
    request = Request(tuple(methods.values()), ("imagenette",), (10,), assignments=(checkpoint,))
    frame = build_frame(PluginRegistry().table("cross-arch"), request, PluginRegistry(), None, REFERENCE)
    measured = frame[frame["state"] == "measured"].set_index(["row", "student"])
    students = ("resnet18", "resnet50", "vit_tiny_patch16_224")
    expected = {
        f"{title}, {epoch}": [f"{measured.loc[(method, student), column]:.2f}" for student in students]
        for epoch, column in (("selected epoch", "top1_selected"), ("last epoch", "top1"))
        for title, method in methods.items()
    }
    assert results.rows("| | ResNet-18 | ResNet-50 | ViT-Tiny |") == expected


def test_efficiency_is_as_printed(results: Results) -> None:
    cells = [printed("efficiency", results)[name] for name in ("dc", "dm", "sre2l", "wmdd")]
    rows = results.rows("| | DC | DM | SRe2L | WMDD |")
    assert rows["seconds per iteration"] == [row["IPC 1 s / iteration"] for row in cells]
    assert rows["peak memory, GB"] == [row["IPC 1 peak GB"] for row in cells]
    extrapolated = [float(text.replace(",", "")) for text in rows["seconds of 2,000 iterations, extrapolated"]]
    assert extrapolated == [float(row["IPC 1 s for 2,000 iterations"]) for row in cells]
    paper = rows["paper, seconds per iteration (RTX-3090, 224 px)"]
    assert paper == [value(row["IPC 1 s / iteration published"]) for row in cells]


def test_the_numbers_of_the_demo_are_those_of_its_records(results: Results) -> None:
    expected: dict[str, dict[str, str]] = {}
    for pool in pools(results.collection("digits-16px-demo")):
        tuned = pool.example.method == "wmdd" and "tuned" in pool.example.recipes
        row = expected.setdefault(f"`{pool.example.method}`" + (", `tuned`" if tuned else ""), {})
        row[pool.example.evaluator] = results.number(pool_top1(pool.students))
        row["cost"] = cost([pool]) or row.get("cost", "")
        assert pool_top1(pool.students).count_text == "3 on 1 set"
    shown = results.rows("| set on digits | `fkd` | `hard` | W_2^2 |")
    assert shown == {name: [row["fkd"], row["hard"], row["cost"]] for name, row in expected.items()}
    trials = [r for r in results.collection("digits-16px-search") if r.configuration["data"]["holdout"]]
    others = sorted(f"{r.metrics.top1_last:.2f}" for r in trials)
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{others[-1]} for the winner, {others[0]} to {others[-2]} for the others" in text
