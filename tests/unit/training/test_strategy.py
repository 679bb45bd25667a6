"""One step of training: its batch cut where memory runs out, shared out, and what is refused."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ddbench.api.settings import TrainingSettings
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.nn import memory
from ddbench.nn.build import build_network
from ddbench.storage.artifacts import read_tensors, write_tensors
from ddbench.training import loop, strategy
from ddbench.training.batches import Batch

CPU, IMAGES = torch.device("cpu"), 12
SETTINGS = TrainingSettings(epochs=2, learning_rate=0.01)


class Device(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers as CUDA does where a tensor would be made that holds more than `most` feature maps of 128 channels."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            maps = isinstance(tensor, Tensor) and tensor.ndim == 4 and tensor.shape[1] == 128
            if maps and self.most < len(tensor) <= IMAGES:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return result


def batches(epoch: int) -> Iterator[Batch]:
    """The loss is one norm over the whole batch: no mean of losses of parts is equal to it."""
    draw = seeds.generator("team test", epoch)
    for _ in range(2):
        images, targets = torch.randn(IMAGES, 3, 8, 8, generator=draw), torch.randn(IMAGES, 4, generator=draw)
        yield Batch(images, lambda logits, targets=targets: (logits - targets).norm())  # type: ignore[misc]


def shared_batches(epoch: int) -> Iterator[Batch]:
    """This process's share; a mean of losses."""
    draw = seeds.generator("team test", epoch)
    for _ in range(2):
        images, targets = torch.randn(IMAGES, 3, 8, 8, generator=draw), torch.randn(IMAGES, 4, generator=draw)
        own = strategy.current_strategy().shard(slice(0, IMAGES))
        wanted = targets[own]
        yield Batch(images[own], lambda logits, wanted=wanted: functional.mse_loss(logits, wanted), IMAGES)  # type: ignore[misc]


def fitted(
    network: nn.Module, batches: Callable[[int], Iterator[Batch]] = batches
) -> tuple[dict[str, Tensor], list[float]]:
    losses: list[float] = []
    loop.fit(network, batches, SETTINGS, CPU, "fp32", report=lambda *_, **messages: losses.append(messages["loss"]))
    return network.state_dict(), losses


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of cuts."""
    lines: list[str] = []
    monkeypatch.setattr(memory, "_callbacks", [lines.append])
    return lines


@pytest.mark.parametrize(("most", "fits"), [(6, 6), (5, 3), (1, 1)])
def test_a_step_that_is_cut_is_that_of_the_whole_batch(messages: list[str], most: int, fits: int) -> None:
    unsplit, losses = fitted(build_network("convnet-d2", 4, 8, seed=1))
    network = build_network("convnet-d2", 4, 8, seed=1)
    with Device(most):
        cut, losses_of_cut = fitted(network)
    assert messages[-1].endswith(f"images of a training step: continuing with {fits} at a time")
    assert losses_of_cut == pytest.approx(losses, rel=1e-5)
    for name, tensor in unsplit.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def cut_in_one(rank: int, port: int, path: Path) -> None:
    """In a forked process: the second of two has memory for two images of its six."""
    from ddbench.execution.rendezvous import Rendezvous

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
    network, messages = build_network("convnet-d2", 4, 8, seed=1), list[str]()
    memory._callbacks.append(messages.append)
    with strategy.strategy_context(Rendezvous().strategy(CPU)), Device(2) if rank else contextlib.nullcontext():
        weights, losses = fitted(network, shared_batches)
    write_tensors(path, weights, {"losses": losses, "said": messages})


def test_a_share_is_cut_in_the_process_where_it_does_not_fit(tmp_path: Path) -> None:
    import ddbench.execution.rendezvous  # noqa: F401 (for both that are forked)

    unsplit, losses = fitted(build_network("convnet-d2", 4, 8, seed=1), shared_batches)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            try:
                cut_in_one(rank, port, tmp_path / f"{rank}.safetensors")
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    for rank in (0, 1):
        actual = read_tensors(tmp_path / f"{rank}.safetensors")
        assert actual is not None
        weights, messages, _ = actual
        assert messages["losses"] == pytest.approx(losses, rel=1e-5)
        assert len(messages["said"]) == (2 if rank else 0)
        for name, tensor in unsplit.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


class Dropping(nn.Module):
    def __init__(self, drop: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.drop = build_network("convnet-d2", 4, 8), drop

    def forward(self, images: Tensor) -> Tensor:
        return self.drop(self.network(images))


def test_a_network_that_draws_is_not_cut(messages: list[str]) -> None:
    network = Dropping(functional.dropout)
    with Device(6), pytest.raises(DDBenchError, match="out of memory: a step of 12 images does not fit, and Dropping"):
        fitted(network)


def test_a_network_with_batch_norm_is_not_cut(messages: list[str]) -> None:
    network = build_network("convnet-bn-d2", 4, 8)
    with Device(6), pytest.raises(torch.OutOfMemoryError):
        fitted(network)
    assert messages == []
