"""The pixel loop against a plain one written here; its draws, its bounds, and going on after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from ddbench.api.settings import RecoverSettings
from ddbench.api.teacher import Objective, Output, Phase
from ddbench.api.units import Slot, Unit, units_of_whole_classes
from ddbench.augment import crops
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import DistillContext
from ddbench.distillation.recover import recover, slot_noise
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.storage.checkpoint import Checkpoint

SIZE = 8
UNIT = Unit(3, tuple(Slot(label, index) for label in range(3) for index in range(2)))
TEN = RecoverSettings(steps=10, jitter=2, learning_rate=0.25)


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE)


@pytest.fixture
def make_task(digits: Dataset, tmp_path: Path) -> Callable[..., DistillContext]:
    teacher = TappedNetwork(build_network("convnet-bn-d1", 10, SIZE, seed=1))

    def make(slot: str = "slot", every: int = 1000, precision: str = "fp32", seed: int = 4) -> DistillContext:
        reports: list[tuple[int, int, dict[str, float]]] = []
        task = DistillContext(
            dataset=digits,
            ipc=2,
            seed=seed,
            device=torch.device("cpu"),
            precision=precision,
            checkpoint=Checkpoint(tmp_path / f"{slot}.safetensors"),
            checkpoint_every=every,
            report=lambda step, total, **metrics: reports.append((step, total, metrics)),
            cached=lambda name, depends_on, fn: fn(),
            statistics=lambda label: pytest.fail("not asked for"),
            timing={},
            _teacher=lambda: teacher,
        )
        object.__setattr__(task, "reports", reports)
        return task

    return make


def pull(output: Output) -> dict[str, Tensor]:
    """Two terms, so that their sum is seen to be minimised."""
    return {"features": (output.features - 1).square().sum(), "logits": 0.1 * output.logits.square().sum()}


def plain_loop(
    task: DistillContext,
    unit: Unit,
    objective: Objective,
    initial: Tensor,
    chosen: RecoverSettings,
    networks: Sequence[TappedNetwork] = (),
    phases: Sequence[Phase] = (),
) -> Tensor:
    """The same algorithm as a person writes it down: pixel by pixel bounds, a crop at a time."""
    mean, std = task.dataset.mean[:, None, None], task.dataset.std[:, None, None]
    images = torch.nn.Parameter(initial.clone())
    adam = torch.optim.Adam([images], betas=chosen.betas)
    ends = [sum(phase.steps for phase in phases[: number + 1]) for number in range(len(phases))]
    for step in range(chosen.steps):
        phase = next((phase for phase, end in zip(phases, ends, strict=True) if step < end), Phase(chosen.steps))
        if phase.start is not None and step in (0, *ends):
            images = torch.nn.Parameter(phase.start(images.data))
            adam = torch.optim.Adam([images], betas=chosen.betas)
        rows, side = list(phase.images or range(len(initial))), images.shape[-1]
        draw = seeds.generator("recover", task.seed, unit.index, step)
        drawn = len(rows) if chosen.crop_per_image else 1
        sizes = torch.tensor([[side, side]] * drawn)
        boxes = crops.random_boxes(sizes, (chosen.crop_scale_min, 1.0), generator=draw).tolist()
        flips = (torch.rand(drawn, generator=draw) < 0.5).tolist()
        seen = []
        for number, image in enumerate(images[rows]):
            top, left, height, width = boxes[number % drawn]
            cut = image[None, :, top : top + height, left : left + width]
            view = torch.nn.functional.interpolate(
                cut, (side, side), mode="bilinear", antialias=True, align_corners=False
            )
            seen.append(view.flip(3) if chosen.flip and flips[number % drawn] else view)
        batch = torch.cat(seen)
        if chosen.jitter:
            lowest = -chosen.jitter if chosen.centred_jitter else 0
            rolls = torch.randint(lowest, chosen.jitter + 1, (2,), generator=draw)
            down, right = (int(n) % side for n in rolls)
            batch = torch.cat([batch[:, :, side - down :], batch[:, :, : side - down]], 2)
            batch = torch.cat([batch[..., side - right :], batch[..., : side - right]], 3)
        turn = step % len(networks or [0])
        output = networks[turn](batch) if networks else task.teacher(batch)
        output = replace(output, turn=turn, rows=torch.tensor(rows))
        loss = torch.stack(list(objective(output).values())).sum()
        for group in adam.param_groups:
            group["lr"] = chosen.learning_rate * (1 + math.cos(math.pi * step / chosen.steps)) / 2
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        images.data = ((images.data * std + mean).clamp(0, 1) - mean) / std
    return images.data * std + mean


@pytest.mark.parametrize(
    "change",
    [{}, {"crop_per_image": False}, {"flip": False}, {"centred_jitter": True}, {"jitter": 0, "crop_scale_min": 1.0}],
)
def test_ten_steps_are_those_of_a_plain_loop(make_task: Callable[..., DistillContext], change: dict[str, Any]) -> None:
    chosen = TEN.model_copy(update=change)
    task = make_task()
    # A gradient near zero would leave its sign, and so Adam's step, to rounding: the default epsilon hides nothing.
    actual = recover(task, UNIT, pull, task.noise(UNIT), chosen)
    expected = plain_loop(task, UNIT, pull, task.noise(UNIT), chosen)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)
    assert float((actual - expected).abs().median()) < 1e-6
    assert float((actual - (task.noise(UNIT) * 0.3 + 0.5)).abs().max()) > 0.1  # it did move


def test_networks_take_turns_and_the_objective_gets_the_number_of_each(
    make_task: Callable[..., DistillContext],
) -> None:
    networks = [TappedNetwork(build_network(name, 10, SIZE, seed=2)) for name in ("convnet-bn-d1", "convnet-bn-d2")]
    task, turns = make_task(), []

    def objective(output: Output) -> dict[str, Tensor]:
        turns.append(output.turn)
        return {"features": (output.features - output.turn).square().sum()}

    actual = recover(task, UNIT, objective, task.noise(UNIT), TEN, networks=networks)
    assert turns == [0, 1] * 5
    expected = plain_loop(task, UNIT, objective, task.noise(UNIT), TEN, networks)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


@pytest.fixture
def resnet() -> TappedNetwork:
    """A network that takes images of several sizes."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 10),
    )  # fmt: skip
    draw = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / 3
    return TappedNetwork(network)


