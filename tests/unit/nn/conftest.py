"""Fixtures of the networks' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ddbench.core.errors import DDBenchError
from ddbench.nn.checkpoint_files import read_checkpoint
from ddbench.nn.checkpoints import load_checkpoint


@pytest.fixture(scope="session")
def refused() -> Callable[[Path, nn.Module], str]:
    """The error of loading a checkpoint, after checking that it is one line and that no weight moved."""

    def load(path: Path, network: nn.Module) -> str:
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with pytest.raises(DDBenchError) as caught:
            load_checkpoint(network, read_checkpoint(path))
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        return str(caught.value)

    return load
