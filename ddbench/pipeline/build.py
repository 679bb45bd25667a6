"""Builds the artifacts of a run. Measures and reports each build, records its inputs, and isolates plugin code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddbench.api.context import Progress
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.config.experiment import Experiment
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Event
from ddbench.data.dataset import Dataset
from ddbench.nn import device as devices
from ddbench.nn import memory
from ddbench.nn.global_state import restore_global_state
from ddbench.pipeline.shared_state import SharedState, verified
from ddbench.results import provenance
from ddbench.storage.artifacts import Artifact, ArtifactHeader, Built, digest_of
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import strategy

if TYPE_CHECKING:
    from ddbench.pipeline.workspace import Workspace
    from ddbench.registry.collection import Kind
    from ddbench.registry.source import Source


class Builder:
    """Finds or builds the artifacts of one experiment.

    A build may request other artifacts. They are recorded as the inputs of the artifact.

    Attributes:
        changed: The global state that the method or the protocol changed; it is restored.
    """

    def __init__(
        self, workspace: Workspace, experiment: Experiment, dataset: Dataset, device: torch.device, threads: int
    ) -> None:
        self.changed: list[str] = []
        self._workspace = workspace
        self._experiment = experiment
        self._dataset = dataset
        self._device = device
        self._threads = threads
        self._cell = experiment.name
        self._configuration = experiment.public()
        self._artifacts: dict[Path, Artifact] = {}
        self._made_from: list[dict[str, str]] = []
        self._nested_seconds: list[float] = []
        self._current: list[tuple[str, str]] = []
        self._shared: list[SharedState] = []
        self._sources = _sources(workspace, experiment)

    def artifact(
        self,
        stage: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Checkpoint], Built],
        unit: str = "",
        prepare: Callable[[], None] = lambda: None,
    ) -> Artifact:
        """Returns an artifact. Builds it if it is not in the cache.

        Args:
            stage: The name of the stage.
            depends_on: Its key, as a JSON tree.
            build: Builds the artifact. Its argument is the checkpoint, which is empty or holds the state of a killed
                process.
            unit: The name of the part, for messages.
            prepare: Builds the inputs. Its time is not part of the time of this build.
        """
        cache = self._workspace.cache
        path = cache.path(stage, depends_on)
        if path not in self._artifacts:
            cache.refuse(stage, depends_on, lambda header: self._compare(stage, header))
            if cache.has(stage, depends_on):
                self._emit(Event("cached", stage, unit))
            units = set(depends_on.get("units", ()))

            def built(checkpoint: Checkpoint) -> Built:
                if self._shared:
                    self._shared[-1].verify()
                prepare()
                return self._built(stage, unit, build, checkpoint, units)

            self._artifacts[path] = cache.get(stage, depends_on, built)
        artifact = self._artifacts[path]
        if self._made_from:
            self._made_from[-1].update({**artifact.meta.get("made_from", {}), artifact.name: artifact.content})
        return artifact

    def _built(
        self, stage: str, unit: str, build: Callable[[Checkpoint], Built], checkpoint: Checkpoint, units: set[str]
    ) -> Built:
        """Returns the result of `build`, with cost, device and the inputs (`made_from`) added to the metadata."""
        note = self.note(stage, unit)
        devices.prepare(self._device)
        self._emit(Event("resumed" if checkpoint.path.exists() else "started", stage, unit))
        self._nested_seconds.append(0.0)
        self._current.append((stage, unit))
        try:
            # A build may be requested by code that runs under autocast or without gradients. Reset both, so that they
            # do not affect it.
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.autocast(self._device.type, enabled=False),
                devices.use_threads(self._threads),
                devices.measured(self._device) as cost,
                devices.nondeterministic() as operations,
                self._tracing() as made_from,
                memory.oom_errors(stage, batch_settings(stage, self._experiment), note),
                self._workspace.strategy_for(stage, self._experiment) as trainers,
                strategy.strategy_context(trainers),
            ):
                tensors, meta = build(checkpoint)
                device = devices.describe(self._device, operations)
        finally:
            self._current.pop()
            nested = self._nested_seconds.pop()
        if self._nested_seconds:
            self._nested_seconds[-1] += cost.seconds
        seconds = max(0.0, cost.seconds - nested)
        if operations:
            names = ", ".join(sorted(operations))
            note(f"results may differ in the next run: no deterministic kernel on this device for {names}")
        # The units in the key were loaded before tracing started, so add them here.
        parts = [part for part in self._artifacts.values() if part.stage == "distill" and part.key in units]
        made_from |= {part.name: part.content for part in parts} | self._dataset.made_from
        accuracy = {"top1": meta["top1"]} if "top1" in meta else {}
        self._emit(Event("finished", stage, unit, metrics={"seconds": seconds, **accuracy}))
        if trainers.size > 1:
            device["processes"] = trainers.size
        source = self._sources.get(stage)
        made: dict[str, Any] = {"source": asdict(source)} if source else {}
        made |= {"cost": {**cost.as_dict(), "seconds": seconds}, "device": device, "made": provenance.provenance()}
        return tensors, {**meta, **made, "made_from": made_from, "content": digest_of(tensors)}

    def _compare(self, stage: str, header: ArtifactHeader) -> str | None:
        """Returns the reason not to use a cached artifact: another plugin built it. Prints other differences once."""
        source = self._sources.get(stage)
        if source is not None and header.source is not None:
            if header.source["distribution"] != source.distribution:
                return f"{header.source['distribution']} built it, and this run uses {source.distribution}"
            if header.source["digest"] != source.digest:
                self._workspace.note_once(
                    f"the code of {source.distribution} has changed under the same version since it built artifacts "
                    f"of stage '{stage}', which are used unchanged: --force {stage} rebuilds them; increase "
                    "`version` when results change"
                )
        built_with, current = (header.versions or {}).get("torch"), provenance.versions()["torch"]
        if built_with not in (None, current):
            self._workspace.note_once(
                f"cached artifacts were built with PyTorch {built_with}, and this is {current}: numbers may differ "
                "in the last digits"
            )
        return None

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[dict[str, str]]:
        """Collects the names and content digests of the artifacts that are requested in this block.

        A content digest changes if an input is rebuilt with a different result. A key does not.
        """
        self._made_from.append({})
        try:
            yield self._made_from[-1]
        finally:
            self._made_from.pop()

    def _emit(self, event: Event) -> None:
        self._workspace.emit(replace(event, cell=self._cell, configuration=self._configuration))

    def report(self, stage: str, unit: str) -> Progress:
        """Returns a function that reports the progress of a build."""

        counted = self._workspace.graph[stage].progress_unit

        def report(step: int, total: int, **metrics: float) -> None:
            self._emit(Event("step", stage, unit, step, total, metrics, counted=counted))

        return report

    def report_current(self, step: int, total: int, **metrics: float) -> None:
        """Reports the progress of the build that is running."""
        self.report(*self._current[-1])(step, total, **metrics)

    def note(self, stage: str, unit: str = "") -> Callable[[str], None]:
        """Returns a function that prints one line about a build."""

        def note(text: str) -> None:
            self._emit(Event("note", stage, unit, message=f"{stage}: {text}"))

        return note

    def note_current(self, text: str) -> None:
        """Prints one line about the build that is running."""
        self.note(*self._current[-1])(text)

    @contextlib.contextmanager
    def plugin(self, kind: Kind, name: str, stage: str, shared: SharedState) -> Iterator[str]:
        """Runs a plugin's code and yields the plugin's description.

        Errors name the plugin, global state is restored, and shared state is verified: after the block, and before
        each artifact that the block requests and that has to be built.
        """
        registry = self._workspace.registry
        with (
            registry.attribute_errors(kind, name),
            restore_global_state(self._device, self._warn_of(kind, name, stage)),
            verified(shared),
        ):
            self._shared.append(shared)
            try:
                yield registry.describe(kind, name)
            finally:
                self._shared.pop()

    def _warn_of(self, kind: Kind, name: str, stage: str) -> Callable[[list[str], bool], None]:
        def warn(changed: list[str], printed: bool) -> None:
            self.changed += changed
            lines = []
            if changed:
                lines.append(f"changed {', '.join(changed)}: restored (task.generator draws without side effects)")
            if printed:
                lines.append("printed to stdout, which is for results: shown here (use task.report for progress)")
            for line in lines:
                # A method that is passed in as an object need not be registered.
                with contextlib.suppress(DDBenchError):
                    line = f"({self._workspace.registry.distribution_of(kind, name)}) {line}"
                self._emit(Event("note", stage, message=f"{kind} '{name}' {line}"))

        return warn


def batch_settings(stage: str, experiment: Experiment) -> list[tuple[str, object]]:
    """Returns the settings that bound the memory of a stage, as (`section.name`, value)."""
    teacher: list[tuple[str, object]] = [("teacher.batch_size", experiment.teacher.batch_size)]
    if stage == "teacher":
        return teacher
    owner: Distiller | Evaluator
    if stage in ("labels", "evaluate"):
        section, owner = "evaluator", experiment.evaluator
    elif stage in ("method", "distill"):
        section, owner = experiment.method_name, experiment.method
    else:
        return []
    settings = [(f"{section}.{name}", getattr(owner, name)) for name in owner.batch_settings]
    # A protocol without batch settings uses the teacher's settings to train its student.
    return teacher if stage == "evaluate" and not settings else settings


def _sources(workspace: Workspace, experiment: Experiment) -> dict[str, Source]:
    """Returns, for each stage whose artifacts a plugin's code builds, the source of that code."""
    kinds: dict[str, tuple[Kind, str]] = {
        "method": ("method", experiment.method_name),
        "distill": ("method", experiment.method_name),
        "labels": ("evaluator", experiment.evaluator_name),
        "evaluate": ("evaluator", experiment.evaluator_name),
        **{stage: ("stage", stage) for stage in experiment.method.stages()},
    }
    sources = {}
    for stage, (kind, name) in kinds.items():
        with contextlib.suppress(DDBenchError):  # a method that is passed in as an object need not be registered
            sources[stage] = workspace.registry.source_of(kind, name)
    return sources


def refuse_teacher(kind: str, name: str) -> Callable[..., Any]:
    """Returns a function that raises an error: the teacher is not part of the key, so it may not be used."""

    def refuse(*_: object) -> Any:
        raise DDBenchError(f"{kind} '{name}' uses the teacher but sets needs_teacher = False: correct its class")

    return refuse
