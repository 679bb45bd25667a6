"""Numbers gone bad, for real: NaN, infinity and overflow are stopped, named, and never saved; what was good goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ddbench_dc.matching
import pytest
import torch
from ddbench_dc import DC
from ddbench_dm import DM
from ddbench_dm.matching import distill as distill_dm
from ddbench_dm.matching import mean_distance
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddbench.api.context import DistillTask
from ddbench.api.settings import RecoverSettings, TrainingSettings
from ddbench.api.teacher import Output
from ddbench.api.units import Slot, Unit
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.data.dataset import Dataset
from ddbench.distillation.recover import recover
from ddbench.nn.build import build_network
from ddbench.nn.statistics import collect
from ddbench.nn.taps import TappedNetwork
from ddbench.ot import barycenters, exact, lloyd, sliced
from ddbench.storage.artifacts import read_tensors
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import loop
from ddbench.training.batches import Batch

if TYPE_CHECKING:
    from conftest import Finished, Outcome, Shell

SIZE, CPU = 8, torch.device("cpu")
UNIT = Unit(0, tuple(Slot(label, 0) for label in range(10)))
RUN = ("run", "--dataset", "digits", "--recipe", "smoke", "--device", "cpu", "--precision", "fp32", "--image-size", "8")


@pytest.fixture
def make_task(digits_at: Callable[..., Dataset], bare_task: Callable[..., DistillTask]) -> Callable[..., DistillTask]:
    teacher = TappedNetwork(build_network("convnet-bn-d1", 10, SIZE, seed=1))
    return lambda slot, every=1000: bare_task(digits_at(SIZE), teacher, slot, checkpoint_every=every)


class Infinite(torch.autograd.Function):
    """As the square root at 0 and so much else: a finite value whose gradient is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.inf


def finite_checkpoint(slot: Checkpoint) -> dict[str, Any]:
    """The meta of a checkpoint, all of whose tensors are finite."""
    content = slot.load()
    assert content is not None
    assert all(bool(tensor.isfinite().all()) for tensor in content[0].values())
    return content[1]


def pull(output: Output) -> dict[str, Tensor]:
    return {"features": (output.features - 1).square().sum(), "logits": 0.1 * output.logits.square().sum()}


def test_a_term_that_goes_bad_is_named_with_its_step_and_the_last_good_one_goes_on(
    make_task: Callable[..., DistillTask], counted: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    """At a random step of a random checkpoint interval a term is NaN, infinite, or has such a gradient."""
    settings = RecoverSettings(steps=30, jitter=1, learning_rate=0.1)
    untouched = recover(make_task("untouched"), UNIT, pull, make_task("").noise(UNIT), settings)
    draw = seeds.generator("bad numbers")
    kinds: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("NaN", lambda x: x * torch.nan),
        ("infinity", lambda x: x + torch.inf),
        ("an overflow", lambda x: (x * 0 + 60000).half() * 10),
        ("an infinite gradient", lambda x: Infinite.apply(x)),
    ]
    count = counted(4, 120)
    for number in range(count):
        title, break_it = kinds[number % len(kinds)]
        at, every = (int(torch.randint(1, most, (), generator=draw)) for most in (31, 12))
        calls = 0

        def breaking(
            output: Output, at: int = at, break_it: Callable[[Tensor], Tensor] = break_it
        ) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            terms = pull(output)
            return {**terms, "third": break_it(terms["features"]) if calls == at else terms["features"] * 0}

        task = make_task(f"broken {number}", every)
        with pytest.raises(DDBenchError) as caught:
            recover(task, UNIT, breaking, task.noise(UNIT), settings)
        seen = at + (title == "an infinite gradient")  # the loss of that step is finite
        assert calls <= min(30, -(-seen // 25) * 25, -(-at // every) * every + every), title  # at the next look
        (line,) = str(caught.value).splitlines()
        if title == "an infinite gradient":  # the images are NaN then, and every term of the step after it
            assert re.search(rf"after step {at} of unit 0: not finite|not finite at step {at + 1} of unit 0", line)
        else:
            assert f"the loss is not finite at step {at} of unit 0: " in line
            named = line.partition(": {")[2]
            assert [bool(re.search(rf"'{term}': -?\d", named)) for term in ("features", "logits", "third")] == [1, 1, 0]
        saved = (at - 1) // every * every
        if saved:
            assert finite_checkpoint(task.checkpoint)["step"] == saved
        else:
            assert task.checkpoint.load() is None
        fixed = make_task(f"broken {number}", every)
        assert torch.equal(recover(fixed, UNIT, pull, fixed.noise(UNIT), settings), untouched)
    tally(f"numbers: recover broken at {count} random steps: {count} named, not saved, and gone on to the same bytes")


def test_an_optimiser_that_overflows_behind_a_finite_loss_is_seen(make_task: Callable[..., DistillTask]) -> None:
    """Squares of gradients above 1.8e19 are infinite: such pixels stand still for ever; loss and images are finite."""
    task = make_task("overflow", every=5)
    with pytest.raises(DDBenchError, match=r"recover, after step 5 of unit 0: not finite .*: exp_avg_sq;"):
        recover(
            task,
            UNIT,
            lambda output: {"steep": output.logits.sum() * 1e21},
            task.noise(UNIT),
            RecoverSettings(steps=20, jitter=1),
        )
    assert task.checkpoint.load() is None


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 4))


