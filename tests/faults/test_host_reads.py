"""On an accelerator, the host must not wait for the device in each step, nor launch kernels for each image.

The device is simulated on the CPU: a tensor is on it if it was copied there, or computed from one that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ddbench.api.settings import DSA_STRATEGY, RecoverSettings, TrainingSettings, operations_of
from ddbench.api.units import Slot, Unit
from ddbench.augment import siamese
from ddbench.augment.views import epoch_views
from ddbench.config.schema import TeacherConfig
from ddbench.core import seeds
from ddbench.data.dataset import Dataset
from ddbench.distillation.context import EvaluateContext
from ddbench.distillation.distilled_set import DistilledSet, class_weights
from ddbench.distillation.recover import REPORT_EVERY, draw_view, recover
from ddbench.evaluators.protocols import HardLabels, KnowledgeDistillation, SiameseAugmentation, SoftLabels
from ddbench.nn.batchnorm_moments import moments
from ddbench.nn.build import build_network
from ddbench.nn.taps import TappedNetwork
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import batches, view_batches
from ddbench.training.teacher import train_on_real_images

CPU, SIZE = torch.device("cpu"), 8
READS = (Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.cpu, Tensor.numpy)
WAITS: tuple[Any, ...] = (*READS, Tensor.nonzero, torch.nonzero, Tensor.masked_select, torch.masked_select)
"""Functions whose result the host must wait for."""


def place(module: nn.Module) -> nn.Module:
    """Puts a module on the simulated device."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.on_device = True  # type: ignore[attr-defined]
    return module


class Watch(TorchFunctionMode):
    """Counts the functions of PyTorch that are called, and those on the device for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.waits: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        on_device = any(getattr(tensor, "on_device", False) for tensor in given)
        by_mask = func in (Tensor.__getitem__, Tensor.__setitem__) and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool and getattr(leaf, "on_device", False)
            for leaf in tree_leaves(args[1])
        )
        if (on_device and func in WAITS) or by_mask:
            self.waits.append(func.__name__)
        result = func(*args, **(kwargs or {}))
        if on_device and func not in READS:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    leaf.on_device = True  # type: ignore[attr-defined]
        return result


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies to the device are on it."""

    def copy(tensor: Tensor, device: torch.device) -> Tensor:
        copied = tensor.clone()
        copied.on_device = True  # type: ignore[attr-defined]
        return copied

    for module in (batches, view_batches):
        monkeypatch.setattr(module, "to_device", copy)
    for name in ("evaluators.labels", "evaluators.fkd_labels", "evaluators.students", "training.teacher"):
        monkeypatch.setattr(f"ddbench.{name}.to_device", copy)


@pytest.fixture
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(SIZE)


@pytest.fixture
def teacher() -> TappedNetwork:
    return TappedNetwork(place(build_network("convnet-bn-d1", 10, SIZE, seed=0)))


class Placed(EvaluateContext):
    """The task of a protocol, whose student is on the device."""

    def student(self) -> nn.Module:
        return place(super().student())


def watched(run: Callable[[], object]) -> list[str]:
    """Returns what the host waits for in a run."""
    with Watch() as watch:
        run()
    waits: list[str] = watch.waits
    return waits


def test_a_wait_is_seen(teacher: TappedNetwork) -> None:
    images, on_host = torch.zeros(2, 3, SIZE, SIZE), torch.ones(2)
    logits = teacher(images).logits
    assert watched(lambda: (on_host.tolist(), bool(on_host.all()))) == []
    with Watch() as watch:
        logits = teacher(images).logits
        float(logits.detach().abs().max())
        logits[logits > 0]
        logits.cpu()
    assert watch.waits == ["__float__", "__getitem__", "cpu"]


