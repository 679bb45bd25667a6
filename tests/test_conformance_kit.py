"""The conformance kit bites: a method or protocol that breaks one promise fails that promise's test, by its name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench import seeds, training
from ddbench.distiller import Distiller, Unit, UnitResult, units_of_whole_classes
from ddbench.errors import DDBenchError
from ddbench.evaluator import Evaluator, Metrics
from ddbench.evaluators.protocols import HardLabels
from ddbench.task import DistillTask, EvaluateTask
from ddbench.testing import DistillerConformance, EvaluatorConformance
from ddbench.testing.bench import Bench
from ddbench.testing.promises import Conformance
from ddbench.testing.protocols import WatchedTask

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


class FairProtocol(HardLabels, frozen=True, extra="forbid"):
    """Class labels, briefly: keeps every promise."""

    name = "fair-protocol"
    epochs: int = Field(default=20, ge=1, description="epochs")
    learning_rate: float = Field(default=5e-3, gt=0, description="of AdamW")


# -- methods that break one promise each --------------------------------------------------------------------


class Shouting(Fair, frozen=True, extra="forbid"):
    """A test."""

    name = "Shouting Method"


class Unversioned(Fair, frozen=True, extra="forbid"):
    """A test."""

    version = ""


class Silent(Fair, frozen=True, extra="forbid"):
    pass


class Undescribed(Fair, frozen=True, extra="forbid"):
    """A test."""

    steps: int = 3


class Lenient(Fair, frozen=True, extra="ignore"):
    """A test."""


class Untyped(Fair, frozen=True, extra="forbid"):
    """A test."""

    steps: Any = Field(default=3, description="anything")


class Movable(Fair, frozen=False, extra="forbid"):
    """A test."""


class Doubling(Fair, frozen=True, extra="forbid"):
    """A test."""

    steps: int = Field(default=3, description="doubled whenever it is read")

    @model_validator(mode="before")
    @classmethod
    def _double(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "steps": 2 * values["steps"]} if "steps" in values else values


class Sourceless(Fair, frozen=True, extra="forbid"):
    """A test."""

    paper = ""


class Forgetful(Fair, frozen=True, extra="forbid"):
    """A test."""

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        *units, last = super().units(num_classes, ipc)
        return [*units, Unit(last.index, last.slots[:-1])]


class Numberless(Fair, frozen=True, extra="forbid"):
    """A test."""

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        return [Unit(0, unit.slots) for unit in super().units(num_classes, ipc)]


class Greedy(Fair, frozen=True, extra="forbid"):
    """A test."""

    def units(self, num_classes: int, ipc: int) -> list[Unit]:
        return units_of_whole_classes(num_classes, ipc, torch.get_num_threads() * ipc)


class Bright(Fair, frozen=True, extra="forbid"):
    """A test."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        return 255 * images


class Small(Fair, frozen=True, extra="forbid"):
    """A test."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        return images[..., 1:, 1:]


class Mislabelled(Fair, frozen=True, extra="forbid"):
    """A test."""

    def distill(self, task: DistillTask, unit: Unit) -> UnitResult:
        return UnitResult(indices=torch.arange(len(unit.slots)))


class Moody(Fair, frozen=True, extra="forbid"):
    """A test."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        draw = torch.Generator().manual_seed(random.SystemRandom().getrandbits(32))
        return torch.stack([self.mean(task, draw, slot.label) for slot in unit.slots])


class Global(Fair, frozen=True, extra="forbid"):
    """A test: what it draws from the global generator is the same until other code seeds that otherwise."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        with torch.random.fork_rng():
            return torch.stack([self.mean(task, None, slot.label) for slot in unit.slots])


class Seeding(Fair, frozen=True, extra="forbid"):
    """A test."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        torch.manual_seed(task.seed + unit.index)
        return torch.stack([self.mean(task, None, slot.label) for slot in unit.slots])


class Threaded(Fair, frozen=True, extra="forbid"):
    """A test."""

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
    """A test."""

    def skip(self, dataset: Any, ipc: int | None) -> str | None:
        return "too many:\nfar too many" if ipc and ipc > min(dataset.train_counts) else None


class Undeclared(Fair, frozen=True, extra="forbid"):
    """A test."""

    def distill(self, task: DistillTask, unit: Unit) -> Any:
        _ = task.teacher
        return super().distill(task, unit)


class Hooking(Fair, frozen=True, extra="forbid"):
    """A test."""

    needs_teacher = True

    def distill(self, task: DistillTask, unit: Unit) -> Any:
        task.teacher.network.register_forward_hook(lambda *_: None)
        return super().distill(task, unit)


class Teaching(Fair, frozen=True, extra="forbid"):
    """A test."""

    needs_teacher = True

    def distill(self, task: DistillTask, unit: Unit) -> Any:
        task.teacher.network.requires_grad_(True)
        task.teacher(torch.zeros(2, 3, 16, 16, device=task.device)).logits.sum().backward()
        return super().distill(task, unit)


