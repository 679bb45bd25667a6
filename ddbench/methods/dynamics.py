"""Stage `dynamics`: scores of the training images from the training of networks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ddbench.api.stage import Stage

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built, StageRun
    from ddbench.methods.coresets import Scored


class Dynamics(Stage):
    """Trains networks on the real images and scores every image. Each part is one network.

    All scores come from the same training. Methods with the same settings of the training share the parts; a method
    with more networks adds to those of a method with fewer. The key holds neither IPC nor the seed of the set.
    """

    name = "dynamics"
    version = "1"
    progress_unit: ClassVar[str] = "epoch"

    def count(self, run: StageRun) -> int:
        """Returns the number of networks."""
        return _method(run).trainings

    def depends_on(self, run: StageRun) -> Mapping[str, Any]:
        """Returns the settings of the training, and `full_gradient` if it is on."""
        method = _method(run)
        training = {**method.training().model_dump(mode="json"), "network": method.network, "schedule": method.schedule}
        return {**training, **({"full_gradient": True} if method.full_gradient else {})}

    def image_passes(self, run: StageRun, part: int) -> float:
        """Counts every training image once per epoch, a third for its final scores, and one for its full gradient."""
        method = _method(run)
        return sum(run.info.train_counts) * (method.epochs + 1 / 3 + method.full_gradient)

    def build(self, run: StageRun, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns the scores, float64 [n] by name, in the order of the training images."""
        from ddbench.methods.tracking import track

        return track(run, _method(run), part, checkpoint), {}


def _method(run: StageRun) -> Scored:
    return cast("Scored", run.method)
