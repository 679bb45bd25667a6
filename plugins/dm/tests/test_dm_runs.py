"""dm and dm-rbf as methods among others: from the command line, and what the recipes say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ddbench_dm import DM, DMRbf

from ddbench.config.experiment import Experiment
from ddbench.evaluators.protocols import SiameseAugmentation
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.artifacts import read_tensors

if TYPE_CHECKING:
    from conftest import Shell

RUN = (
    *("run", "--method", "dm", "--dataset", "digits", "--ipc", "2", "--recipe", "smoke", "--evaluator", "dsa"),
    *("--student", "convnet-d2", "--device", "cpu", "--precision", "fp32", "--set", "runtime.threads=1"),
    *("--image-size", "8"),
)


def finish(shell: Shell, *more: str) -> dict[str, dict[str, Any]]:
    """Runs to the end; the records by method."""
    outcome = shell(*RUN, *more)
    assert outcome.code == 0, outcome.err
    records = [json.loads(path.read_text()) for path in (shell.results / "records").glob("*.json")]
    return {record["method"]: record for record in records}


@pytest.mark.slow
def test_a_run_of_both_from_the_command_line(shell: Shell) -> None:
    records = finish(shell, "--method", "dm-rbf")
    assert {method: record["evaluator"] for method, record in records.items()} == {"dm": "dsa", "dm-rbf": "dsa"}
    assert len({record["distilled_digest"] for record in records.values()}) == 2
    assert not list(shell.cache.glob("teacher/*.safetensors"))
    units = [read_tensors(path) for path in (shell.cache / "distill").glob("[!.]*.safetensors")]
    assert [tuple(content[0]["images"].shape) for content in units if content is not None] == [(20, 3, 8, 8)] * 2


def resolved(method: str, dataset: str, *recipes: str) -> Experiment:
    request = Request(methods=(method,), datasets=(dataset,), ipcs=(10,), recipes=recipes)
    (cell,) = experiments(request, PluginRegistry())
    return cell


@pytest.mark.parametrize(("method", "kind"), [("dm", DM), ("dm-rbf", DMRbf)])
@pytest.mark.parametrize(
    ("dataset", "network"),
    [("tiny-imagenet", "convnet-d4"), ("imagenette", "convnet-d6"), ("imagenet-1k", "convnet-d6")],
)
def test_paper_is_the_papers_method(method: str, kind: type[DM], dataset: str, network: str) -> None:
    cell = resolved(method, dataset, "paper")
    assert cell.method == kind(network=network)  # the defaults are the paper's
    assert (cell.evaluator_name, cell.student) == ("dsa", network)
    settings = cell.method.model_dump()
    assert (settings["steps"], settings["learning_rate"], settings["momentum"]) == (20_000, 1, 0.5)
    assert (settings["real_batch"], settings["initial"]) == (256, "real")
    assert settings["strategy"] == "color_crop_cutout_flip_scale_rotate"


@pytest.mark.parametrize(("method", "kind"), [("dm", DM), ("dm-rbf", DMRbf)])
@pytest.mark.parametrize(
    ("dataset", "size", "ipc", "learning_rate", "flip"),
    [
        ("cifar10", 32, 50, 1, "flip_"),
        ("cifar10", 32, 100, 10, "flip_"),
        ("cifar100", 32, 100, 1, "flip_"),
        ("svhn", 32, 10, 1, ""),
        ("fashion-mnist", 28, 10, 1, "flip_"),
    ],
)
def test_paper_is_the_released_code_at_28_and_32_pixels(
    method: str, kind: type[DM], dataset: str, size: int, ipc: int, learning_rate: float, flip: str
) -> None:
    """`main_DM.py`, `utils.py` (`get_dataset`, `evaluate_synset`) and `readme.md` of VICO-UoE/DatasetCondensation."""
    request = Request(methods=(method,), datasets=(dataset,), ipcs=(ipc,), recipes=("paper",))
    (cell,) = experiments(request, PluginRegistry())
    strategy = f"color_crop_cutout_{flip}scale_rotate"
    assert cell.method == kind(network="convnet-d3", learning_rate=learning_rate, strategy=strategy)
    assert (cell.data.image_size, cell.data.stored_size, cell.student) == (size, size, "convnet-d3")
    assert cell.evaluator == SiameseAugmentation(
        epochs=1000, batch_size=256, learning_rate=0.01, momentum=0.9, weight_decay=5e-4, strategy=strategy
    )


@pytest.mark.parametrize("method", ["dm", "dm-rbf"])
@pytest.mark.parametrize(
    ("dataset", "networks"),
    [("imagenette", ("d4", "d3")), ("imagefolder:/x", ("d4", "d3")), ("tiny-imagenet", ("d4", "d4"))]
    + [(name, ("d3", "d3")) for name in ("digits", "cifar10", "cifar100", "fashion-mnist", "svhn")],
)
@pytest.mark.parametrize(("evaluator", "smaller"), [("dsa", 1), ("fkd", 0.1), ("hard", 0.1)])
def test_quick_takes_smaller_steps_at_ipc_1_except_under_the_papers_protocol(
    method: str, dataset: str, networks: tuple[str, str], evaluator: str, smaller: float
) -> None:
    request = Request((method,), (dataset,), (1, 10), ("quick",), evaluators=(evaluator,))
    settings = [cell.method.model_dump() for cell in experiments(request, PluginRegistry())]
    assert [one["learning_rate"] for one in settings] == [smaller, 1]
    assert tuple(one["network"].removeprefix("convnet-") for one in settings) == networks


@pytest.mark.parametrize(
    "dataset", ["digits", "cifar10", "cifar100", "fashion-mnist", "svhn", "imagenette", "tiny-imagenet"]
)
@pytest.mark.parametrize("budget", ["quick", "smoke"])
def test_quick_is_far_below_the_paper_and_says_so(dataset: str, budget: str) -> None:
    settings = resolved("dm", dataset, budget).method.model_dump()
    few = {"smoke": (6, 8), "quick": (100, 32) if dataset == "tiny-imagenet" else (500, 64)}[budget]
    assert (settings["steps"], settings["real_batch"]) == few
    (recipe,) = [
        text
        for text in (Path(path).read_text() for path in PluginRegistry().recipe_files())
        if "[dm, dm-rbf]" in text and f"name: {budget}" in text
    ]
    assert {"quick": "Not comparable with the paper's", "smoke": "Checks in seconds"}[budget] in recipe
