"""Runs the conformance tests on every installed method and protocol."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from typing import Any

import pytest
from safetensors.torch import save_file

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.api.settings import RecoverSettings
from ddbench.nn import build_network
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.testing import DistillerConformance, EvaluatorConformance

REGISTRY = PluginRegistry()

# Changes to the smoke recipe: enough steps to learn something, and several units for methods that have them.
RECOVERED = {"steps": 40, "jitter": 0, "batch_size": 10}
# Two of the hardest images of a class train students that are little better than those of noise.
TRAINED = {"network": "convnet-d1", "trainings": 1, "epochs": 1, "batch_size": 64}


def random_backbone(arch: str) -> str:
    """The path of a checkpoint of random weights, which is deleted when the process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    save_file(build_network(arch, 10, 16, seed=1).state_dict(), f"{folder}/backbone.safetensors")
    return f"{folder}/backbone.safetensors"


METHODS: dict[str, dict[str, Any]] = {
    "dc": {"learning_rate": 1.0},
    "mtt": {"expert_batch": 32},
    "datm": {"expert_batch": 32},
    "rded": {"factor": 1, "candidates": 20},
    # Without the training of a backbone, which plugins/sre2l/tests tests.
    "scdd": {
        **{"network": "convnet-bn-d1", "backbone": random_backbone("convnet-bn-d1")},
        **{"head_epochs": 5, "head_batch": 32, "head_learning_rate": 0.1},
    },
    **{name: {**TRAINED, "take": "easiest"} for name in ("el2n", "grand", "forgetting", "aum")},
    "ccs": TRAINED,
    "gvbsm": {"teachers": ("convnet-bn-d3", "convnet-d1"), "learning_rate": 0.25},
    # These start from real images.
    "edc": {"teachers": ("convnet-bn-d3",), "steps": 12},
    "cv-dd": {"teachers": ("convnet-bn-d1", "convnet-d1"), "steps": 12},
}
# Methods that train networks on the real images, and need no teacher; and edc, which passes twice over all of them.
ON_FEW_DIGITS = {"el2n", "grand", "forgetting", "aum", "ccs", "mtt", "datm", "edc"}
DETERMINISTIC = {"herding", "k-center", "el2n", "grand", "aum"}
STUDENT = {"epochs": 40, "learning_rate": 5e-3}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "edc": {"ema_decay": 0.8},
    "gvbsm": {"teachers": ("convnet-bn-d3", "convnet-d1")},
    "cv-dd": {"teachers": ("convnet-bn-d3", "convnet-d1")},
}


def smoke(method: str, *evaluators: str) -> tuple[Distiller, Evaluator]:
    """The method and protocol with the settings of the smoke recipe for digits."""
    request = Request(methods=(method,), datasets=("digits",), ipcs=(1,), recipes=("smoke",), evaluators=evaluators)
    (cell,) = experiments(request, REGISTRY)
    return cell.method, cell.evaluator


def with_settings(subject: Any, **changes: Any) -> Any:
    """A validated copy of a method or protocol with other values for those of `changes` that it has."""
    known = {name: value for name, value in changes.items() if name in type(subject).model_fields}
    return type(subject)(**{**subject.model_dump(), **known})


def method_kit(cls: type[Distiller]) -> type[DistillerConformance]:
    method, _ = smoke(cls.name)
    recovered: dict[str, Any] = RECOVERED if isinstance(method, RecoverSettings) else {}
    distiller = with_settings(method, **{**recovered, **METHODS.get(cls.name, {})})
    attributes: dict[str, Any] = {"distiller": distiller, "depends_on_seed": cls.name not in DETERMINISTIC}
    return type(
        "Kit", (DistillerConformance,), attributes | ({"dataset": "few-digits"} if cls.name in ON_FEW_DIGITS else {})
    )


def protocol_kit(cls: type[Evaluator]) -> type[EvaluatorConformance]:
    _, settings = smoke("full" if cls.on_real_data else "random", cls.name)
    evaluator = with_settings(settings, **STUDENT, **PROTOCOLS.get(cls.name, {}))
    attributes: dict[str, Any] = {
        "evaluator": evaluator, "average_decay": getattr(evaluator, "average_decay", None) or 0.0
    }  # fmt: skip
    # A protocol that trains on all real images gets a small dataset.
    return type(
        "Kit", (EvaluatorConformance,), {**attributes, **({"dataset": "few-digits"} if cls.on_real_data else {})}
    )


# pytest collects classes by their names in the module: TestMethodWmddSliced, TestProtocolFkd, ...
globals().update(
    {
        f"TestMethod{cls.name.title().replace('-', '')}": pytest.mark.slow(method_kit(cls))
        for cls in REGISTRY.distillers()
        if cls.needs_ipc
    }
)
globals().update(
    {
        f"TestProtocol{cls.name.title().replace('-', '')}": pytest.mark.slow(protocol_kit(cls))
        for cls in REGISTRY.evaluators()
        if not cls.for_one_set  # replay: tests/unit/evaluators/test_replay.py
    }
)


def test_all_plugins_load_without_warning(capsys: pytest.CaptureFixture[str]) -> None:
    PluginRegistry()
    assert capsys.readouterr().err == ""
