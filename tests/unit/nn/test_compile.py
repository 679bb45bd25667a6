"""Where the recover loop is compiled, what that changes, and going on where it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from ddbench.api.settings import RecoverSettings
from ddbench.api.teacher import Output
from ddbench.api.units import Slot, Unit
from ddbench.config.schema import RuntimeConfig
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.distillation.recover import recover
from ddbench.losses import batchnorm
from ddbench.nn import compile, memory
from ddbench.nn.build import build_network
from ddbench.nn.device import resolve
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    from conftest import Shell

CPU = torch.device("cpu")
UNIT = Unit(0, tuple(Slot(label, 0) for label in range(4)))
SIZE = 8


@pytest.mark.parametrize(
    ("method", "steps", "setting", "decided"),
    [
        ("wmdd", 20, "auto", "off"),
        # Ten classes, IPC 2, 16 px: 5120 pixels a step.
        ("wmdd", 292_968, "auto", "off"),
        ("wmdd", 292_969, "auto", "on"),
        ("wmdd", 292_969, "off", "off"),
        ("wmdd", 20, "on", "on"),
        ("sre2l", 292_969, "auto", "on"),
        ("random", None, "on", "off"),
        ("random", None, "auto", "off"),
    ],
)
def test_it_is_compiled_where_there_is_enough_to_do(method: str, steps: int | None, setting: str, decided: str) -> None:
    if decided == "on" and not compile.possible("cpu"):
        pytest.skip("this machine has no C++ compiler, or not Python's headers")
    request = Request(
        methods=(method,),
        datasets=("digits",),
        ipcs=(2,),
        recipes=("smoke",),
        device="cpu",
        compile=setting,
        assignments=() if steps is None else (f"method.steps={steps}",),
    )
    (cell,) = experiments(request, PluginRegistry())
    runtime = resolve(cell.runtime)
    assert runtime.compile == setting
    recover_steps, pixels = cell.method.recover_steps(), 10 * 2 * cell.data.image_size**2
    actual = compile.resolve(runtime, recover_steps, pixels)
    assert actual == RuntimeConfig.model_validate({**runtime.model_dump(), "compile": decided})
    assert compile.resolve(actual, recover_steps, pixels) == actual


@pytest.mark.parametrize("compiler", ["/bin/false", "no-such-compiler"])
def test_nothing_is_compiled_on_its_own_account_without_a_compiler(
    compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert not compile.possible("cpu")


@pytest.mark.slow(19)
def test_a_compiler_that_fails_is_one_line_and_the_numbers_are_those_without_it(shell: Shell) -> None:
    """A compiler that failed stays failed for a process, so that run has its own."""
    run = (
        *("run", "--method", "wmdd", "--dataset", "digits", "--ipc", "1", "--recipe", "smoke", "--device", "cpu"),
        *("--precision", "fp32", "--image-size", "8", "--arch", "convnet-bn-d1", "--set", "teacher.batch_size=512"),
        *("--set", "method.steps=3", "--set", "evaluator.epochs=1", "--set", "runtime.threads=1"),
    )
    ran = subprocess.run(
        [sys.executable, "-m", "ddbench", *run, "--compile", "on", "--cache-dir", str(shell.cache)],
        cwd=shell.root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(shell.root / "inductor"), "CXX": "/bin/false"},
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stderr.splitlines()
    assert sum("torch.compile failed, continuing without it" in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines)
    outcome = shell(*run, "--compile", "auto", "--results-dir", "plain")
    assert outcome.code == 0, outcome.err
    paths = [next((shell.root / results / "records").glob("*.json")) for results in ("results", "plain")]
    compiled, plain = (json.loads(path.read_text()) for path in paths)
    runtimes = [record["configuration"]["runtime"]["compile"] for record in (compiled, plain)]
    assert runtimes == ["on", "off"]
    assert compiled["distilled_digest"] == plain["distilled_digest"]
    keys = [record["keys"] for record in (compiled, plain)]
    same = {stage for stage in keys[0] if keys[0][stage] == keys[1][stage]}
    assert same == {"teacher", "statistics"}


@pytest.fixture
def make_task(digits_at: Callable[..., Dataset], tmp_path: Path) -> Callable[..., DistillContext]:
    teacher = TappedNetwork(build_network("convnet-bn-d2", 10, SIZE, seed=1)).to(memory_format=torch.channels_last)

    def make(
        slot: str, chosen: bool, losses: list[float] | None = None, messages: list[str] | None = None
    ) -> DistillContext:
        rest: dict[str, Any] = {"cached": None, "statistics": None, "timing": {}}
        messages = [] if losses is None else losses
        return DistillContext(
            **rest,
            dataset=digits_at(SIZE),
            ipc=1,
            seed=2,
            device=CPU,
            precision="fp32",
            checkpoint=Checkpoint(tmp_path / f"{slot}.safetensors"),
            checkpoint_every=1,
            report=lambda step, total, **metrics: messages.append(metrics["loss"]),
            _teacher=lambda: teacher,
            compile=chosen,
            note=([] if messages is None else messages).append,
        )

    return make


@pytest.mark.slow
def test_compiled_steps_are_those_of_the_plain_ones_up_to_rounding(make_task: Callable[..., DistillContext]) -> None:
    """Losses and images; stopped and gone on with, the same bytes; out of memory, the same numbers."""
    if not compile.possible("cpu"):
        pytest.skip("this machine has no C++ compiler, or not Python's headers")
    settings = RecoverSettings(steps=6, jitter=1)
    means, variances = make_task("none", False).teacher.running_statistics()

    def objective(output: Output) -> dict[str, Tensor]:
        features = (output.features - 1).square().sum()
        return {"f": features, "bn": batchnorm.global_bn(output.bn_inputs, means, variances, 1.0, "squared")}

    def run(slot: str, chosen: bool, wanted: Callable[[Output], dict[str, Tensor]] = objective) -> tuple[Any, Tensor]:
        losses: list[float] = []
        messages: list[str] = []
        task = make_task(slot, chosen, losses, messages)
        images = recover(task, UNIT, wanted, task.noise(UNIT), settings, layer=2)
        assert messages == []
        return losses, images

    plain, compiled = run("plain", False), run("compiled", True)
    assert compiled[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(compiled[1], plain[1], rtol=0, atol=1e-4)

    steps = 0

    def stops(output: Output) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return objective(output)

    with pytest.raises(KeyboardInterrupt):
        run("stopped", True, stops)
    torch.compiler.reset()  # as in a new process
    assert torch.equal(run("stopped", True)[1], compiled[1])
    assert steps == 4

    def runs_out(output: Output) -> dict[str, Tensor]:
        if len(output.logits) == 4 and output.logits.grad_fn is not None and not output.logits.is_leaf:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return objective(output)

    messages: list[str] = []
    with memory.oom_errors("distill", [], messages.append):
        torch.testing.assert_close(run("short", True, runs_out)[1], plain[1], rtol=0, atol=1e-4)
    assert messages == ["out of memory with 4 images: continuing with 2 at a time"]
