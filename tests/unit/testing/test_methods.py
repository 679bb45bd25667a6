"""The conformance kit bites: a method that breaks one promise fails that promise's test, by its name."""

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
    """The mean of three random real images of the class: keeps every promise."""

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
        mine = task.dataset.train.of_class(label)
        chosen = mine[torch.randint(len(mine), (self.images,), generator=draw)]
        pixels: Tensor = task.dataset.train.centre(chosen, task.info.image_size).float() / 255
        return pixels.mean(0)


# -- methods that break one promise each --------------------------------------------------------------------


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
    """A test: what it draws from the global generator is the same until other code seeds that otherwise."""

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
    """A test: the seed changes nothing."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Serial(Fair, frozen=True, extra="forbid"):
    """A test: what it draws depends on the unit that was made before."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw = task.generator("serial", LAST["unit"])
        LAST["unit"] = unit.index
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Looping(Fair, frozen=True, extra="forbid"):
    """A test: goes on with its images where it was stopped, and with its draws from the beginning."""

    loads: ClassVar[bool] = True

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw, start = task.generator("looping", unit.index), 0
        images: Tensor = super().distill(task, unit)
        if self.loads and (found := task.checkpoint.load()) is not None:
            images, start = found[0]["images"].clone(), found[1]["step"]
        for step in range(start, 12):
            images = (images + 0.1 * torch.randn(images.shape, generator=draw)).clamp(0, 1)
            task.checkpoint.save({"images": images}, {"step": step + 1})
        return images


class Restarting(Looping, frozen=True, extra="forbid"):
    """A test: saves, and begins again."""

    loads = False


class Unsaved(Fair, frozen=True, extra="forbid"):
    """A test: keeps its place in the class, not in the checkpoint."""

    begun: ClassVar[dict[int, int]] = {}

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        self.begun[unit.index] = self.begun.get(unit.index, 0) + 1
        task.report(1, 1)
        draw = task.generator("unsaved", self.begun.pop(unit.index))
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Overdrawn(Fair, frozen=True, extra="forbid"):
    """A test: takes its images from the class by their number."""

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
    """A test: every image in the next class's slot."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        return images.roll(task.ipc, 0)


class Pair(Fair, frozen=True, extra="forbid"):
    """A test: named like a method that is installed."""

    name = "random"


METHODS: list[tuple[str, Distiller, str]] = [
    ("it_has_a_name_a_version_and_a_meaning", Shouting(), "name is typed .* found: name = 'Shouting Method'"),
    ("it_has_a_name_a_version_and_a_meaning", Unversioned(), "version stands in every cache key"),
    ("it_has_a_name_a_version_and_a_meaning", Silent(), "`ddbench list` says .* Silent has no docstring"),
    ("it_names_its_source", Sourceless(), "source stands beside .* paper is empty"),
    ("every_setting_is_described", Undescribed(), "explains every setting .* no description: steps"),
    ("wrong_settings_are_refused", Lenient(), "misspelt setting is refused"),
    ("wrong_settings_are_refused", Untyped(), "wrong type is refused .* accepted as steps"),
    ("wrong_settings_are_refused", Movable(), "do not change afterwards .* assigned to: images"),
    ("settings_survive_a_record", Doubling(), "same when they are read back .* steps=3.* comes back as .*steps=6"),
    ("units_hold_every_slot_once", Forgetful(), r"each of IPC slots .* units\(10, 1\) hold class 9, index 0 0 times"),
    ("units_hold_every_slot_once", Numberless(), "numbered 0, 1, 2"),
    ("units_do_not_depend_on_the_machine", Greedy(), "depends on its arguments .* another machine"),
    ("images_have_the_right_shape_range_and_class", Bright(), r"one image a slot.* pixels outside \[0, 1\]"),
    ("images_have_the_right_shape_range_and_class", Small(), "one image a slot.* shape"),
    ("images_have_the_right_shape_range_and_class", Mislabelled(), "one image a slot.* of another class"),
    ("the_same_seed_gives_the_same_result", Moody(), "same bytes twice .* unit 0, unit 1 differ .* seeded generator"),
    ("the_global_generators_do_not_matter", Global(), "what other code did to the global generators"),
    ("the_global_state_is_left_alone", Seeding(), "left as they were .* torch's global generator"),
    ("the_global_state_is_left_alone", Threaded(), "left as they were .* number of threads"),
    ("another_seed_gives_other_images", Deaf(), "another seed gives other images .* the same for seeds 0 and 1"),
    ("the_order_of_units_does_not_matter", Serial(), "same in any order"),
    ("an_interrupted_run_ends_with_the_same_result", Looping(), "killed and started again ends with the same bytes"),
    ("an_interrupted_run_ends_with_the_same_result", Restarting(), "saved to a checkpoint is used .* never loads"),
    ("an_interrupted_run_ends_with_the_same_result", Unsaved(), "killed and started again ends with the same bytes"),
    ("more_images_than_a_class_has_are_refused_or_made", Overdrawn(), r"refused by skip\(\).* --ipc 4.* IndexError"),
    ("more_images_than_a_class_has_are_refused_or_made", Verbose(), "reason in one line"),
    ("a_teacher_is_used_only_where_one_is_declared", Undeclared(), "never touches a teacher"),
    ("the_teacher_is_left_as_it_was", Hooking(), "left as it was.* changes its hooks"),
    ("the_teacher_is_left_as_it_was", Teaching(), "changes its requires_grad, gradients on its parameters"),
    ("nothing_stays_on_the_device", Hoarding(), "nothing of it stays .* leaves [0-9]+ tensors"),
    ("a_student_learns_more_from_it_than_from_noise", Noisy(), "more from the images than from noise"),
    ("a_student_learns_more_from_it_than_from_noise", Misplaced(), "more from the images than from noise"),
]

# Broken in ways that need a module of their own, or another declaration: tests of their own, below.
ELSEWHERE = {"its_modules_import_no_torch", "another_process_gives_the_same_result"}


@pytest.mark.parametrize(
    ("test", "method", "says"), METHODS, ids=[f"{test}-{type(method).__name__}" for test, method, _ in METHODS]
)
def test_a_method_that_breaks_a_promise_is_told_which(
    test: str, method: Distiller, says: str, checker: Checker
) -> None:
    # A teacher of a few digits is enough to see what is done to it.
    kit = checker.kit(method, dataset="few-digits" if method.needs_teacher else "digits")
    assert re.search(says, checker.complaint(kit, test))
    KEPT.clear()


def test_every_promise_of_a_method_is_seen_broken(checker: Checker) -> None:
    assert {test for test, _, _ in METHODS} | ELSEWHERE == checker.tests(DistillerConformance)


def test_a_method_that_keeps_its_promises_is_left_in_peace(checker: Checker) -> None:
    kit = checker.kit(Fair())
    for test in checker.tests(kit) - ELSEWHERE:
        checker.check(kit, test)


def test_a_claim_that_the_seed_does_not_matter_is_checked(checker: Checker) -> None:
    checker.check(checker.kit(Deaf(), draws=False), "another_seed_gives_other_images")
    said = checker.complaint(checker.kit(Fair(), draws=False), "another_seed_gives_other_images")
    assert "remove draws = False" in said


def test_a_name_that_is_taken_and_a_run_that_fails_are_told(checker: Checker) -> None:
    said = checker.complaint(checker.kit(Pair()), "nothing_stays_on_the_device")
    assert re.search("registered beside what is installed .* given by both ddbench and", said)
    said = checker.complaint(checker.kit(Bright()), "the_same_seed_gives_the_same_result")
    assert re.search(r"a small run on the kit's dataset succeeds .* pixels outside \[0, 1\]", said)


MODULE = """
    from ddbench.distiller import Distiller

    class Method(Distiller, frozen=True, extra="forbid"):
        "A test."
        name, version, paper, needs_teacher = "imported", "1", "a test", False

        def distill(self, task, unit):
            import torch
            return torch.full((len(unit.slots), 3, 16, 16), {value})
