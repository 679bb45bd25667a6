"""Stage `data`: the decoded images of both splits. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.cost import Cost
from ddbench.api.stage import Stage

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline


class Data(Stage["Pipeline"]):
    """Decodes the training images and the images that accuracy is measured on.

    The dataset decodes through the cache itself, because with `data.skip_corrupt` the numbers of images, which are part
    of every key, are known only after decoding. A dataset that is too large for the cache is decoded at every access.
    """

    name = "data"
    version = "1"
    inputs = ()
    outputs = ()

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part, which holds both splits."""
        return (0,)

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the dependencies of the decoded images."""
        return run.dataset.depends_on

    def cost(self, run: Pipeline, part: int) -> Cost:
        """Counts the images of both splits."""
        return Cost(decoded=sum(run.info.train_counts) + sum(run.info.val_counts))

    def is_built(self, run: Pipeline, part: int) -> bool:
        """Returns whether both splits are decoded."""
        return run.dataset.is_decoded()

    def ensure(self, run: Pipeline, part: int) -> None:
        """Decodes both splits."""
        run.dataset.decode()

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Decodes both splits. The dataset stores the artifacts itself, so this returns no tensors."""
        run.dataset.decode()
        return {}, {}
