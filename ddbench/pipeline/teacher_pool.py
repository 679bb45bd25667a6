"""The teachers of one experiment: the configured one and the others of the pools of its method and protocol."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from ddbench.api.distiller import Distiller
from ddbench.api.evaluator import Evaluator
from ddbench.config.experiment import Experiment
from ddbench.config.schema import TeacherConfig
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.nn.build import build_network
from ddbench.nn.checkpoint_files import read_checkpoint
from ddbench.nn.checkpoints import has_one_channel, load_checkpoint, output_count
from ddbench.nn.class_order import outputs_of_classes
from ddbench.nn.layers import check_layer
from ddbench.nn.taps import TappedNetwork
from ddbench.pipeline.workspace import Workspace
from ddbench.storage.artifacts import Artifact


@dataclass(frozen=True)
class TeacherPool:
    """The teachers of one experiment. Part n of the stage `teacher` trains network n.

    Attributes:
        workspace: Keeps the teachers on the device.
        experiment: The configuration of the cell.
        dataset: The real data.
        device: The device of the teachers.
        artifact: Returns the artifact of a part of the stage `teacher`. Builds it if it is not in the cache.
    """

    workspace: Workspace
    experiment: Experiment
    dataset: Dataset
    device: torch.device
    artifact: Callable[[int], Artifact]

    @cached_property
    def networks(self) -> tuple[str, ...]:
        """The networks of the teachers: the configured one, then the others of both pools."""
        owners = (self.experiment.method, self.experiment.evaluator)
        pools = (owner.teacher_pool() for owner in owners if owner.needs_teacher)
        return tuple(dict.fromkeys((self.experiment.teacher.arch, *itertools.chain.from_iterable(pools))))

    def part(self, architecture: str) -> int:
        """Returns the part of the stage `teacher` that trains an architecture."""
        return self.networks.index(architecture)

    def parts(self, owner: Distiller | Evaluator) -> list[int]:
        """Returns the parts of the stage `teacher` that the method or the protocol uses."""
        if not owner.needs_teacher:
            return []
        return sorted({0, *(self.part(name) for name in owner.teacher_pool())})

    def config(self, part: int) -> TeacherConfig:
        """Returns the settings of a teacher."""
        return self.experiment.teacher.of(self.networks[part])

    def teacher(self, part: int) -> TappedNetwork:
        """Returns a teacher on the device, in evaluation mode with frozen parameters."""
        # Request the artifact each time, so that it is recorded as an input of the current build.
        artifact = self.artifact(part)

        def load() -> TappedNetwork:
            network = self._new_network(part)
            network.load_state_dict(artifact.tensors)
            return TappedNetwork(network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

        name = f"{artifact.digest} on {self.device}"
        teacher = self.workspace.teacher(name, load, len(self.networks))
        if part == 0:
            self.check(len(teacher.bn_names), len(teacher.layer_names))
        return teacher

    def teachers(self, owner: Distiller | Evaluator, architectures: Iterable[str]) -> list[TappedNetwork]:
        """Returns the teachers of architectures of the pool of the method or the protocol, on the device.

        Raises:
            DDBenchError: An architecture is not in the pool, so that no key covers its teacher.
        """
        pool = (self.experiment.teacher.arch, *owner.teacher_pool())
        for name in architectures:
            if name not in pool:
                raise DDBenchError(
                    f"'{owner.name}' uses the teacher {name}, which its teacher_pool() lacks: {', '.join(pool)}"
                )
        return [self.teacher(self.part(name)) for name in architectures]

    def checkpoint_network(self) -> torch.nn.Module:
        """Returns the network of the user's checkpoint, on the CPU.

        Raises:
            DDBenchError: The checkpoint does not fit the dataset.
        """
        network, config, dataset = self._new_network(0), self.experiment.teacher, self.dataset
        assert config.checkpoint is not None
        checkpoint = read_checkpoint(config.checkpoint)
        count = output_count(network, checkpoint)
        outputs = outputs_of_classes(checkpoint, count, dataset.info.class_names, config.classes)
        load_checkpoint(network, checkpoint, outputs)
        if has_one_channel(network, checkpoint) and not dataset.is_gray:
            raise DDBenchError(
                f"checkpoint '{config.checkpoint}' takes gray images, and data.mean or data.std differ between "
                "channels: set both as it was trained, e.g. --set data.mean=[0.5,0.5,0.5] --set data.std=[0.5,0.5,0.5]"
            )
        if outputs is not None:
            name = config.checkpoint.name
            self.workspace.note_once(
                f"{name}: its outputs are put in the order of the dataset's classes by their names", "teacher"
            )
        return network

    def check(self, batch_norms: int, layers: int) -> None:
        """Checks that the method supports a teacher with the given numbers of BatchNorm and weighted layers.

        Raises:
            DDBenchError: The method does not support it.
        """
        method, name = self.experiment.method, self.experiment.method_name
        if not method.needs_teacher:
            return
        with self.workspace.registry.attribute_errors("method", name):
            reason, required = method.skip_teacher(batch_norms), tuple(method.layers())
        if reason:
            raise DDBenchError(reason)
        for layer in required:
            check_layer(layer, layers, self.experiment.teacher.arch)

    def _new_network(self, part: int) -> torch.nn.Module:
        """Returns the network of a teacher with its initial weights, on the CPU."""
        config, info = self.config(part), self.dataset.info
        return build_network(config.arch, info.num_classes, info.image_size, config.stem, config.seed)