"""


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Distiller]]:
    """Makes a method in a module that other processes can import."""
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


def test_torch_in_the_entry_module_is_told(imported: Callable[..., Distiller], checker: Checker) -> None:
    test = "its_modules_import_no_torch"
    checker.check(checker.kit(imported("ddkit_light")), test)
    said = checker.complaint(checker.kit(imported("ddkit_heavy", top="import torch.nn")), test)
    assert re.search("import no torch, .* torch is imported by ddkit_heavy .* sibling module", said)
    lost = imported("ddkit_lost", top="import sys\nassert 'pytest' in sys.modules")
    assert re.search("can be imported .* AssertionError", checker.complaint(checker.kit(lost), test))


@pytest.mark.slow
def test_a_result_that_another_process_does_not_repeat_is_told(
    imported: Callable[..., Distiller], checker: Checker
) -> None:
    class Local(Fair, frozen=True, extra="forbid"):
        """A test."""

    test = "another_process_gives_the_same_result"
    checker.check(checker.kit(imported("ddkit_steady")), test)
    hashing = imported("ddkit_hashing", value="(hash('a word') % 200) / 200")
    said = checker.complaint(checker.kit(hashing), test)
    assert re.search(r"another process, .* unit 0 differ .* hash\(\)", said)
    failing = imported("ddkit_failing", value=f"0.5 if __import__('os').getpid() == {os.getpid()} else 1 / 0")
    with pytest.raises(DDBenchError, match=r"(?s)in another process: .*ZeroDivisionError"):
        checker.check(checker.kit(failing), test)
    with pytest.raises(pytest.skip.Exception, match="cannot be imported by another process"):
        checker.check(checker.kit(Local()), test)
