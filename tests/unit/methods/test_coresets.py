"""Coresets by scores: what they select on digits, and runs on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddbench.methods.coresets import AUM, CCS, EL2N
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry

FEW = ("method.network=convnet-d1", "method.trainings=2", "method.batch_size=256", "method.epochs=1")
HARDEST_HAS_THE_HIGHEST = {"el2n": ("el2n", True), "aum": ("aum", False), "grand": ("last_layer_gradient", True)}


def test_each_class_gets_its_hardest_images(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    """The methods share two trained networks, because their settings of the training are equal."""
    for name, (score, highest) in HARDEST_HAS_THE_HIGHEST.items():
        extra = ("method.gradient=last-layer",) if name == "grand" else ()
        made = pipeline(name, *FEW, *extra)
        indices = made.distilled.indices
        assert indices is not None
        values = sum(made.tensors("dynamics", part)[score] for part in range(2)) / 2
        for label, chosen in enumerate(indices.reshape(10, 3).tolist()):
            of_class = made.dataset.train.of_class(label).tolist()
            ranked = sorted(of_class, key=lambda index: float(values[index]), reverse=highest)
            assert chosen == ranked[:3], name
    assert len(list((tmp_path / "dynamics").glob("[!.]*.safetensors"))) == 2


def test_the_ends_of_a_margin_are_opposite_to_those_of_an_error() -> None:
    values = torch.tensor([0.5, 3, 2, 1], dtype=torch.float64)
    for take, error in (("hardest", [1, 2, 3, 0]), ("easiest", [0, 3, 2, 1])):
        assert EL2N(take=take).choose(values, 4, torch.Generator()).tolist() == error
        assert AUM(take=take).choose(values, 4, torch.Generator()).tolist() == error[::-1]


def test_ccs_leaves_the_hardest_out_unless_it_needs_them() -> None:
    margins = torch.linspace(-1, 1, 20, dtype=torch.float64)
    draws = [CCS(cutoff=0.5).choose(margins, 5, torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    assert {row for rows in draws for row in rows} == set(range(10, 20))
    assert sorted(CCS(cutoff=0.5).choose(margins, 20, torch.Generator()).tolist()) == list(range(20))
    assert min(CCS(cutoff=0.5).choose(margins, 13, torch.Generator()).tolist()) == 7


def test_settings_that_cannot_be_are_refused() -> None:
    for settings in ({"take": "best"}, {"trainings": 0}, {"schedule": "step"}):
        with pytest.raises(ValidationError):
            EL2N(**settings)
    with pytest.raises(ValidationError):
        CCS(cutoff=1)


PAPERS = {
    "el2n": (10, 20, "constant", 128, 5e-4),
    "grand": (10, 20, "constant", 128, 5e-4),
    "forgetting": (5, 200, "steps", 128, 5e-4),
    "aum": (1, 150, "constant", 64, 1e-4),
    "ccs": (1, 200, "cosine", 256, 5e-4),
}


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_are_those_of_the_papers_and_quick_trains_once_for_all(name: str) -> None:
    registry = PluginRegistry()

    def settings(budget: str) -> dict[str, Any]:
        (cell,) = experiments(Request((name,), ("imagenette",), (10,), (budget,)), registry)
        return cell.method.model_dump()

    fields = ("trainings", "epochs", "schedule", "batch_size", "weight_decay")
    assert tuple(settings("paper")[field] for field in fields) == PAPERS[name]
    assert settings("paper").get("take", "hardest") == "hardest"
    assert settings("paper").get("gradient", "full") == "full"
    assert tuple(settings("quick")[field] for field in fields) == (3, 5, "cosine", 32, 1e-4)
    assert settings("quick").get("take", "easiest") == "easiest"


@pytest.mark.slow
def test_the_command_line_makes_and_judges_all_of_them(shell: Any) -> None:
    names = (*PAPERS, "confidence")
    grid = ("--method", ",".join(names), "--dataset", "digits", "--ipc", "2", "--evaluator", "hard")
    networks = [word for name in PAPERS for word in ("--set", f"{name}.network=convnet-d1")]
    outcome = shell.run(*grid, *networks)
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    assert sorted(record["method"] for record in records) == sorted(names)
    for record in records:
        assert record["distilled_images"] == 20
        assert record["method"] in outcome.out
    # two networks for all methods but grand, which also computes the full gradient of each image
    assert len(list((shell.cache / "dynamics").glob("*.safetensors"))) == 4
