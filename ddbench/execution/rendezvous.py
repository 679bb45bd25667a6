"""The key-value store that connects the processes of a run, and the process group in which they train."""

from __future__ import annotations

import logging
import os
import time
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy as FabricDDPStrategy
from torch.distributed.rendezvous import rendezvous

from ddbench.core import interruption
from ddbench.core.errors import DDBenchError
from ddbench.training.ddp import DDPStrategy, translate_collective_errors

START_TIMEOUT = timedelta(minutes=10)
"""Timeout for the connection of the processes."""
STEP_TIMEOUT = timedelta(days=7)
"""Timeout of a collective operation. One process may be busy with a stage this long. Dead ones are noticed at once."""
PATIENCE = 15.0
"""Seconds in which every process must leave a failed stage. A process that has not left it by then counts as lost."""
POLL_SECONDS = 0.1
"""Seconds between two polls of the store."""


class Rendezvous:
    """The key-value store of a run (torchrun's or a new one in rank 0), and the strategy that trains on all processes.

    Attributes:
        rank: The number of this process.
        world_size: The number of processes.
    """

    def __init__(self) -> None:
        os.environ.setdefault("LOCAL_RANK", "0")
        os.environ.setdefault("LOCAL_WORLD_SIZE", "1")
        with translate_collective_errors():
            self._store, self.rank, self.world_size = next(rendezvous("env://", timeout=START_TIMEOUT))
        self._strategy: DDPStrategy | None = None

    def set(self, key: str, text: str = "") -> None:
        """Stores a text for all processes."""
        self._store.set(key, text)

    def has(self, *keys: str) -> bool:
        """Returns whether all of these keys are set."""
        return bool(self._store.check(list(keys)))

    def get(self, key: str) -> str:
        """Returns the text of a key."""
        return str(self._store.get(key).decode())

    def wait_for_ranks(self, key: str) -> bool:
        """Returns whether every other rank sets `key/RANK` within PATIENCE."""
        deadline, keys = time.monotonic() + PATIENCE, [f"{key}/{rank}" for rank in range(1, self.world_size)]
        while not self.has(*keys):
            if time.monotonic() > deadline or interruption.requested():
                return False
            time.sleep(POLL_SECONDS)
        return True

    def strategy(self, device: torch.device) -> DDPStrategy:
        """Returns the strategy of all processes, each on its own device.

        Raises:
            DDBenchError: A device number was given, or there are fewer devices than processes.
        """
        if self._strategy is None:
            self._strategy = self._new_strategy(device)
        return self._strategy

    def _new_strategy(self, device: torch.device) -> DDPStrategy:
        local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if device.index is not None:
            raise DDBenchError(f"--device {device}: use --device cuda, which chooses one device for each process")
        if device.type == "cuda" and torch.cuda.device_count() < local_size:
            raise DDBenchError(
                f"{local_size} processes were started on a node with {torch.cuda.device_count()} CUDA devices: "
                "start at most one process per device (torchrun --nproc-per-node)"
            )
        if device.type == "cuda":
            torch.cuda.set_device(local_rank)
        store = dist.PrefixStore("training", self._store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # Older supported versions of PyTorch lack the replacement.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        with translate_collective_errors():
            dist.init_process_group(
                backend, timeout=STEP_TIMEOUT, store=store, rank=self.rank, world_size=self.world_size
            )
        fabric = Fabric(
            accelerator=device.type,
            devices=local_size,
            num_nodes=self.world_size // local_size,
            # Without find_unused_parameters, DDP reorders gradients after its first step, and the sums of three or more
            # processes would differ after a resume. BatchNorm's buffers need no broadcast: all processes have the same.
            strategy=FabricDDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
        return DDPStrategy(fabric)
