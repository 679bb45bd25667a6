"""Training with several processes by DistributedDataParallel (Lightning Fabric).

Each process computes its shard of every batch, and all processes take the same optimiser step.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

from ddbench.api.context import CheckpointIO
from ddbench.core import seeds
from ddbench.core.processes import LostProcessError
from ddbench.training.strategy import GradientStep, Strategy

if TYPE_CHECKING:
    from ddbench.training.batches import Batch


class DDPStrategy(Strategy):
    """Training with all processes of a launched Fabric. Every process calls the same methods, in the same order.

    Args:
        fabric: The Fabric, launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._rank = fabric.global_rank
        self.size = fabric.world_size

    def shard(self, batch: slice) -> slice:
        """Returns consecutive positions of the batch. Shards differ by at most one image in size."""
        count = batch.stop - batch.start
        if count < self.size:
            return batch
        low, high = (batch.start + count * rank // self.size for rank in (self._rank, self._rank + 1))
        return slice(low, high)

    def checkpoint_io(self, checkpoint: CheckpointIO | None) -> CheckpointIO | None:
        """Returns a checkpoint that rank 0 loads and broadcasts, and that only rank 0 saves."""
        return _RankZeroCheckpoint(self._fabric, checkpoint)

    def gradient_step(self, network: nn.Module, device: torch.device, precision: str) -> GradientStep:
        """Returns the object that computes gradients. It copies the weights of rank 0 to all processes."""
        return _DDPGradientStep(self._fabric, network, device, precision)


@contextlib.contextmanager
def translate_collective_errors() -> Iterator[None]:
    """Translates the error of a collective operation that failed because another process ended.

    Raises:
        LostProcessError: A collective operation failed.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise LostProcessError(str(error).splitlines()[0][:200]) from error
        raise


class _RankZeroCheckpoint:
    def __init__(self, fabric: Fabric, checkpoint: CheckpointIO | None) -> None:
        self._fabric, self._checkpoint = fabric, checkpoint

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        saved = self._checkpoint.load() if self._checkpoint is not None and self._fabric.is_global_zero else None
        tensors, meta = saved if saved is not None else ({}, None)
        meta = json.loads(self._broadcast(json.dumps(meta).encode()))
        content = self._broadcast(safetensors.torch.save(tensors))
        return None if meta is None else (safetensors.torch.load(content), meta)

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        if self._checkpoint is not None and self._fabric.is_global_zero:
            self._checkpoint.save(tensors, meta)

    def _broadcast(self, content: bytes) -> bytes:
        """Returns the bytes of rank 0. Fabric's broadcast of objects is not used, because it unpickles data."""
        with translate_collective_errors():
            length = torch.tensor([len(content)], device=self._fabric.device)
            dist.broadcast(length, 0)
            if self._fabric.is_global_zero:
                data = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self._fabric.device)
            else:
                data = torch.empty(int(length), dtype=torch.uint8, device=self._fabric.device)
            dist.broadcast(data, 0)
        return data.cpu().numpy().tobytes()


class _DDPGradientStep(GradientStep):
    """Computes the gradients of this process's shard; gradients and BatchNorm statistics are those of the whole batch.

    A step that exchanges gradients cannot be repeated with fewer images. So the first step is computed once without an
    exchange, to find the number of images that fit into memory. Dropout is seeded by step and rank: its draws are
    reproducible, but differ from those of a single process.
    """

    def __init__(self, fabric: Fabric, network: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__(network, device, precision)
        self._fabric = fabric
        with translate_collective_errors():
            self._forward = self._wrapped = fabric.setup_module(network, move_to_device=False)
        self._max_images: int | None = None
        self._rehearsed = self._batcher is None

    def __call__(self, batch: Batch, *names: str | int) -> Tensor:
        torch.manual_seed(seeds.derive("fit", *names, self._fabric.global_rank))
        with translate_collective_errors(), _SyncBatchNorm() if _is_sharded(batch) else contextlib.nullcontext():
            if not self._rehearsed:
                self._max_images = self._rehearse(batch)
                self._rehearsed = True
            loss = self._attempt(batch, self._max_images or len(batch.images))
            return self._fabric.all_reduce(loss, reduce_op="mean")  # type: ignore[return-value]

    def _rehearse(self, batch: Batch) -> int | None:
        """Returns the number of images that fit into memory at a time; None: all of them."""
        assert self._batcher is not None

        def attempt(size: int) -> int:
            self._attempt(batch, size)
            return size

        with self._no_sync():
            size = self._batcher(attempt, len(batch.images))
        return None if size == len(batch.images) else size

    def _scale(self, loss: Tensor, batch: Batch) -> Tensor:
        """Scales the mean over a shard so that the mean over processes is the mean over the whole batch."""
        if not _is_sharded(batch):
            return loss
        assert batch.global_size is not None
        return loss * (len(batch.images) * self._fabric.world_size / batch.global_size)

    def _backward(self, tensor: Tensor, gradient: Tensor | None = None) -> None:
        self._fabric.backward(tensor, gradient=gradient)

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        return self._fabric.no_backward_sync(self._wrapped)


def _is_sharded(batch: Batch) -> bool:
    return batch.global_size not in (None, len(batch.images))


class _SyncBatchNorm(TorchFunctionMode):
    """Inside the block, BatchNorm in training mode uses the statistics of the images of all processes.

    It replaces the function `batch_norm` that layers call. So it covers the layers of every library, and the network
    stays unchanged.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_sync_batch_norm if func is functional.batch_norm else func)(*args, **(kwargs or {}))


def _sync_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm` over the images of all processes. PyTorch has this on CUDA only."""
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.is_cuda:
        group, size = dist.group.WORLD, dist.get_world_size()
        result: Tensor = SyncBatchNorm.apply(x, weight, bias, running_mean, running_var, eps, momentum, group, size)
        return result
    wide, dims, shape = x.float(), (0, *range(2, x.ndim)), (1, -1, *(1 for _ in x.shape[2:]))
    sums = _AllReduceSum.apply(torch.cat([wide.sum(dims), wide.new_tensor([x.numel() // x.shape[1]])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = wide - mean.view(shape)
    variance: Tensor = _AllReduceSum.apply(centred.square().sum(dims)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    normalised: Tensor = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normalised = normalised * weight.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes. Every loss depends on it, so its gradient is also summed over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
