"""A method that breaks one requirement fails the test of that requirement."""

from __future__ import annotations

import importlib
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.api.context import DistillTask
from ddbench.api.distiller import Distiller
from ddbench.api.units import Unit, UnitResult, units_of_whole_classes
from ddbench.core.errors import DDBenchError
from ddbench.testing import DistillerConformance

if TYPE_CHECKING:
    from conftest import Checker

KEPT: list[Tensor] = []
LAST = {"unit": 1}


class Fair(Distiller, frozen=True, extra="forbid"):
    """The mean of three random real images of the class. It meets every requirement."""

    name = "fair"
    version = "1"
    paper = "a test"
    needs_teacher = False

    images: int = Field(default=3, ge=1, description="real images a distilled one")

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        return units_of_whole_classes(num_classes, ipc, 5 * ipc)

    def distill(self, task: DistillTask, unit: Unit) -> Any:
        return torch.stack([self.mean(task, task.generator("fair", s.label, s.index), s.label) for s in unit.slots])

    def mean(self, task: DistillTask, draw: torch.Generator | None, label: int) -> Tensor:
        rows = task.dataset.train.of_class(label)
        chosen = rows[torch.randint(len(rows), (self.images,), generator=draw)]
        pixels: Tensor = task.dataset.train.centre(chosen, task.info.image_size).float() / 255
        return pixels.mean(0)


# -- methods that break one requirement each --------------------------------------------------------------------


class Shouting(Fair, frozen=True, extra="forbid"):
    name = "Shouting Method"


class Unversioned(Fair, frozen=True, extra="forbid"):
    version = ""


class Silent(Fair, frozen=True, extra="forbid"):
    pass


class Undescribed(Fair, frozen=True, extra="forbid"):
    steps: int = 3


class Lenient(Fair, frozen=True, extra="ignore"):
    """A test."""


class Untyped(Fair, frozen=True, extra="forbid"):
    steps: Any = Field(default=3, description="anything")


class Movable(Fair, frozen=False, extra="forbid"):
    """A test."""


class Doubling(Fair, frozen=True, extra="forbid"):
    steps: int = Field(default=3, description="doubled whenever it is read")

    @model_validator(mode="before")
    @classmethod
    def _double(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "steps": 2 * values["steps"]} if "steps" in values else values


class Sourceless(Fair, frozen=True, extra="forbid"):
    paper = ""


class Forgetful(Fair, frozen=True, extra="forbid"):
    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        *units, last = super().units(num_classes, ipc)
        return [*units, Unit(last.index, last.slots[:-1])]


class Numberless(Fair, frozen=True, extra="forbid"):
    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        return [Unit(0, unit.slots) for unit in super().units(num_classes, ipc)]


class Greedy(Fair, frozen=True, extra="forbid"):
    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        return units_of_whole_classes(num_classes, ipc, torch.get_num_threads() * ipc)


