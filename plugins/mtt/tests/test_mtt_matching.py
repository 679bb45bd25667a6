"""MTT: the steps of an iteration, the loop, its state, and what a diverged run says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_mtt import MTT
from ddbench_mtt.experts import snapshot
from ddbench_mtt.matching import Matching, distill
from ddbench_mtt.training import as_vector
from pydantic import ValidationError
from torch import Tensor

from ddbench.api import DDBenchError, UnitResult
from ddbench.distillation.context import DistillContext
from ddbench.nn import build_network

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset

METHOD = MTT(
    network="convnet-d1", experts=3, expert_epochs=4, max_start_epoch=3, target_epochs=2, student_steps=3,
    iterations=5, batch_size=8,
)  # fmt: skip
(UNIT,) = METHOD.units(10, 2)


@dataclass(frozen=True)
class Watched(DistillContext):
    """The task of a run with made-up experts; what is read and reported is kept."""

    read: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    reported: list[dict[str, float]] = field(default_factory=list)


@pytest.fixture
def make_task(digits_at: Callable[..., Dataset], bare_task: Callable[..., Any]) -> Callable[..., Watched]:
    dataset = digits_at(8)

    @torch.no_grad()
    def expert(part: int, epoch: int) -> Tensor:
        first, last = (as_vector(build_network("convnet-d1", 10, 8, seed=seed)) for seed in (part, part + 100))
        return first + 0.05 * epoch * (last - first)

    def make(stop_at: int = 0, **more: Any) -> Watched:
        read: list[tuple[int, tuple[str, ...]]] = []
        reported: list[dict[str, float]] = []

        def tensors(stage: str, part: int, names: Iterable[str]) -> dict[str, Tensor]:
            assert stage == "experts"
            read.append((part, tuple(names)))
            return {name: expert(part, int(name.partition("-")[2])) for name in read[-1][1]}

        def report(step: int, total: int, **metrics: float) -> None:
            reported.append(metrics)
            if step == stop_at:
                raise KeyboardInterrupt

        own = {"read": read, "reported": reported, "tensors": tensors, "report": report, "ipc": 2}
        return bare_task(dataset, None, kind=Watched, **{**own, **more})

    return make


MakeTask = Callable[..., Watched]


def result(method: MTT, task: Watched) -> tuple[Tensor, float]:
    made = distill(Matching(method, task), UNIT)
    assert isinstance(made, UnitResult)
    assert made.images is not None
    assert made.learning_rate is not None
    return made.images, made.learning_rate


def test_an_iteration_is_a_step_of_sgd_with_momentum_on_unbounded_pixels_and_on_the_rate(make_task: MakeTask) -> None:
    method = METHOD.model_copy(update={"learning_rate": 50, "rate_learning_rate": 1e-4})
    task = make_task()
    images, rate = result(method, task)
    matching = Matching(method, make_task())
    values = [matching.initial(UNIT)["images"].requires_grad_(True), torch.tensor(0.01, requires_grad=True)]
    optimizers = [
        torch.optim.SGD([value], lr=size, momentum=0.5) for value, size in zip(values, (50, 1e-4), strict=True)
    ]
    losses = []
    for iteration in range(5):
        matched = matching.match(iteration, {"images": values[0].detach()}, values[1].detach())
        values[0].grad, values[1].grad = matched.gradients["images"], matched.gradients["rate"]
        losses.append(float(matched.loss))
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(images, values[0].detach(), rtol=1e-5, atol=1e-6)
    assert rate == pytest.approx(float(values[1].detach()), rel=1e-6)
    assert rate != pytest.approx(0.01, rel=1e-3)
    assert [metrics["loss"] for metrics in task.reported] == losses
    assert task.timing["steps"] == 5


def test_steps_are_epochs_over_the_images_with_separate_augmentations(make_task: MakeTask) -> None:
    matching = Matching(METHOD.model_copy(update={"student_steps": 6}), make_task())
    steps = matching.steps(4, 20)
    assert [len(step.rows) for step in steps] == [8, 8, 4, 8, 8, 4]
    for epoch in (steps[:3], steps[3:]):
        assert sorted(torch.cat([step.rows for step in epoch]).tolist()) == list(range(20))
    assert not torch.equal(steps[0].rows, steps[3].rows)
    assert all(step.augmentation is not None and len(step.augmentation.parameters) == len(step.rows) for step in steps)
    assert (
        len({step.augmentation.operation for n in range(9) for step in matching.steps(n, 20) if step.augmentation}) == 6
    )
    whole = Matching(METHOD.model_copy(update={"batch_size": None, "strategy": None}), make_task()).steps(4, 20)
    assert [(len(step.rows), step.augmentation) for step in whole] == [(20, None)] * 3


def test_draws_are_repeated_for_an_iteration_and_differ_between_iterations_and_seeds(make_task: MakeTask) -> None:
    def drawn(iteration: int, seed: int = 0) -> list[Any]:
        steps = Matching(METHOD, make_task(seed=seed)).steps(iteration, 20)
        return [(s.rows.tolist(), s.augmentation and s.augmentation.parameters.tolist()) for s in steps]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(3) != drawn(3, seed=1)


def test_only_two_snapshots_of_one_expert_are_read_and_experts_take_turns(make_task: MakeTask) -> None:
    task = make_task()
    matching = Matching(METHOD, task)
    for iteration in range(30):
        matching.segment(iteration)
    parts = [part for part, _ in task.read]
    assert all(sorted(parts[start : start + 3]) == [0, 1, 2] for start in range(0, 30, 3))
    starts = [names.index(snapshot(0)) if snapshot(0) in names else None for _, names in task.read]
    assert {names for _, names in task.read} == {(snapshot(epoch), snapshot(epoch + 2)) for epoch in range(3)}
    assert set(starts) == {0, None}


@pytest.mark.parametrize("stop_at", [2, 3])
def test_an_interrupted_run_ends_with_the_same_bytes(make_task: MakeTask, stop_at: int) -> None:
    untouched = result(METHOD, make_task())
    with pytest.raises(KeyboardInterrupt):
        distill(Matching(METHOD, make_task(stop_at, slot="stopped", checkpoint_every=2)), UNIT)
    task = make_task(slot="stopped", checkpoint_every=2)
    images, rate = result(METHOD, task)
    assert len(task.reported) == {2: 5, 3: 3}[stop_at]
    assert torch.equal(images, untouched[0])
    assert rate == untouched[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e30}, "mtt: the gradient of the loss is not finite in iteration 2"),
        ({"initial_rate": 1e30}, "mtt: the loss is nan in iteration 1"),
        ({"rate_learning_rate": 1e9}, "mtt: the student's learning rate is -"),
    ],
)
def test_a_diverged_run_says_what_to_lower_and_saves_nothing(
    make_task: MakeTask, changes: dict[str, float], message: str
) -> None:
    method, task = METHOD.model_copy(update=changes), make_task(checkpoint_every=1)
    with pytest.raises(DDBenchError) as caught:
        distill(Matching(method, task), UNIT)
    text = str(caught.value)
    assert text.startswith(message)
    lower = "" if "rate is" in message else f"learning_rate ({method.learning_rate:g}) or "
    assert f"lower {lower}rate_learning_rate ({method.rate_learning_rate:g}) or " in text
    assert text.endswith("or student_steps (3)")
    saved = task.checkpoint.load()
    assert saved is None or all(bool(value.isfinite().all()) for value in saved[0].values())


def test_a_target_beyond_the_training_of_the_experts_is_refused() -> None:
    MTT(expert_epochs=5, max_start_epoch=4, target_epochs=2)
    with pytest.raises(ValidationError, match="need the snapshot after epoch 5 of experts of 4 epochs"):
        MTT(expert_epochs=4, max_start_epoch=4, target_epochs=2)


def test_work_counts_the_images_of_the_students_steps() -> None:
    assert METHOD.image_passes(10, 2) == 4 * 5 * 3 * 8
    assert METHOD.model_copy(update={"batch_size": None}).image_passes(10, 2) == 4 * 5 * 3 * 20
