"""CDA: the curriculum in closed form, and the boxes that a run draws under it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ddbench_sre2l import CDA, SRe2L
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddbench.augment import crops
from ddbench.pipeline.pipeline import Pipeline
from ddbench.pipeline.request import Request, experiments
from ddbench.pipeline.workspace import Workspace
from ddbench.registry.registry import PluginRegistry
from ddbench.storage.cache import Cache

SIZE = 16


def test_the_smallest_crop_falls_on_a_half_cosine_from_the_whole_image() -> None:
    method = CDA(steps=4000)
    assert method.crop_scale(0) == (1, 1)
    assert method.crop_scale(1000) == pytest.approx((0.54 + 0.46 * math.sqrt(0.5), 1))
    assert method.crop_scale(2000) == pytest.approx((0.54, 1))
    assert method.crop_scale(3999) == pytest.approx((0.08 + 0.92 * math.sin(math.pi / 8000) ** 2, 1), rel=1e-9)
    assert SRe2L(steps=4000).crop_scale(0) == SRe2L(steps=4000).crop_scale(3999) == (0.08, 1)


@given(steps=st.integers(1, 5000), smallest=st.floats(1e-6, 1), data=st.data())
def test_a_curriculum_never_grows_and_stays_in_range(steps: int, smallest: float, data: Any) -> None:
    method = CDA(steps=steps, crop_scale_min=smallest)
    step = data.draw(st.integers(0, steps - 1))
    assert method.crop_scale(0) == (1, 1)
    assert smallest <= method.crop_scale(step + 1)[0] <= method.crop_scale(step)[0] <= 1


def test_every_box_of_a_run_obeys_the_curriculum(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, steps = PluginRegistry(), 60
    request = Request(
        methods=("cda",),
        datasets=("digits",),
        ipcs=(1,),
        recipes=("smoke",),
        device="cpu",
        precision="fp32",
        assignments=("teacher.arch=convnet-bn-d1", "teacher.batch_size=256", f"method.steps={steps}"),
    )
    (cell,) = experiments(request, registry)
    made = Pipeline(Workspace(registry, Cache(tmp_path_factory.mktemp("cache")), None), cell)
    _ = made.teacher
    drawn: list[Tensor] = []
    draw_boxes = crops.random_boxes

    def kept(*arguments: Any, **options: Any) -> Tensor:
        drawn.append(draw_boxes(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(crops, "random_boxes", kept)
    assert len(made.distilled) == 10
    assert len(drawn) == steps
    sides = torch.stack(drawn)[..., 2:].double()  # [steps, images, (height, width)]
    assert sides.shape == (steps, 10, 2)
    easy = torch.cos(torch.pi * torch.arange(steps, dtype=torch.float64) / steps) / 2 + 0.5
    smallest = (0.08 + 0.92 * easy) * SIZE**2
    # A side is rounded to pixels: at most half a pixel was lost.
    assert ((sides + 0.5).prod(2) >= smallest[:, None]).all()
    assert (sides[0] == SIZE).all()
    middle, last = sides[steps // 2 - 5 : steps // 2 + 5].prod(2), sides[-10:].prod(2)
    assert float(last.min()) < 0.25 * SIZE**2 < float(middle.min())
