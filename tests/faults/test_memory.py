"""Memory that runs out: cut batches give the whole's numbers; what cannot be cut is one line that names its setting."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ddbench_dm import DM
from ddbench_dm.matching import distill as distill_dm
from ddbench_dm.matching import mean_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddbench.api.context import DistillTask
from ddbench.api.settings import RecoverSettings
from ddbench.api.teacher import Objective, Output
from ddbench.api.units import Slot, Unit
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.recover import recover
from ddbench.evaluators.labels import teacher_logits
from ddbench.evaluators.selection import score_on
from ddbench.losses import batchnorm, features
from ddbench.nn import memory
from ddbench.nn.build import build_network
from ddbench.nn.statistics import Variance, collect
from ddbench.nn.taps import TappedNetwork
from ddbench.training.patches import teacher_loss
from ddbench.training.teacher import accuracy

if TYPE_CHECKING:
    from conftest import Shell

CPU, SIZE, CLASSES, IPC = torch.device("cpu"), 32, 10, 8
UNIT = Unit(0, tuple(Slot(label, index) for label in range(CLASSES) for index in range(IPC)))
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)
MEGABYTE = 2**20

ALONE = "DDBENCH_TESTS_SHORT_OF_MEMORY"
alone = pytest.mark.skipif(ALONE not in os.environ, reason="runs in a process of its own: test_short_of_memory")


def know_kernels(teacher: TappedNetwork) -> None:
    """oneDNN compiles a kernel for every size of batch, and for good fails to where it once found no memory."""
    for count in (80, 40, 20, 10, 5, 3, 2, 1):
        images = torch.zeros(count, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last).requires_grad_(True)
        teacher(images).features.sum().backward()
        with torch.no_grad():
            teacher(images)


@contextlib.contextmanager
def room(megabytes: int) -> Iterator[None]:
    """The operating system gives this process so much memory more and not a byte beyond: allocations fail for real."""
    status = Path("/proc/self/status").read_text()
    now = int(re.findall(r"VmSize:\s+(\d+)", status)[0]) * 1024
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * MEGABYTE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Device(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A device on which no tensor is larger than `most` bytes, from operation `since` on: it answers as CUDA does.

    torch.OutOfMemoryError where the tensor would be made, in forward and backward passes: what a GPU answers at the
    place where it answers.
    """

    def __init__(self, most: int, since: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most, self.since, self.count, self.refused = most, since, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += 1
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.nbytes > self.most and self.count > self.since:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return result


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What is said of cuts."""
    lines: list[str] = []
    with memory.oom_errors("distill", [], lines.append):
        yield lines


@pytest.fixture(scope="module")
def teacher() -> TappedNetwork:
    """Half a megabyte of activations an image in its first layer."""
    return TappedNetwork(build_network("convnet-bn-d3", CLASSES, SIZE, seed=1))


@pytest.fixture
def make_task(
    digits_at: Callable[..., Dataset], bare_task: Callable[..., DistillTask], teacher: TappedNetwork
) -> Callable[..., DistillTask]:
    def make(slot: str = "slot", size: int = SIZE, ipc: int = IPC, every: int = 1000) -> DistillTask:
        return bare_task(digits_at(size), teacher, slot, ipc=ipc, checkpoint_every=every)

    return make


def objective(kind: str, teacher: TappedNetwork) -> Objective:
    """Of the loss terms in use: sums over classes, one norm over the batch, statistics of the whole batch."""
    draw = seeds.generator("memory")
    channels = [layer.shape[0] for layer in teacher.running_statistics()[0]]
    points = torch.rand(len(UNIT.slots), teacher.feature_dim, generator=draw)
    weights = torch.rand(len(UNIT.slots), generator=draw)
    rows = batchnorm.class_weight_matrix(LABELS, weights)
    means, variances = ([torch.rand(CLASSES, c, generator=draw) for c in channels] for _ in range(2))

    def paper(output: Output) -> dict[str, Tensor]:
        return {
            "feature": features.feature_match(output.features, points, "squared"),
            "pcbn": 10 * batchnorm.pcbn(output.bn_inputs, rows, means, variances, "squared"),
        }

    def released(output: Output) -> dict[str, Tensor]:
        return {
            "feature": features.feature_match(output.features, points, "norm"),
            "cross_entropy": features.cross_entropy(output.logits, LABELS),
            "pcbn": 10 * batchnorm.pcbn(output.bn_inputs, rows, means, variances, "norm"),
        }

    def sre2l(output: Output) -> dict[str, Tensor]:
        bn = batchnorm.global_bn(output.bn_inputs, *teacher.running_statistics())
        return {"cross_entropy": features.cross_entropy(output.logits, LABELS), "bn": bn}

    return {"paper": paper, "released": released, "sre2l": sre2l}[kind]


STEPS = RecoverSettings(steps=2, jitter=4, learning_rate=0.1)


def close(actual: Tensor, uncut: Tensor) -> None:
    """The same up to the rounding of another order of summation, of which Adam makes a step where a gradient is 0."""
    assert float((actual - uncut).abs().median()) < 1e-6
    assert float(((actual - uncut).abs() > 1e-3).double().mean()) < 1e-3


@alone
@pytest.mark.parametrize("kind", ["paper", "released", "sre2l"])
def test_recover_goes_on_when_the_host_has_no_memory_left(
    make_task: Callable[..., DistillTask],
    teacher: TappedNetwork,
    messages: list[str],
    kind: str,
) -> None:
    task, chosen = make_task(), objective(kind, teacher)
    start = task.noise(UNIT)
    uncut = recover(task, UNIT, chosen, start, STEPS)
    know_kernels(teacher)
    assert messages == []
    with room(30):  # a layer of the 80 images takes 40
        actual = recover(task, UNIT, chosen, start, STEPS)
    # Halves down to what fits, and no size twice: the second step begins with what fitted.
    halves = [80]
    while halves[-1] > 1:
        halves.append((halves[-1] + 1) // 2)
    cuts = [
        f"out of memory with {n} images: continuing with {half} at a time" for n, half in itertools.pairwise(halves)
    ]
    assert messages
    assert messages == cuts[: len(messages)]
    close(actual, uncut)


def test_recover_goes_on_wherever_the_device_runs_out(
    make_task: Callable[..., DistillTask],
    teacher: TappedNetwork,
    messages: list[str],
    counted: Callable[[int, int], int],
    tally: Callable[[str], None],
) -> None:
    """At random operations of the first two steps, forward or backward, for random sizes of what still fits."""
    task, chosen = make_task(), objective("released", teacher)
    start, draw = task.noise(UNIT), seeds.generator("device")
    with Device(10**12) as device:
        uncut = recover(task, UNIT, chosen, start, STEPS)
    operations, layer, ended = device.count, 128 * SIZE * SIZE * 4, 0
    count = counted(2, 60)
    for _ in range(count):
        images = int(torch.randint(4, 60, (), generator=draw))
        since = int(torch.randint(0, operations, (), generator=draw))
        with Device(images * layer, since) as device:
            actual = recover(task, UNIT, chosen, start, STEPS)
        assert bool(messages) == bool(device.refused)
        ended += bool(messages)
        messages.clear()
        close(actual, uncut)
    tally(f"memory: {count} random places and sizes of a device that runs out, met {ended} times: the same images")
    assert ended


def test_where_not_one_image_fits_it_is_one_line_and_the_checkpoint_goes_on(
    make_task: Callable[..., DistillTask], teacher: TappedNetwork
) -> None:
    two, labels = Unit(0, (Slot(0, 0), Slot(1, 0))), torch.tensor([0, 1])

    def chosen(output: Output) -> dict[str, Tensor]:
        return {"cross_entropy": features.cross_entropy(output.logits, labels)}

    task = make_task()
    start = task.noise(two)
    with Device(10**12) as device:
        uncut = recover(task, two, chosen, start, STEPS)
    settings = [("wmdd.batch_size", 100)]
    task = make_task("stopped", every=1)
    lines: list[str] = []
    message = r"^out of memory in stage 'distill': lower --set wmdd.batch_size \(now 100\), which changes the results"
    small = Device(100_000, since=device.count // 2 + 20)  # in the second step
    with pytest.raises(DDBenchError, match=message), memory.oom_errors("distill", settings, lines.append), small:
        recover(task, two, chosen, start, STEPS)
    assert lines == ["out of memory with 2 images: continuing with 1 at a time"]
    content = task.checkpoint.load()
    assert content is not None
    assert content[1]["step"] == 1
    assert torch.equal(recover(make_task("stopped"), two, chosen, start, STEPS), uncut)


def test_an_objective_that_needs_the_activations_themselves_is_never_given_other_numbers(
    make_task: Callable[..., DistillTask], messages: list[str]
) -> None:
    task = make_task()
    for look in (lambda x: x.mean((0, 2, 3)), lambda x: torch.relu(x), lambda x: x.flatten(1), lambda x: x * 2):

        def gram(output: Output, look: Callable[[Any], Tensor] = look) -> dict[str, Tensor]:
            return {"texture": look(output.bn_inputs[0]).square().sum()}

        with (
            pytest.raises(DDBenchError, match="needs more of the BatchNorm inputs than their moments"),
            Device(40 * 2**19),
        ):
            recover(task, UNIT, gram, task.noise(UNIT), STEPS)


@alone
def test_passes_without_a_graph_go_on_when_the_host_has_no_memory_left(
    make_task: Callable[..., DistillTask], teacher: TappedNetwork, messages: list[str]
) -> None:
    """Statistics in both forms, and labels: of each image, so that parts give the numbers of the whole batch."""
    draw = seeds.generator("images")
    batches = [torch.randn(count, 3, SIZE, SIZE, generator=draw) for count in (80, 40)]
    task: Any = make_task()
    variances: tuple[Variance, ...] = ("exact", "batch-mean")
    uncut = [collect(teacher, batches, variance) for variance in variances]
    logits = teacher_logits(task, batches[0]).half()
    know_kernels(teacher)
    assert messages == []
    with room(30):
        cut = [collect(teacher, batches, variance) for variance in variances]
        assert messages[0] == "out of memory with 80 images: continuing with 40 at a time"
        messages.clear()
        cut_logits = teacher_logits(task, batches[0]).half()
    assert messages[0] == "out of memory with 80 views: continuing with 40 at a time"
    torch.testing.assert_close(cut_logits, logits)
    for actual, expected in zip(cut, uncut, strict=True):
        torch.testing.assert_close(actual.features, expected.features, rtol=1e-5, atol=1e-6)
        for moments in ("bn_means", "bn_vars"):
            for left, right in zip(getattr(actual, moments), getattr(expected, moments), strict=True):
                torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_accuracy_is_measured_in_parts(
    teacher: TappedNetwork, messages: list[str], digits_at: Callable[..., Dataset]
) -> None:
    uncut = accuracy(teacher.network, digits_at(SIZE), "val", CPU, "fp32")
    with Device(60 * 2**19):  # a layer of 60 images
        assert accuracy(teacher.network, digits_at(SIZE), "val", CPU, "fp32") == uncut
    halves = (256, 128, 64)
    assert messages == [f"out of memory with {n} images: continuing with {n // 2} at a time" for n in halves]


def test_crops_are_judged_in_parts(
    make_task: Callable[..., DistillTask], teacher: TappedNetwork, messages: list[str]
) -> None:
    judge = teacher_loss(make_task(), 3)
    crops = torch.rand(80, 3, SIZE // 2, SIZE // 2, generator=seeds.generator("crops"))
    uncut = judge(crops)
    with Device(25 * 2**19) as device:  # a layer of 25 images
        for _ in range(2):
            torch.testing.assert_close(judge(crops), uncut)
    assert device.refused == 2  # what fitted is remembered
    assert messages == [f"out of memory with {n} crops: continuing with {n // 2} at a time" for n in (80, 40)]


def test_an_epoch_is_chosen_by_scores_in_parts(
    teacher: TappedNetwork, messages: list[str], digits_at: Callable[..., Dataset]
) -> None:
    digits = digits_at(SIZE)
    rows = torch.arange(300)
    task = SimpleNamespace(
        dataset=digits, images=digits.train.centre(rows, SIZE), labels=digits.train.labels[rows], device=CPU
    )
    task.precision, held_out = "fp32", rows % 3 == 0
    score = score_on(task, held_out)  # type: ignore[arg-type]
    uncut = score(teacher.network)
    with Device(30 * 2**19) as device:  # a layer of 30 images
        for _ in range(2):
            top1, loss = score(teacher.network)
            assert top1 == uncut[0]
            assert loss == pytest.approx(uncut[1], rel=1e-6)
    assert device.refused == 2  # what fitted is remembered, from one epoch to the next
    assert messages == [
        f"out of memory with {n} held-out images: continuing with {n // 2} at a time" for n in (100, 50)
    ]


@pytest.mark.parametrize("network", ["convnet-d2", "convnet-bn-d2"])
def test_dm_takes_fewer_classes_at_a_time_where_that_changes_nothing(
    make_task: Callable[..., DistillTask], messages: list[str], network: str
) -> None:
    method = DM(network=network, steps=2, real_batch=8)
    uncut = distill_dm(method, make_task(size=16, ipc=1), UNIT, mean_distance)
    layer = 128 * 16 * 16 * 4 * 8  # eight images of one class
    with Device(3 * layer) as device:
        if network == "convnet-bn-d2":  # statistics of the batch: another batch, other numbers
            with pytest.raises(torch.OutOfMemoryError):
                distill_dm(method, make_task(size=16, ipc=1), UNIT, mean_distance)
            assert device.refused == 1
            return
        actual = distill_dm(method, make_task(size=16, ipc=1), UNIT, mean_distance)
    assert messages == [f"out of memory with {n} classes: continuing with {-(-n // 2)} at a time" for n in (10, 5)]
    torch.testing.assert_close(actual, uncut, rtol=0, atol=1e-5)


@given(rows=st.integers(0, 40), fits=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=200 if os.environ.get("DDBENCH_FAULTS") == "full" else 25)
def test_parts_joined_are_the_whole(rows: int, fits: int, seed: int) -> None:
    """Whatever fits, whoever says that it does not: every row once, in order; what fitted is remembered."""
    errors = (torch.OutOfMemoryError("out"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    refused: list[int] = []

    def forward(part: Tensor) -> tuple[Tensor, Tensor]:
        if len(part) > fits:
            refused.append(len(part))
            raise errors[seed % 3]
        return part * 2, part[:, 0]

    batch = torch.rand(rows, 2, generator=seeds.generator("rows", seed))
    in_parts = memory.in_parts(forward, "rows")
    for _ in range(2):
        doubled, first = in_parts(batch)
        assert torch.equal(doubled, batch * 2)
        assert torch.equal(first, batch[:, 0])
    halves = [rows]
    while halves[-1] > fits:
        halves.append((halves[-1] + 1) // 2)
    assert refused == halves[:-1]


def test_other_errors_are_not_taken_for_it() -> None:
    calls: list[int] = []

    def wrong(part: Tensor) -> list[Tensor]:
        calls.append(len(part))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        memory.in_parts(wrong, "rows")(torch.zeros(8, 2))
    assert calls == [8]


@alone
def test_a_batch_that_cannot_be_cut_is_one_line_that_names_its_setting(shell: Shell) -> None:
    """The teacher's BatchNorm sees the batch: a smaller one is the person's choice. A whole command, a real limit."""
    command = (
        "run",
        "--dataset",
        "digits",
        "--ipc",
        "1",
        "--recipe",
        "smoke",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    )
    hard = ("--evaluator", "hard", "--set", "evaluator.epochs=1")
    assert shell(*command, *hard, "--method", "random").code == 0
    with room(150):  # a layer of the 1437 images takes 180
        outcome = shell(*command, *hard, "--method", "herding", "--set", "teacher.batch_size=1437")
    assert outcome.code == 2, outcome.err
    assert "ddbench: out of memory in stage 'teacher': lower --set teacher.batch_size (now 1437)" in outcome.errors[-1]
    assert "Traceback" not in outcome.err
    assert len(list((shell.results / "records").glob("*.json"))) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on a process's memory is Linux's")
@pytest.mark.slow(24)
def test_short_of_memory(tally: Callable[[str], None]) -> None:
    """The tests above that are marked `alone`, in a process of their own: a library may not recover from it."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__]
    command += ["-k", "host_has_no_memory or cannot_be_cut"]
    # One thread, one arena, and large blocks from the kernel and back to it: how much is free depends on nothing else.
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    environment = {**os.environ, **environment, ALONE: "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout, done.stdout
    tally(
        "memory: RLIMIT_AS takes it from recover (3 losses), statistics, labels, a command: same numbers, or one line"
    )
