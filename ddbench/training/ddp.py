"""Training over several processes: each sees its share of a batch, all take the same step (Lightning Fabric, DDP)."""

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
from ddbench.core.processes import LostError
from ddbench.training.strategy import Step, Strategy

if TYPE_CHECKING:
    from ddbench.training.batches import Batch


class DDPStrategy(Strategy):
    """The processes of a Fabric that is launched. What is called here is called by all of them, in the same order."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._rank = fabric.global_rank
        self.size = fabric.world_size

    def share(self, part: slice) -> slice:
        """Consecutive positions of the batch, as many for each process as for any other, or one more."""
        count = part.stop - part.start
        if count < self.size:
            return part
        low, high = (part.start + count * rank // self.size for rank in (self._rank, self._rank + 1))
        return slice(low, high)

    def slot(self, checkpoint: CheckpointIO | None) -> CheckpointIO | None:
        """All go on from what the leading process finds; it alone saves."""
        return _SharedSlot(self._fabric, checkpoint)

    def step(self, network: nn.Module, device: torch.device, precision: str) -> Step:
        """All begin with the leading process's weights."""
        return _SharedStep(self._fabric, network, device, precision)


@contextlib.contextmanager
def telling_losses() -> Iterator[None]:
    """What a collective raises when another process is gone becomes one line. Raises LostError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise LostError(str(error).splitlines()[0][:200]) from error
        raise


class _SharedSlot:
    def __init__(self, fabric: Fabric, checkpoint: CheckpointIO | None) -> None:
        self._fabric, self._checkpoint = fabric, checkpoint

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        saved = self._checkpoint.load() if self._checkpoint is not None and self._fabric.is_global_zero else None
        tensors, meta = saved if saved is not None else ({}, None)
        told = self._told(json.dumps(meta).encode()), self._told(safetensors.torch.save(tensors))
        meta = json.loads(told[0])
        return None if meta is None else (safetensors.torch.load(told[1]), meta)

    def save(self, tensors: dict[str, Tensor], meta: Mapping[str, Any]) -> None:
        if self._checkpoint is not None and self._fabric.is_global_zero:
            self._checkpoint.save(tensors, meta)

    def _told(self, content: bytes) -> bytes:
        """The leading process's content. As plain bytes: Fabric's own broadcast of objects would unpickle."""
        with telling_losses():
            length = torch.tensor([len(content)], device=self._fabric.device)
            dist.broadcast(length, 0)
            if self._fabric.is_global_zero:
                sent = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self._fabric.device)
            else:
                sent = torch.empty(int(length), dtype=torch.uint8, device=self._fabric.device)
            dist.broadcast(sent, 0)
        return sent.cpu().numpy().tobytes()


class _SharedStep(Step):
    """Each process takes its share of the batch; gradients, and the statistics of BatchNorm, are those of the whole.

    How a share is cut where memory runs out is found in a rehearsal of the first step, because a step in which
    gradients are exchanged cannot be taken back. The network's own draws (dropout) are of the step and the process:
    the same again, but other ones than of one process.
    """

    def __init__(self, fabric: Fabric, network: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__(network, device, precision)
        self._fabric = fabric
        with telling_losses():
            self._forward = self._wrapped = fabric.setup_module(network, move_to_device=False)
        self._size: int | None = None
        self._rehearsed = self._together is None

    def __call__(self, batch: Batch, *names: str | int) -> Tensor:
        torch.manual_seed(seeds.derive("fit", *names, self._fabric.global_rank))
        with telling_losses(), _GlobalStatistics() if _divided(batch) else contextlib.nullcontext():
            if not self._rehearsed:
                self._size = self._rehearse(batch)
                self._rehearsed = True
            loss = self._attempt(batch, self._size or len(batch.images))
            return self._fabric.all_reduce(loss, reduce_op="mean")  # type: ignore[return-value]

    def _rehearse(self, batch: Batch) -> int | None:
        """So many images fit at once; None: all."""
        assert self._together is not None

        def attempt(size: int) -> int:
            self._attempt(batch, size)
            return size

        with self._unsynchronised():
            size = self._together(attempt, len(batch.images))
        return None if size == len(batch.images) else size

    def _scaled(self, loss: Tensor, batch: Batch) -> Tensor:
        """So that the mean over processes is that over the samples of the whole batch."""
        if not _divided(batch):
            return loss
        assert batch.whole is not None
        return loss * (len(batch.images) * self._fabric.world_size / batch.whole)

    def _backward(self, tensor: Tensor, gradient: Tensor | None = None) -> None:
        self._fabric.backward(tensor, gradient=gradient)

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        return self._fabric.no_backward_sync(self._wrapped)


def _divided(batch: Batch) -> bool:
    return batch.whole not in (None, len(batch.images))


class _GlobalStatistics(TorchFunctionMode):
    """In this block a network's BatchNorm in training mode has the statistics of all processes' images together.

    What a network calls is replaced, not its layers: so those of every library are reached, and nothing is put back.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is functional.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm` over the images of all processes; on CUDA PyTorch's own, which it has there alone."""
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.is_cuda:
        group, size = dist.group.WORLD, dist.get_world_size()
        found: Tensor = SyncBatchNorm.apply(x, weight, bias, running_mean, running_var, eps, momentum, group, size)
        return found
    wide, dims, shape = x.float(), (0, *range(2, x.ndim)), (1, -1, *(1 for _ in x.shape[2:]))
    sums = _Sum.apply(torch.cat([wide.sum(dims), wide.new_tensor([x.numel() // x.shape[1]])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = wide - mean.view(shape)
    variance: Tensor = _Sum.apply(centred.square().sum(dims)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    normal: Tensor = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    return normal.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; what each makes of it counts for all, so its gradient is the sum of theirs."""

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
