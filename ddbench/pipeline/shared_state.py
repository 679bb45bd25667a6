"""Checks that the code of a plugin does not change the objects that all cells share."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import Tensor, nn

from ddbench.core.errors import PluginError
from ddbench.distillation.distilled_set import BODIES
from ddbench.storage.artifacts import digest_of

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.distillation.distilled_set import DistilledSet
    from ddbench.nn.taps import TappedNetwork

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SharedStateError(PluginError):
    """A plugin changed a shared object in place.

    Args:
        owner: The description of the plugin, for messages.
        names: The names of the changed objects.
    """

    def __init__(self, owner: str, names: list[str]) -> None:
        super().__init__(
            f"{owner} changed {', '.join(names)} in place: other cells use the same objects, so nothing of this run is "
            "kept; work on a copy (clone(), copy.deepcopy())"
        )
        self.names = names


def teacher_state(teacher: nn.Module) -> dict[str, object]:
    """Describes everything in a teacher that affects later stages.

    Args:
        teacher: The teacher network.

    Returns:
        Values that compare by equality, by a name for error messages: a digest of parameters and buffers, and the
        modules or parameters with hooks, in training mode, with `requires_grad` and with gradients, and the modules
        with their public attributes.
    """
    modules = dict(teacher.named_modules())
    return {
        "its parameters and buffers": digest_of({name: value.cpu() for name, value in teacher.state_dict().items()}),
        "its hooks": {name: [len(getattr(module, kind)) for kind in HOOKS] for name, module in modules.items()},
        "its training mode": [name for name, module in modules.items() if module.training],
        "its requires_grad": [name for name, value in teacher.named_parameters() if value.requires_grad],
        "gradients on its parameters": [name for name, value in teacher.named_parameters() if value.grad is not None],
        "its modules": {name: (id(module), _attributes(module)) for name, module in modules.items()},
    }


def _attributes(module: nn.Module) -> dict[str, object]:
    """Returns the public attributes of a module, e.g. `eps`: plain values, and the identities of other objects."""
    values = {name: value for name, value in vars(module).items() if name[0] != "_" and name != "training"}
    plain = (bool, int, float, str, tuple, type(None))
    return {name: value if isinstance(value, plain) else id(value) for name, value in values.items()}


class SharedState:
    """The objects that a plugin can access and that other cells also use.

    Pixels are not included, because `Images` returns copies.

    Args:
        owner: The description of the plugin, for messages.
        dataset: The real data.
        teachers: The teachers that the plugin can access.
        distilled: The distilled set, if the plugin can access it.
        settings: The settings that the plugin can access, by a name for messages.
        discard_teachers: Makes the workspace load the teachers again.
    """

    def __init__(
        self,
        owner: str,
        dataset: Dataset,
        teachers: Sequence[TappedNetwork],
        distilled: DistilledSet | None,
        settings: Mapping[str, BaseModel],
        discard_teachers: Callable[[], None],
    ) -> None:
        self._owner, self._discard_teachers = owner, discard_teachers
        images = {"the training images": dataset.train, "the validation images": dataset.val}
        self._tensors = {"the mean of the dataset": dataset.mean, "the standard deviation of the dataset": dataset.std}
        self._tensors |= {f"the labels of {name}": split.labels for name, split in images.items()}
        self._tensors |= {f"the sizes of {name}": split.sizes for name, split in images.items()}
        self._backups = {name: tensor.clone() for name, tensor in self._tensors.items()}
        self._objects = {"the dataset": dataset, **images}
        # Settings are frozen, but lists and dicts among them are not.
        self._settings = {name: (model, copy.deepcopy(_values(model))) for name, model in settings.items()}
        self._attributes = {name: dict(vars(value)) for name, value in self._objects.items()}
        self._distilled: dict[str, Tensor] = {}
        self._discard_images: Callable[[], None] = lambda: None
        if distilled is not None:
            self._distilled = {
                "the distilled images" if name in BODIES else f"the {name} of the distilled images": tensor
                for name, tensor in distilled.tensors.items()
            }
            # Real images are too large for a digest, so they are always read again.
            self._discard_images = distilled.discard_images
        self._distilled_digests = _digests(self._distilled)
        self._teachers = [(teacher, teacher_state(teacher)) for teacher in teachers]

    def verify(self) -> None:
        """Restores the changed objects.

        A changed distilled set is not restored: it belongs to this cell, and the next cell reads it from the cache.

        Raises:
            SharedStateError: An object was changed.
        """
        changed = [text for name in self._objects for text in self._restore_attributes(name)]
        for name, tensor in self._tensors.items():
            if not tensor.equal(self._backups[name]):
                tensor.copy_(self._backups[name])
                changed.append(name)
        for name, (model, backup) in self._settings.items():
            if _values(model) != backup:
                vars(model).update(copy.deepcopy(backup))
                changed.append(name)
        self._discard_images()
        digests = _digests(self._distilled)
        changed += [name for name in digests if digests[name] != self._distilled_digests[name]]
        for teacher, before in self._teachers:
            state = teacher_state(teacher)
            teacher_changes = [name for name in state if state[name] != before[name]]
            if teacher_changes:
                self._discard_teachers()
                changed.append(f"the teacher ({', '.join(teacher_changes)})")
        if changed:
            raise SharedStateError(self._owner, changed)

    def _restore_attributes(self, name: str) -> list[str]:
        """Restores the attributes of an object that were replaced, and returns their names for the message."""
        value, before = self._objects[name], self._attributes[name]
        now = vars(value)
        replaced = [attribute for attribute in before if now.get(attribute) is not before[attribute]]
        # The value of a property that was computed meanwhile is no change.
        added = [
            attribute
            for attribute in now.keys() - before.keys()
            if not isinstance(getattr(type(value), attribute, None), cached_property)
        ]
        for attribute in added:
            del now[attribute]
        now.update({attribute: before[attribute] for attribute in replaced})
        return [f"{attribute} of {name}" for attribute in sorted([*replaced, *added])]


def _values(settings: BaseModel) -> dict[str, object]:
    return {name: getattr(settings, name) for name in type(settings).model_fields}


def _digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: digest_of({name: tensor.cpu()}) for name, tensor in tensors.items()}


@contextlib.contextmanager
def verified(state: SharedState) -> Iterator[None]:
    """Verifies the state after the block, even if the block raises an exception, because other cells continue."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(SharedStateError):
            state.verify()
        raise
    state.verify()