def target(output: Output) -> dict[str, Tensor]:
    """Each image of the unit has a target of its own."""
    targets = torch.arange(6.0)[output.rows]
    return {"features": (output.features.mean(1) - targets).square().sum()}


def halve_and_fade(images: Tensor) -> Tensor:
    return 0.5 * torch.nn.functional.avg_pool2d(images, 2)


PHASES = (
    [Phase(3, (0, 3)), Phase(4, (0, 1, 3)), Phase(3)],
    [Phase(5), Phase(5, start=halve_and_fade)],
    [Phase(2, (5,), start=halve_and_fade), Phase(8)],
)


@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.parametrize("change", [{}, {"crop_per_image": False}])
def test_phases_are_those_of_a_plain_loop(
    make_task: Callable[..., DistillContext], resnet: TappedNetwork, phases: list[Phase], change: dict[str, Any]
) -> None:
    task, chosen = make_task(), TEN.model_copy(update=change)
    start = torch.randn(6, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(2)) / 2
    start = start if any(phase.start for phase in phases) else start[..., :SIZE, :SIZE]
    actual = recover(task, UNIT, target, start, chosen, networks=[resnet], phases=phases)
    expected = plain_loop(task, UNIT, target, start, chosen, [resnet], phases)
    assert actual.shape == (6, 3, SIZE, SIZE)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def test_images_that_have_not_joined_keep_their_pixels(
    make_task: Callable[..., DistillContext], resnet: TappedNetwork
) -> None:
    task = make_task()
    start = task.noise(UNIT).clamp(-0.5, 0.5)
    actual = recover(task, UNIT, target, start, TEN, networks=[resnet], phases=[Phase(10, (1, 4))])
    std, mean = task.dataset.std.view(3, 1, 1), task.dataset.mean.view(3, 1, 1)
    moved = ((actual - (start * std + mean)).abs() > 1e-6).flatten(1).any(1)
    assert moved.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_phases_resume_at_their_size(
    make_task: Callable[..., DistillContext], resnet: TappedNetwork, stop: int
) -> None:
    start, phases = torch.zeros(6, 3, 2 * SIZE, 2 * SIZE), PHASES[1]
    whole = recover(make_task("whole"), UNIT, target, start, TEN, networks=[resnet], phases=phases)
    calls = 0

    def dying(output: Output) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise KeyboardInterrupt
        return target(output)

    task = make_task("killed", every=1)
    with pytest.raises(KeyboardInterrupt):
        recover(task, UNIT, dying, start, TEN, networks=[resnet], phases=phases)
    saved = task.checkpoint.load()
    assert saved is not None
    assert saved[1]["step"] == stop
    resumed = recover(make_task("killed"), UNIT, target, start, TEN, networks=[resnet], phases=phases)
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize(
    ("phases", "text"),
    [
        ([Phase(3), Phase(6)], r"have \[3, 6\] steps, which must be positive and sum to 10"),
        ([Phase(10), Phase(0)], "must be positive"),
        ([Phase(5, (0, 1)), Phase(5, (1, 2))], "phase 2 leaves out images of the phase before it"),
    ],
)
def test_impossible_phases_are_refused(
    make_task: Callable[..., DistillContext], phases: list[Phase], text: str
) -> None:
    task = make_task()
    with pytest.raises(DDBenchError, match=text):
        recover(task, UNIT, pull, task.noise(UNIT), TEN, phases=phases)


