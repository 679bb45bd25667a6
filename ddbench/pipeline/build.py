"""A stage's artifact, found or built: what is measured, traced and told around a build, and around a plugin's code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddbench.api.context import Progress
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.dataset import Dataset
from ddbench.nn import device as devices
from ddbench.nn import memory
from ddbench.nn.global_state import restore_global_state
from ddbench.results import provenance
from ddbench.storage.cache import Artifact, Built, Checkpoint, digest_of
from ddbench.training import strategy

if TYPE_CHECKING:
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.registry import Kind


class Builder:
    """Finds or builds the artifacts of one experiment. A build may ask for others: what it asks for it is made from."""

    def __init__(self, workspace: Workspace, experiment: Experiment, dataset: Dataset, device: torch.device) -> None:
        self.changed: list[str] = []
        """What the method or the protocol changed of the process (`ddbench.nn.global_state`); it is put back."""
        self._workspace = workspace
        self._experiment = experiment
        self._dataset = dataset
        self._device = device
        self._found: dict[Path, Artifact] = {}
        self._made_from: list[dict[str, str]] = []

    def artifact(
        self, stage: str, depends_on: Mapping[str, Any], build: Callable[[Checkpoint], Built], unit: str = ""
    ) -> Artifact:
        """The artifact of `stage` with these dependencies, built where it is missing; `unit` names it for a person."""
        cache = self._workspace.cache
        path = cache.path(stage, depends_on)
        if path not in self._found:
            if cache.has(stage, depends_on):
                self._workspace.emit(Event("cached", stage, unit))
            units = set(depends_on.get("units", ()))
            self._found[path] = cache.get(
                stage, depends_on, lambda checkpoint: self._built(stage, unit, build, checkpoint, units)
            )
        found = self._found[path]
        for made_from in self._made_from[-1:]:
            made_from |= {**found.meta.get("made_from", {}), found.name: found.content}
        return found

    def _built(
        self, stage: str, unit: str, build: Callable[[Checkpoint], Built], checkpoint: Checkpoint, units: set[str]
    ) -> Built:
        """What `build` returns, and beside it in the meta what it cost, where, and what it was made from."""
        emit, note = self._workspace.emit, self.note(stage, unit)
        devices.prepare(self._device)
        emit(Event("resumed" if checkpoint.path.exists() else "started", stage, unit))
        # A stage may be asked for by code that runs without gradients; its own must not depend on that.
        with (
            torch.enable_grad(),
            devices.measured(self._device) as cost,
            devices.nondeterministic() as operations,
            self._tracing() as made_from,
            memory.oom_errors(stage, self._experiment, note),
            self._workspace.strategy_for(stage, self._experiment) as trainers,
            strategy.strategy_context(trainers),
        ):
            tensors, meta = build(checkpoint)
        if operations:
            note(f"other bits the next time: {', '.join(sorted(operations))} has no deterministic kernel here")
        # Found before: the key is made of theirs.
        parts = [part for part in self._found.values() if part.stage == "distill" and part.key in units]
        made_from |= {part.name: part.content for part in parts} | self._dataset.made_from
        reached = {"top1": meta["top1"]} if "top1" in meta else {}
        emit(Event("finished", stage, unit, metrics={"seconds": cost.seconds, **reached}))
        device = devices.describe(self._device, operations)
        if trainers.size > 1:
            device["processes"] = trainers.size
        made = {"cost": cost.as_dict(), "device": device, "made": provenance.provenance()}
        return tensors, {**meta, **made, "made_from": made_from, "content": digest_of(tensors)}

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[dict[str, str]]:
        """What is asked for in this block, name and content: keys do not see where it was made anew with other bits."""
        self._made_from.append({})
        try:
            yield self._made_from[-1]
        finally:
            self._made_from.pop()

    def report(self, stage: str, unit: str) -> Progress:
        """Tells how far a build is."""

        def report(step: int, total: int, **metrics: float) -> None:
            self._workspace.emit(Event("step", stage, unit, step, total, metrics))

        return report

    def note(self, stage: str, unit: str = "") -> Callable[[str], None]:
        """Tells a person one line of a build."""

        def note(text: str) -> None:
            self._workspace.emit(Event("note", stage, unit, message=f"{stage}: {text}"))

        return note

    @contextlib.contextmanager
    def plugin(self, kind: Kind, name: str, stage: str) -> Iterator[str]:
        """Around a plugin's code: what it raises names it, what it changes is put back. Gives what it is called."""
        registry = self._workspace.registry
        with registry.attribute_errors(kind, name), restore_global_state(self._device, self._tell(kind, name, stage)):
            yield registry.who(kind, name)

    def _tell(self, kind: Kind, name: str, stage: str) -> Callable[[list[str], bool], None]:
        def tell(changed: list[str], printed: bool) -> None:
            self.changed += changed
            said = []
            if changed:
                said.append(f"changed {', '.join(changed)}: put back (task.generator draws without side effects)")
            if printed:
                said.append("printed to stdout, which is for results: shown here (task.report tells progress)")
            for what in said:
                # A method may be handed over without being installed.
                with contextlib.suppress(DDBenchError):
                    what = f"({self._workspace.registry.distribution_of(kind, name)}) {what}"
                self._workspace.emit(Event("note", stage, message=f"{kind} '{name}' {what}"))

        return tell


def refuse_teacher(kind: str, name: str) -> Callable[..., Any]:
    """What asks for a teacher in place of one that the key does not know of."""

    def refuse(*_: object) -> Any:
        raise DDBenchError(f"{kind} '{name}' uses the teacher but says needs_teacher = False: correct its class")

    return refuse