class Hoarding(Fair, frozen=True, extra="forbid"):
    """A test."""

    def distill(self, task: DistillTask, unit: Unit) -> Tensor:
        images: Tensor = super().distill(task, unit)
        KEPT.append(images)
        return images


class Noisy(Fair, frozen=True, extra="forbid"):
    """A test."""

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


# -- protocols that break one promise each ------------------------------------------------------------------


def student_of(task: EvaluateTask) -> torch.nn.Module:
    """The student that a watched task gave out."""
    assert isinstance(task, WatchedTask)
    return task.students[-1]


class Other(FairProtocol, frozen=True, extra="forbid"):
    """A test: reports something else than it measured."""

    changes: ClassVar[dict[str, Any]] = {}

    def evaluate(self, task: EvaluateTask) -> Metrics:
        return super().evaluate(task).model_copy(update=self.changes)


def reporting(**changes: Any) -> Evaluator:
    return type("Reporting", (Other,), {"__doc__": "A test.", "changes": changes}, frozen=True)()


class Lucky(FairProtocol, frozen=True, extra="forbid"):
    """A test: measures other weights than those after the last step."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        metrics = super().evaluate(task)
        with torch.no_grad():
            next(student_of(task).parameters()).mul_(1.01)
        top1, per_class = training.accuracy(student_of(task), task.dataset, "val", task.device, task.precision)
        return metrics.model_copy(update={"top1_last": top1, "per_class": per_class})


class Hasty(FairProtocol, frozen=True, extra="forbid"):
    """A test: measures on half of the validation images."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        metrics = super().evaluate(task)
        half = torch.arange(0, len(task.dataset.val), 2)
        with torch.no_grad():
            guesses = student_of(task)(task.dataset.evaluation_view("val", half).to(task.device)).argmax(1)
        right = (guesses.cpu() == task.dataset.val.labels[half]).double().mean()
        return metrics.model_copy(update={"top1_last": 100 * float(right)})


class Stubborn(FairProtocol, frozen=True, extra="forbid"):
    """A test: the same student for every seed."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        return super().evaluate(dataclasses.replace(task, seed=3))


class Own(FairProtocol, frozen=True, extra="forbid"):
    """A test: trains a student that is not the task's."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        bare = {part.name: getattr(task, part.name) for part in dataclasses.fields(EvaluateTask)}
        return super().evaluate(EvaluateTask(**bare))


class Cheating(FairProtocol, frozen=True, extra="forbid"):
    """A test."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        _ = task.teacher
        return super().evaluate(task)


class Drifting(FairProtocol, frozen=True, extra="forbid"):
    """A test: a resumed student sees other views."""

    def evaluate(self, task: EvaluateTask) -> Metrics:
        resumed = task.checkpoint.path.exists()
        return super().evaluate(dataclasses.replace(task, seed=seeds.derive("drift", task.seed + resumed) % 1000))


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
    ("another_seed_gives_other_images", Deaf(), "other images, in every unit .* the same for seeds 0 and 1"),
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

PROTOCOLS: list[tuple[str, Evaluator, str]] = [
    ("metrics_are_complete_and_consistent", reporting(per_class=[50.0]), "complete, in range"),
    ("metrics_are_complete_and_consistent", reporting(top1_last=101.0), "complete, in range"),
    ("metrics_are_complete_and_consistent", reporting(per_class=[3.0] * 10), "comes to 3.000 %"),
    ("metrics_are_complete_and_consistent", reporting(top1_best=0.0), "below top1_last"),
    ("metrics_are_complete_and_consistent", reporting(label_bytes=0), "label_bytes = 0"),
    ("optimiser_steps_are_counted", reporting(student_steps=19), "student_steps = 19; torch.optim took 20"),
    ("optimiser_steps_are_counted", Own(), r"one student, the task's .* called task.student\(\) 0 times"),
    ("the_last_epoch_is_the_result", Lucky(), "after its last step: nothing is selected"),
    ("the_whole_validation_set_is_used", Hasty(), "every image of task.dataset.val"),
    ("another_seed_gives_another_student", Stubborn(), "seeds 0 and 1 end with the same weights"),
    ("a_student_learns", FairProtocol(epochs=1), "better than chance"),
    ("a_teacher_is_used_only_where_one_is_declared", Cheating(), "never touches a teacher"),
    ("an_interrupted_run_ends_with_the_same_result", Drifting(), "ends with the same bytes .* the metrics differ"),
]

# Broken in ways that need a module of their own, or another declaration: tests of their own, below.
ELSEWHERE = {"its_modules_import_no_torch", "another_process_gives_the_same_result"}


def kit_of(subject: Distiller | Evaluator, **own: Any) -> type[Conformance]:
    if isinstance(subject, Distiller):
        return type("Kit", (DistillerConformance,), {"distiller": subject, **own})
    return type("Kit", (EvaluatorConformance,), {"evaluator": subject, "ipc": 1, **own})


def promises_of(kit: type[Conformance]) -> list[str]:
    return [name.removeprefix("test_") for name in dir(kit) if name.startswith("test_")]


def check(kit: type[Conformance], test: str, folder: Path) -> None:
    """Runs one test of a kit, as pytest would."""
    function = getattr(kit(), f"test_{test}")
    function(*([bench_of(kit, folder)] if inspect.signature(function).parameters else []))


@functools.lru_cache(maxsize=1)
def bench_of(kit: type[Conformance], folder: Path) -> Bench:
    return kit.bench_in(folder)


def complaint(kit: type[Conformance], test: str, folder: Path) -> str:
    """What one test of a kit says against its subject, in a line."""
    with pytest.raises(pytest.fail.Exception) as caught:
        check(kit, test, folder)
    return " ".join(str(caught.value).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kit")


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """What the broken ones did to this process."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    KEPT.clear()