def fit(slot: Checkpoint, broken: tuple[int, int] | None, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Three epochs of three batches, saved at every epoch's end; the `broken` batch (epoch, number) has `loss`."""

    def batches(epoch: int) -> Iterator[Batch]:
        draw = seeds.generator("fit", epoch)
        for number in range(3):
            images = torch.randn(5, 3, 8, 8, generator=draw)
            yield Batch(images, loss if (epoch, number) == broken else lambda logits: logits.square().mean())

    student = network()
    loop.fit(student, batches, TrainingSettings(epochs=3, learning_rate=0.01), CPU, "fp32", slot)
    return student.state_dict()


@pytest.mark.parametrize(
    ("title", "loss"),
    [
        ("NaN", lambda logits: logits.mean() * torch.nan),
        ("infinity", lambda logits: logits.mean() + torch.inf),
        ("an infinite gradient", lambda logits: Infinite.apply(logits.mean())),
    ],
)
@pytest.mark.parametrize("broken", [(0, 1), (1, 2), (2, 2)])
def test_training_is_stopped_in_its_epoch_and_goes_on_from_the_one_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    title: str,
    loss: Callable[[Tensor], Tensor],
    broken: tuple[int, int],
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    untouched = fit(Checkpoint(tmp_path / "untouched.safetensors"), None, loss)
    slot, (epoch, batch) = Checkpoint(tmp_path / "slot.safetensors"), broken
    with pytest.raises(DDBenchError) as caught:
        fit(slot, broken, loss)
    (line,) = str(caught.value).splitlines()
    if title != "an infinite gradient":
        assert f"at step {batch + 1} of epoch {epoch + 1};" in line
    elif batch == 2:  # the loss knows nothing of it any more
        assert f"training, after epoch {epoch + 1}: not finite (NaN or infinity): network/" in line
    else:
        assert f"the loss is nan at step {batch + 2} of epoch {epoch + 1};" in line
    if epoch:
        assert finite_checkpoint(slot)["epoch"] == epoch
    else:
        assert slot.load() is None
    for name, tensor in fit(slot, None, loss).items():
        assert torch.equal(tensor, untouched[name])


@pytest.mark.parametrize("at", [1, 4, 6])
def test_the_loop_of_dm(make_task: Callable[..., DistillTask], at: int) -> None:
    """An infinite gradient becomes an infinite velocity; pixels are clamped, so that they and the loss look sound."""
    method = DM(network="convnet-d2", steps=6, real_batch=4, learning_rate=1.0)
    untouched = distill_dm(method, make_task("untouched"), UNIT, mean_distance)
    calls = 0

    def breaking(synthetic: Tensor, real: Tensor, label: int) -> Tensor:
        nonlocal calls
        calls += 1
        actual = mean_distance(synthetic, real, label)
        return Infinite.apply(actual) if calls == 10 * (at - 1) + 3 else actual

    task = make_task("dm", every=2)
    message = rf"^(dm, after step {at}: not finite .*velocity; a lower|the loss is not finite at step {at + 1};)"
    with pytest.raises(DDBenchError, match=message):
        distill_dm(method, task, UNIT, breaking)
    saved = (at - 1) // 2 * 2
    assert (finite_checkpoint(task.checkpoint)["step"] if saved else task.checkpoint.load() or 0) == saved
    assert torch.equal(distill_dm(method, make_task("dm", every=2), UNIT, mean_distance), untouched)


@pytest.mark.parametrize("at", [1, 3])
def test_the_loop_of_dc(make_task: Callable[..., DistillTask], monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A finite distance whose gradient is not: the pixels are stopped at the end of their iteration, also the last."""
    method = DC(network="convnet-d2", iterations=3, outer_loop=1, inner_loop=0, real_batch=4)
    untouched = method.distill(make_task("untouched"), UNIT)
    distance, calls = ddbench_dc.matching.gradient_distance, 0

    def breaking(actual: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        sound = distance(actual, wanted)
        return Infinite.apply(sound) if calls == 10 * (at - 1) + 3 else sound

    task = make_task("dc", every=1)
    with monkeypatch.context() as patched:
        patched.setattr(ddbench_dc.matching, "gradient_distance", breaking)
        where = "the last step" if at == 3 else f"iteration {at}"
        with pytest.raises(DDBenchError, match=rf"^dc, after {where}: not finite .*: images, momentum; a lower"):
            method.distill(task, UNIT)
    assert (finite_checkpoint(task.checkpoint)["iteration"] if at > 1 else task.checkpoint.load() or 0) == at - 1
    assert torch.equal(method.distill(task, UNIT), untouched)


def test_a_network_of_dc_that_diverges(make_task: Callable[..., DistillTask]) -> None:
    method = DC(
        network="convnet-d2", iterations=1, outer_loop=2, inner_loop=3, real_batch=4, network_learning_rate=1e30
    )
    with pytest.raises(DDBenchError, match=r"^dc: the distance of gradients is nan at step 2; a lower learning_rate"):
        method.distill(make_task("trained"), UNIT)


def refused(outcome: Outcome, message: str) -> None:
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert [line for line in outcome.errors if line.startswith("ddbench: ")] == outcome.errors[-1:]
    assert re.search(message, outcome.errors[-1]), outcome.errors[-1]


def test_rates_that_diverge_leave_nothing_that_is_not_finite(shell: Shell, tally: Callable[[str], None]) -> None:
    """Teacher, student and methods; the same command with the recipe's own rate then finds everything that was good."""
    hard, batch = ("--evaluator", "hard", "--ipc", "1"), ("--set", "teacher.batch_size=256")
    dm = ("--method", "dm", "--set", "method.steps=3", "--set", "method.network=convnet-d2")
    commands = [
        (
            (*RUN, "--method", "herding", *hard, *batch),
            "teacher.learning_rate=1e30",
            "nan at step [23] of epoch 1; a lower",
        ),
        (
            (*RUN, "--method", "random", *hard),
            "evaluator.learning_rate=1e36",
            "(nan|inf) at step . of epoch .; a lower",
        ),
        ((*RUN, *dm, *hard), "method.learning_rate=1e300", "the loss is not finite at step 2; a lower"),
    ]
    for command, rate, message in commands:
        refused(shell(*command, "--set", rate), message)
        assert shell(*command).code == 0
    assert not list((shell.cache / "checkpoints").rglob("*.safetensors"))
    for path in shell.cache.rglob("*.safetensors"):
        content = read_tensors(path)
        assert content is not None
        assert all(bool(tensor.isfinite().all()) for tensor in content[0].values()), path
    tally(
        f"numbers: {len(commands)} commands with rates that diverge: one line each, nothing but finite numbers stored"
    )


@pytest.fixture
def spoilt(finished: Finished, tmp_path: Path) -> Callable[[str, float], Path]:
    """A sound teacher's weights as a file; the tensors that a pattern names, times a factor."""

    def make(pattern: str, factor: float) -> Path:
        (made,) = (finished.shell.cache / "teacher").glob("*.safetensors")
        weights = {name: t * factor if re.search(pattern, name) else t for name, t in load_file(made).items()}
        save_file(weights, tmp_path / "teacher.safetensors")
        return tmp_path / "teacher.safetensors"

    return make


@pytest.mark.parametrize(
    ("pattern", "factor", "more", "message"),
    [
        (r"running_mean", float("nan"), (), "it has NaN or infinity in 'features"),
        (r"features.*weight$", 1e30, (), "accuracy: the network's logits of 360 of 360 images of val are not finite"),
        (r"classifier.weight", 1e7, (), "labels: the teacher's logits are not finite in fp16"),
        (
            r"classifier.weight",
            1e7,
            ("evaluator.labels=stored",),
            "labels: the teacher's logits are not finite in fp16",
        ),
        (r"classifier.weight", 1e7, ("soft",), "labels: the teacher's logits are not finite in fp16"),
    ],
)
def test_a_teacher_whose_numbers_overflow(
    shell: Shell, spoilt: Callable[[str, float], Path], pattern: str, factor: float, more: tuple[str, ...], message: str
) -> None:
    """Weights are finite at loading; what comes out of them is not, or not in fp16."""
    set_it = ("--evaluator", "soft") if more == ("soft",) else tuple(part for text in more for part in ("--set", text))
    checkpoint = f"teacher.checkpoint={spoilt(pattern, factor)}"
    outcome = shell(*RUN, "--method", "random", "--ipc", "1", "--set", checkpoint, *set_it)
    refused(outcome, message)
    for stage in ("labels", "evaluate"):
        assert not list(shell.cache.glob(f"{stage}/*.safetensors"))
    assert not list((shell.cache / "checkpoints").rglob("*.safetensors"))


def test_statistics_name_where_a_network_overflows() -> None:
    teacher = build_network("convnet-bn-d2", 3, SIZE, seed=1)
    with torch.no_grad():
        [layer for layer in teacher.modules() if isinstance(layer, nn.Conv2d)][1].weight.mul_(1e30)
    with pytest.raises(DDBenchError) as caught:
        collect(TappedNetwork(teacher), [torch.randn(4, 3, SIZE, SIZE, generator=seeds.generator("x"))], "exact")
    line, last = str(caught.value), TappedNetwork(teacher).bn_names[1]
    assert line.startswith(f"statistics: not finite (NaN or infinity): the variance before {last}; check the teacher's")
    assert json.dumps(line).count("\\n") == 0


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("solver", ["paper", "released", "lloyd", "sliced"])
def test_a_barycenter_of_features_that_are_not_finite(solver: str, bad: float) -> None:
    features = torch.randn(6, 4, generator=seeds.generator("features"))
    features[2, 1] = bad
    draw = seeds.generator("solver")
    solvers: dict[str, Callable[[], object]] = {
        "paper": lambda: barycenters.barycenter_paper(features, 2, draw),
        "released": lambda: barycenters.barycenter_released(features, 2, draw),
        "lloyd": lambda: lloyd.barycenter_lloyd([features], 2, [draw]),
        "sliced": lambda: sliced.barycenter_sliced(features, 2, draw, 8, 2),
    }
    with pytest.raises(DDBenchError, match="features must be a finite matrix"):
        solvers[solver]()
    with pytest.raises(DDBenchError, match="points must be a finite matrix"):
        exact.transport_cost(features, torch.full((6,), 1 / 6), features.nan_to_num(posinf=0.0))
