"""Stage `given`: a distilled set that the user gives. Imports no torch at module level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddbench.api.stage import Stage
from ddbench.config.given_sets import digest_in
from ddbench.core.errors import DDBenchError

if TYPE_CHECKING:
    from ddbench.api.context import CheckpointIO
    from ddbench.api.stage import Built
    from ddbench.pipeline.pipeline import Pipeline


class GivenSet(Stage["Pipeline"]):
    """Keeps the set of `Distiller.given_set` in the cache, under its digest."""

    name = "given"
    version = "1"
    inputs = ()

    def _digest(self, run: Pipeline) -> str:
        return digest_in(run.method.given_set() or "") or ""

    def parts(self, run: Pipeline) -> Sequence[int]:
        """Returns one part if the method has a given set, else none."""
        return () if run.method.given_set() is None else (0,)

    def key(self, run: Pipeline, part: int) -> Mapping[str, Any]:
        """Returns the digest of the set."""
        return {"set": self._digest(run)}

    def build(self, run: Pipeline, part: int, checkpoint: CheckpointIO) -> Built:
        """Returns the tensors of the set. The metadata hold its origin.

        Raises:
            DDBenchError: Its file was not given in this process.
        """
        given = run.workspace.given_sets.get(self._digest(run))
        if given is None:
            raise DDBenchError(f"{run.method.given_set()} is not in this cache: give its file or folder again")
        return dict(given.tensors), {"origin": given.origin, "classes": list(given.class_names)}
