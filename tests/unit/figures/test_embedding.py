"""The figure of distilled images among real ones: every image has its place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch

from ddbench.figures.embedding import REAL, tsne

if TYPE_CHECKING:
    from conftest import Shell


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</(?:text|tspan)>", svg)


@pytest.mark.slow
def test_the_embedding_places_every_image(copied: Shell) -> None:
    drawn = copied("figure", "embedding", "--methods", "random,wmdd")
    assert drawn.code == 0, drawn.err
    svg = (copied.results / "figures" / "embedding.svg").read_text(encoding="utf-8")
    for text in ("random", "wmdd, bn_weight 1", "wmdd, bn_weight 50", "t-SNE 1", "t-SNE 2"):
        assert text in texts(svg)
    assert any(text.startswith("Features of the teacher: convnet-bn-d3, ") for text in texts(svg))
    outcome = " ".join(texts(svg))
    assert "training images, the same in every panel" in " ".join(outcome.split())
    assert "(section 5.8)" in outcome
    # Three panels with every class: its real images, and its two distilled ones.
    for label in range(10):
        groups = re.findall(rf'<g id="(real|set)-{label}">(.*?)</g>\s*</g>', svg, re.DOTALL)
        counts = [(kind, body.count("<use ")) for kind, body in groups]
        assert counts == [("real", REAL), ("set", 2)] * 3
    assert copied("figure", "embedding", "--output", "again").code == 0
    for form in ("svg", "png"):
        first = (copied.results / "figures" / f"embedding.{form}").read_bytes()
        assert first == (copied.root / f"again.{form}").read_bytes()


def test_tsne_keeps_far_clusters_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator) + 50 * torch.arange(3).repeat_interleave(20).unsqueeze(1)
    actual = torch.from_numpy(tsne(features))
    nearest = torch.cdist(actual, actual).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(nearest // 20, torch.arange(60) // 20)
    assert torch.equal(actual, torch.from_numpy(tsne(features)))
