"""The training loop: schedule, weight decay, resume to the bit, and what it refuses."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.api.settings import TrainingSettings
from ddbench.core import seeds
from ddbench.core.errors import DDBenchError
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import loop, schedules
from ddbench.training.batches import Batch
from ddbench.training.best_epoch import BestEpoch
from ddbench.training.curve import Curve

CPU = torch.device("cpu")


def small_network(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(8 * 36, 4),
        )


def batches(epoch: int) -> Iterator[Batch]:
    generator = seeds.generator("training test", epoch)
    for _ in range(3):
        images = torch.randn(6, 3, 8, 8, generator=generator)
        labels = torch.randint(0, 4, (6,), generator=generator)
        yield Batch(images, lambda logits, labels=labels: functional.cross_entropy(logits, labels))  # type: ignore[misc]


def run(
    settings: TrainingSettings,
    network: nn.Module,
    epoch_batches: Callable[[int], Iterator[Batch]] = batches,
    checkpoint: Checkpoint | None = None,
    curve: Curve | None = None,
) -> dict[str, Tensor]:
    loop.fit(network, epoch_batches, settings, CPU, "fp32", checkpoint, curve=curve)
    return network.state_dict()


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_cosine_values() -> None:
    assert schedules.cosine(0, 300) == 1.0
    assert schedules.cosine(150, 300) == pytest.approx(0.5)
    assert schedules.cosine(100, 300) == pytest.approx(0.75)
    assert schedules.cosine(299, 300) == pytest.approx(0.5 * (1 + math.cos(math.pi * 299 / 300)))


def test_learning_rate_follows_the_cosine_by_epoch() -> None:
    seen: list[float] = []
    steps: list[tuple[int, int]] = []

    def report(step: int, total: int, **metrics: float) -> None:
        steps.append((step, total))
        seen.append(metrics["learning_rate"])

    loop.fit(small_network(), batches, TrainingSettings(epochs=4, learning_rate=0.2), CPU, "fp32", report=report)
    assert seen == pytest.approx([0.2, 0.2 * 0.5 * (1 + math.sqrt(0.5)), 0.1, 0.2 * 0.5 * (1 - math.sqrt(0.5))])
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def constant(epoch: int) -> Iterator[Batch]:
    """One step an epoch whose loss has the gradient zero everywhere: only weight decay moves anything."""
    yield Batch(torch.zeros(2, 3, 8, 8), lambda logits: (logits * 0).sum())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_vectors", [True, False])
def test_weight_decay_reaches_the_right_parameters(optimizer: str, decay_vectors: bool) -> None:
    network = small_network()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    settings = TrainingSettings.model_validate(
        {
            "optimizer": optimizer,
            "decay_vectors": decay_vectors,
            "epochs": 1,
            "learning_rate": 0.1,
            "weight_decay": 0.5,
        }
    )
    run(settings, network, constant)
    for name, parameter in network.named_parameters():
        decayed = decay_vectors or parameter.ndim >= 2
        expected = before[name] * (1 - 0.1 * 0.5) if decayed else before[name]
        torch.testing.assert_close(parameter.detach(), expected, msg=name)


def test_sgd_is_the_textbook_recursion() -> None:
    """v <- 0.9 v + (g + wd w), w <- w - lr v on a linear network, in float64."""
    linear = nn.Linear(3 * 2 * 2, 2, bias=False)
    network = nn.Sequential(nn.Flatten(), linear)
    weight = linear.weight.detach().double().clone()
    images = torch.randn(5, 3, 2, 2, generator=seeds.generator("sgd"))
    settings = TrainingSettings(epochs=3, learning_rate=0.1, momentum=0.9, weight_decay=0.01)

    def once(epoch: int) -> Iterator[Batch]:
        yield Batch(images, lambda logits: logits.square().sum() / 2)

    velocity, flat = torch.zeros_like(weight), images.flatten(1).double()
    for epoch in range(3):
        velocity = 0.9 * velocity + (flat @ weight.T).T @ flat + 0.01 * weight
        weight = weight - 0.1 * 0.5 * (1 + math.cos(math.pi * epoch / 3)) * velocity
    trained = run(settings, network, once)
    torch.testing.assert_close(trained["1.weight"].double(), weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, stop: int
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    settings = TrainingSettings.model_validate({"optimizer": optimizer, "epochs": 5, "learning_rate": 0.01})
    measured, curve = Curve(norm, {2, 3, 5, 7, 12}), Curve(norm, {2, 3, 5, 7, 12})
    plain = run(settings, small_network(dropout=0.3))
    uninterrupted = run(settings, small_network(dropout=0.3), curve=measured)
    assert_equal(uninterrupted, plain)

    def dies(epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(epoch)):
            if epoch == stop and number == 1:
                raise KeyboardInterrupt
            yield batch

    slot = Checkpoint(tmp_path / "slot.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run(settings, small_network(dropout=0.3), dies, slot, curve)
    trained: list[int] = []

    def watched(epoch: int) -> Iterator[Batch]:
        trained.append(epoch)
        return batches(epoch)

    torch.manual_seed(5)  # another process: another global generator
    again = Curve(norm, {2, 3, 5, 7, 12})
    resumed = run(settings, small_network(dropout=0.3), watched, slot, again)
    assert trained == list(range(stop, 5))
    assert_equal(uninterrupted, resumed)
    assert (again.step, again.top1) == (measured.step, measured.top1)
    assert list(again.top1) == [2, 3, 5, 7, 12]


def test_a_checkpoint_without_the_curve_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a run that was not measured has no points: a resumed curve would lack them."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    settings, slot = TrainingSettings(epochs=2, learning_rate=0.01), Checkpoint(tmp_path / "slot.safetensors")
    run(settings, small_network(), checkpoint=slot)
    curve = Curve(norm, {1, 6})
    run(settings, small_network(), checkpoint=slot, curve=curve)
    assert list(curve.top1) == [1, 6]


def norm(network: nn.Module) -> float:
    """A measurement that leaves the network in evaluation mode, as `accuracy` does."""
    network.eval()
    return float(sum(parameter.detach().norm() for parameter in network.parameters()))


def scored(values: Sequence[tuple[float, ...]], seen: list[dict[str, Tensor]] | None = None) -> BestEpoch:
    """Keeps by a known sequence of scores, one an epoch; adds what it was shown to `seen`."""
    left = iter(values)

    def score(network: nn.Module) -> tuple[float, ...]:
        if seen is not None:
            seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(left)

    return BestEpoch(score)


@pytest.mark.parametrize(
    ("values", "epoch"),
    [
        ([(1.0,), (3.0,), (2.0,), (0.0,)], 2),
        ([(1.0,), (2.0,), (3.0,), (4.0,)], 4),
        ([(2.0, -5.0), (2.0, -1.0), (2.0, -3.0), (1.0, 0.0)], 2),  # the second number decides
        ([(2.0, -1.0), (2.0, -1.0), (2.0, -1.0), (2.0, -1.0)], 1),  # the earliest of equal ones
    ],
)
def test_the_epoch_that_is_kept_is_the_one_with_the_highest_score(values: list[tuple[float, ...]], epoch: int) -> None:
    seen: list[dict[str, Tensor]] = []
    keep, network = scored(values, seen), small_network()
    loop.fit(network, batches, TrainingSettings(epochs=4, learning_rate=0.05), CPU, "fp32", best_epoch=keep)
    assert keep.epoch == epoch
    assert_equal(keep.weights, seen[epoch - 1])
    assert_equal(seen[-1], network.state_dict())
    assert_equal(seen[-1], run(TrainingSettings(epochs=4, learning_rate=0.05), small_network()))


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_keeps_the_same_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """The best epoch, the second, comes after the first kill and before the second: it is found, or remembered."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    values = [(50.0, -0.1 - 0.2), (50.0, -0.1), (20.0, 0.0), (50.0, -0.2), (40.0, 0.0)]
    settings = TrainingSettings(epochs=5, learning_rate=0.05)
    uninterrupted = scored(values)
    loop.fit(small_network(), batches, settings, CPU, "fp32", best_epoch=uninterrupted)

    def dies(epoch: int) -> Iterator[Batch]:
        if epoch == stop:
            raise KeyboardInterrupt
        return batches(epoch)

    slot = Checkpoint(tmp_path / "slot.safetensors")
    with pytest.raises(KeyboardInterrupt):
        loop.fit(small_network(), dies, settings, CPU, "fp32", slot, best_epoch=scored(values))
    resumed, network = scored(values[stop:]), small_network()
    loop.fit(network, batches, settings, CPU, "fp32", slot, best_epoch=resumed)
    assert resumed.epoch == uninterrupted.epoch == 2
    assert_equal(resumed.weights, uninterrupted.weights)


