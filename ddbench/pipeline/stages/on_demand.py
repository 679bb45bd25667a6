"""Stages whose artifacts a plugin requests by `task.cached` while another stage is built. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline


class OnDemand(Stage["Pipeline"]):
    """Keeps tensors that the code of a plugin computes. Their keys are unknown before the plugin requests them."""

    version = "1"
    on_demand = True

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns no parts, because they are unknown."""
        return ()

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Is never called, because the plugin computes the tensors."""
        raise NotImplementedError

    @abstractmethod
    def key_for(self, run: Pipeline, name: str, depends_on: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the key of a request.

        Args:
            run: The run.
            name: The name that the plugin gives.
            depends_on: The dependencies that the plugin gives.
        """

    def cached(
        self,
        run: Pipeline,
        verify: Callable[[], None],
        name: str,
        depends_on: Mapping[str, Any],
        build: Callable[[], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Returns the tensors of `build`, from the cache if they are there. They are memory-mapped.

        Args:
            run: The run.
            verify: Raises an error if the plugin has changed a shared object. In this case nothing is stored.
            name: The name that the plugin gives.
            depends_on: The dependencies that the plugin gives.
            build: Computes the tensors.
        """

        def verified_build(_: CheckpointIO) -> Built:
            tensors = build()
            verify()
            return tensors, {}

        return dict(run.builder.artifact(self.name, self.key_for(run, name, depends_on), verified_build, name).tensors)