@settings(max_examples=15, deadline=None)
@given(rate=st.floats(0.01, 50), seed=st.integers(0, 100), direction=st.sampled_from([-1.0, 1.0]))
def test_pixels_never_leave_their_range(digits: Dataset, rate: float, seed: int, direction: float) -> None:
    teacher = TappedNetwork(build_network("convnet-bn-d1", 10, SIZE, seed=1))
    mean, std = digits.mean[:, None, None], digits.std[:, None, None]
    seen: list[Tensor] = []

    def objective(output: Output) -> dict[str, Tensor]:
        return {"push": direction * output.features.sum()}

    teacher.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach() * std + mean))
    task = DistillContext(
        dataset=digits,
        ipc=2,
        seed=seed,
        device=torch.device("cpu"),
        precision="fp32",
        checkpoint=Checkpoint(Path("never-written")),
        checkpoint_every=1000,
        report=lambda step, total, **metrics: None,
        cached=lambda name, depends_on, fn: fn(),
        statistics=lambda label: pytest.fail("not asked for"),
        timing={},
        _teacher=lambda: teacher,
    )
    actual = recover(task, UNIT, objective, task.noise(UNIT), RecoverSettings(steps=4, learning_rate=rate, jitter=1))
    assert 0 <= float(actual.min()) <= float(actual.max()) <= 1
    for view in seen[1:]:  # the first is the noise that it starts from
        assert -1e-5 <= float(view.min()) <= float(view.max()) <= 1 + 1e-5


@pytest.mark.parametrize("stop", [1, 4, 9, 26])
def test_a_resumed_run_ends_with_the_same_bytes(make_task: Callable[..., DistillContext], stop: int) -> None:
    chosen = TEN.model_copy(update={"steps": 30})
    task = make_task("whole")
    uninterrupted = recover(task, UNIT, pull, task.noise(UNIT), chosen)

    class Killed(Exception):
        pass

    calls = 0

    def dying(output: Output) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Killed
        return pull(output)

    task = make_task("resumed", every=3)
    with pytest.raises(Killed):
        recover(task, UNIT, dying, task.noise(UNIT), chosen)
    computed = 0

    def counting(output: Output) -> dict[str, Tensor]:
        nonlocal computed
        computed += 1
        return pull(output)

    again = make_task("resumed", every=3)
    resumed = recover(
        again, UNIT, counting, torch.full_like(uninterrupted, float("nan")) if stop > 2 else again.noise(UNIT), chosen
    )
    assert torch.equal(resumed, uninterrupted)
    assert computed == 30 - stop // 3 * 3
    assert again.timing["steps"] == 30
    assert again.timing["seconds"] > 0


