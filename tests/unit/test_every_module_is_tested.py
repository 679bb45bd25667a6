"""Every module of ddbench has a test file of its name, or is listed here with the file that covers it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE, UNIT = ROOT / "ddbench", ROOT / "tests" / "unit"

COMMANDS, GRAPH = "tests/cli/test_cli.py", "tests/unit/pipeline/test_pipeline.py"
REPEAT = "tests/cli/test_repeat.py"
RAY, PROCESSES = "tests/faults/test_grids_on_ray.py", "tests/faults/test_several_processes.py"
TABLES = "tests/cli/test_tables_runs.py"
MEASURES = "tests/unit/pipeline/stages/test_measures.py"
BROKEN, GIVEN = "tests/unit/testing/test_methods.py", "tests/unit/pipeline/test_given_sets.py"
COVERED = {
    # Protocols and declarations.
    "api/context.py": "tests/unit/testing/test_conformance.py",
    "api/cost.py": "tests/unit/pipeline/test_estimate.py",
    "api/hookspecs.py": "tests/unit/registry/test_hooks.py",
    "api/images.py": "tests/unit/data/test_dataset.py",
    "api/teacher.py": "tests/unit/nn/test_taps.py",
    # Python and command lines.
    "python/arguments.py": "tests/unit/test_python.py",
    "cli/computation.py": COMMANDS,
    "cli/bundle.py": "tests/unit/results/test_bundle.py",
    "cli/compare.py": "tests/unit/results/test_comparison.py",
    "cli/evaluate.py": "tests/cli/test_evaluate.py",
    "cli/figure.py": "tests/unit/figures/test_scaling.py",
    "cli/leaderboard.py": "tests/unit/report/test_leaderboard.py",
    "cli/repeat.py": REPEAT,
    "cli/run.py": COMMANDS,
    "registry/tracking.py": "tests/cli/test_trackers.py",
    "cli/tune.py": "tests/cli/test_tune.py",
    "cli/table.py": "tests/cli/test_tables.py",
    "report/document.py": "tests/unit/report/test_page.py",
    "report/sections.py": "tests/unit/report/test_page.py",
    "tables/plan.py": TABLES,
    "tables/runs.py": TABLES,
    "distillation/context.py": "tests/unit/distillation/test_recover.py",
    "testing/harness.py": BROKEN,
    "training/ddp.py": PROCESSES,
    # The stage graph and its runs.
    "pipeline/repetition.py": REPEAT,
    "pipeline/measures.py": "tests/cli/test_measures.py",
    "results/measures.py": MEASURES,
    "measures/predictions.py": "tests/unit/measures/test_of_students.py",
    "pipeline/stages/data.py": GRAPH,
    "pipeline/stages/transport_cost.py": GRAPH,
    "results/record_checks.py": "tests/unit/results/test_records.py",
    "results/label_files.py": "tests/unit/pipeline/test_label_files.py",
    # Sets that the user gives.
    "config/given_sets.py": GIVEN,
    "distillation/given.py": GIVEN,
    "results/stored_sets.py": GIVEN,
    "pipeline/evaluate_set.py": "tests/cli/test_evaluate.py",
    "pipeline/load_set.py": "tests/unit/test_python.py",
    "pipeline/stages/given.py": GIVEN,
    "distillation/hub_set.py": "tests/cli/test_hub.py",
    "evaluators/label_folders.py": "tests/unit/evaluators/test_replay.py",
    "evaluators/mse_labels.py": "tests/unit/evaluators/test_edc.py",
    "distillation/set_tensors.py": "tests/unit/distillation/test_set_files.py",
    # Several processes.
    "execution/launch.py": PROCESSES,
    "execution/parallel.py": PROCESSES,
    "execution/task_group.py": RAY,
    "execution/watchdog.py": PROCESSES,
}
"""Modules without a test file of their name, and the file that covers them."""


def modules() -> list[str]:
    """Every module, as a path in the package."""
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return sorted(path.as_posix() for path in paths if not path.name.startswith("__"))


@pytest.mark.parametrize("module", modules())
def test_every_module_has_tests(module: str) -> None:
    path = Path(module)
    named = UNIT / path.parent / f"test_{path.name}"
    covering = ROOT / COVERED.get(module, "absent")
    assert named.is_file() or covering.is_file(), f"{module}: add {named.relative_to(ROOT)}, or a line to COVERED"
    assert not (named.is_file() and module in COVERED), f"{module} has its own tests: remove it from COVERED"


def test_every_line_of_the_list_is_of_a_module() -> None:
    assert COVERED.keys() - set(modules()) == set()
