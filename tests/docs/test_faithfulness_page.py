"""Every table of measured numbers in docs/faithfulness.md is that of the committed records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddbench.results.conditions import pools
from ddbench.results.pooling import pool_top1

if TYPE_CHECKING:
    from tests.docs.conftest import Results

PAGE = Path(__file__).parents[2] / "docs" / "faithfulness.md"


def test_clamped_and_unclamped_pixels_are_those_of_the_records(results: Results) -> None:
    expected: dict[tuple[str, str, str], dict[bool, str]] = {}
    for pool in pools(results.collection("digits-16px")):
        own, configuration = pool.example, pool.example.configuration
        row = (str(own.ipc), str(configuration["method_settings"]["steps"]))
        key = (*row, str(configuration["evaluator_settings"]["epochs"]))
        clamped = configuration["method_settings"].get("clamp", True)
        assert own.distilled_form == ({} if clamped else {"pixels": "float32"})
        assert pool_top1(pool.students).count_text == "3 sets"
        expected.setdefault(key, {})[clamped] = results.number(pool_top1(pool.students))
    page = results.tables(PAGE)
    shown = page["| IPC | steps | epochs | clamped, uint8 | not clamped, float32 |"]
    assert sorted(shown) == sorted([*key, cells[True], cells[False]] for key, cells in expected.items())


def test_idm_and_random_images_are_those_of_the_records(results: Results) -> None:
    expected = {}
    for pool in pools(results.collection("digits-16px-idm")):
        decoded = pool.example.distilled_form.get("decode_factor", 1) ** 2
        top1, count = pool_top1(pool.students), pool.example.distilled_images
        assert top1.count_text == "3 on 1 set"
        cells = [results.number(top1), f"{count}", f"{count * decoded}", f"{pool.example.metrics.image_bytes:,}"]
        expected[f"`{pool.example.method}`"] = cells
    assert results.rows("| set | `dsa` | stored images | images of a student | bytes of the images |", PAGE) == expected


@pytest.mark.parametrize(("name", "protocol"), [("digits-16px-own", "own"), ("imagenette-32px-mtt", "mtt")])
def test_mtt_and_random_images_are_those_of_the_records(results: Results, name: str, protocol: str) -> None:
    expected = {}
    for pool in pools(results.collection(name)):
        form = pool.example.distilled_form
        if pool.example.method == "mtt":
            assert form.keys() == {"pixels", "learning_rate"}
            assert f"from 0.01 to {form['learning_rate']:.5f}" in PAGE.read_text(encoding="utf-8")
        top1 = pool_top1(pool.students)
        assert top1.count_text == "3 on 1 set"
        expected[f"`{pool.example.method}`"] = [results.number(top1), f"{pool.example.metrics.image_bytes:,}"]
    assert results.rows(f"| set | `{protocol}` | bytes of the images |", PAGE) == expected


def test_scdd_and_random_images_are_those_of_the_records(results: Results) -> None:
    names = {"random": "`random`", "sre2l": "`sre2l`", "scdd": "`scdd`, SimSiam for 20 epochs"}
    rows: dict[str, dict[int | None, str]] = {}
    for pool in sorted(pools(results.collection("imagenette-64px")), key=lambda pool: len(pool.students)):
        one, settings = pool.example, pool.example.configuration["method_settings"]
        plain = (one.evaluator, one.student, one.recipes) == ("fkd", "resnet18", ["quick"])
        if plain and one.method in names and one.ipc in (1, 10):
            given = settings.get("backbone") is not None
            name = "`scdd`, backbone of the given teacher" if given else names[one.method]
            rows.setdefault(name, {})[one.ipc] = results.number(pool_top1(pool.students))
    shown = results.rows("| set | IPC 1, `fkd` | IPC 10, `fkd` |", PAGE)
    assert shown == {name: [cells.get(1, ""), cells.get(10, "")] for name, cells in rows.items()}


def test_cvdd_and_random_images_are_those_of_the_records(results: Results) -> None:
    expected = {}
    for pool in pools(results.collection("digits-16px-cvdd")):
        one, settings = pool.example, pool.example.configuration["method_settings"]
        assert one.evaluator == "cv-dd"
        changed = [name.removeprefix("method.") for name in one.configuration["changed"] if name.startswith("method.")]
        row = ", ".join([f"`{one.method}`", *(f"`{name}={settings[name]}`" for name in changed)])
        costs = [record.feature_transport_cost for record in pool.students]
        top1 = pool_top1(pool.students)
        assert top1.count_text == ("3 sets" if len(pool.students) == 3 else "1 set")
        expected[row] = [results.number(top1), f"{sum(filter(None, costs)) / len(costs):.0f}"]
    assert results.rows("| set | `cv-dd` | W_2^2 |", PAGE) == expected


def test_gvbsm_and_random_images_are_those_of_the_records(results: Results) -> None:
    expected: dict[str, dict[str, str]] = {}
    for pool in pools(results.collection("digits-16px-gvbsm")):
        settings, top1 = pool.example.configuration["method_settings"], pool_top1(pool.students)
        assert top1.count_text in ("3 sets", "1 set")
        row = f"`{pool.example.method}`"
        if pool.example.method == "gvbsm":
            row += f", weight {settings['statistics_weight']:g}, {settings['steps']} steps"
        expected.setdefault(row, {})[pool.example.evaluator] = results.number(top1)
    protocols = ("gvbsm", "fkd", "soft", "hard")
    shown = results.rows("| set | `gvbsm` | `fkd` | `soft` | `hard` |", PAGE)
    assert shown == {row: [cells.get(name, "") for name in protocols] for row, cells in expected.items()}


def test_the_weights_of_gvbsm_on_held_out_images_are_those_of_the_records(results: Results) -> None:
    expected: dict[str, dict[str, str]] = {}
    for pool in pools(results.collection("digits-16px-gvbsm-search")):
        assert pool.example.configuration["data"]["holdout"] == 0.2
        assert pool_top1(pool.students).count_text == "3 sets"
        weight = pool.example.configuration["method_settings"].get("statistics_weight")
        row = f"`{pool.example.method}`" + (f", weight {weight:g}" if weight else "")
        expected.setdefault(row, {})[pool.example.evaluator] = results.number(pool_top1(pool.students))
    shown = results.rows("| set | held out, `gvbsm` | held out, `fkd` |", PAGE)
    assert shown == {row: [cells["gvbsm"], cells["fkd"]] for row, cells in expected.items()}


def test_gvbsm_and_random_images_on_imagenette_are_those_of_the_records(results: Results) -> None:
    rows: dict[str, dict[str, str]] = {"`random`": {}, "`gvbsm`": {}, "`gvbsm`, `released`": {}}
    for record in results.collection("imagenette-64px"):
        name = ", ".join([f"`{record.method}`", *(f"`{recipe}`" for recipe in record.recipes[1:])])
        if name in rows and (record.ipc, record.student, record.student_seed) == (1, "resnet18", 0):
            rows[name][record.evaluator] = f"{record.metrics.top1_last:.2f}"
    shown = results.rows("| set | ImageNette, `gvbsm` | ImageNette, `fkd` |", PAGE)
    assert shown == {name: [cells.get("gvbsm", ""), cells.get("fkd", "")] for name, cells in rows.items()}
