"""Builds the artifacts of a run. Measures and reports each build, records its inputs, and isolates plugin code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddbench.api.context import Progress
from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.config.experiment import Experiment
from ddbench.core import clock
from ddbench.core.errors import DDBenchError
from ddbench.core.events import Context, Event
from ddbench.data.dataset import Dataset
from ddbench.nn import device as devices
from ddbench.nn import memory
from ddbench.nn.global_state import restore_global_state
from ddbench.pipeline.shared_state import SharedState, verified
from ddbench.results import provenance
from ddbench.storage.artifacts import Artifact, Built, digest_of
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
        self,
        workspace: Workspace,
        experiment: Experiment,
        dataset: Dataset,
        device: torch.device,
        threads: int,
        context: Callable[[], Context],
    ) -> None:
        self.changed: list[str] = []
        self._workspace = workspace
        self._experiment = experiment
        self._dataset = dataset
        self._device = device
        self._threads = threads
        self._context = context
        self._parts: dict[tuple[str, str], int] = {}
        self._artifacts: dict[Path, Artifact] = {}
        self._made_from: list[dict[str, str]] = []
        self._on_demand: list[dict[str, dict[str, Any]]] = []
        self._nested_seconds: list[float] = []
        self._current: list[tuple[str, str]] = []
        self._shared: list[SharedState] = []
        self._codes = _codes(workspace, experiment)

    def artifact(
        self,
        stage: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Checkpoint], Built],
        unit: str = "",
        prepare: Callable[[], None] = lambda: None,
        part: int = 0,
    ) -> Artifact:
        """Returns an artifact. Builds it if it is not in the cache.

        Args:
            stage: The name of the stage.
            depends_on: Its key, as a JSON tree.
            build: Builds the artifact. Its argument is the checkpoint, which is empty or holds the state of a killed
                process.
            unit: The name of the part, for messages.
            part: The number of the part, for events.
            prepare: Builds the inputs. Its time is not part of the time of this build.
        """
        cache = self._workspace.cache
        path = cache.path(stage, depends_on)
        self._parts[stage, unit] = part
        if path not in self._artifacts:
            is_cached = True
            units = set(depends_on.get("units", ()))

            def built(checkpoint: Checkpoint) -> Built:
                nonlocal is_cached
                is_cached = False
                if self._shared:
                    self._shared[-1].verify()
                prepare()
                return self._built(stage, unit, build, checkpoint, units)

            def usable(meta: Mapping[str, Any]) -> bool:
                return self.accepts(stage, meta.get("source")) and self._has_weights(stage, meta.get("content"))

            with self._paused_clock():
                artifact = cache.get(stage, depends_on, built, usable)
            self._artifacts[path] = artifact
            if is_cached:
                self._emit(Event("cached", stage, unit))
                self._compare_versions(artifact)
        artifact = self._artifacts[path]
        if self._made_from:
            self._made_from[-1].update({**artifact.meta.get("made_from", {}), artifact.name: artifact.content})
            if self._workspace.graph[stage].on_demand:
                nested = artifact.meta.get("on_demand", {})
                self._on_demand[-1].update({**nested, artifact.name: provenance.build_facts(artifact.meta)})
        return artifact

    def holds(self, stage: str, depends_on: Mapping[str, Any]) -> bool:
        """Returns whether the cache holds an artifact that this run uses. Prints once why it does not use one.

        An artifact whose inputs this run rebuilds counts as missing. It is used if they turn out the same.
        The content of the artifact is not verified.

        Args:
            stage: The name of the stage.
            depends_on: Its key, as a JSON tree.
        """
        cache = self._workspace.cache
        if not cache.has(stage, depends_on):
            return False
        header = cache.header(f"{stage}/{cache.path(stage, depends_on).stem}")
        if not (self.accepts(stage, header.source) and self._has_weights(stage, header.content)):
            return False
        inputs = {name: (content, cache.header(name)) for name, content in (header.made_from or {}).items()}
        return all(
            stored.content in (None, content) and self.accepts(name.partition("/")[0], stored.source)
            for name, (content, stored) in inputs.items()
        )

    def _built(
        self, stage: str, unit: str, build: Callable[[Checkpoint], Built], checkpoint: Checkpoint, units: set[str]
    ) -> Built:
        """Returns the result of `build`, with cost, device and the inputs (`made_from`) added to the metadata."""
        note = self.note(stage, unit)
        code = self._codes.get(stage)
        if code is not None:
            checkpoint = replace(checkpoint, source=asdict(code.source))
            if not self.accepts(stage, checkpoint.saved_by()):
                checkpoint.set_aside()
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
                self._tracing() as (made_from, on_demand),
                memory.oom_errors(stage, batch_settings(stage, self._experiment), note),
                self._workspace.strategy_for(stage, self._experiment) as trainers,
                strategy.strategy_context(trainers),
            ):
                tensors, meta = build(checkpoint)
                device = devices.describe(self._device, operations)
        finally:
            self._current.pop()
            nested = self._nested_seconds.pop()
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
        made: dict[str, Any] = {"source": asdict(code.source)} if code else {}
        made |= {"on_demand": on_demand} if on_demand else {}
        made |= {"cost": {**cost.as_dict(), "seconds": seconds}, "device": device, "made": provenance.provenance()}
        return tensors, {**meta, **made, "made_from": made_from, "content": digest_of(tensors)}

    def accepts(self, stage: str, source: Mapping[str, str] | None) -> bool:
        """Returns whether this run uses artifacts of a stage that the code `source` built. Prints once why not.

        Artifacts of older versions do not record their source and are used, as are those of code without a digest.

        Args:
            stage: The name of the stage.
            source: `distribution` and `digest` of the code. None: not recorded.
        """
        current = self._codes.get(stage)
        if current is None or source is None:
            return True
        if source.get("distribution") != current.source.distribution:
            reason = f"its cached artifacts were made by {source.get('distribution')}"
        elif current.source.digest and source.get("digest") not in ("", current.source.digest):
            reason = "its source has changed since its cached artifacts were made, but not its version"
        else:
            return True
        self._workspace.note_once(
            f"{current.owner}, version {current.version}: {reason}; they are computed again (to keep both, raise "
            "`version`)"
        )
        return False

    def _has_weights(self, stage: str, content: str | None) -> bool:
        """Returns whether an artifact holds the weights of the student if a measure needs them. Notes it once if not.

        Args:
            stage: The name of the stage.
            content: The digest of its tensors. None: an artifact of an older version.
        """
        if stage != "evaluate" or not self._experiment.keeps_student or content not in (None, digest_of({})):
            return True
        self._workspace.note_once(
            "measures need the weights of students, which runs without measures do not keep: these students are "
            "trained again"
        )
        return False

    def _compare_versions(self, artifact: Artifact) -> None:
        """Prints once that an artifact of the cache was built with another version of a numerical package."""
        built_with, current = artifact.meta.get("made", {}).get("versions", {}), provenance.versions()
        for package, title in provenance.NUMERICAL_PACKAGES.items():
            if built_with.get(package) not in (None, current.get(package)):
                self._workspace.note_once(
                    f"cached artifacts were built with {title} {built_with[package]}, and this is "
                    f"{current.get(package)}: numbers may differ in the last digits"
                )

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[tuple[dict[str, str], dict[str, dict[str, Any]]]]:
        """Collects facts about the artifacts that are requested in this block, by name.

        Yields:
            Their content digests, which change if an input is rebuilt with a different result, while a key does not;
            and the conditions and seconds of the builds of on-demand stages, whose names no other artifact has.
        """
        self._made_from.append({})
        self._on_demand.append({})
        try:
            yield self._made_from[-1], self._on_demand[-1]
        finally:
            self._made_from.pop()
            self._on_demand.pop()

    @contextlib.contextmanager
    def _paused_clock(self) -> Iterator[None]:
        """Does not count the time of the block, in which an artifact is read or built, as time of the running build."""
        start, nested = clock.now(), self._nested_seconds[-1] if self._nested_seconds else 0.0
        yield
        if self._nested_seconds:
            self._nested_seconds[-1] = nested + clock.now() - start

    def _emit(self, event: Event) -> None:
        context, part = self._context(), self._parts.get((event.stage, event.unit), 0)
        several = self._workspace.has_several_datasets
        unit = f"{context.configuration['dataset']} {event.unit}".strip() if several else event.unit
        self._workspace.emit(replace(event, unit=unit, part=part, context=context))

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


@dataclass(frozen=True)
class _Code:
    """The code that builds a stage's artifacts: the description of its owner, its version, and its source."""

    owner: str
    version: str
    source: Source


def _codes(workspace: Workspace, experiment: Experiment) -> dict[str, _Code]:
    """Returns, for each stage whose artifacts the code of a method, protocol or plugin stage builds, that code."""
    method: tuple[Kind, str, str] = ("method", experiment.method_name, experiment.method.version)
    protocol: tuple[Kind, str, str] = ("evaluator", experiment.evaluator_name, experiment.evaluator.version)
    kinds = {"method": method, "distill": method, "labels": protocol, "evaluate": protocol}
    kinds |= {stage: ("stage", stage, workspace.graph[stage].version) for stage in experiment.method.stages()}
    registry, codes = workspace.registry, {}
    for stage, (kind, name, version) in kinds.items():
        with contextlib.suppress(DDBenchError):  # a method that is passed in as an object need not be registered
            codes[stage] = _Code(registry.describe(kind, name), version, registry.source_of(kind, name))
    return codes


def refuse_teacher(kind: str, name: str) -> Callable[..., Any]:
    """Returns a function that raises an error: the teacher is not part of the key, so it may not be used."""

    def refuse(*_: object) -> Any:
        raise DDBenchError(f"{kind} '{name}' uses the teacher but sets needs_teacher = False: correct its class")

    return refuse
