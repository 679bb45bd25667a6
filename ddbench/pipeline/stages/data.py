"""Stage `data`: the decoded images of both splits. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.stage import Stage

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline


class Data(Stage["Pipeline"]):
    """Decodes the training images and the images that accuracy is measured on.

    The dataset decodes through the cache itself, because with `data.skip_corrupt` the counts of its images, which
    every key holds, are known only then. A set that is too large for the cache is decoded at every reading.
    """

    name = "data"
    version = "1"
    inputs = ()
    outputs = ()

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Both splits together."""
        return (0,)

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """What the decoded images depend on."""
        return run.dataset.depends_on

    def is_built(self, run: Pipeline, part: int) -> bool:
        """Whether both splits are decoded."""
        return run.dataset.is_decoded()

    def ensure(self, run: Pipeline, part: int) -> None:
        """Decodes both splits."""
        run.dataset.decode()

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Decodes both splits; their artifacts are those of the dataset."""
        run.dataset.decode()
        return {}, {}