class Bright(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        return 255 * images


class Small(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        return images[..., 1:, 1:]


class Mislabelled(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        return UnitResult(indices=torch.arange(len(unit.slots)))


class Moody(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw = torch.Generator().manual_seed(random.SystemRandom().getrandbits(32))
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Global(Fair, frozen=True, extra="forbid"):
    """Draws from the global generator, so that other code can change the result."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        with torch.random.fork_rng():
            return torch.stack([self.mean(task, None, slot.label) for slot in unit.slots])


class Seeding(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        torch.manual_seed(task.seed + unit.index)
        return torch.stack([self.mean(task, None, slot.label) for slot in unit.slots])


class Threaded(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Any:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().distill(task, unit)


class Deaf(Fair, frozen=True, extra="forbid"):
    """Ignores the seed."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Serial(Fair, frozen=True, extra="forbid"):
    """Draws random numbers that depend on the previous unit."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw = task.generator("serial", LAST["unit"])
        LAST["unit"] = unit.index
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Looping(Fair, frozen=True, extra="forbid"):
    """Resumes its images, but restarts its generator."""

    loads: ClassVar[bool] = True

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw, start = task.generator("looping", unit.index), 0
        images: Tensor = super().distill(task, unit)
        if self.loads and (actual := task.checkpoint.load()) is not None:
            images, start = actual[0]["images"].clone(), actual[1]["step"]
        for step in range(start, 12):
            images = (images + 0.1 * torch.randn(images.shape, generator=draw)).clamp(0, 1)
            task.checkpoint.save({"images": images}, {"step": step + 1})
        return images


class Restarting(Looping, frozen=True, extra="forbid"):
    """Saves a checkpoint and does not load it."""

    loads = False


class Unsaved(Fair, frozen=True, extra="forbid"):
    """Keeps its progress in the class instead of the checkpoint."""

    begun: ClassVar[dict[int, int]] = {}

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        self.begun[unit.index] = self.begun.get(unit.index, 0) + 1
        task.report(1, 1)
        draw = task.generator("unsaved", self.begun.pop(unit.index))
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Overdrawn(Fair, frozen=True, extra="forbid"):
    """Selects the image with the index of the slot, which may not exist."""

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        return UnitResult(
            indices=torch.stack([task.dataset.train.of_class(slot.label)[slot.index] for slot in unit.slots])
        )


class Verbose(Fair, frozen=True, extra="forbid"):
    def skip(self, dataset: Any, ipc: int | None) -> str | None:
        return "too many:\nfar too many" if ipc and ipc > min(dataset.train_counts) else None


class Undeclared(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Any:
        _ = task.teacher
        return super().distill(task, unit)


class Hooking(Fair, frozen=True, extra="forbid"):
    needs_teacher = True

    def distill(self, task: DistillTask, unit: Unit) -> Any:
        task.teacher.network.register_forward_hook(lambda *_: None)
        return super().distill(task, unit)


class Teaching(Fair, frozen=True, extra="forbid"):
    needs_teacher = True

    def distill(self, task: DistillTask, unit: Unit) -> Any:
        task.teacher.network.requires_grad_(True)
        task.teacher(torch.zeros(2, 3, 16, 16, device=task.device)).logits.sum().backward()
        return super().distill(task, unit)


class Hoarding(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        KEPT.append(images)
        return images


class Noisy(Fair, frozen=True, extra="forbid"):
    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        return (0.2 * task.noise(unit) + 0.5).clamp(0, 1)


class Misplaced(Fair, frozen=True, extra="forbid"):
    """Puts every image into a slot of the next class."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        return images.roll(task.ipc, 0)


class Pair(Fair, frozen=True, extra="forbid"):
    """Has the name of an installed method."""

    name = "random"


METHODS: list[tuple[str, Distiller, str]] = [
    ("name_version_and_docstring", Shouting(), "name is valid .* observed: name = 'Shouting Method'"),
    ("name_version_and_docstring", Unversioned(), "version, which is part of every cache key"),
    ("name_version_and_docstring", Silent(), "docstring, which `ddbench list` prints .* Silent has no docstring"),
    ("paper_is_named", Sourceless(), "names its source, .* paper is empty"),
    ("settings_have_descriptions", Undescribed(), "every setting has a description.* no description: steps"),
    ("wrong_settings_are_rejected", Lenient(), "setting that does not exist is rejected"),
    ("wrong_settings_are_rejected", Untyped(), "wrong type is rejected .* accepted as steps"),
    ("wrong_settings_are_rejected", Movable(), "cannot be changed .* can be assigned: images"),
    ("settings_round_trip_through_json", Doubling(), "settings are equal .* steps=3.* is read back as .*steps=6"),
    (
        "units_hold_every_slot_once",
        Forgetful(),
        r"the IPC slots .* units\(10, 1\) holds class 9, index 0 0 times",
    ),
    ("units_hold_every_slot_once", Numberless(), "numbered 0, 1, 2"),
    ("units_do_not_depend_on_the_machine", Greedy(), "depends on its arguments .* another machine"),
    ("images_have_the_right_shape_range_and_class", Bright(), r"one image per slot.* pixels outside \[0, 1\]"),
    ("images_have_the_right_shape_range_and_class", Small(), "one image per slot.* shape"),
    (
        "images_have_the_right_shape_range_and_class",
        Mislabelled(),
        "one image per slot.* classes are not those of the slots",
    ),
    ("same_seed_gives_same_result", Moody(), "two runs of the same task .* unit 0, unit 1 differ .* seeded generator"),
    ("result_does_not_depend_on_global_generators", Global(), "does not depend on the state of the global generators"),
    ("global_state_is_unchanged", Seeding(), "defaults and modes are unchanged .* torch's global generator"),
    ("global_state_is_unchanged", Threaded(), "defaults and modes are unchanged .* number of threads"),
    ("another_seed_gives_other_images", Deaf(), "another seed gives other images .* the same images for seeds 0 and 1"),
    ("order_of_units_does_not_matter", Serial(), "same images in any order"),
    ("interrupted_run_gives_same_result", Looping(), "killed and resumed gives the same bytes"),
    ("interrupted_run_gives_same_result", Restarting(), "continues from its checkpoint .* never loads"),
    ("interrupted_run_gives_same_result", Unsaved(), "killed and resumed gives the same bytes"),
    ("ipc_above_class_size_works_or_is_skipped", Overdrawn(), r"skip\(\) rejects it .* --ipc 4.* IndexError"),
    ("ipc_above_class_size_works_or_is_skipped", Verbose(), "reason in one line"),
    ("undeclared_teacher_is_not_used", Undeclared(), "does not use the teacher"),
    ("shared_objects_are_unchanged", Hooking(), r"are unchanged: .* changes the teacher \(its hooks\)"),
    (
        "shared_objects_are_unchanged",
        Teaching(),
        r"changes the teacher \(its requires_grad, gradients on its parameters\)",
    ),
    ("memory_is_released", Hoarding(), "keeps no tensors in memory .* keeps [0-9]+ tensors"),
    ("images_train_a_better_student_than_noise", Noisy(), "better than one trained on noise"),
    ("images_train_a_better_student_than_noise", Misplaced(), "better than one trained on noise"),
]

# Tests that need a module on disk: see below, and test_edited_methods.py.
SEPARATE = {
    "entry_modules_import_no_torch",
    "another_process_gives_same_result",
    "results_change_only_with_the_version",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "method", "pattern"), METHODS, ids=[f"{test}-{type(method).__name__}" for test, method, _ in METHODS]
)
def test_broken_requirement_of_a_method_fails_its_test(
    test: str, method: Distiller, pattern: str, checker: Checker
) -> None:
    # A quickly trained teacher is enough to check that it is unchanged.
    kit = checker.kit(method, dataset="few-digits" if method.needs_teacher else "digits")
    assert re.search(pattern, checker.failure(kit, test))
    KEPT.clear()


def test_every_conformance_test_of_a_method_can_fail(checker: Checker) -> None:
    assert {test for test, _, _ in METHODS} | SEPARATE == checker.tests(DistillerConformance)


@pytest.mark.slow
def test_conforming_method_passes(checker: Checker) -> None:
    kit = checker.kit(Fair())
    for test in checker.tests(kit) - SEPARATE:
        checker.check(kit, test)


@pytest.mark.slow
def test_depends_on_seed_is_verified(checker: Checker) -> None:
    checker.check(checker.kit(Deaf(), depends_on_seed=False), "another_seed_gives_other_images")
    message = checker.failure(checker.kit(Fair(), depends_on_seed=False), "another_seed_gives_other_images")
    assert "remove depends_on_seed = False" in message


def test_duplicate_name_and_failing_run_are_reported(checker: Checker) -> None:
    message = checker.failure(checker.kit(Pair()), "memory_is_released")
    assert re.search("registered together with the installed plugins .* registered by both ddbench and", message)
    message = checker.failure(checker.kit(Bright()), "same_seed_gives_same_result")
    assert re.search(r"a small run on the test dataset succeeds .* pixels outside \[0, 1\]", message)


MODULE = """
    from ddbench.api import Distiller

    class Method(Distiller, frozen=True, extra="forbid"):
        "A test."
        name, version, paper, needs_teacher = "imported", "1", "a test", False

        def distill(self, task, unit):
            import torch
            return torch.full((len(unit.slots), 3, 16, 16), {value})
"""


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Distiller]]:
    """Creates methods in modules that other processes can import."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(name: str, value: str = "0.5", top: str = "") -> Distiller:
        (tmp_path / f"{name}.py").write_text(f"{top}\n{dedent(MODULE.format(value=value))}")
        made.append(name)
        method: Distiller = importlib.import_module(name).Method()
        return method

    yield make
    for name in made:
        del sys.modules[name]


@pytest.mark.slow
def test_torch_in_the_entry_module_is_reported(imported: Callable[..., Distiller], checker: Checker) -> None:
    test = "entry_modules_import_no_torch"
    checker.check(checker.kit(imported("ddkit_light")), test)
    message = checker.failure(checker.kit(imported("ddkit_heavy", top="import torch.nn")), test)
    assert re.search("do not import torch, .* ddkit_heavy imports torch .* sibling module", message)
    lost = imported("ddkit_lost", top="import sys\nassert 'pytest' in sys.modules")
    assert re.search("can be imported .* AssertionError", checker.failure(checker.kit(lost), test))


@pytest.mark.slow
def test_different_result_in_another_process_is_reported(imported: Callable[..., Distiller], checker: Checker) -> None:
    class Local(Fair, frozen=True, extra="forbid"):
        """A test."""

    test = "another_process_gives_same_result"
    checker.check(checker.kit(imported("ddkit_steady")), test)
    hashing = imported("ddkit_hashing", value="(hash('a word') % 200) / 200")
    message = checker.failure(checker.kit(hashing), test)
    assert re.search(r"another process .* unit 0 differ .* hash\(\)", message)
    failing = imported("ddkit_failing", value=f"0.5 if __import__('os').getpid() == {os.getpid()} else 1 / 0")
    with pytest.raises(DDBenchError, match=r"(?s)the subprocess of the conformance tests failed: .*ZeroDivisionError"):
        checker.check(checker.kit(failing), test)
    with pytest.raises(pytest.skip.Exception, match="another process cannot import its class"):
        checker.check(checker.kit(Local()), test)
