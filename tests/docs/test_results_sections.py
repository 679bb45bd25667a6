"""The tables of results/README.md that have a collection of records each are those of their records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.figures import compute
from ddbench.results import published
from ddbench.results.conditions import pools
from ddbench.results.frames import to_frame
from ddbench.results.pooling import Pooled, pool_top1
from ddbench.results.records import Record
from ddbench.results.scores import scores

if TYPE_CHECKING:
    from tests.docs.conftest import Results

PAGE = Path(__file__).parents[2] / "results" / "README.md"


def test_the_numbers_at_224_pixels_are_those_of_their_records_and_of_the_published_table(results: Results) -> None:
    expected = {}
    for pool in pools(results.collection("imagenette-224px")):
        record = pool.example
        assert (record.ipc, record.configuration["data"]["image_size"], record.recipes[0]) == (1, 224, "paper")
        words = [record.method, *(f"`{recipe}`" for recipe in record.recipes[1:])]
        expected[", ".join(words)] = [f"`{record.evaluator}`", results.number(pool_top1(pool.students))]
    table = results.rows("| method | protocol | top-1 | published | source |")
    assert {method: cells[:2] for method, cells in table.items()} == expected
    frame = published.load("comparison").query("dataset == 'imagenette' and ipc == 1").set_index("ours")
    for method, ours in (("wmdd, `released`", "wmdd"), ("sre2l", "sre2l")):
        row = frame.loc[ours]
        assert table[method][2:] == [f"{row['value']} ± {row['error']}", row["source"]]


def test_the_scores_without_augmentation_are_those_of_the_records(results: Results) -> None:
    first = (10, "soft", "resnet18", 0)
    every = results.collection("imagenette-64px")
    used = [r for r in every if (r.ipc, r.evaluator, r.student, r.student_seed) == first]
    bare = [r for r in used if "augmentation" in r.configuration["evaluator_settings"]]

    def label(method: str, recipe: str) -> str:
        return method + (", `tuned`" if "tuned" in recipe else "")

    alone = {
        label(p.example.method, "+".join(p.example.recipes)): results.number(pool_top1(p.students)) for p in pools(bare)
    }
    expected = {}
    for row in scores(to_frame(used)).dropna(subset=["ars"]).to_dict("records"):
        name = label(row["method"], row["recipe"])
        gaps = (row["ior"], row["unaugmented"] - row["unaugmented_random"])
        ior, bare_ior = ("", "") if name == "random" else (f"{gap:+.2f}" for gap in gaps)
        raw = "0.00" if name == "random" else f"{row['ars_raw']:+.2f}"
        top1 = f"{row['top1']:.2f}" + ("" if math.isnan(row["deviation"]) else f" ± {row['deviation']:.2f}")
        expected[name] = [top1, ior, alone[name], bare_ior, raw, f"{row['ars']:.3f}"]
    assert results.rows("| method | with augmentation | IOR | without augmentation | IOR | raw ARS | ARS |") == expected


def test_label_budgets_are_those_of_the_records(results: Results) -> None:
    """Top-1 of each cell, and the bytes of images and labels; the printed table has the same numbers."""
    cells: dict[tuple[str, str, int], list[Record]] = {}
    sizes: dict[tuple[str, int], set[int]] = {}
    for record in results.collection("imagenette-64px-budget"):
        views = record.configuration["evaluator_settings"].get("label_views")
        of_fkd = "fkd, all views" if views is None else f"fkd, {views} view{'s' if views > 1 else ''}"
        labels = of_fkd if record.evaluator == "fkd" else record.evaluator
        assert record.ipc is not None
        cells.setdefault((labels, record.method, record.ipc), []).append(record)
        sizes.setdefault((labels, record.ipc), set()).add(record.metrics.image_bytes + record.metrics.label_bytes)
    rows = results.rows(
        "| labels | bytes at IPC 10 | random, IPC 10 | wmdd, `tuned`, IPC 10 | bytes at IPC 20 | random, IPC 20 |"
    )
    for labels, (small, random, wmdd, large, more) in rows.items():
        for ipc, text in ((10, small), (20, large)):
            assert {int(text.replace(",", ""))} - {0} == sizes[labels, ipc] if text else (labels, ipc) not in sizes
        for method, ipc, text in (("random", 10, random), ("wmdd", 10, wmdd), ("random", 20, more)):
            found = cells.pop((labels, method, ipc), [])
            assert text == (results.number(pool_top1(found)) if found else ""), labels
    assert not cells


def test_equal_compute_is_that_of_its_curves(results: Results) -> None:
    rows = results.tables(PAGE)["| set | protocol | 20 | 50 | 100 | 200 | 300 | n |"]
    points = {
        (row.method, row.series.endswith("IPC 50"), row.evaluator, row.x): row
        for row in compute.frame(results.collection("imagenette-64px-compute")).itertuples()
    }
    assert len(points) == 5 * len(rows)
    for name, protocol, *cells, n in rows:
        key = (name.partition(",")[0], "50 images" in name, protocol.strip("`"))
        for step, cell in zip((20, 50, 100, 200, 300), cells, strict=True):
            point = points[*key, step]
            deviation = None if point.n == 1 else point.deviation
            pooled = Pooled(point.top1, deviation, point.sets, point.n)
            assert (results.number(pooled), pooled.count_text) == (cell, n)


@pytest.mark.parametrize("ipc", [1, 10])
def test_the_methods_at_32_pixels_are_those_of_their_records(results: Results, ipc: int) -> None:
    """Each method under its own protocol, beside random images, and under the three label protocols."""
    top1: dict[tuple[str, str], str] = {}
    for pool in pools(results.collection("imagenette-32px-methods")):
        one = pool.example
        assert (one.dataset, one.configuration["data"]["image_size"], one.recipes) == ("imagenette", 32, ["quick"])
        if one.ipc == ipc:
            name = f"`{one.method}`"
            for key, text in (("learning_rate", ", rate {}"), ("steps", ", {} steps")):
                if f"method.{key}" in one.configuration["changed"]:
                    name += text.format(one.configuration["method_settings"][key])
            assert (name, one.evaluator) not in top1
            top1[name, one.evaluator] = results.number(pool_top1(pool.students))
    shown = results.rows(f"| set at IPC {ipc} | protocol | top-1 | random | `fkd` | `soft` | `hard` |")
    expected: dict[str, list[str]] = {}
    for name, (protocol, *_) in shown.items():
        own = protocol.strip("`")
        beside = [top1[name, own], top1.get(("`random`", own), "")] if own else ["", ""]
        expected[name] = [protocol, *beside, *(top1.get((name, label), "") for label in ("fkd", "soft", "hard"))]
    assert shown == expected
    assert {name for name, _ in top1} == shown.keys()


def test_the_sets_with_the_fast_teacher_are_beside_those_with_the_given_teacher(results: Results) -> None:
    given = results.rows("| method | `fkd` | IOR | `soft` | IOR | `hard` | IOR | HLR | W_2^2 |")
    expected = {}
    for pool in pools(results.collection("imagenette-64px-fast-teacher")):
        one, pooled = pool.example, pool_top1(pool.students)
        assert (one.ipc, one.evaluator, one.recipes) == (10, "fkd", ["quick", "fast-teacher"])
        assert pooled.count_text == "3 sets"
        expected[f"`{one.method}`"] = [results.number(pooled), given[one.method][0]]
    assert results.rows("| set | teacher of `fast-teacher` | given teacher |") == expected
