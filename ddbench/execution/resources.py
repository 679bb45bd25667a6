"""The resources of the task of a stage: `--set resources.STAGE.WHAT=VALUE`. Keys and records do not contain them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from ddbench.api.settings import Section
from ddbench.config import recipes
from ddbench.config.schema import RuntimeConfig
from ddbench.core.errors import DDBenchError, did_you_mean
from ddbench.core.text import error_text
from ddbench.pipeline.graph import StageGraph


class Resources(Section):
    """The resources of one task."""

    cpus: int | None = Field(
        default=None, ge=1, description="cores, and threads (default: runtime.threads; on CUDA one core)"
    )
    gpus: float | None = Field(
        default=None, ge=0, description="GPUs: a fraction (0.5) or a whole number (default: 1 on CUDA, else 0)"
    )
    memory: float | None = Field(default=None, gt=0, description="GiB of memory to reserve on the node")

    @field_validator("gpus")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus % 1:
            raise ValueError("a fraction of one GPU, or a whole number")
        return gpus


class DistributedResources(Resources):
    """The resources of each process of a task that several processes may share."""

    processes: int = Field(default=1, ge=1, description="processes that train together, each with all these resources")

    @field_validator("processes")
    @classmethod
    def _a_device_each(cls, processes: int, info: ValidationInfo) -> int:
        if processes > 1 and 0 < (info.data.get("gpus") or 0) < 1:
            raise ValueError("several processes need a whole GPU each")
        return processes


class ResourceConfig:
    """The resources of every stage.

    Args:
        assignments: Texts such as `resources.distill.gpus=0.5`. Later ones override earlier ones.
        graph: The stages. On-demand stages and `data` have no tasks.

    Raises:
        DDBenchError: A text is invalid. The message names the first one.
    """

    def __init__(self, assignments: Iterable[str], graph: StageGraph) -> None:
        stages = [stage for stage in graph if not stage.on_demand and stage.name != "data"]
        kinds = {stage.name: DistributedResources if stage.distributed else Resources for stage in stages}
        settings: dict[str, dict[str, object]] = {name: {} for name in kinds}
        for text in assignments:
            _assign(text, kinds, settings)
        self._resources: dict[str, Resources] = {
            name: kind.model_validate(settings[name]) for name, kind in kinds.items()
        }

    def of(self, stage: str) -> Resources:
        """Returns the resources of a task of `stage`."""
        return self._resources[stage]

    def of_task(
        self, stage: str, runtime: RuntimeConfig, default_threads: int, node_cores: int
    ) -> tuple[Resources, int]:
        """Decides the cores and the threads of a task of `stage`.

        The threads are by default those of a run in one process, so that the numbers are equal. Several processes of a
        stage share them.

        Args:
            stage: The stage.
            runtime: The runtime of the experiment.
            default_threads: The threads of a run in one process.
            node_cores: The cores of a node.

        Returns:
            The resources, in which `cpus` is decided, and the number of threads.
        """
        resources, processes = self.of(stage), self.processes(stage)
        threads = resources.cpus or runtime.threads or max(1, default_threads // processes)
        # A GPU computes for most of the time. More cores than a node has would never be free.
        cores = 1 if runtime.device.startswith("cuda") else max(1, min(threads, node_cores // processes))
        return resources.model_copy(update={"cpus": resources.cpus or cores}), threads

    def processes(self, stage: str) -> int:
        """Returns the number of processes that share a task of `stage`."""
        resources = self._resources[stage]
        return resources.processes if isinstance(resources, DistributedResources) else 1


def _assign(text: str, kinds: Mapping[str, type[Resources]], settings: dict[str, dict[str, object]]) -> None:
    path, equals, value = text.partition("=")
    _, stage, name = (*path.strip().split(".", 2), "", "")[:3]
    if not (equals and name and value.strip()):
        raise DDBenchError(f"--set {text}: write it as resources.STAGE.WHAT=VALUE, e.g. resources.distill.gpus=0.5")
    if stage not in kinds:
        raise DDBenchError(f"--set {text}: no stage '{stage}'{did_you_mean(stage, kinds)}")
    fields = kinds[stage].model_fields
    if name not in fields:
        raise DDBenchError(f"--set {text}: {stage} has no resource '{name}'{did_you_mean(name, fields)}")
    try:
        settings[stage][name] = recipes.parse_plain_yaml(value)
        kinds[stage].model_validate(settings[stage], strict=False)
    except ValidationError as error:
        raise DDBenchError(f"resources.{stage}.{error_text(error)}") from error
    except ValueError as error:
        raise DDBenchError(f"--set {text}: '{value}' is not a plain value") from error