@pytest.mark.parametrize(
    ("test", "method", "says"), METHODS, ids=[f"{test}-{type(method).__name__}" for test, method, _ in METHODS]
)
def test_a_method_that_breaks_a_promise_is_told_which(test: str, method: Distiller, says: str, folder: Path) -> None:
    # A teacher of a few digits is enough to see what is done to it.
    dataset = "few-digits" if method.needs_teacher else "digits"
    assert re.search(says, complaint(kit_of(method, dataset=dataset), test, folder))


@pytest.mark.parametrize(
    ("test", "protocol", "says"), PROTOCOLS, ids=[f"{test}-{number}" for number, (test, _, _) in enumerate(PROTOCOLS)]
)
def test_a_protocol_that_breaks_a_promise_is_told_which(
    test: str, protocol: Evaluator, says: str, folder: Path
) -> None:
    assert re.search(says, complaint(kit_of(protocol), test, folder))


def test_every_promise_is_seen_broken() -> None:
    methods, protocols = promises_of(DistillerConformance), promises_of(EvaluatorConformance)
    assert {test for test, _, _ in METHODS} | ELSEWHERE == set(methods)
    assert {test for test, _, _ in PROTOCOLS} >= set(protocols) - set(promises_of(Conformance))


@pytest.mark.parametrize("kit", [kit_of(Fair()), kit_of(FairProtocol(), ipc=3)])
def test_what_keeps_its_promises_is_left_in_peace(kit: type[Conformance], folder: Path) -> None:
    for test in set(promises_of(kit)) - ELSEWHERE:
        check(kit, test, folder)


def test_a_claim_that_the_seed_does_not_matter_is_checked(folder: Path) -> None:
    check(kit_of(Deaf(), draws=False), "another_seed_gives_other_images", folder)
    said = complaint(kit_of(Fair(), draws=False), "another_seed_gives_other_images", folder)
    assert "remove draws = False" in said
    said = complaint(kit_of(FairProtocol(), draws=False), "another_seed_gives_another_student", folder)
    assert "with draws = False, the seed changes nothing" in said


def test_a_name_that_is_taken_and_a_run_that_fails_are_told(folder: Path) -> None:
    said = complaint(kit_of(Pair()), "nothing_stays_on_the_device", folder)
    assert re.search("registered beside what is installed .* given by both ddbench and", said)
    said = complaint(kit_of(Bright()), "the_same_seed_gives_the_same_result", folder)
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
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., type[Conformance]]]:
    """Makes the kit of a method in a module that other processes can import."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(name: str, value: str = "0.5", top: str = "") -> type[Conformance]:
        (tmp_path / f"{name}.py").write_text(f"{top}\n{dedent(MODULE.format(value=value))}")
        made.append(name)
        return kit_of(importlib.import_module(name).Method())

    yield make
    for name in made:
        del sys.modules[name]


def test_torch_in_the_entry_module_is_told(imported: Callable[..., type[Conformance]], folder: Path) -> None:
    check(imported("ddkit_light"), "its_modules_import_no_torch", folder)
    said = complaint(imported("ddkit_heavy", top="import torch.nn"), "its_modules_import_no_torch", folder)
    assert re.search("import no torch, .* torch is imported by ddkit_heavy .* sibling module", said)
    lost = imported("ddkit_lost", top="import sys\nassert 'pytest' in sys.modules")
    assert re.search("can be imported .* AssertionError", complaint(lost, "its_modules_import_no_torch", folder))


@pytest.mark.slow
def test_a_result_that_another_process_does_not_repeat_is_told(
    imported: Callable[..., type[Conformance]], folder: Path
) -> None:
    check(imported("ddkit_steady"), "another_process_gives_the_same_result", folder)
    hashing = imported("ddkit_hashing", value="(hash('a word') % 200) / 200")
    said = complaint(hashing, "another_process_gives_the_same_result", folder)
    assert re.search(r"another process, .* unit 0 differ .* hash\(\)", said)
    failing = imported("ddkit_failing", value="0.5 if 'pytest' in __import__('sys').argv[0] else 1 / 0")
    with pytest.raises(DDBenchError, match=r"(?s)in another process: .*ZeroDivisionError"):
        check(failing, "another_process_gives_the_same_result", folder)
    with pytest.raises(pytest.skip.Exception, match="cannot be imported by another process"):
        check(kit_of(Fair()), "another_process_gives_the_same_result", folder)