@pytest.mark.parametrize("protocol", [KnowledgeDistillation, SoftLabels, HardLabels, SiameseAugmentation])
def test_no_step_of_a_student_waits(
    digits: Dataset, teacher: TappedNetwork, tmp_path: Any, protocol: Callable[..., Any]
) -> None:
    indices = torch.cat([digits.train.of_class(label)[:2] for label in range(10)])
    labels = digits.train.labels[indices]
    weights = class_weights(labels, torch.ones(len(labels)))

    def train(batch_size: int) -> list[str]:
        task = Placed(
            dataset=digits,
            distilled=DistilledSet(digits, labels, weights, ("unit",), indices=indices),
            teacher_training=TeacherConfig(arch="convnet-d1"),
            student_arch="convnet-d1",
            student_stem="auto",
            seed=0,
            ipc=2,
            device=CPU,
            precision="fp32",
            checkpoint=Checkpoint(tmp_path / "slot.safetensors"),
            report=lambda *_, **__: None,
            cached=lambda name, depends_on, build: build(),
            _teacher=lambda: teacher,
        )
        return watched(lambda: protocol(epochs=2, batch_size=batch_size).evaluate(task))

    assert train(4) == train(10)  # five steps and two steps an epoch


def test_no_step_of_a_teacher_waits(digits: Dataset) -> None:
    def train(batch_size: int) -> list[str]:
        network = place(build_network("convnet-bn-d1", 10, SIZE, seed=0))
        settings = TrainingSettings(epochs=1, batch_size=batch_size)
        return watched(lambda: train_on_real_images(network, digits, settings, 0, CPU, "fp32"))

    assert train(250) == train(750)


def test_no_step_of_the_recover_loop_waits(
    digits: Dataset, teacher: TappedNetwork, bare_task: Callable[..., Any]
) -> None:
    unit = Unit(0, tuple(Slot(label, 0) for label in range(4)))

    def objective(output: Any) -> dict[str, Tensor]:
        statistics = [value.square().mean() for x in output.bn_inputs for value in moments(x)]
        return {"features": output.features.square().mean(), "statistics": torch.stack(statistics).sum()}

    def waits(steps: int) -> list[str]:
        task = bare_task(digits, teacher)
        initial = task.noise(unit)
        initial.on_device = True
        return watched(lambda: recover(task, unit, objective, initial, RecoverSettings(steps=steps, jitter=1)))

    few = waits(2)
    assert waits(REPORT_EVERY) == few  # those of the first and the last step
    assert len(waits(2 * REPORT_EVERY)) == len(few) + 1


@pytest.mark.parametrize("mixed", [False, True])
def test_the_kernels_of_augmentation_do_not_depend_on_the_number_of_images(digits: Dataset, mixed: bool) -> None:
    def calls(count: int) -> int:
        pixels = digits.train.centre(torch.arange(count), SIZE)

        def draw() -> Iterator[object]:
            size = torch.tensor([SIZE, SIZE])
            views = epoch_views(
                count, size, 0, 0, count, cutmix_alpha=1.0 if mixed else None, image_size=SIZE, factor=2,
                colour_noise=(0.4, 0.1) if mixed else None,
            )  # fmt: skip
            return view_batches.view_batches(pixels.__getitem__, digits, views, CPU)

        with Watch() as watch:
            (_,) = draw()
        return int(watch.calls)

    assert calls(64) == calls(4)


@pytest.mark.parametrize("operation", operations_of(DSA_STRATEGY))
def test_the_kernels_of_siamese_augmentation_do_not_depend_on_the_number_of_images(operation: str) -> None:
    def calls(count: int) -> int:
        with Watch() as watch:
            drawn = siamese.draw_augmentation(operation, SIZE, seeds.generator("test"), count)
            siamese.augment(torch.zeros(count, 3, SIZE, SIZE), drawn)
        return int(watch.calls)

    assert calls(64) == calls(4)


def test_the_kernels_of_a_view_do_not_depend_on_the_number_of_images(
    digits: Dataset, bare_task: Callable[..., Any], teacher: TappedNetwork
) -> None:
    def calls(count: int) -> int:
        task, unit = bare_task(digits, teacher), Unit(0, (Slot(0, 0),))
        with Watch() as watch:
            draw_view(task, unit, torch.zeros(count, 3, SIZE, SIZE), RecoverSettings(jitter=1), 0)
        return int(watch.calls)

    assert calls(64) == calls(4)
