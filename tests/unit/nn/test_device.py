"""Devices and precisions by name, and what a stage costs."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]
from torch import nn

from ddbench.config.schema import RuntimeConfig
from ddbench.core.errors import DDBenchError
from ddbench.nn import device as devices

CPU = torch.device("cpu")


CUDA = torch.cuda.is_available()


def test_nothing_is_left_open() -> None:
    actual = devices.resolve(RuntimeConfig())
    assert actual.device == ("cuda" if CUDA else "cpu")
    assert actual.precision in ("fp32", "bf16")
    assert devices.resolve(actual) == actual


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_is_kept(precision: str) -> None:
    config = RuntimeConfig.model_validate({"device": "cpu", "precision": precision})
    assert devices.resolve(config) == config


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:64"])
def test_a_device_that_is_not_there_is_one_clear_line(name: str) -> None:
    if CUDA and name != "cuda:64":
        assert devices.resolve(RuntimeConfig(device=name)).device == name
        return
    with pytest.raises(DDBenchError, match=rf"--device {name}: .* usable CUDA devices; use --device cpu"):
        devices.resolve(RuntimeConfig(device=name))


def test_autocast_changes_the_type_only_where_asked() -> None:
    layer, images = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    with devices.autocast(CPU, "bf16"):
        assert layer(images).dtype == torch.bfloat16
    with devices.autocast(CPU, "fp32"):
        assert layer(images).dtype == torch.float32


def test_weights_that_change_inside_autocast_are_seen() -> None:
    """A stage that trains may be asked for inside another's autocast region."""
    layer, images = nn.Linear(4, 1), torch.ones(1, 4)
    with devices.autocast(CPU, "bf16"):
        before = float(layer(images).detach())
        with torch.no_grad():
            layer.weight.add_(1)
        assert float(layer(images).detach()) == pytest.approx(before + 4, abs=0.05)


def test_a_stage_is_measured() -> None:
    with devices.measured(CPU) as cost:
        held = torch.ones(2**22)
        time.sleep(0.05)
    assert cost.seconds >= 0.05
    assert cost.peak_resident > held.nbytes
    assert cost.peak_device == 0
    assert set(cost.as_dict()) == {"seconds", "peak_resident", "peak_device"}


def test_a_device_is_described_for_a_record() -> None:
    actual = devices.describe(CPU)
    assert actual["type"] == "cpu"
    assert actual["name"]
    assert actual["threads"] == torch.get_num_threads()


def test_a_number_of_threads_holds_in_every_library_and_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts() -> set[int]:
        return {torch.get_num_threads(), *(int(pool["num_threads"]) for pool in threadpool_info())}

    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    before, threads = threadpool_info(), torch.get_num_threads()
    with devices.use_threads(3):
        assert counts() == {3}
        with devices.use_threads(2):
            assert (counts(), os.environ["OMP_NUM_THREADS"]) == ({2}, "2")
        assert counts() == {3}
    assert (threadpool_info(), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (before, threads, "4")


def test_the_gpus_of_a_machine_share_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.default_threads(CPU) == torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    for gpus, threads in ((0, 16), (1, 16), (4, 4), (64, 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert devices.default_threads(torch.device("cuda")) == threads


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Deterministic kernels are asked for, as on CUDA; on a CPU a few operations have none either."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def scatter() -> None:
    torch.zeros(4).put_(torch.tensor([1, 2]), torch.ones(2))


@pytest.mark.usefixtures("deterministic")
def test_operations_without_a_deterministic_kernel_are_told(recwarn: pytest.WarningsRecorder) -> None:
    for _ in range(2):  # the second time too
        with devices.nondeterministic() as outer:
            with devices.nondeterministic() as part:
                scatter()
            with devices.nondeterministic() as other:
                torch.ones(3).sum()
                warnings.warn("something else", UserWarning, stacklevel=1)
        assert (outer, part, other) == ({"put_"}, {"put_"}, set())
    assert {str(warning.message) for warning in recwarn} == {"something else"}


def test_preparing_a_cpu_changes_nothing() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    devices.prepare(CPU)
    assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_cuda_gives_the_same_gradients_twice() -> None:
    device = torch.device("cuda")
    devices.prepare(device)
    layer = nn.Conv2d(3, 64, 3).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(64, 3, 64, 64, device=device)
    gradients = []
    for _ in range(2):
        layer.zero_grad()
        layer(images).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
    assert torch.equal(*gradients)
    with devices.measured(device) as cost, devices.nondeterministic() as operations:
        torch.ones(2**20, device=device)
    assert cost.peak_device >= 2**22
    assert devices.describe(device, operations)["nondeterministic"] == []