def test_checkpoints_are_not_written_more_often_than_stated(tmp_path: Path) -> None:
    slot = Checkpoint(tmp_path / "slot.safetensors")
    run(TrainingSettings(epochs=3), small_network(), checkpoint=slot)
    assert not slot.path.exists()


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(TrainingSettings(epochs=2), small_network(dropout=0.5))
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_is_named() -> None:
    def explode(epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(epoch)):
            factor = float("nan") if (epoch, number) == (1, 2) else 1.0
            yield Batch(batch.images, lambda logits, b=batch, f=factor: b.loss(logits) * f)  # type: ignore[misc]

    with pytest.raises(DDBenchError, match="nan at step 3 of epoch 2"):
        run(TrainingSettings(epochs=3), small_network(), explode)


def test_a_step_can_take_a_gradient_that_is_computed_from_several_ones_of_its_batch() -> None:
    """The midpoint method for the loss w^2 / 2, whose gradient is w: a step multiplies w by 1 - r + r^2 / 2."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    nn.init.ones_(network[1].weight)
    batch = Batch(torch.ones(1, 1, 1, 1), lambda logits: logits.square().sum() / 2)
    reported: list[float] = []

    def midpoint(network: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
        loss = compute()
        (weight,) = network.parameters()
        start = weight.detach().clone()
        weight.data.sub_(weight.grad, alpha=0.1)
        compute()
        weight.data.copy_(start)
        return loss

    loop.fit(
        network, lambda epoch: [batch], TrainingSettings(epochs=2, learning_rate=0.2, momentum=0, weight_decay=0), CPU,
        "fp32", report=lambda step, total, **metrics: reported.append(metrics["loss"]), schedule=schedules.constant,
        gradient=midpoint,
    )  # fmt: skip
    factor = 1 - 0.2 + 0.02
    assert float(network[1].weight) == pytest.approx(factor**2)
    assert reported == pytest.approx([0.5, factor**2 / 2])
