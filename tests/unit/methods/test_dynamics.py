"""The stage that trains networks once for several methods, IPCs and sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ddbench.pipeline.pipeline import Pipeline

FEW = ("method.network=convnet-d1", "method.trainings=2")


def keys(pipeline: Pipeline) -> list[str]:
    """The keys of the networks."""
    return [pipeline.cache_key("dynamics", part) for part in pipeline.parts_of("dynamics")]


def test_networks_are_shared_by_methods_ipcs_and_seeds(pipeline: Callable[..., Pipeline]) -> None:
    first = keys(pipeline("el2n", *FEW))
    assert len(set(first)) == 2
    assert keys(pipeline("el2n", *FEW, ipcs=(1,), seed=7, repeats=3)) == first
    for name in ("forgetting", "aum", "ccs"):
        assert keys(pipeline(name, *FEW)) == first
    assert keys(pipeline("grand", *FEW, "method.gradient=last-layer")) == first
    assert keys(pipeline("el2n", *FEW, "method.take=easiest")) == first
    assert keys(pipeline("el2n", FEW[0], "method.trainings=3"))[:2] == first


@pytest.mark.parametrize(
    "setting", ["epochs=3", "batch_size=64", "schedule=steps", "network=convnet-d2", "learning_rate=0.2"]
)
def test_another_training_is_another_artifact(pipeline: Callable[..., Pipeline], setting: str) -> None:
    assert set(keys(pipeline("aum", *FEW, f"method.{setting}"))).isdisjoint(keys(pipeline("aum", *FEW)))


def test_the_full_gradient_is_another_artifact_and_is_counted(pipeline: Callable[..., Pipeline]) -> None:
    full, cheap = pipeline("grand", *FEW), pipeline("el2n", *FEW)
    assert set(keys(full)).isdisjoint(keys(cheap))
    images = len(full.dataset.train)
    passes = [each.graph["dynamics"].image_passes(each, 0) for each in (cheap, full)]
    assert passes == pytest.approx([images * (2 + 1 / 3), images * (3 + 1 / 3)])
    assert not pipeline("random").parts_of("dynamics")
