"""The training that scores images: its scores against a training by hand, and a training that is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddbench.augment import crops, views
from ddbench.core import interruption, seeds
from ddbench.core.interruption import Stopped
from ddbench.data.dataset import Dataset
from ddbench.methods.coresets import EL2N, GraNd, Scored
from ddbench.methods.dynamics import Dynamics
from ddbench.methods.tracking import track
from ddbench.nn.build import build_network
from ddbench.storage.checkpoint import Checkpoint
from ddbench.training import loop

METHOD = EL2N(network="convnet-d1", epochs=2, learning_rate=0.05, batch_size=400, schedule="cosine")
PINNED = {
    "forgetting": 1.30271,
    "aum": -0.5166,
    "probability_margin": -0.06137,
    "el2n": 0.74003,
    "last_layer_gradient": 18.81609,
}


@pytest.fixture(scope="module")
def digits(digits_at: Callable[..., Dataset]) -> Dataset:
    return digits_at(8)


@pytest.fixture
def tracked(digits: Dataset, tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    def run(slot: str, method: Scored = METHOD, part: int = 0, **more: Any) -> dict[str, Tensor]:
        context: Any = SimpleNamespace(
            dataset=digits, device=torch.device("cpu"), precision="fp32", report=lambda *_, **__: None
        )
        context.__dict__.update(more)
        return track(context, method, part, Checkpoint(tmp_path / f"{slot}.safetensors"))

    return run


def test_the_scores_are_those_of_a_training_by_hand(digits: Dataset, tracked: Callable[..., dict[str, Tensor]]) -> None:
    seed, labels, n = seeds.derive("dynamics", 3), digits.train.labels, len(digits.train)
    network = build_network("convnet-d1", 10, 8, seed=seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    logits = torch.empty(2, n, 10)
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = 0.05 * (1, 0.5)[epoch]
        drawn = views.epoch_views(n, digits.train.sizes, seed, epoch, 400, image_size=8)
        for batch in drawn.batches:
            rows = drawn.order[batch]
            pixels = digits.train.read(rows)[0].float() / 255
            cut = crops.crop_resize(pixels, drawn.boxes[batch], 8, drawn.flips[batch])
            optimizer.zero_grad()
            output = network(crops.normalise(cut, digits.mean, digits.std))
            functional.cross_entropy(output, labels[rows]).backward()
            logits[epoch, rows] = output.detach()
            optimizer.step()

    actual = tracked("one", part=3)
    margins = []
    for of_epoch in logits:
        others = of_epoch.clone()
        others[torch.arange(n), labels] = -torch.inf
        margins.append(of_epoch[torch.arange(n), labels] - others.amax(1))
    torch.testing.assert_close(actual["aum"].float(), torch.stack(margins).mean(0), rtol=1e-3, atol=1e-3)
    correct = logits.argmax(2) == labels
    events = torch.where(correct.any(0), (correct[0] & ~correct[1]).long(), 2)
    assert float((actual["forgetting"] == events).float().mean()) > 0.999  # of equal logits, rounding decides
    with torch.no_grad():
        errors = network.eval()(digits.evaluation_view("train", torch.arange(n))).softmax(1)
    errors[torch.arange(n), labels] -= 1
    torch.testing.assert_close(actual["el2n"].float(), errors.norm(dim=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("moment", ["epoch", "step"])
def test_a_training_that_was_stopped_gives_the_same_bits(
    tracked: Callable[..., dict[str, Tensor]], digits: Dataset, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """After the first epoch, by an exception; in the middle of the second one, by a real signal."""
    expected = tracked("whole")
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)

    def stop(done: int, total: int, **metrics: float) -> None:
        if moment == "epoch":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)

    with interruption.handle_signals(), pytest.raises(KeyboardInterrupt if moment == "epoch" else Stopped):
        tracked("slot", report=stop)
    resumed = tracked("slot")
    assert resumed.keys() == expected.keys()
    for name, score in expected.items():
        assert torch.equal(score, resumed[name]), name
        assert score.shape == (len(digits.train),)


def test_the_scores_are_what_the_version_of_the_stage_stands_for(tracked: Callable[..., dict[str, Tensor]]) -> None:
    assert Dynamics.version == "1"
    actual = {name: float(score.mean()) for name, score in tracked("pinned").items()}
    assert actual == pytest.approx(PINNED, rel=1e-3), "raise Dynamics.version, then pin the new numbers"


def test_networks_differ_and_the_full_gradient_is_an_extra(tracked: Callable[..., dict[str, Tensor]]) -> None:
    settings = {**METHOD.model_dump(), "epochs": 1}
    cheap, other = (tracked(f"cheap{part}", METHOD.model_copy(update={"epochs": 1}), part) for part in (0, 1))
    full = tracked("full", GraNd(**settings))
    assert full.keys() - cheap.keys() == {"gradient"}
    assert torch.equal(full["el2n"], cheap["el2n"])
    assert bool((full["gradient"] > full["last_layer_gradient"]).all())
    assert not torch.equal(cheap["el2n"], other["el2n"])