def test_a_damaged_checkpoint_only_costs_time(make_task: Callable[..., DistillContext]) -> None:
    task = make_task("whole")
    uninterrupted = recover(task, UNIT, pull, task.noise(UNIT), TEN)
    task = make_task("damaged", every=4)
    recover(task, UNIT, pull, task.noise(UNIT), TEN)
    content = task.checkpoint.path.read_bytes()
    task.checkpoint.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert torch.equal(recover(task, UNIT, pull, task.noise(UNIT), TEN), uninterrupted)


def test_noise_depends_on_seed_class_and_index_alone() -> None:
    uninterrupted = slot_noise(7, units_of_whole_classes(4, 3, 1000)[0], SIZE)
    parts = torch.cat([slot_noise(7, unit, SIZE) for unit in units_of_whole_classes(4, 3, 3)])
    assert torch.equal(uninterrupted, parts)
    backwards = Unit(9, tuple(reversed([Slot(label, index) for label in range(4) for index in range(3)])))
    assert torch.equal(slot_noise(7, backwards, SIZE).flip(0), uninterrupted)
    assert torch.equal(slot_noise(7, Unit(0, (Slot(2, 1),)), SIZE)[0], uninterrupted[7])
    assert len({float(image.sum()) for image in uninterrupted}) == 12
    assert not torch.equal(slot_noise(8, backwards, SIZE), slot_noise(7, backwards, SIZE))
    assert abs(float(uninterrupted.mean())) < 0.1
    assert abs(float(uninterrupted.std()) - 1) < 0.1


def test_every_unit_and_run_has_its_own_draws(make_task: Callable[..., DistillContext]) -> None:
    task, other = make_task(), make_task(seed=5)
    start = task.noise(UNIT)
    first = recover(task, UNIT, pull, start, TEN)
    assert torch.equal(recover(make_task(), UNIT, pull, start, TEN), first)
    assert not torch.equal(recover(task, Unit(4, UNIT.slots), pull, start, TEN), first)
    assert not torch.equal(recover(other, UNIT, pull, start, TEN), first)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_leaves_the_last_good_checkpoint(
    make_task: Callable[..., DistillContext], bad: float
) -> None:
    calls = 0

    def breaking(output: Output) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        return {**pull(output), "broken": output.features.sum() * (bad if calls > 5 else 1.0)}

    task = make_task("breaking", every=4)
    message = r"not finite at step 6 of unit 3: \{'features': .*'logits': .*'broken': .*(nan|inf)"
    with pytest.raises(DDBenchError, match=message) as caught:
        recover(task, UNIT, breaking, task.noise(UNIT), TEN)
    assert "\n" not in str(caught.value)
    saved = task.checkpoint.load()
    assert saved is not None
    assert saved[1]["step"] == 4
    assert saved[0]["images"].isfinite().all()


def test_it_reports_the_terms_and_their_sum(make_task: Callable[..., DistillContext]) -> None:
    task: Any = make_task()
    actual = recover(task, UNIT, pull, task.noise(UNIT), TEN.model_copy(update={"steps": 60}))
    assert [(step, total) for step, total, _ in task.reports] == [(25, 60), (50, 60), (60, 60)]
    for _, _, metrics in task.reports:
        assert metrics["loss"] == pytest.approx(metrics["features"] + metrics["logits"])
    start = (task.noise(UNIT) * task.dataset.std[:, None, None] + task.dataset.mean[:, None, None]).clamp(0, 1)
    before, after = (float(sum(pull(task.teacher(task.dataset.normalise(seen))).values())) for seen in (start, actual))
    assert after < before


def test_bf16_changes_the_pass_through_the_teacher_and_not_the_type_of_the_images(
    make_task: Callable[..., DistillContext],
) -> None:
    kinds: set[torch.dtype] = set()

    def watching(output: Output) -> dict[str, Tensor]:
        kinds.add(output.logits.dtype)
        return pull(output)

    task = make_task(precision="bf16")
    actual = recover(task, UNIT, watching, task.noise(UNIT), TEN)
    assert kinds == {torch.bfloat16}
    assert actual.dtype == torch.float32
    assert actual.isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"learning_rate": 0}, {"betas": (0.5, 1.0)}, {"betas": (-0.1, 0.9)}, {"crop_scale_min": 0}],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecoverSettings(**wrong)
